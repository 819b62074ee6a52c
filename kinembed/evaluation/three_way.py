"""Three answers about two people: the same person, kin, or unrelated.

A kinship head alone takes a second photo of a person for a photo of their brother. So two log odds
are fitted, each by a logistic regression on pairs of two of the three kinds: kin against unrelated,
and the same person against kin. Together they are a multinomial logit (Begg and Gray, "Calculation
of polychotomous logistic regression parameters using individualized regressions", 1984). All kinds
weigh equally in the fit; what shares they have in use is a prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kinembed.arrays import Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.checked import Bounds, Values
from kinembed.data.person_pairs import KIN, SAME, UNRELATED, PersonPairs, sample_person_pairs
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import Flags, Numbers, calibration_error
from kinembed.heads.base import Head
from kinembed.heads.pooled_people import (
    PersonScores,
    PooledPeople,
    RepresentedPhotos,
    person_scores,
)

if TYPE_CHECKING:  # a score imports this module, and lists no photos
    from kinembed.data.families import Families

ANSWERS = ("same person", "kin", "unrelated")
EQUAL = (1 / 3, 1 / 3)  # shares of the same person and of kin; the rest are unrelated

PERSON_PAIRS = 6_000  # of each kind, by which the three answers are fitted
FEATURES = 5
SHARES = 128  # of unrelated pairs, whose evidence is kept
FOLDS, FEWEST_FAMILIES = 5, 20  # by which the figures are cross-fitted
MOST = Bounds(least=-1e9, most=1e9)


@dataclass(frozen=True)
class ThreeWay:
    """Probabilities of the three answers from the scores of two people.

    Attributes:
        kin: slopes of the log odds of kin against unrelated for each feature, then the offset.
        same: the same for the same person against kin.
        evidence_of_unrelated: evidence that the shares `shares` of unrelated pairs reach, falling.
        shares: of unrelated pairs, rising to 1.
        pairs: of each kind that it was fitted on.
        people: whose photos these were, how many.
        estimates: log loss, calibration error and accuracy on families not fitted on, the kinds in
            equal shares; None where there are too few families.
    """

    kin: tuple[float, ...]
    same: tuple[float, ...]
    evidence_of_unrelated: tuple[float, ...]
    shares: tuple[float, ...]
    pairs: tuple[int, int, int]
    people: int
    estimates: Mapping[str, float] | None = None

    def evidence(self, scores: PersonScores) -> Numbers:
        """(K,) log likelihood ratios of kin against unrelated."""
        return _combined(scores, self.kin)

    def same_evidence(self, scores: PersonScores) -> Numbers:
        """(K,) log likelihood ratios of the same person against kin."""
        return _combined(scores, self.same)

    def evidence_slopes(self, amount: Vectors) -> tuple[Vectors, Vectors, Vectors]:
        """Slopes of `evidence` for logits and for likeness, and the rest, (K,) each.

        Args:
            amount: (K,) of photos.
        """
        logit, likeness, own, logit_amount, likeness_amount, offset = np.array(
            self.kin, amount.dtype
        )
        return (
            logit + logit_amount * amount,
            likeness + likeness_amount * amount,
            offset + own * amount,
        )

    def probabilities(self, scores: PersonScores, priors: tuple[float, float] = EQUAL) -> Numbers:
        """(K, 3) probabilities of `SAME`, `KIN` and `UNRELATED`, which add up to 1.

        Args:
            scores: of K pairs of people.
            priors: shares of the same person and of kin among the pairs in use.

        Raises:
            KinembedError: the shares are not above 0, or leave none for unrelated pairs.
        """
        same, kin = priors
        if not (same > 0 and kin > 0 and same + kin < 1):
            raise KinembedError(
                f"prior: found {same:g} for the same person and {kin:g} for kin, wanted shares "
                "above 0 and below 1 together"
            )
        logits = np.zeros((len(scores), 3))
        logits[:, KIN] = self.evidence(scores) + math.log(kin / (1 - same - kin))
        logits[:, SAME] = logits[:, KIN] + self.same_evidence(scores) + math.log(same / kin)
        logits -= logits.max(1, keepdims=True)
        odds = np.exp(logits)
        result: Numbers = odds / odds.sum(1, keepdims=True)
        return result

    def far(self, scores: PersonScores) -> Numbers:
        """(K,) shares of unrelated pairs with at least as much evidence of kinship.

        At least the smallest share that the fitted pairs could tell, `shares[0]`.
        """
        rising = np.array(self.evidence_of_unrelated)[::-1]
        logs = np.log(np.array(self.shares))[::-1]
        result: Numbers = np.exp(np.interp(self.evidence(scores), rising, logs))
        return result

    @classmethod
    def read(cls, about: Values) -> ThreeWay:
        """What a file holds.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        about.only([field.name for field in fields(cls)])
        kin, same = (about.numbers(name, MOST, FEATURES + 1) for name in ("kin", "same"))
        evidence = about.numbers("evidence_of_unrelated", MOST, SHARES)
        shares = about.numbers("shares", Bounds(above=0, most=1), SHARES)
        if len(kin) != FEATURES + 1 or len(same) != FEATURES + 1:
            raise ValueError(f"three_way: {len(kin)} and {len(same)} numbers")
        if len(shares) != len(evidence) or not shares:
            raise ValueError(f"three_way: {len(shares)} shares of {len(evidence)}")
        if (np.diff(shares) < 0).any() or (np.diff(evidence) > 0).any() or shares[-1] != 1:
            raise ValueError("three_way: its shares do not rise to 1 as the evidence falls")
        pairs = about.wholes("pairs", Bounds(least=0, most=10**12), most=3)
        if len(pairs) != 3:
            raise ValueError(f"three_way: pairs: found {len(pairs)} numbers, wanted 3")
        estimates = None
        if about.get("estimates") is not None:
            figures = about.object("estimates")
            estimates = {name: figures.number(name) for name in figures.content}
        return cls(
            kin, same, evidence, shares, (pairs[0], pairs[1], pairs[2]),
            about.whole("people", Bounds(least=0, most=10**9)), estimates,
        )  # fmt: skip


