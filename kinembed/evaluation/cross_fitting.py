"""Cross-fitting and bootstrap of a calibration: its figures on held-out families."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
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

    Figures are cross-fitted: fitted on all folds of families but one, evaluated on the pairs
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
    # A fold has few non-kin pairs: weights restore their fraction in the whole sample.
    sample_weights = prior_weights(truth, sample_prior)
    figures: dict[str, Any] = {
        "accuracy": accuracy(truth, accepted, prior_weights(truth, prior)),
        "far": float(accepted[~truth].mean()),
        "tar": float(accepted[truth].mean()),
        "brier": brier(truth, predicted, sample_weights),
        "ece": calibration_error(truth, predicted, weights=sample_weights),
        "pairs": len(truth),
    }
    ranked = RankedScores(labels, logits)
    resampled: dict[str, list[float]] = {"threshold": [], "accuracy": [], "far": [], "tar": []}
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
        resampled["threshold"].append(threshold)
        resampled["accuracy"].append(prior * tar + (1 - prior) * (1 - far))
        resampled["far"].append(far)
        resampled["tar"].append(tar)
    if len(resampled["far"]) < RESAMPLES / 2:
        raise DataError(
            f"{len(np.unique(families))} held-out families are too few to calibrate; hold out "
            "more with kinembed head, or sample more with --pairs"
        )
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
            "others to judge; hold out more with kinembed head"
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
            raise DataError(f"a fold of held-out families: {error}; hold out more") from None
        fitted = replace(fitted, prior=fitted.fitted_prior)  # judge at the sample's prior
        judged |= inside
        accepted[inside] = fitted.accepts(logits[inside])
        predicted[inside] = fitted.probabilities(logits[inside])
    if labels[judged].all() or not labels[judged].any():
        raise DataError("the folds of held-out families lack kin or non-kin pairs; hold out more")
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
