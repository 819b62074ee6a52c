"""Neighbours in a gallery by the index of cells, against comparing all pairs, faiss and usearch.

    python benchmarks/neighbours.py --photos 10000 50000 200000 --width 128

The photos are made up: four of a person on average, so far apart that the index misses some. Times
are of the processor, not of the clock: on a busy machine only these compare. Recall is of the pairs
above the cut of the likeness that 500 photos, evenly spread, have among all. The time of all pairs
follows from that of some photos with all others. Faiss's inverted file and usearch's HNSW, if
installed, answer the same question photo by photo, up to `--others` photos. Faiss looks into more
and more cells, until it finds as many pairs as the index does.

    python benchmarks/neighbours.py --people 4 12 --photos 100000 200000 400000

This says what is found: a head is fitted on 4,000 made-up people, and finds neighbours among
others, so many photos of each. Precision and recall are of the pairs of one person that 2,000
photos, evenly spread, have among all, or with `--whole` that all have by the index. `1` photo of
each is a gallery of strangers. The likeness of these photos is distributed as that of
MobileFaceNet's of RFIW (see `COLLECTION`); `--wider` makes that of strangers wider.
"""

import argparse
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kinembed.data.families import group_families
from kinembed.heads import same_person
from kinembed.heads.exact import unit
from kinembed.heads.query_expansion import find_neighbours
from kinembed.heads.same_person import Likeness, SamePerson
from kinembed.training.same_person import fit_same_person

EACH = 4  # photos of a person
NOISE = 0.8  # length of a photo's own part beside its person's
CUT = 0.18  # that of a head of RFIW
NEAREST = 32  # that usearch is asked for

# Of photos with likenesses as RFIW's by MobileFaceNet. Above the likenesses that a share of 1e-3,
# 1e-4, 1e-5 and 1e-6 of strangers reaches are .73, .64, .56 and .44 of the pairs of one person
# and .028, .01, .004 and .002 of those of kin; here .75, .64, .55, .44 and .03, .006, .001, .0002.
WIDTH = 128
COLLECTION = 2.2  # by how many e-folds the last direction spreads less than the first
FAMILY = 4  # people, one like the other
KIN = 0.6  # length of what a family shares beside a person's own
QUALITY = (0.9, 0.6)  # length of a photo's own part beside its person's: median, sd of the log
SHARED = 0.35  # length of what all photos share
TRAINED = (4000, 4)  # people, photos of each
SMALL = 10_000  # photos of a gallery to compare with
SAMPLE = 2000  # photos of a large one whose neighbours are judged


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
    sampled = len(known.rows)
    wanted = keys(known.alike.left, known.alike.right, photos)
    whole = part * photos / sampled / 2
    recall = np.isin(wanted, keys(found.left, found.right, photos)).mean()
    print(
        f"{photos:,} photos: index {index:.1f} s of a processor, {grown / 1024:.0f} MiB more, "
        f"recall {recall:.4f} of {len(wanted):,} pairs; all pairs {whole:.1f} s: "
        f"index {whole / index:.1f} times as fast; ambient similarities {linear:.1f} s", flush=True,
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


def collection(
    people: int, each: int, seed: int, spread: float = COLLECTION
) -> tuple[np.ndarray, np.ndarray]:
    """(people * each, WIDTH) unit vectors, and the person on each, four of a family."""
    rng = np.random.default_rng(seed)
    by_direction = np.exp(-np.linspace(0, spread, WIDTH, dtype=np.float32))

    def drawn(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, WIDTH), np.float32) * by_direction)

    families = np.arange(people) // FAMILY
    of_people = unit(np.float32(KIN) * drawn(families[-1] + 1)[families] + drawn(people))
    owners = np.repeat(np.arange(people), each)
    median, sd = QUALITY
    own = np.float32(median) * np.exp(sd * rng.standard_normal((len(owners), 1), np.float32))
    faces = unit(of_people[owners] + own * drawn(len(owners)))
    return unit(faces + np.float32(SHARED) / np.sqrt(np.float32(WIDTH))), owners


def fitted() -> SamePerson:
    """What a head knows that was trained on a made-up collection."""
    vectors, owners = collection(*TRAINED, seed=0)
    names = [
        f"train/F{person // FAMILY:05}/MID{person:05}/{number:05}.jpg"
        for number, person in enumerate(owners.tolist())
    ]
    families = group_families(names, [])
    everybody = np.arange(len(families.people))
    model = fit_same_person(vectors, families, everybody, np.random.default_rng(0))
    assert model is not None and model.tail is not None
    return model


def tell(model: SamePerson, photos: int, asked: argparse.Namespace, each: int) -> None:
    """Prints the precision and recall of neighbours in a gallery."""
    spread = COLLECTION + asked.wider
    vectors, owners = collection(photos // each, each, photos + each, spread)
    photos = len(vectors)
    if asked.whole or photos <= same_person.INDEXED:
        found, seconds = timed(lambda: find_neighbours(vectors, model, np.arange(photos)))
        rows, counts = np.arange(photos), np.diff(found.first)
        left, right = np.repeat(rows, counts), found.others
    else:
        (rows, alike), seconds = timed(lambda: of_some(model, vectors))
        left, right = alike.left, alike.right
        counts = np.bincount(np.searchsorted(rows, left), minlength=len(rows))
    same = owners[left] == owners[right]
    precision = f"{same.mean():.3f}" if len(same) else "none found"
    recall = f"{same.sum() / len(rows) / (each - 1):.3f}" if each > 1 else "-"
    print(
        f"| {photos:,} | {each} | {precision} | {recall} | {(counts > 0).mean():.3f} | "
        f"{seconds:.0f} |", flush=True,
    )  # fmt: skip


def of_some(model: SamePerson, vectors: np.ndarray) -> tuple[np.ndarray, Likeness]:
    """Some photos of a large gallery, and their neighbours by comparison with all others.

    As `SamePerson.neighbours` finds them, but for those that its index misses.
    """
    assert model.tail is not None
    directions = unit(vectors)
    ambient = model.ambient(directions)
    asked = model._ask(directions, ambient, model.tail.body)
    pairs = len(vectors) * (len(vectors) - 1) / 2
    cut = model._cut_in_gallery([asked.share(level) * pairs for level in model._levels], asked)
    return asked.rows, asked.alike.above(cut)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--others", type=int, default=50_000, help="photos for faiss and usearch")
    parser.add_argument("--people", type=int, nargs="+", help="photos of each: says what is found")
    parser.add_argument("--wider", type=float, default=0, help="e-folds of strangers' spread more")
    parser.add_argument("--whole", action="store_true", help="by the index, of all photos")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    if asked.people:
        model = fitted()
        print(f"found {model.found:.3f}, mistaken {model.mistaken:.3g}, cut {model.cut:.3f}")
        print("| photos | of each | precision | recall | with neighbours | seconds |")
        print("|---|---|---|---|---|---|")
        same_person.ASKED = SAMPLE
        for photos in [SMALL, *asked.photos]:
            for each in asked.people:
                tell(model, photos, asked, each)
        return
    same_person.INDEXED = same_person.WORTH = 0  # the index, also where it would not be used
    for photos in asked.photos:
        measure(photos, asked)


if __name__ == "__main__":
    main()
