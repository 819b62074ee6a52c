"""Score normalisation: how near strangers come to a photo, which its kin have to exceed.

Some photos are near to many others, whoever is on them. So a score counts from the mean of what
strangers reach with either photo: s(a, b) - (t(a) + t(b)) / 2. This is the symmetric normalisation
of speaker verification with a cohort's nearest (Matějka et al., "Analysis of score normalization in
multilingual speaker recognition", 2017). Here t follows from the mean and covariance of the
cohort's projections: the mean of a photo's cosines with strangers, and `TAIL` standard deviations
above it. So a head holds no vector of anybody, and a pair's score depends on its photos alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float
from kinembed.heads.exact import ExactKernel, row_dots

TAIL = 2.5  # standard deviations above the mean where the nearest strangers are


@dataclass(frozen=True)
class ScoreNorm:
    """What one projection makes of strangers.

    Attributes:
        mean: (d, 1) float32, of their unit projections.
        root: (d, d) float32; root @ root.T is their covariance.
        level: the mean of `nearest` over them, which is subtracted.
    """

    mean: Float
    root: Float
    level: float = 0.0

    @classmethod
    def fit(cls, projections: Float, weights: NDArray[np.float64]) -> ScoreNorm:
        """By the (N, d) unit projections of strangers' photos, and how much each weighs (N,)."""
        share = (weights / weights.sum())[:, None]  # (N, 1)
        mean = (projections * share).sum(0)  # (d,)
        around = (projections - mean) * np.sqrt(share)  # (N, d)
        values, axes = np.linalg.eigh(around.T @ around)
        root = axes * np.sqrt(np.maximum(values, 0))  # (d, d)
        norm = cls(mean[:, None].astype(np.float32), root.astype(np.float32))
        level = float((norm.nearest(projections) * share[:, 0]).sum())
        return cls(norm.mean, norm.root, level)

    def nearest(self, projections: Float) -> Float:
        """(N,) how near the nearest strangers are to (N, d) unit projections, less `level`.

        Each depends on its projection alone, to the bit.
        """
        mean, root = self._kernels
        spread = root.product(projections).astype(np.float32)  # (N, d)
        deviation = np.sqrt(row_dots(spread, spread))  # (N,)
        of_mean = mean.product(projections)[:, 0].astype(np.float32)
        nearest = of_mean + np.float32(TAIL) * deviation - np.float32(self.level)
        return nearest.astype(np.float32, copy=False)

    @cached_property
    def _kernels(self) -> tuple[ExactKernel, ExactKernel]:
        return ExactKernel.of(self.mean), ExactKernel.of(self.root)
