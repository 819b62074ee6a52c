"""How well scores distinguish kin from strangers, and how sure one can be of it.

Weights, where a function takes them, are how often each pair counts in a bootstrap resample.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinembed.errors import DataError

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """The ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Roc:
    """The ROC curve: a point for each threshold, from (0, 0) to (1, 1).

    Attributes:
        far: (T,) false accept rate, the share of non-kin pairs at or above the threshold.
        tar: (T,) true accept rate, the share of kin pairs at or above it.
        thresholds: (T,) falling; the first is infinite: nothing is accepted.
    """

    far: Numbers
    tar: Numbers
    thresholds: Numbers


def roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The area under the ROC curve: the chance that a kin pair scores above a non-kin pair.

    Equal scores count half (Mann-Whitney U; Fawcett, "An introduction to ROC analysis", 2006).

    Args:
        labels: (N,) 1 for kin, 0 for not.
        scores: (N,) finite; higher means more kin.
        weights: (N,) how often each pair counts; once where None.

    Raises:
        DataError: there are no kin or no non-kin pairs, or a score is not a number.
    """
    return RankedScores(labels, scores).auc(weights)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Roc:
    """The ROC curve, with one point for each distinct score.

    Raises:
        DataError: as of `roc_auc`.
    """
    return RankedScores(labels, scores).curve()


class RankedScores:
    """Scores sorted once, for figures of many weightings.

    Args:
        labels: (N,) 1 for kin, 0 for not.
        scores: (N,) finite; higher means more kin.

    Raises:
        DataError: there are no kin or no non-kin pairs, or a score is not a number.
    """

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        kin, values = _checked(labels, scores)
        if not kin.any() or kin.all():
            raise DataError(
                f"AUC needs kin and non-kin pairs; found {kin.sum()} kin and {(~kin).sum()} non-kin"
            )
        self._order = np.argsort(-values, kind="stable")
        self._kin = kin[self._order]
        falling = values[self._order]
        self._last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # of equals
        self._thresholds = np.append(np.inf, falling[self._last])

    def curve(self, weights: ArrayLike | None = None) -> Roc:
        """The ROC curve.

        Raises:
            DataError: by these weights there are no kin or no non-kin pairs.
        """
        others, kin = self._accepted(weights)
        return Roc(others / others[-1], kin / kin[-1], self._thresholds)

    def auc(self, weights: ArrayLike | None = None) -> float:
        """The area under the ROC curve."""
        others, kin = self._accepted(weights)
        # By trapezia, which is what counting equal scores half comes to.
        return float(np.sum(np.diff(others) * (kin[1:] + kin[:-1])) / (2 * others[-1] * kin[-1]))

    def _accepted(self, weights: ArrayLike | None) -> tuple[Numbers, Numbers]:
        """Non-kin and kin pairs at or above each threshold."""
        found = []
        for side in (~self._kin, self._kin):
            counted = side if weights is None else side * np.asarray(weights)[self._order]
            found.append(np.append(0.0, np.cumsum(counted, dtype=np.float64)[self._last]))
            if not found[-1][-1]:
                raise DataError("by their weights there are no kin or no non-kin pairs")
        return found[0], found[1]


def tar_at_far(curve: Roc, far: float) -> float:
    """The largest true accept rate at a false accept rate of at most `far`."""
    return float(curve.tar[np.flatnonzero(curve.far <= far)[-1]])


def equal_error_rate(curve: Roc) -> float:
    """The rate at which as many non-kin pairs are accepted as kin pairs are rejected.

    Between two points of the curve it is on the line that joins them.
    """
    excess = curve.far - (1 - curve.tar)  # rises from -1 to 1
    after = int(np.flatnonzero(excess >= 0)[0])
    before = after - 1
    step = excess[before] / (excess[before] - excess[after])
    return float(curve.far[before] + step * (curve.far[after] - curve.far[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean precision over the kin pairs, of all pairs that score as high or higher.

    Raises:
        DataError: as of `roc_auc`.
    """
    kin, _ = _checked(labels, scores)
    curve = roc_curve(labels, scores)
    hits, misses = curve.tar * kin.sum(), curve.far * (~kin).sum()
    precision = hits[1:] / (hits[1:] + misses[1:])
    return float(np.sum(np.diff(curve.tar) * precision))


