"""A search of a large gallery, against reading its short forms once, and scoring everybody.

    python benchmarks/search.py --run RUN --people 1000000

The people are made up, one photo each: drawn from the normal distribution that the run's own
representations and directions have, and scaled as the head scales them. All sides are of the same
gallery and the same probes. The limit is reading what a search has to read, at the speed at which
this machine reads it. Recall at 10 is against everybody scored exactly.

With `--data`, it first says how often people are set apart as the same person who are.

With usearch installed, `--index` also measures an HNSW index of the short forms with exact ranking
of the nearest, on the first 50,000 people: on more, building it takes longer than it ever saves.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.person_pairs import KIN, SAME, UNRELATED
from kinembed.evaluation.calibration import load_calibration
from kinembed.evaluation.three_way import EQUAL, ThreeWay
from kinembed.heads.base import Head
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.pooled_people import PooledPeople, RepresentedPhotos, person_scores
from kinembed.inference.gallery import Gallery, make_gallery
from kinembed.inference.ranking import rank
from kinembed.inference.screen import find_axes, shortened
from kinembed.threads import one_blas_thread, parallel_map, processors

BLOCK = 20_000
SAMPLE = 4_096
TOP = 10
INDEXED, NEAREST = 50_000, 400


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of some runs, in seconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


class MadeUp:
    """Made-up people, block by block, always the same ones."""

    def __init__(self, head: MetricHead, cache: EmbeddingCache, count: int) -> None:
        self.head, self.count = head, count
        rows = np.linspace(0, len(cache) - 1, min(SAMPLE, len(cache))).astype(np.intp)
        photos = RepresentedPhotos.at(head, cache, np.unique(rows))
        real = np.concatenate([photos.representations, photos.directions], 1)
        self.mean, self.width = real.mean(0), photos.representations.shape[1]
        # Sums of real rows, by normal weights, have the covariance of the real ones.
        self.rows = ((real - self.mean) / np.sqrt(len(real))).astype(np.float32)
        self.rows = self.rows[:: max(1, len(self.rows) // 1024)] * np.float32(
            np.sqrt(max(1, len(self.rows) // 1024))
        )
        self.ambient = photos.ambient

    def __call__(self, seed: int = 0, count: int | None = None) -> Iterator[PooledPeople]:
        rng = np.random.default_rng(seed)
        total = self.count if count is None else count
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            drawn = rng.standard_normal((n, len(self.rows)), np.float32) @ self.rows + self.mean
            representations = self.head.normalise(drawn[:, : self.width].astype(np.float32))
            yield PooledPeople(
                representations,
                unit(drawn[:, self.width :]),
                rng.choice(self.ambient, n),
                np.ones(n, np.intp),
            )


def everybody(
    head: MetricHead, three_way: ThreeWay, gallery: Gallery, probe: PooledPeople, priors: tuple
) -> set[int]:
    """The first ten of kin, by scoring everybody."""
    best: list[tuple[float, int]] = []
    for start in range(0, len(gallery), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(gallery)))
        both = gallery.with_probe(rows, probe)
        scores = person_scores(
            head, both, np.stack([np.arange(len(rows)), np.full(len(rows), len(rows))], 1)
        )
        here, equal = (three_way.probabilities(scores, each) for each in (priors, EQUAL))
        same = (here[:, SAME] > here[:, KIN]) & (equal[:, SAME] > equal[:, UNRELATED])
        evidence = np.where(same, -np.inf, three_way.evidence(scores))
        best += [(float(evidence[row]), start + int(row)) for row in np.argsort(-evidence)[:TOP]]
    return {number for _, number in sorted(best, reverse=True)[:TOP]}


def read_all(gallery: Gallery) -> None:
    """Reads all that a search reads, as fast as two cores can: a sum of products with itself."""
    assert gallery.screen is not None

    def block(part: np.ndarray) -> None:
        flat = np.asarray(part).reshape(-1)
        np.dot(flat, flat)

    arrays = (gallery.screen.short, gallery.people.directions, gallery.screen.lengths)
    parts = [a[s : s + BLOCK] for a in arrays for s in range(0, len(a), BLOCK)]
    with one_blas_thread():
        parallel_map(block, parts, processors())


def index_row(
    head: MetricHead, gallery: Gallery, probes: list[PooledPeople], wanted: list[set[int]]
) -> str:
    from usearch.index import Index

    assert gallery.screen is not None
    short = np.array(gallery.screen.short)
    index = Index(ndim=short.shape[1], metric="ip", dtype="f32", connectivity=16,
                  expansion_add=64, expansion_search=512)  # fmt: skip
    began = time.perf_counter()
    index.add(np.arange(len(short)), short, threads=processors())
    built = time.perf_counter() - began
    forms = [head.products(probe.representations) for probe in probes]
    keys = [shortened(gallery.screen.axes, *form)[0][0] for form in forms if form is not None]
    seconds = timed(lambda: [index.search(key, NEAREST) for key in keys]) / len(keys)
    found = [set(index.search(key, NEAREST).keys.tolist()) for key in keys]
    recall = np.mean([len(w & f) / TOP for w, f in zip(wanted, found, strict=True)])
    return (
        f"usearch HNSW of {len(short):,} short forms: built in {built:.0f} s; "
        f"{seconds * 1e3:.1f} ms for the {NEAREST} nearest, without their exact ranking; recall "
        f"at {TOP} {recall:.3f}"
    )


def set_apart(head: Head, cache: EmbeddingCache, families: Families, three_way: ThreeWay) -> str:
    """How often a person is set apart who is in the gallery by other photos, out of fold.

    The probe is the first photo of everybody with several; their others stay in the gallery of the
    fold's people, as search ranks it.
    """
    row_of = {person: row for row, person in enumerate(families.people)}
    kin = {frozenset(pair) for pair in families.relations.tolist()}
    total = np.zeros(5)  # own set apart, own in the list; kin set apart, kin in the list; strangers
    probes = 0
    for held_out, member in head.out_of_fold():
        people = np.array(sorted(row_of[each] for each in held_out if each in row_of))
        photos = RepresentedPhotos.at(member, cache, families.photos_of(people))
        counts = np.diff(families.photo_start)[people]
        groups = np.split(np.arange(len(photos)), np.cumsum(counts)[:-1])
        whole = PooledPeople.of(member, photos, groups)
        for number in np.flatnonzero(counts > 1).tolist():
            split = [groups[number][1:], groups[number][:1]]  # what stays, and the probe
            both = whole.joined(PooledPeople.of(member, photos, split))
            size = len(people)
            gallery = np.where(np.arange(size) == number, size, np.arange(size))
            scores = person_scores(member, both, np.stack([gallery, np.full(size, size + 1)], 1))
            here = three_way.probabilities(scores, (1 / size, 3 / size))
            equal, evidence = three_way.probabilities(scores), three_way.evidence(scores)
            same = (here[:, SAME] > here[:, KIN]) & (equal[:, SAME] > equal[:, UNRELATED])
            listed = evidence >= np.sort(evidence[~same])[-TOP:][0]
            own = np.arange(size) == number
            is_kin = np.array([frozenset((people[number], each)) in kin for each in people])
            kinds = (own & same, own & ~same, is_kin & same, is_kin & ~same, ~own & ~is_kin & same)
            total += [np.count_nonzero(kind & listed) for kind in kinds]
            probes += 1
    own, own_listed, of_kin, kin_listed, strangers = total / probes
    return (
        f"{probes:,} people by one photo, their others in the gallery: set apart {own:.1%}, among "
        f"the {TOP} first of kin {own_listed:.1%}; kin set apart {of_kin:.3f} of a probe, listed "
        f"{kin_listed:.3f}; strangers set apart {strangers:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--probes", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="for the gallery's file; 6 GB a million people")
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--data", type=Path, help="relations: says how often people are set apart")
    asked = parser.parse_args()
    head = load_head(asked.run / "head.h5")
    assert isinstance(head, MetricHead)
    three_way = load_calibration(asked.run / "calibration.json").three_way
    assert three_way is not None
    with (
        TemporaryDirectory(dir=asked.folder) as folder,
        EmbeddingCache.open(asked.run / "embeddings.h5") as cache,
    ):
        if asked.data is not None:
            print(set_apart(head, cache, cached_families(cache, asked.data), three_way))
        people = MadeUp(head, cache, asked.people)
        first = next(people())
        form = head.products(first.representations[:SAMPLE])
        assert form is not None
        axes = find_axes(form[0])
        widths = first.representations.shape[1], first.directions.shape[1]
        priors = (1 / asked.people, 3 / asked.people)
        probes = [
            PooledPeople(*(getattr(each, name)[[0]] for name in
                           ("representations", "directions", "ambient", "counts")))
            for seed in range(1, asked.probes + 1) for each in people(seed, 1)
        ]  # fmt: skip

        def gallery_of(count: int) -> Gallery:
            names = np.array([b"F%07d/MID1" % number for number in range(count)])
            return make_gallery(
                Path(folder) / f"{count}.h5", {"people": count}, names, np.ones(count, np.intp),
                widths, lambda: people(0, count), head, axes,
            )  # fmt: skip

        gallery = gallery_of(asked.people)
        screen = gallery.screen
        assert screen is not None
        size = screen.short.nbytes + gallery.people.directions.nbytes + screen.lengths.nbytes
        print(f"{asked.people:,} people, representations of {widths[0]}, short forms of "
              f"{screen.short.shape[1]}, {processors()} threads")  # fmt: skip
        results = [rank(head, three_way, gallery, probe, TOP, priors) for probe in probes]
        search = np.median(
            [timed(lambda p=p: rank(head, three_way, gallery, p, TOP, priors)) for p in probes]
        )
        limit = timed(lambda: read_all(gallery))
        print(f"search: {search * 1e3:.0f} ms (median of {len(probes)} probes); reading its "
              f"{size / 1e9:.2f} GB once: {limit * 1e3:.0f} ms ({size / limit / 1e9:.1f} GB/s); "
              f"the search is {limit / search:.2f} times as fast")  # fmt: skip
        print(f"scored exactly: {int(np.median([r.scored for r in results])):,} of "
              f"{asked.people:,} (median), at most {max(r.scored for r in results):,}")  # fmt: skip
        began = time.perf_counter()
        wanted = [everybody(head, three_way, gallery, probe, priors) for probe in probes[:3]]
        slow = (time.perf_counter() - began) / 3
        found = [set(result.kin.people.tolist()) for result in results]
        recall = np.mean([len(w & f) / TOP for w, f in zip(wanted, found, strict=False)])
        print(f"scoring everybody exactly: {slow:.1f} s; the search is {slow / search:.0f} times "
              f"as fast, its recall at {TOP} is {recall:.3f}")  # fmt: skip
        if asked.index:
            part = gallery_of(min(INDEXED, asked.people))
            own = (1 / len(part), 3 / len(part))
            exact = [rank(head, three_way, part, probe, TOP, own) for probe in probes]
            seconds = timed(lambda: [rank(head, three_way, part, p, TOP, own) for p in probes])
            print(f"search of {len(part):,}: {seconds / len(probes) * 1e3:.1f} ms")
            print(index_row(head, part, probes, [set(r.kin.people.tolist()) for r in exact]))


if __name__ == "__main__":
    main()
