"""Neighbours in a gallery by the index of cells, against comparing all pairs, faiss and usearch.

    python benchmarks/neighbours.py --photos 10000 50000 200000 --width 128

The photos are made up: four of a person on average, so far apart that the index misses some. Times
are of the processor, not of the clock: on a busy machine only these compare. Recall is of the pairs
above the cut of the likeness that 500 photos, evenly spread, have among all. The time of all pairs
follows from that of some photos with all others. Faiss's inverted file and usearch's HNSW, if
installed, answer the same question photo by photo, up to `--others` photos. Faiss looks into more
and more cells, until it finds as many pairs as the index does.
"""

import argparse
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kinembed.heads import same_person
from kinembed.heads.exact import unit
from kinembed.heads.same_person import SamePerson

EACH = 4  # photos of a person
NOISE = 0.8  # length of a photo's own part beside its person's
CUT = 0.18  # that of a head of RFIW
NEAREST = 32  # that usearch is asked for


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and seconds of the processor."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def made_up(photos: int, width: int) -> np.ndarray:
    """(photos, width) unit vectors; directions have unequal spread, as a network's have."""
    rng = np.random.default_rng(photos)
    spread = np.exp(-np.linspace(0, 2, width, dtype=np.float32))

    def drawn(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, width), np.float32) * spread)

    owners = rng.integers(photos // EACH, size=photos)
    return unit(drawn(photos // EACH)[owners] + np.float32(NOISE) * drawn(photos))


def keys(left: np.ndarray, right: np.ndarray, photos: int) -> np.ndarray:
    """A number for each pair of two photos, each once."""
    other = left != right
    left, right = left[other].astype(np.int64), right[other].astype(np.int64)
    return np.unique(np.minimum(left, right) * photos + np.maximum(left, right))


def faiss_index(directions: np.ndarray, ambient: np.ndarray) -> Any:
    """An inverted file of as many cells."""
    import faiss

    faiss.omp_set_num_threads(1)
    count, width = directions.shape
    half, one = (ambient / 2)[:, None], np.ones((count, 1), np.float32)
    stored = np.concatenate([directions, -half, one], 1).astype(np.float32)
    lists = round(4 * count**0.5)
    coarse = faiss.IndexFlatIP(width + 2)
    index = faiss.IndexIVFFlat(coarse, width + 2, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 4
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 32, 1
    index.train(stored)
    index.add(stored)
    return index


def faiss_pairs(index: Any, directions: np.ndarray, ambient: np.ndarray, cut: float) -> np.ndarray:
    """Pairs above the cut; an inverted file of faiss finds those of each photo."""
    count = len(directions)
    half, one = (ambient / 2)[:, None], np.ones((count, 1), np.float32)
    asked = np.concatenate([directions, one, -half], 1).astype(np.float32)
    limits, _, found = index.range_search(asked, cut)
    return keys(np.repeat(np.arange(count), np.diff(limits.astype(np.intp))), found, count)


def usearch_pairs(directions: np.ndarray, ambient: np.ndarray, cut: float) -> np.ndarray:
    """Pairs above the cut among each photo's nearest by an HNSW graph."""
    from usearch.index import Index

    count, width = directions.shape
    index = Index(ndim=width, metric="ip", dtype="f32", connectivity=16,
                  expansion_add=64, expansion_search=64)  # fmt: skip
    index.add(np.arange(count), directions, threads=1)
    found = index.search(directions, NEAREST, threads=1)
    left = np.repeat(np.arange(count), NEAREST)
    near = 1 - np.asarray(found.distances).ravel()
    right = np.asarray(found.keys).ravel().astype(np.intp)
    alike = near - (ambient[left] + ambient[right]) / 2 > cut
    return keys(left[alike], right[alike], count)


def measure(photos: int, asked: argparse.Namespace) -> None:
    """Prints what one size takes."""
    directions = made_up(photos, asked.width)
    cohort = directions[np.random.default_rng(0).permutation(photos)[:1000]]
    model = SamePerson(cohort, 3.4, 30.0, -30 * CUT, 8e-4, 0.57, 4e-5)
    ambient, linear = timed(lambda: model.ambient(directions))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, index = timed(lambda: model.found_likenesses(directions, ambient, model.cut))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    known, part = timed(lambda: model._ask(directions, ambient, model.cut))
    sampled = len(known.counts)
    wanted = keys(known.alike.left, known.alike.right, photos)
    whole = part * photos / sampled / 2
    recall = np.isin(wanted, keys(found.left, found.right, photos)).mean()
    print(
        f"{photos:,} photos: index {index:.1f} s of a processor, {grown / 1024:.0f} MiB more, "
        f"recall {recall:.4f} of {len(wanted):,} pairs; all pairs {whole:.1f} s: "
        f"{whole / index:.1f} times as long; ambient similarities {linear:.1f} s", flush=True,
    )  # fmt: skip
    if photos > asked.others:
        return
    try:
        own, building = timed(lambda: faiss_index(directions, ambient))
        for own.nprobe in (16, 32, 64, 128, 256):
            result, seconds = timed(lambda: faiss_pairs(own, directions, ambient, model.cut))
            share = np.isin(wanted, result).mean()
            print(
                f"  faiss IVF, {own.nprobe} cells: {building + seconds:.1f} s, recall {share:.4f}",
                flush=True,
            )
            if share >= recall - 0.001:
                break
        result, seconds = timed(lambda: usearch_pairs(directions, ambient, model.cut))
        share = np.isin(wanted, result).mean()
        print(f"  usearch HNSW: {seconds:.1f} s, recall {share:.4f}", flush=True)
    except ImportError as error:
        print(f"  {error.name}: not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--others", type=int, default=50_000, help="photos for faiss and usearch")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    same_person.INDEXED = same_person.WORTH = 0  # the index, also where it would not be used
    for photos in asked.photos:
        measure(photos, asked)


if __name__ == "__main__":
    main()
