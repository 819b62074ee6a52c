"""Search and retrieval: how early a person's kin come among all others, ranked by their scores.

The third track of *Recognizing Families in the Wild* (https://arxiv.org/abs/2002.06303): a probe
is a person, the gallery is everybody else, relevant are the probe's kin. Here the gallery is of
people, each with all of their photos, where RFIW's is of faces.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.families import Families
from kinembed.errors import DataError
from kinembed.evaluation.metrics import Interval, Numbers
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.base import Head
from kinembed.heads.pooled_people import PooledPeople, RepresentedPhotos, person_scores

RANKS = (1, 5, 10)
FIGURES = ("map", *(f"rank_{rank}" for rank in RANKS))
MOST_SCORES = 4_000_000  # a second each million: of larger galleries some probes are drawn
RESAMPLES = 1_000

Score = Callable[[Rows], Numbers]  # (K,) scores of (K, 2) numbers of people of a gallery


@dataclass(frozen=True)
class Gallery:
    """People, each of whom is a probe for all others.

    Attributes:
        family: (G,) number of each person's family.
        kin: (R, 2) numbers of people who are kin.
        apart: (A, 2) numbers of people who may be kin: neither relevant nor wrong.
        score: scores pairs of people, by their numbers; higher is more likely kin.
    """

    family: Rows
    kin: Rows
    apart: Rows
    score: Score

    @classmethod
    def of(cls, families: Families, people: Rows, score: Score) -> Gallery:
        """The gallery of some people, by their sorted rows of `families.people`."""

        def within(pairs: Rows) -> Rows:
            kept = pairs[np.isin(pairs, people).all(1)]
            return np.searchsorted(people, kept)

        return cls(
            families.family[people], within(families.relations), within(families.apart), score
        )

    @property
    def probes(self) -> Rows:
        """The people who have kin in the gallery."""
        return np.unique(self.kin)


def galleries_of(
    head: Head, cache: Embeddings, families: Families, three_way: ThreeWay | None = None
) -> list[Gallery]:
    """The held-out people of each fold, scored by the member that did not train on them.

    Args:
        head: the head.
        cache: of the head's model.
        families: the families of the cache.
        three_way: of the head's calibration: people are ranked by evidence of kinship, as `search`
            ranks them; None: by the logit of their pooled representations.
    """
    row_of = {person: row for row, person in enumerate(families.people)}
    galleries = []
    for held_out, member in head.out_of_fold():
        people = np.array(sorted(row_of[each] for each in held_out if each in row_of), np.intp)
        photos = RepresentedPhotos.at(member, cache, families.photos_of(people))
        bounds = np.cumsum(np.diff(families.photo_start)[people])[:-1]
        pooled = PooledPeople.of(member, photos, np.split(np.arange(len(photos)), bounds))

        def score(pairs: Rows, member: Head = member, pooled: PooledPeople = pooled) -> Numbers:
            scores = person_scores(member, pooled, pairs)
            found = scores.logits if three_way is None else three_way.evidence(scores)
            return cache.finite(found, member.view)

        galleries.append(Gallery.of(families, people, score))
    return galleries


def retrieval_figures(galleries: Sequence[Gallery], rng: np.random.Generator) -> dict[str, Any]:
    """Mean average precision (mAP) and the share of probes with kin within the first ranks.

    Intervals are by the bootstrap over the families of the probes; the galleries stay as they are.

    Args:
        galleries: one for each fold.
        rng: draws the probes, if all have more than `MOST_SCORES` with their galleries, and
            resamples.

    Returns:
        A dict of JSON types: `probes`, `galleries`, `people` (mean of a probe's gallery), `kin`
        (mean of a probe), `families`, and `map` and `rank_1` and so on: `value`, `interval` (None
        where there is none) and `chance`, the value that is expected of a random ranking.

    Raises:
        DataError: nobody has kin in their gallery.
    """
    chosen = _drawn(galleries, rng)
    rankings = [
        (gallery.family[probe], *ranked)
        for gallery, probes in zip(galleries, chosen, strict=True)
        for probe, ranked in zip(probes.tolist(), _rankings(gallery, probes), strict=True)
    ]
    if not rankings:
        raise DataError("nobody has kin in their gallery, so there is nothing to retrieve")
    family = np.array([each[0] for each in rankings], np.intp)  # (P,)
    values = np.array([each[1] for each in rankings])  # (P, figures)
    people, kin = np.array([each[2:] for each in rankings]).T  # (P,) each
    chance = np.mean([by_chance(each[2], each[3]) for each in rankings], 0)
    intervals = _intervals(values, family, rng)
    return {
        "probes": len(family),
        "galleries": sum(1 for each in chosen if len(each)),
        "people": float(people.mean()),
        "kin": float(kin.mean()),
        "families": len(np.unique(family)),
        **{
            name: {
                "value": float(value),
                "interval": None if interval is None else asdict(interval),
                "chance": float(by_lot),
            }
            for name, value, interval, by_lot in zip(
                FIGURES, values.mean(0), intervals, chance, strict=True
            )
        },
    }


def ranking_figures(of_kin: Numbers, of_others: Numbers) -> list[float]:
    """The figures of one probe's ranking, `FIGURES`.

    Average precision is the precision among all who score at least as high, averaged over the kin;
    for the ranks, equal scores put kin last.

    Args:
        of_kin: (E,) scores of the probe's kin.
        of_others: (N,) scores of all others.
    """
    kin, others = np.sort(of_kin)[::-1], np.sort(of_others)
    kin_at = len(kin) - np.searchsorted(kin[::-1], kin)  # (E,) kin of at least each score
    others_at = len(others) - np.searchsorted(others, kin)  # (E,)
    precision = float(np.mean(kin_at / (kin_at + others_at)))
    return [precision, *(float(others_at[0] < rank) for rank in RANKS)]


def by_chance(people: int, kin: int) -> list[float]:
    """The expected figures of a random ranking.

    Of average precision by Bestgen, "Exact expected average precision of the random baseline for
    system evaluation", 2015.

    Args:
        people: in the gallery, kin among them.
        kin: of the probe.
    """
    harmonic = float(np.sum(1 / np.arange(1, people + 1)))
    rest = (kin - 1) * (people - harmonic) / (people - 1) if people > 1 else 0.0
    misses = (people - kin - np.arange(max(RANKS))) / np.maximum(1, people - np.arange(max(RANKS)))
    missed = np.cumprod(np.clip(misses, 0, 1))
    return [(harmonic + rest) / people, *(1 - float(missed[rank - 1]) for rank in RANKS)]


def _rankings(gallery: Gallery, probes: Rows) -> list[tuple[list[float], int, int]]:
    """The figures of each probe, the people in its gallery, and how many of these are its kin."""
    kin_of, apart_of = _partners(gallery.kin), _partners(gallery.apart)
    result = []
    for probe in probes.tolist():
        is_kin = np.zeros(len(gallery.family), np.bool_)
        is_kin[list(kin_of[probe])] = True
        is_ranked = np.ones(len(gallery.family), np.bool_)
        is_ranked[[probe, *(apart_of.get(probe, set()) - kin_of[probe])]] = False
        ranked = np.flatnonzero(is_ranked)
        scores = gallery.score(np.stack([np.full(len(ranked), probe), ranked], 1))
        relevant = is_kin[ranked]
        figures = ranking_figures(scores[relevant], scores[~relevant])
        result.append((figures, len(ranked), int(relevant.sum())))
    return result


def _partners(pairs: Rows) -> dict[int, set[int]]:
    """Whom each person is paired with."""
    result: dict[int, set[int]] = {}
    for one, other in pairs.tolist():
        result.setdefault(one, set()).add(other)
        result.setdefault(other, set()).add(one)
    return result


def _drawn(galleries: Sequence[Gallery], rng: np.random.Generator) -> list[Rows]:
    """The probes of each gallery; drawn at random where all have more than `MOST_SCORES` scores."""
    probes = [gallery.probes for gallery in galleries]
    scores = sum(len(g.family) * len(each) for g, each in zip(galleries, probes, strict=True))
    if scores <= MOST_SCORES:
        return probes
    share = MOST_SCORES / scores
    return [
        np.sort(rng.choice(each, int(np.ceil(share * len(each))), replace=False)) for each in probes
    ]


def _intervals(
    values: Numbers, family: Rows, rng: np.random.Generator
) -> Sequence[Interval | None]:
    """The 95 % intervals of the means of (P, figures), by resampled families (P,) of the probes.

    None where there is one family only, or all resamples agree.
    """
    families, number = np.unique(family, return_inverse=True)
    if len(families) < 2:
        return [None] * values.shape[1]
    sums = np.zeros((len(families), values.shape[1]))  # of each family
    np.add.at(sums, number, values)
    counts = np.bincount(number)
    weights = rng.multinomial(len(families), np.full(len(families), 1 / len(families)), RESAMPLES)
    means = weights @ sums / (weights @ counts)[:, None]  # (RESAMPLES, figures)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return [Interval(float(a), float(b)) if a < b else None for a, b in zip(low, high, strict=True)]