def accuracy(labels: ArrayLike, accepted: ArrayLike, weights: Numbers | None = None) -> float:
    """The share of pairs with the right decision."""
    right = np.asarray(labels).astype(bool) == np.asarray(accepted).astype(bool)
    return float(np.average(right, weights=weights))


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: Numbers | None = None) -> float:
    """The mean squared difference of probabilities and labels (Brier, 1950)."""
    kin, values = _checked(labels, probabilities)
    return float(np.average((values - kin) ** 2, weights=weights))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 15, weights: Numbers | None = None
) -> float:
    """The expected calibration error, over bins of equal width.

    The mean distance between the probabilities of a bin and its share of kin pairs, by the number
    of pairs in each (Naeini et al., 2015; Guo et al., https://arxiv.org/abs/1706.04599).
    """
    kin, values = _checked(labels, probabilities)
    counts, predicted, observed = reliability(kin, values, bins, weights)
    return float(np.sum(np.abs(predicted - observed)) / counts.sum())


def reliability(
    labels: Flags, probabilities: Numbers, bins: int, weights: Numbers | None = None
) -> tuple[Numbers, Numbers, Numbers]:
    """Pairs, sum of probabilities and sum of kin pairs in each of `bins` bins of equal width."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.ones(len(index)) if weights is None else weights
    return (
        np.bincount(index, counts, bins).astype(np.float64),
        np.bincount(index, counts * probabilities, bins).astype(np.float64),
        np.bincount(index, counts * labels, bins).astype(np.float64),
    )


def delong_interval(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Interval:
    """The interval of the AUC if all pairs were independent, as pairs of one family are not.

    DeLong et al. (1988), by mid-ranks as in Sun and Xu (2014); on the scale of the logit, so that
    it stays between 0 and 1.

    Raises:
        DataError: as of `roc_auc`, or there are fewer than two kin or non-kin pairs.
    """
    kin, values = _checked(labels, scores)
    area = roc_auc(kin, values)
    above, below = values[kin], values[~kin]
    if min(len(above), len(below)) < 2:
        raise DataError("an interval of the AUC needs two kin and two non-kin pairs")
    ranks = _mid_ranks(values)
    of_kin = (ranks[kin] - _mid_ranks(above)) / len(below)
    of_others = 1 - (ranks[~kin] - _mid_ranks(below)) / len(above)
    variance = of_kin.var(ddof=1) / len(above) + of_others.var(ddof=1) / len(below)
    if not 0 < area < 1:
        return Interval(area, area)
    centre = math.log(area / (1 - area))
    margin = _normal_quantile((1 + level) / 2) * math.sqrt(variance) / (area * (1 - area))
    return Interval(1 / (1 + math.exp(margin - centre)), 1 / (1 + math.exp(-margin - centre)))


def wilson_interval(hits: float, count: float, level: float = 0.95) -> Interval:
    """The interval of a share if its pairs were independent (Wilson, 1927)."""
    z = _normal_quantile((1 + level) / 2)
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))


def family_weights(families: NDArray[np.intp], count: int, rng: np.random.Generator) -> Numbers:
    """How often each pair counts (count, K) in resamples of the families.

    A pair counts as often as its family was drawn; one of two families as often as the product,
    since it needs both (Owen, "The pigeonhole bootstrap", 2007).

    Args:
        families: (K, 2) the family of each side.
        count: resamples.
        rng: draws the resamples.
    """
    known, numbers = np.unique(families, return_inverse=True)
    left, right = numbers.reshape(-1, 2).T
    drawn = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), count)
    one = left == right
    weights = drawn[:, left].astype(np.float64)
    weights[:, ~one] *= drawn[:, right[~one]]
    return weights


def family_bootstrap(
    statistic: Callable[[Numbers], float],
    families: NDArray[np.intp],
    rng: np.random.Generator,
    count: int = 1000,
    level: float = 0.95,
) -> Interval:
    """The interval of a statistic by the bootstrap over families.

    Args:
        statistic: of weights (K,), as `RankedScores.auc` is; a resample without it (DataError) is
            drawn again.
        families: (K, 2) the family of each side of each pair.
        rng: draws the resamples.
        count: resamples.
        level: of confidence.

    Raises:
        DataError: few resamples have it.
    """
    found: list[float] = []
    attempts = 0
    while len(found) < count:
        if attempts >= 4 * count:
            raise DataError(
                f"{len(np.unique(families))} families are too few for an interval; use more"
            )
        for weights in family_weights(families, min(100, count), rng):
            attempts += 1
            with suppress(DataError):
                found.append(statistic(weights))
    low, high = np.quantile(found[:count], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Numbers]:
    kin = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    if kin.shape != values.shape or kin.ndim != 1:
        raise DataError(f"labels {kin.shape} and scores {values.shape}: wanted as many of both")
    if not np.isfinite(values).all():
        raise DataError(f"{np.sum(~np.isfinite(values))} scores are not finite numbers")
    return kin, values


def _mid_ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equals share the mean of theirs."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    middle: Numbers = np.cumsum(count) - (count - 1) / 2
    return middle[rank]


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist  # takes its time to import

    return NormalDist().inv_cdf(share)