def priors_of(kin: float | None) -> tuple[float, float]:
    """Shares of the same person and of kin, where kin alone has one.

    The same person is taken to be as common as kin, but at most half of what kin leave.

    Raises:
        KinembedError: the share is not between 0 and 1.
    """
    if kin is None:
        return EQUAL
    if not 0 < kin < 1:
        raise KinembedError(f"prior: found {kin:g}, wanted a share of kin between 0 and 1")
    return min(kin, (1 - kin) / 2), kin


def fit_three_way(kinds: np.ndarray[Any, Any], scores: PersonScores, people: int) -> ThreeWay:
    """Fits both log odds.

    Args:
        kinds: (K,) `SAME`, `KIN` or `UNRELATED`.
        scores: of the K pairs.
        people: of these pairs, how many.

    Raises:
        DataError: a kind has no pairs, or the head does not tell kin from unrelated people.
    """
    counts = [int((kinds == kind).sum()) for kind in range(3)]
    if not all(counts):
        missing = ANSWERS[counts.index(0)]
        raise DataError(f"no pairs that are {missing}, so the three answers cannot be told")
    x = _features(scores)
    kin = _log_odds(x, kinds == KIN, kinds == UNRELATED)
    same = _log_odds(x, kinds == SAME, kinds == KIN)
    evidence = np.sort(x[kinds == UNRELATED] @ kin[:-1] + kin[-1])[::-1]
    shares = np.geomspace(1 / len(evidence), 1, SHARES)
    shares[-1] = 1
    ranks = np.ceil(shares * len(evidence) - 1e-9).astype(np.intp) - 1
    return ThreeWay(
        tuple(kin.tolist()),
        tuple(same.tolist()),
        tuple(evidence[ranks].tolist()),
        tuple(shares.tolist()),
        (counts[0], counts[1], counts[2]),
        people,
    )


