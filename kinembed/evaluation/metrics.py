"""Verification metrics and their confidence intervals.

`weights` say how often each pair counts in a bootstrap resample.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinembed.errors import DataError

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

FEW = 10  # families, of which a bootstrap is too sure
RESAMPLED = 1 << 20  # families drawn at a time, in all resamples together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Roc:
    """The ROC curve: a point for each threshold, from (0, 0) to (1, 1).

    Attributes:
        far: (T,) false accept rate, the fraction of non-kin pairs at or above the threshold.
        tar: (T,) true accept rate, the fraction of kin pairs at or above it.
        thresholds: (T,) decreasing; the first is infinite, so that it accepts nothing.
    """

    far: Numbers
    tar: Numbers
    thresholds: Numbers

    @property
    def auc(self) -> float:
        """The area under the curve, by the trapezoidal rule."""
        return float(np.sum(np.diff(self.far) * (self.tar[1:] + self.tar[:-1])) / 2)


def warn_of_few(families: int, unit: str) -> None:
    """Says where intervals by so many families, or whatever else is resampled, are too sure."""
    if families < 2:
        log.warning("all pairs are of one of the %s: there are no intervals", unit)
    elif families < FEW:
        log.warning("%d %s are few: intervals are too narrow, if there are any", families, unit)


def roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The area under the ROC curve: the probability that a kin pair scores above a non-kin pair.

    Equal scores count half (Mann-Whitney U; Fawcett, "An introduction to ROC analysis", 2006).

    Args:
        labels: (N,) 1 for kin, 0 for not.
        scores: (N,) finite; higher means more kin.
        weights: (N,) how often each pair counts; None: once.

    Raises:
        DataError: there are no kin or no non-kin pairs, or a score is not a number.
    """
    return RankedScores(labels, scores).auc(weights)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Roc:
    """The ROC curve, with one point for each distinct score.

    Raises:
        DataError: as for `roc_auc`.
    """
    return RankedScores(labels, scores).curve()


