"""Curves of an evaluation as numbers, for whoever draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

from kinembed.evaluation.metrics import Flags, Numbers, RankedScores

POINTS, BINS = 400, 40


def curves(labels: Flags, logits: Numbers) -> dict[str, Any]:
    """ROC curve and histograms of labelled scores, as JSON types.

    Args:
        labels: (N,) True for kin.
        logits: (N,) scores.

    Returns:
        `roc`: at most `POINTS` points by rising false accept rate: `threshold` (from which on a
        pair is accepted; null where nothing is), `far` and `tar`. `scores`: `edges` of the bins,
        and how many pairs each holds, `kin` and `non_kin`; the outer bins hold what lies beyond.
    """
    curve = RankedScores(labels, logits).curve()
    kept = thinned(curve.far, curve.tar, POINTS)
    thresholds = curve.thresholds[kept].tolist()
    low, high = np.quantile(logits, [0.001, 0.999]).tolist()
    if not high > low:
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, BINS + 1)
    clipped = logits.clip(low, high)
    return {
        "roc": {
            "threshold": [None if np.isinf(each) else each for each in thresholds],
            "far": curve.far[kept].tolist(),
            "tar": curve.tar[kept].tolist(),
        },
        "scores": {
            "edges": edges.tolist(),
            "kin": np.histogram(clipped[labels], edges)[0].tolist(),
            "non_kin": np.histogram(clipped[~labels], edges)[0].tolist(),
        },
    }


def thinned(x: Numbers, y: Numbers, limit: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Indices of at most `limit` points of a curve, in equal steps along its length.

    Args:
        x: (N,) of the points.
        y: (N,) of the points.
        limit: 2 or more; both ends are kept.
    """
    if len(x) <= limit:
        return np.arange(len(x))
    length = np.cumsum(np.append(0, np.abs(np.diff(x)) + np.abs(np.diff(y))))  # (N,)
    steps = np.searchsorted(length, np.linspace(0, length[-1], limit))
    return np.unique(np.append(steps[:-1], len(x) - 1))
