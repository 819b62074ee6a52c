"""Ranks a gallery's people for a probe, by the evidence that they are kin."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows
from kinembed.data.person_pairs import KIN, SAME, UNRELATED
from kinembed.evaluation.metrics import Numbers
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.base import Head
from kinembed.heads.pooled_people import PersonScores, PooledPeople, person_scores
from kinembed.inference.gallery import Gallery
from kinembed.inference.screen import logit_bounds, products

FIRST = 1024  # people that are scored exactly at first; four times as many until it is enough
ROUNDING = 1e-4  # by which likeness from one product for all may be off


@dataclass(frozen=True)
class Ranked:
    """Some people of a gallery, ranked.

    Attributes:
        people: (K,) their numbers in the gallery.
        probabilities: (K, 3) of the same person, kin and unrelated.
        far: (K,) shares of unrelated pairs with at least as much evidence of kinship.
        evidence: (K,) log likelihood ratios of kin against unrelated.
    """

    people: Rows
    probabilities: Numbers
    far: Numbers
    evidence: Numbers

    def __len__(self) -> int:
        return len(self.people)

    def first(self, count: int) -> Ranked:
        """The first so many."""
        return Ranked(
            self.people[:count], self.probabilities[:count], self.far[:count], self.evidence[:count]
        )


@dataclass(frozen=True)
class Ranking:
    """What a search finds.

    Attributes:
        same: who is known to be the probe, then who would stand among `kin` and is likelier the
            same person than kin, and than unrelated if that were as common: the likeliest first.
        kin: all others, the most evidence of kinship first, as many as were asked for.
        scored: how many people were scored exactly; all others were ruled out by bounds.
    """

    same: Ranked
    kin: Ranked
    scored: int


def rank(
    head: Head,
    three_way: ThreeWay,
    gallery: Gallery,
    probe: PooledPeople,
    top: int,
    priors: tuple[float, float],
    known: Collection[int] = (),
) -> Ranking:
    """Ranks the people of a gallery for a probe.

    Numbers are exact whatever is ruled out, and independent of the other people. Ties are ranked by
    name.

    Args:
        head: of the gallery's representations.
        three_way: of the head's calibration.
        gallery: the people.
        probe: one person.
        top: how many kin.
        priors: shares of the same person and of kin in the gallery, for probabilities.
        known: numbers of people who are known to be the probe.
    """
    is_known = np.zeros(len(gallery), np.bool_)
    is_known[list(known)] = True
    highest = _highest_evidence(head, three_way, gallery, probe)
    count = max(FIRST, 4 * top)
    while True:
        first, next_best = _first(highest, count)
        people = np.union1d(first, np.flatnonzero(is_known))
        scores = _scores(head, gallery, people, probe)
        evidence = three_way.evidence(scores)
        probabilities = three_way.probabilities(scores, priors)
        equal = three_way.probabilities(scores)
        is_same = (probabilities[:, SAME] > probabilities[:, KIN]) & (
            equal[:, SAME] > equal[:, UNRELATED]  # else a large gallery would have nobody twice
        )
        is_same |= is_known[people]
        of_kin = np.sort(evidence[~is_same])[::-1]
        is_full = len(of_kin) >= top
        if next_best == -math.inf or (is_full and of_kin[top - 1] > next_best):
            break
        count *= 4
    found = Ranked(people, probabilities, three_way.far(scores), evidence)
    is_shown = is_known[people] | (evidence >= (of_kin[top - 1] if is_full else -math.inf))
    order = (is_known[people], found.probabilities[:, SAME])
    return Ranking(
        _ordered(found, is_same & is_shown, order, gallery, len(gallery)),
        _ordered(found, ~is_same, (evidence,), gallery, top),
        len(people),
    )


def _scores(head: Head, gallery: Gallery, people: Rows, probe: PooledPeople) -> PersonScores:
    """The exact scores of a probe with some people, (K,) of the gallery."""
    both = gallery.with_probe(people, probe)
    pairs = np.stack([np.arange(len(people)), np.full(len(people), len(people))], 1)
    return person_scores(head, both, pairs)


def _highest_evidence(
    head: Head, three_way: ThreeWay, gallery: Gallery, probe: PooledPeople
) -> Float:
    """(G,) the evidence of kinship that a probe can have at most with each of a gallery."""
    if gallery.screen is None:
        return np.full(len(gallery), np.inf, np.float32)
    people = gallery.people
    logits, slack = logit_bounds(head, gallery.screen, probe.representations[0])
    likeness = products(people.directions, probe.directions[0])
    likeness -= (people.ambient + probe.ambient[0]) / 2
    amount = (gallery.log_counts + np.float32(math.log(probe.counts[0]))) / 2
    of_logit, of_likeness, rest = three_way.evidence_slopes(amount)
    highest: Float = of_logit * logits
    highest += of_likeness * likeness
    highest += rest
    highest += np.abs(of_logit) * slack
    highest += np.abs(of_likeness) * np.float32(ROUNDING)
    highest += np.abs(highest) * np.float32(1e-6)  # of these sums in float32
    return highest


def _first(highest: Float, count: int) -> tuple[Rows, float]:
    """The `count` people with the highest bounds, and the highest bound of the others."""
    size = len(highest)
    if size <= count or np.isinf(highest[0]):
        return np.arange(size), -math.inf
    order = np.argpartition(highest, size - count - 1)
    return order[size - count :], float(highest[order[size - count - 1]])


def _ordered(
    found: Ranked,
    chosen: NDArray[np.bool_],
    keys: Sequence[NDArray[Any]],
    gallery: Gallery,
    count: int,
) -> Ranked:
    """The chosen people by falling keys, the first before the others; of equal ones by name."""
    rows = np.flatnonzero(chosen)
    falling = [-key[rows].astype(np.float64) for key in reversed(keys)]
    rows = rows[np.lexsort((gallery.names[found.people[rows]], *falling))[:count]]
    return Ranked(
        found.people[rows], found.probabilities[rows], found.far[rows], found.evidence[rows]
    )