class RankedScores:
    """Scores sorted once, for metrics under many weights.

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
        descending = values[self._order]
        is_last = np.append(descending[1:] != descending[:-1], True)  # of equal scores
        self._last = np.flatnonzero(is_last)
        self._thresholds = np.append(np.inf, descending[self._last])

    def curve(self, weights: ArrayLike | None = None) -> Roc:
        """The ROC curve.

        Raises:
            DataError: under these weights there are no kin or no non-kin pairs.
        """
        others, kin = self._accepted(weights)
        return Roc(others / others[-1], kin / kin[-1], self._thresholds)

    def auc(self, weights: ArrayLike | None = None) -> float:
        """The area under the ROC curve."""
        others, kin = self._accepted(weights)
        # The trapezoidal rule counts equal scores half.
        return float(np.sum(np.diff(others) * (kin[1:] + kin[:-1])) / (2 * others[-1] * kin[-1]))

    def _accepted(self, weights: ArrayLike | None) -> tuple[Numbers, Numbers]:
        """(T,) non-kin and (T,) kin pairs at or above each threshold."""
        counts = []
        for side in (~self._kin, self._kin):
            weighted = side if weights is None else side * np.asarray(weights)[self._order]
            counts.append(np.append(0.0, np.cumsum(weighted, dtype=np.float64)[self._last]))
            if not counts[-1][-1]:
                raise DataError("by their weights there are no kin or no non-kin pairs")
        return counts[0], counts[1]


def tar_at_far(curve: Roc, far: float) -> float:
    """The largest true accept rate at a false accept rate of at most `far`."""
    return float(curve.tar[np.flatnonzero(curve.far <= far)[-1]])


def equal_error_rate(curve: Roc) -> float:
    """The equal error rate, at which the false accept rate equals the false reject rate.

    Interpolates linearly between two points of the curve.
    """
    excess = curve.far - (1 - curve.tar)  # (T,) increases from -1 to 1
    after = int(np.flatnonzero(excess >= 0)[0])
    before = after - 1
    step = excess[before] / (excess[before] - excess[after])
    return float(curve.far[before] + step * (curve.far[after] - curve.far[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """The precision among all pairs that score at least as high, averaged over the kin pairs.

    Raises:
        DataError: as for `roc_auc`.
    """
    kin, _ = _checked(labels, scores)
    curve = roc_curve(labels, scores)
    hits, misses = curve.tar * kin.sum(), curve.far * (~kin).sum()
    precision = hits[1:] / (hits[1:] + misses[1:])
    return float(np.sum(np.diff(curve.tar) * precision))


def accuracy(labels: ArrayLike, accepted: ArrayLike, weights: Numbers | None = None) -> float:
    """The fraction of pairs with the right decision."""
    right = np.asarray(labels).astype(bool) == np.asarray(accepted).astype(bool)
    return float(np.average(right, weights=weights))


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: Numbers | None = None) -> float:
    """The mean squared difference of probabilities and labels (Brier, 1950)."""
    kin, values = _checked(labels, probabilities)
    return float(np.average((values - kin) ** 2, weights=weights))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 15, weights: Numbers | None = None
) -> float:
    """The expected calibration error (ECE) over bins of equal width.

    The difference between a bin's mean probability and its fraction of kin pairs, averaged over
    pairs (Naeini et al., 2015; Guo et al., https://arxiv.org/abs/1706.04599).
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
    """The interval of the AUC for independent pairs, which pairs of one family are not.

    DeLong et al. (1988), by mid-ranks as in Sun and Xu (2014); on the logit scale, so that it
    stays between 0 and 1.

    Raises:
        DataError: as for `roc_auc`, or there are fewer than two kin or non-kin pairs.
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
    """The interval of a proportion for independent pairs (Wilson, 1927)."""
    z = _normal_quantile((1 + level) / 2)
    rate = hits / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + (z / count / 2) ** 2)
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))


def family_weights(
    families: NDArray[np.intp], count: int, rng: np.random.Generator
) -> Iterator[Numbers]:
    """Yields (K,) how often each pair counts, in resamples of the families.

    A pair within a family counts as often as the family is in the resample. A pair of two families,
    or a triple of three, counts as often as the product of all (Owen, "The pigeonhole bootstrap",
    2007). Memory grows with the pairs, not with the resamples.

    Args:
        families: (K, 2), or (K, 3) of triples, the family of each side.
        count: resamples.
        rng: the random generator.
    """
    unique, numbers = np.unique(families, return_inverse=True)
    first, *others = numbers.reshape(families.shape).T  # (K,) each
    further: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []  # pairs of another family there
    before = [first]
    for side in others:
        pairs = np.flatnonzero(np.all([side != one for one in before], axis=0))
        further.append((pairs, side[pairs]))
        before.append(side)
    shares = np.full(len(unique), 1 / len(unique))
    block = max(1, RESAMPLED // max(1, len(unique)))
    for start in range(0, count, block):
        # (block, families) how often each resample has each family
        resamples = rng.multinomial(len(unique), shares, min(block, count - start))
        for resample in resamples:
            weights = resample[first].astype(np.float64)  # (K,)
            for pairs, side in further:
                weights[pairs] *= resample[side]
            yield weights


def family_bootstrap(
    statistic: Callable[[Numbers], float],
    families: NDArray[np.intp],
    rng: np.random.Generator,
    count: int = 1000,
    level: float = 0.95,
) -> Interval:
    """The interval of a statistic by the bootstrap over families.

    Args:
        statistic: a function of weights (K,), such as `RankedScores.auc`; a resample for which it
            raises DataError is replaced.
        families: (K, 2), or (K, 3) of triples, the family of each side of each pair.
        rng: the random generator.
        count: resamples.
        level: of confidence.

    Raises:
        DataError: there is one family only, or few resamples have the statistic.
    """
    if len(np.unique(families)) < 2:
        raise DataError("one family alone has no interval; use more")
    values: list[float] = []
    attempts = 0
    while len(values) < count:
        if attempts >= 4 * count:
            raise DataError(
                f"{len(np.unique(families))} families are too few for an interval; use more"
            )
        for weights in family_weights(families, min(100, count), rng):
            attempts += 1
            with suppress(DataError):
                values.append(statistic(weights))
    low, high = np.quantile(values[:count], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Numbers]:
    kin = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    if kin.shape != values.shape or kin.ndim != 1:
        raise DataError(f"labels {kin.shape} and scores {values.shape}: wanted as many of each")
    if not np.isfinite(values).all():
        raise DataError(f"{np.sum(~np.isfinite(values))} scores are not finite numbers")
    return kin, values


def _mid_ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equal values get the mean of their ranks."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    middle: Numbers = np.cumsum(count) - (count - 1) / 2
    return middle[rank]


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist  # slow to import

    return NormalDist().inv_cdf(probability)
