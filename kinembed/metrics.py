"""How well scores tell kin from strangers."""

import numpy as np
from numpy.typing import ArrayLike

from kinembed.errors import DataError


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the ROC curve: the chance that a kin pair scores above a non-kin pair.

    Equal scores count half (Mann-Whitney U with mid-ranks; Fawcett, "An introduction to ROC
    analysis", 2006).

    Args:
        labels: (N,) 1 for kin, 0 for not.
        scores: (N,) finite; higher means more kin.

    Raises:
        DataError: there are no kin or no non-kin pairs, or a score is not a number.
    """
    kin = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    if kin.shape != values.shape or kin.ndim != 1:
        raise DataError(f"labels {kin.shape} and scores {values.shape}: wanted as many of both")
    if not np.isfinite(values).all():
        raise DataError(f"{np.sum(~np.isfinite(values))} scores are not finite numbers")
    positives, negatives = int(kin.sum()), int((~kin).sum())
    if not positives or not negatives:
        raise DataError(
            f"AUC needs kin and non-kin pairs; found {positives} kin and {negatives} non-kin"
        )
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    middle = last - (count - 1) / 2  # the mean rank, from 1, of each group of equal scores
    ranks = middle[place][kin].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