def held_out_three_way(
    head: Head, cache: Embeddings, families: Families, count: int, rng: np.random.Generator
) -> ThreeWay:
    """Fits the three answers on held-out people, by members that did not train on them.

    Args:
        head: the head.
        cache: of the head's model.
        families: the families of the cache.
        count: pairs of each kind.
        rng: the random generator.

    Raises:
        KinembedError: nobody was held out, nobody has several photos, or there are no kin.
    """
    folds = head.out_of_fold()
    known = set(families.people)
    scored, kinds, family, people = [], [], [], 0
    for number, (names, member) in enumerate(folds):
        own = [name for name in names if name in known]
        size = count * (number + 1) // len(folds) - count * number // len(folds)
        pairs = sample_person_pairs(families, own, size, rng)
        scored.append(_scores_of(pairs, member, cache))
        kinds.append(pairs.kinds)
        family.append(families.family[pairs.people])
        people += len(own)
    if not scored:
        raise DataError("the head held nobody out")
    scores = PersonScores.joined(scored)
    every_kind, every_family = np.concatenate(kinds), np.concatenate(family)
    found = fit_three_way(every_kind, scores, people)
    return replace(found, estimates=_estimates(every_kind, scores, every_family, rng))


def _scores_of(pairs: PersonPairs, head: Head, cache: Embeddings) -> PersonScores:
    sides = [side for both in pairs.photos for side in both]  # 2 K
    rows, places = np.unique(np.concatenate(sides), return_inverse=True)
    bounds = np.cumsum([len(side) for side in sides])[:-1]
    groups: list[Rows] = np.split(places, bounds)
    people = PooledPeople.of(head, RepresentedPhotos.at(head, cache, rows), groups)
    return person_scores(head, people, np.arange(len(sides)).reshape(-1, 2))


def _estimates(
    kinds: Rows, scores: PersonScores, families: Rows, rng: np.random.Generator
) -> dict[str, float] | None:
    """Figures on pairs within one fold of families, by fits on the others; None for too few."""
    unique, numbers = np.unique(families, return_inverse=True)
    if len(unique) < FEWEST_FAMILIES:
        return None
    folds = rng.permutation(len(unique))[numbers.reshape(families.shape)] % FOLDS  # (K, 2)
    predicted = np.full((len(kinds), 3), np.nan)
    for fold in range(FOLDS):
        outside, inside = (folds != fold).all(1), (folds == fold).all(1)
        try:
            fitted = fit_three_way(kinds[outside], scores.at(outside), 0)
        except DataError:
            return None
        predicted[inside] = fitted.probabilities(scores.at(inside))
    judged = np.isfinite(predicted[:, 0])
    kinds, predicted = kinds[judged], predicted[judged]
    counts = np.bincount(kinds, minlength=3)
    if not counts.all():
        return None
    weights = 1 / counts[kinds]
    errors = [
        calibration_error(kinds == kind, predicted[:, kind], weights=weights) for kind in range(3)
    ]
    right = predicted.argmax(1) == kinds
    return {
        "accuracy": float(np.average(right, weights=weights)),
        "log_loss": log_loss(kinds, predicted),
        "ece": float(np.mean(errors)),
        "pairs": float(len(kinds)),
    }


def log_loss(kinds: np.ndarray[Any, Any], probabilities: Numbers) -> float:
    """The mean of -log of the probability of the kind that a pair is of, the kinds equally weighed.

    Args:
        kinds: (K,) of the pairs.
        probabilities: (K, 3).
    """
    own = -np.log(np.maximum(probabilities[np.arange(len(kinds)), kinds], 1e-300))
    return float(np.mean([own[kinds == kind].mean() for kind in range(3)]))


def _log_odds(x: Numbers, one: Flags, other: Flags) -> Numbers:
    chosen = one | other
    labels = one[chosen]
    share = labels.mean()
    weights = np.where(labels, 0.5 / share, 0.5 / (1 - share))
    return fit_logistic(labels, x[chosen], weights)


def _combined(scores: PersonScores, slopes: tuple[float, ...]) -> Numbers:
    """(K,) sums of the features by their slopes, and the offset.

    Added one after the other: the last bits of a product by BLAS depend on the number of pairs.
    """
    result = np.full(len(scores), slopes[-1], np.float64)
    for slope, column in zip(slopes, _features(scores).T, strict=False):
        result += slope * column
    return result


def _features(scores: PersonScores) -> Numbers:
    """(K, FEATURES): more photos make both scores surer, and shift them."""
    logits, likeness, amount = scores.logits, scores.likeness, scores.amount
    return np.stack([logits, likeness, amount, logits * amount, likeness * amount], 1)
