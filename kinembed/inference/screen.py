"""Rules out most of a large gallery by short forms of its representations, without a mistake.

A representation is split into its part along a few axes, on which most of the length of all
representations lies, and a rest. The dot product of two is that of the short parts, and at most the
product of the lengths of both rests more or less (Cauchy-Schwarz). So whoever is not among the
first even with all of it need not be looked at, and nobody who is gets lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinembed.arrays import Float
from kinembed.heads.base import Head
from kinembed.heads.metric import MetricHead
from kinembed.threads import one_blas_thread, parallel_map, processors

AXES = 192  # at most: fewer are read faster, but rule out less
ROUNDING = 1e-4  # of a product of two lengths, by which sums in float32 may be off
BLOCK = 16_384  # rows at a time
TURNS = 6  # of the power method, which finds the axes


@dataclass(frozen=True)
class Screen:
    """Short forms of G representations.

    Attributes:
        axes: (W, d) orthonormal.
        short: (G, d) coordinates on the axes.
        lengths: (G, 2) of the whole representation and of its rest.
    """

    axes: Float
    short: Float
    lengths: Float

    def near(self, probe: Float) -> tuple[Float, Float]:
        """(G,) dot products with a representation (W,), and (G,) by how much they may be off."""
        probe = np.asarray(probe, np.float32)
        (short,), ((length, rest),) = shortened(self.axes, probe[None])
        product = products(self.short, short)
        slack = self.lengths[:, 1] * rest + self.lengths[:, 0] * (length * np.float32(ROUNDING))
        return product, slack


def find_axes(sample: Float, count: int = AXES) -> Float:
    """(W, d) orthonormal axes on which most of the length of (S, W) representations lies."""
    width = sample.shape[1]
    count = min(count, width)
    if count == width:
        return np.eye(width, dtype=np.float32)
    axes = np.random.default_rng(0).standard_normal((width, count))
    with one_blas_thread():
        moments = (sample.T @ sample).astype(np.float64)  # (W, W)
        for _ in range(TURNS):
            axes, _ = np.linalg.qr(moments @ axes)
    return np.ascontiguousarray(axes, np.float32)


def shortened(axes: Float, representations: Float) -> tuple[Float, Float]:
    """(N, d) short forms of (N, W) representations, and (N, 2) lengths of whole and rest."""
    short = representations @ axes  # (N, d)
    square = np.einsum("ij,ij->i", representations, representations, dtype=np.float64)
    kept = np.einsum("ij,ij->i", short, short, dtype=np.float64)
    rest = np.sqrt(np.maximum(square - kept, 0))
    return short, np.stack([np.sqrt(square), rest], 1).astype(np.float32)


def products(rows: Float, vector: Float) -> Float:
    """(G,) dot products of mapped rows (G, d) with a vector (d,)."""
    result = np.empty(len(rows), np.float32)

    def block(start: int) -> None:
        some = np.asarray(rows[start : start + BLOCK])  # checks that the file is still whole
        np.dot(some, vector, out=result[start : start + BLOCK])

    starts = range(0, len(rows), BLOCK)
    with one_blas_thread():
        parallel_map(block, starts, min(processors(), len(starts)))
    return result


def can_screen(head: Head) -> bool:
    """Whether a head's scores follow from dot products of representations."""
    return isinstance(head, MetricHead) and not head.norms


def logit_bounds(head: MetricHead, screen: Screen, probe: Float) -> tuple[Float, Float]:
    """(G,) logits of a probe (W,) with each of a gallery, and (G,) by how much they may be off."""
    product, slack = screen.near(probe)
    scale = np.float32(head.scale)
    if head.similarity == "l2":  # minus the squared distance
        square = np.float32(np.dot(probe, probe))
        own = screen.lengths[:, 0] ** 2
        product *= 2
        product -= own + square
        slack = 2 * slack + (own + square) * np.float32(ROUNDING)
    product -= np.float32(head.centre)
    product *= scale
    return product, slack * scale
