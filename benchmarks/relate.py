"""How well `relate` tells who is who, and who is kin, in albums of families its head never saw.

    python benchmarks/relate.py --run runs/default --data data

For each fold of a head with folds: the families that one member held out are divided into albums of
20 to 60 people, without names. That member compares them; the three answers and the model of the
same person are fitted again without these families. Part of the photos are made photographs of
several people. Each partition into albums is one draw; several are drawn.

Prints purity, completeness, B-cubed and pairwise F1 of the clusters beside those of query
expansion's neighbours taken as clusters; then for each rate how many links are shown, the share of
false ones with its interval, and recall: with clusters as found, with all names given, by
Benjamini-Hochberg and by Storey on `far`, and without control. A link between two people of one
family that the relations do not list is neither true nor false (RFIW lists few of a family's kin);
the strict share counts it as false. Shares of false links are means over albums, an album without
links counting 0: the false discovery rate. Intervals: bootstrap over the albums of one draw.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.person_pairs import KIN
from kinembed.evaluation.three_way import held_out_three_way
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.pooled_people import RepresentedPhotos
from kinembed.heads.query_expansion import vectors_at
from kinembed.inference.clusters import components
from kinembed.inference.confirmed import Answers
from kinembed.inference.relating import Judge, link_people, relate_faces
from kinembed.training.same_person import fit_same_person

RATES = (0.05, 0.1, 0.2)
MOST = 12  # photos of a person in an album


@dataclass(frozen=True)
class Drawn:
    """An album: (F,) rows of the cache, the person and the photograph of each."""

    rows: Rows
    owners: Rows
    photos: Rows


def albums(
    families: Families, people: Rows, sizes: tuple[int, int], together: float,
    rng: np.random.Generator,
) -> Iterator[Drawn]:  # fmt: skip
    """Divides people into albums of whole families."""
    waiting: list[int] = []
    size = int(rng.integers(sizes[0], sizes[1] + 1))
    for family in rng.permutation(np.unique(families.family[people])).tolist():
        waiting += people[families.family[people] == family].tolist()
        if len(waiting) >= size:
            yield drawn(families, waiting[: sizes[1]], together, rng)
            waiting, size = [], int(rng.integers(sizes[0], sizes[1] + 1))


def drawn(
    families: Families, people: Sequence[int], together: float, rng: np.random.Generator
) -> Drawn:
    """At most `MOST` photos of each; of a share of them several make a photograph."""
    rows, owners = [], []
    for person in people:
        own = np.arange(families.photo_start[person], families.photo_start[person + 1])
        some = rng.permutation(own)[:MOST]
        rows += families.rows[some].tolist()
        owners += [person] * len(some)
    photos = np.arange(len(rows))
    loose = rng.permutation(len(rows))[: int(together * len(rows))].tolist()
    while loose:
        first, *loose = loose
        group = [first]
        for _ in range(int(rng.integers(1, 4))):
            others = {owners[face] for face in group}
            fitting = [face for face in loose if owners[face] not in others]
            if fitting:
                group.append(fitting[0])
                loose.remove(fitting[0])
        photos[group] = first
    order = rng.permutation(len(rows))
    return Drawn(np.array(rows)[order], np.array(owners)[order], photos[order])


def of_clusters(labels: Rows, owners: Rows) -> dict[str, float]:
    """Purity, completeness, B-cubed and pairwise F1."""
    one, true = labels[:, None] == labels, owners[:, None] == owners
    both = one & true
    precision, recall = (both.sum(1) / one.sum(1)).mean(), (both.sum(1) / true.sum(1)).mean()
    upper = np.triu_indices(len(labels), 1)
    found, right, wanted = (int(each[upper].sum()) for each in (one, both, true))

    def largest(groups: Rows, inside: Rows) -> float:
        return float(sum(
            np.unique(inside[groups == group], return_counts=True)[1].max()
            for group in np.unique(groups)
        ) / len(groups))  # fmt: skip

    return {
        "people": len(np.unique(owners)), "clusters": len(np.unique(labels)),
        "purity": largest(labels, owners), "completeness": largest(owners, labels),
        "B-cubed": 2 * precision * recall / (precision + recall),
        "pairs' precision": right / max(1, found), "pairs' recall": right / max(1, wanted),
    }  # fmt: skip


class Kinship:
    """What the relations say of two people: 1 kin, 0 not, -1 of one family and not listed."""

    def __init__(self, families: Families) -> None:
        self.family = families.family
        self.kin = {tuple(sorted(pair)) for pair in families.relations.tolist()}

    def of(self, left: int, right: int) -> int:
        if left == right:
            return 0
        if (min(left, right), max(left, right)) in self.kin:
            return 1
        return -1 if self.family[left] == self.family[right] else 0


def of_links(
    shown: Sequence[tuple[int, int]], owners: Rows, kinship: Kinship
) -> tuple[int, int, int, float]:
    """True, false and unlisted links between people, and the share of all kin among them."""
    said = [kinship.of(*pair) for pair in shown]
    everybody = np.unique(owners).tolist()
    wanted = {pair for pair in combinations(everybody, 2) if kinship.of(*pair) == 1}
    found = {tuple(sorted(pair)) for pair in shown} & wanted
    recall = len(found) / len(wanted) if wanted else np.nan
    return said.count(1), said.count(0), said.count(-1), recall


def step_up(p: np.ndarray, rate: float, unrelated: float = 1.0) -> np.ndarray:
    """Benjamini and Hochberg, 1995; Storey, 2002, with the estimated share of unrelated pairs."""
    ranked = np.sort(p)
    below = np.flatnonzero(ranked * len(p) * unrelated / np.arange(1, len(p) + 1) <= rate)
    return p <= (ranked[below[-1]] if len(below) else -1)


def judges(
    cache: EmbeddingCache, families: Families, head: MetricHead, rng: np.random.Generator
) -> Iterator[tuple[Judge, Rows]]:
    """For each fold a judge that knows nothing of its people, and the people."""
    assert head.knn_view, "a head that tells the same person"
    vectors = vectors_at(cache, head.knn_view, np.arange(len(cache)))
    folds = head.out_of_fold()
    for number, (names, _) in enumerate(folds):
        inside = np.isin(families.people, names)
        others = [each for each in range(len(folds)) if each != number]
        same_person = fit_same_person(vectors, families, np.flatnonzero(~inside), rng)
        blind = replace(head, same_person=same_person)
        slopes = head.expansion_slopes
        rest = replace(
            blind,
            projections=tuple(head.projections[each] for each in others),
            folds=tuple(head.folds[each] for each in others),
            expansion_slopes=tuple(slopes[each] for each in others) if slopes else (),
            weights=(),
        )
        three_way = held_out_three_way(rest, cache, families, 8_000, rng)
        member = blind.out_of_fold()[number][1]
        yield Judge(member, three_way), np.flatnonzero(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--people", type=int, nargs=2, default=(20, 60), help="Of an album.")
    parser.add_argument("--together", type=float, default=0.3, help="Share of photos of several.")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    head = load_head(asked.run / "head.h5")
    assert isinstance(head, MetricHead)
    clusters: dict[str, list[dict[str, float]]] = {}
    links: dict[tuple[str, float], list[tuple[int, int, int, float]]] = {}
    seconds, count = 0.0, 0
    with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
        families = cached_families(cache, asked.data)
        kinship = Kinship(families)
        for judge, people in judges(cache, families, head, rng):
            for _ in range(asked.draws):
                for album in albums(families, people, tuple(asked.people), asked.together, rng):
                    count += 1
                    photos = RepresentedPhotos.at(judge.head, cache, album.rows)
                    seconds += judge_album(judge, photos, album, kinship, clusters, links)
    print(f"{count} albums in {asked.draws} draws, {seconds / count:.2f} s each without embedding")
    for name, each in clusters.items():
        print(f"{name:12s}", ", ".join(
            f"{figure} {np.mean([row[figure] for row in each]):.3f}" for figure in each[0]
        ))  # fmt: skip
    print("way, rate: shown, false share (95 %), strict share, recall, unlisted of shown")
    for (name, rate), rows in links.items():
        print(f"{name:22s} {rate:<5}", described(np.array(rows, float), asked.draws, rng))


def judge_album(
    judge: Judge, photos: RepresentedPhotos, album: Drawn, kinship: Kinship,
    clusters: dict[str, list[dict[str, float]]],
    links: dict[tuple[str, float], list[tuple[int, int, int, float]]],
) -> float:  # fmt: skip
    """Adds an album's figures; returns how long it took to relate."""
    began = time.perf_counter()
    nothing = Answers()
    result = relate_faces(judge, photos, album.photos, nothing, 0.5)
    seconds = time.perf_counter() - began
    labels = np.empty(len(album.rows), np.intp)
    for number, person in enumerate(result.people):
        labels[list(person)] = number
    clusters.setdefault("relate", []).append(of_clusters(labels, album.owners))
    assert judge.head.same_person is not None
    near = judge.head.same_person.neighbours(photos.directions)
    linked = components(
        len(photos), list(zip(near.left.tolist(), near.right.tolist(), strict=True))
    )
    clusters.setdefault("neighbours", []).append(of_clusters(np.array(linked), album.owners))

    who = [majority(album.owners[list(person)]) for person in result.people]
    everybody = np.unique(album.owners).tolist()
    true_people = [tuple(np.flatnonzero(album.owners == each).tolist()) for each in everybody]
    named = Answers(named=tuple(str(owner) for owner in album.owners.tolist()))
    for way, groups, names, known in (
        ("as found", result.people, who, nothing),
        ("names given", true_people, everybody, named),
    ):
        for rate in RATES:
            found, *_ = link_people(judge, photos, groups, album.photos, known, rate)
            shown = [(names[link.left], names[link.right]) for link in found if link.is_shown]
            links.setdefault((way, rate), []).append(of_links(shown, album.owners, kinship))
        pairs = np.stack(np.triu_indices(len(groups), 1), 1)
        scores = judge.scores(judge.people(photos, groups), pairs)
        far = judge.three_way.far(scores)
        even = judge.even(judge.people(photos, groups), pairs)
        unrelated = min(1.0, (far > 0.5).sum() / max(1.0, 0.5 * len(far)))
        for rate in RATES:
            for other, chosen in (
                ("Benjamini-Hochberg", step_up(far, rate)),
                ("Storey", step_up(far, rate, unrelated)),
            ):
                shown = [(names[a], names[b]) for a, b in pairs[chosen].tolist()]
                links.setdefault((f"{other}, {way}", rate), []).append(
                    of_links(shown, album.owners, kinship)
                )
        chosen = even.argmax(1) == KIN
        shown = [(names[a], names[b]) for a, b in pairs[chosen].tolist()]
        links.setdefault((f"no control, {way}", 1.0), []).append(
            of_links(shown, album.owners, kinship)
        )
    return seconds


def majority(owners: Rows) -> int:
    """Who is on most of a cluster's photos."""
    values, counts = np.unique(owners, return_counts=True)
    return int(values[counts.argmax()])


def described(rows: np.ndarray, draws: int, rng: np.random.Generator) -> str:
    """Figures of links: the columns are true, false, unlisted, recall of each album."""
    true, false, unlisted, recall = rows.T
    known, all_shown = np.maximum(true + false, 1), np.maximum(true + false + unlisted, 1)
    share = false / known
    means = [share[rng.integers(0, len(rows), len(rows) // draws)].mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return (
        f"{(true + false + unlisted).mean():6.1f}, {share.mean():.3f} ({low:.3f} to {high:.3f}), "
        f"{((false + unlisted) / all_shown).mean():.3f}, {np.nanmean(recall):.3f}, "
        f"{unlisted.mean():.1f}; of all links of all albums {false.sum() / known.sum():.3f} false"
    )


if __name__ == "__main__":
    main()
