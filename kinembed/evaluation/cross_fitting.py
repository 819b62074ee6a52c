"""Cross-fitting and bootstrap of a calibration: its figures on held-out families."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.errors import DataError
from kinembed.evaluation.calibration import Map, choose_threshold, fit
from kinembed.evaluation.metrics import (
    Flags,
    Interval,
    Numbers,
    RankedScores,
    accuracy,
    brier,
    calibration_error,
    family_weights,
)

FOLDS = 5
FEWEST = 6  # families
RESAMPLES = 500
# By how much the share of non-kin pairs within one family, who are scored worse than strangers of
# two, may differ between the pairs that are judged and those drawn.
MOST_SHIFT = 0.1


@dataclass(frozen=True)
class Judged:
    """How many pairs are judged by families not fitted on, and how many were drawn.

    Attributes:
        kin: judged kin pairs.
        non_kin: judged non-kin pairs.
        within: non-kin pairs of these within one family.
        all_non_kin: non-kin pairs that were drawn.
        all_within: those of them within one family.
    """

    kin: int
    non_kin: int
    within: int
    all_non_kin: int
    all_within: int

    @classmethod
    def of(cls, labels: Flags, families: Rows, judged: Flags) -> Judged:
        """Counts (N,) pairs of (N, 2) families of which (N,) some are judged."""
        within = (families == families[:, :1]).all(1)
        sides = (labels & judged, ~labels & judged, ~labels & judged & within, ~labels)
        return cls(*(int(side.sum()) for side in (*sides, ~labels & within)))

    def describe(self) -> str:
        """The judged pairs, in words."""
        return f"{self.kin:,} kin and {self.non_kin:,} non-kin pairs"

    @property
    def skew(self) -> str:
        """Why figures of the judged pairs say nothing of those drawn; empty if they do."""
        share, of_all = self.within / self.non_kin, self.all_within / self.all_non_kin
        if abs(share - of_all) <= MOST_SHIFT:
            return ""
        return (
            f"{self.non_kin:,} of {self.all_non_kin:,} non-kin pairs are of families not fitted "
            f"on, and {share:.0%} of these within one family, where {of_all:.0%} of all are; more "
            "families are wanted"
        )


def estimate(
    labels: Flags,
    logits: Numbers,
    families: Rows,
    target: str,
    kind: Map,
    prior: float | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Figures and intervals of a calibration on held-out families.

    Figures of decisions are left out where the judged pairs are too unlike those drawn. They are
    cross-fitted: fitted on all folds of families but one, evaluated on the pairs
    within that one. Intervals come from the bootstrap over families: fitted on a resample,
    evaluated on pairs of the families outside it. They include the uncertainty of both the fit
    and the evaluation.

    Args:
        labels: (N,) True for kin.
        logits: (N,) the head's scores.
        families: (N, 2) the family of each side.
        target: the rule that chooses the threshold.
        kind: the map.
        prior: fraction of kin pairs in use; None: as among these pairs.
        rng: the random generator of folds and resamples.

    Raises:
        DataError: the families are too few.
    """
    judged, accepted, predicted = cross_fit(labels, logits, families, target, kind, prior, rng)
    sample_prior = float(labels.mean())
    if prior is None:
        prior = sample_prior
    truth, accepted, predicted = labels[judged], accepted[judged], predicted[judged]
    counts = Judged.of(labels, families, judged)
    ranked = RankedScores(labels, logits)
    figures: dict[str, Any] = {"auc": ranked.auc(), **asdict(counts)}
    resampled: dict[str, list[float]] = {"threshold": [], "auc": []}
    if not counts.skew:
        # A fold has few non-kin pairs: weights restore their fraction in the whole sample.
        sample_weights = prior_weights(truth, sample_prior)
        figures |= {
            "accuracy": accuracy(truth, accepted, prior_weights(truth, prior)),
            "far": float(accepted[~truth].mean()),
            "tar": float(accepted[truth].mean()),
            "brier": brier(truth, predicted, sample_weights),
            "ece": calibration_error(truth, predicted, weights=sample_weights),
        }
        resampled |= {"accuracy": [], "far": [], "tar": []}
    enough = 0
    for weights in _resamples(families, RESAMPLES, rng):
        outside = _outside(families, weights)
        if not outside.any() or labels[outside].all() or not labels[outside].any():
            continue
        try:
            curve = ranked.curve(weights)
        except DataError:
            continue
        threshold = choose_threshold(curve, target, prior)
        accepted = logits >= threshold
        far, tar = (float(accepted[outside & side].mean()) for side in (~labels, labels))
        enough += 1
        one = {"threshold": threshold, "auc": curve.auc, "far": far, "tar": tar}
        one["accuracy"] = prior * tar + (1 - prior) * (1 - far)
        for name, found in resampled.items():
            found.append(one[name])
    if enough < RESAMPLES / 2:
        raise DataError(f"{len(np.unique(families))} held-out families are too few to calibrate")
    for name, values in resampled.items():
        low, high = np.quantile(values, [0.025, 0.975])
        figures[f"{name}_interval"] = asdict(Interval(float(low), float(high)))
    return figures


