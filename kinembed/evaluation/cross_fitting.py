"""What a calibration gives on families that it was not fitted on: cross-fitting and bootstrap."""

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
    """What a calibration gives on families outside its fit.

    Figures are cross-fitted: fitted on all folds of the families but one, judged on the pairs
    within that one. Intervals are by the bootstrap over families: fitted on a resample, judged on
    pairs of the families outside it. So they hold the uncertainty of few families twice: of the
    fit and of the judgement.

    Args:
        labels: (N,) True for kin.
        logits: (N,) the head's scores.
        families: (N, 2) the family of each side.
        target: of the threshold.
        kind: of the map.
        prior: of the threshold.
        rng: draws folds and resamples of the families.

    Raises:
        DataError: the families are too few.
    """
    mix = float(labels.mean())
    wanted = mix if prior is None else prior
    judged, accepted, predicted = cross_fit(labels, logits, families, target, kind, prior, rng)
    truth, accepted, predicted = labels[judged], accepted[judged], predicted[judged]
    # Within families there are few pairs of strangers: they count for as many as were drawn.
    as_drawn = mixed(truth, mix)
    figures: dict[str, Any] = {
        "accuracy": accuracy(truth, accepted, mixed(truth, wanted)),
        "far": float(accepted[~truth].mean()),
        "tar": float(accepted[truth].mean()),
        "brier": brier(truth, predicted, as_drawn),
        "ece": calibration_error(truth, predicted, weights=as_drawn),
        "pairs": len(truth),
    }
    ranked = RankedScores(labels, logits)
    found: dict[str, list[float]] = {"threshold": [], "accuracy": [], "far": [], "tar": []}
    for weights in _resamples(families, RESAMPLES, rng):
        outside = _outside(families, weights)
        if not outside.any() or labels[outside].all() or not labels[outside].any():
            continue
        try:
            curve = ranked.curve(weights)
        except DataError:
            continue
        threshold = choose_threshold(curve, target, wanted)
        accepted = logits >= threshold
        far, tar = (float(accepted[outside & side].mean()) for side in (~labels, labels))
        found["threshold"].append(threshold)
        found["accuracy"].append(wanted * tar + (1 - wanted) * (1 - far))
        found["far"].append(far)
        found["tar"].append(tar)
    if len(found["far"]) < RESAMPLES / 2:
        raise DataError(
            f"{len(np.unique(families))} families held out are too few to calibrate by; hold out "
            "more with kinembed head, or draw more with --pairs"
        )
    for name, values in found.items():
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

    Returns:
        (N,) True for the pairs within a fold of families, which are the judged ones; (N,) True
        for the accepted pairs; (N,) probabilities. The rest are False and nan.

    Raises:
        DataError: the families are too few.
    """
    known, numbers = np.unique(families, return_inverse=True)
    if len(known) < FEWEST:
        raise DataError(
            f"{len(known)} families held out: wanted at least {FEWEST} to fit on some and "
            "judge by others; hold out more with kinembed head"
        )
    folds = min(FOLDS, len(known) // 2)  # pairs of strangers need two families in a fold
    fold = rng.permutation(len(known))[numbers.reshape(-1, 2)] % folds
    judged, accepted = np.zeros((2, len(labels)), bool)
    predicted = np.full(len(labels), np.nan)
    mix = float(labels.mean())
    for each in range(folds):
        inside, outside = (fold == each).all(1), (fold != each).all(1)
        try:
            weights = mixed(labels[outside], mix)
            fitted = fit(labels[outside], logits[outside], target, kind, prior, weights)
        except DataError as error:
            raise DataError(f"a fold of families held out: {error}; hold out more") from None
        fitted = replace(fitted, prior=fitted.fitted_prior)  # judged by the mix as drawn
        judged |= inside
        accepted[inside] = fitted.accepts(logits[inside])
        predicted[inside] = fitted.probabilities(logits[inside])
    if labels[judged].all() or not labels[judged].any():
        raise DataError("the folds of families held out lack kin or non-kin pairs; hold out more")
    return judged, accepted, predicted


def mixed(labels: Flags, share: float) -> Numbers:
    """Weights (N,) that give kin pairs this share."""
    kin = float(labels.mean())
    if kin in (0.0, 1.0):
        raise DataError("there are no kin or no non-kin pairs")
    return np.where(labels, share / kin, (1 - share) / (1 - kin))


def _resamples(families: Rows, count: int, rng: np.random.Generator) -> Iterator[Numbers]:
    for _ in range(-(-count // 50)):
        yield from family_weights(families, 50, rng)


def _outside(families: Rows, weights: Numbers) -> Flags:
    """The pairs (N,) of families in no pair that counts."""
    counted = np.isin(families, np.unique(families[weights > 0]))
    return ~(counted[:, 0] | counted[:, 1])