def cross_fit(
    labels: Flags,
    logits: Numbers,
    families: Rows,
    target: str,
    kind: Map,
    prior: float | None,
    rng: np.random.Generator,
) -> tuple[Flags, Flags, Numbers]:
    """Decisions and probabilities of pairs by calibrations fitted on other families.

    Only pairs within one fold of families are judged.

    Returns:
        (N,) True for judged pairs; (N,) True for accepted pairs; (N,) probabilities, nan for the
        pairs that are not judged.

    Raises:
        DataError: the families are too few.
    """
    unique, numbers = np.unique(families, return_inverse=True)
    if len(unique) < FEWEST:
        raise DataError(
            f"{len(unique)} held-out families: wanted at least {FEWEST}, some to fit on and "
            "others to judge"
        )
    folds = min(FOLDS, len(unique) // 2)  # non-kin pairs need two families in a fold
    fold_of = rng.permutation(len(unique))[numbers.reshape(families.shape)] % folds  # (N, 2)
    judged, accepted = np.zeros((2, len(labels)), bool)
    predicted = np.full(len(labels), np.nan)
    sample_prior = float(labels.mean())
    for fold in range(folds):
        inside, outside = (fold_of == fold).all(1), (fold_of != fold).all(1)
        try:
            weights = prior_weights(labels[outside], sample_prior)
            fitted = fit(labels[outside], logits[outside], target, kind, prior, weights)
        except DataError as error:
            raise DataError(f"a fold of held-out families: {error}") from None
        fitted = replace(fitted, prior=fitted.fitted_prior)  # judge at the sample's prior
        judged |= inside
        accepted[inside] = fitted.accepts(logits[inside])
        predicted[inside] = fitted.probabilities(logits[inside])
    if labels[judged].all() or not labels[judged].any():
        raise DataError("the folds of held-out families lack kin or non-kin pairs")
    return judged, accepted, predicted


def prior_weights(labels: Flags, prior: float) -> Numbers:
    """(N,) weights by which kin pairs are this fraction of all."""
    kin = float(labels.mean())
    if kin in (0.0, 1.0):
        raise DataError("there are no kin or no non-kin pairs")
    return np.where(labels, prior / kin, (1 - prior) / (1 - kin))


def _resamples(families: Rows, count: int, rng: np.random.Generator) -> Iterator[Numbers]:
    for _ in range(-(-count // 50)):
        yield from family_weights(families, 50, rng)


def _outside(families: Rows, weights: Numbers) -> Flags:
    """(N,) True for pairs of families outside a resample."""
    counted = np.isin(families, np.unique(families[weights > 0]))
    return np.asarray(~counted.any(1))
