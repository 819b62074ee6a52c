"""Rules out most of a large gallery by short forms of its representations, without a mistake.

A logit is a dot product of two rows, less a number of each (`Head.products`). A row is split into
its part along a few axes, on which most of the length of all rows lies, and a rest. The dot product
of two is that of the short parts, and at most the product of the lengths of both rests more or less
(Cauchy-Schwarz). So whoever is not among the first even with all of it need not be looked at, and
nobody who is gets lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinembed.arrays import Float
from kinembed.heads.base import Head
from kinembed.threads import one_blas_thread, parallel_map, processors

AXES = 192  # at most: fewer are read faster, but rule out less
ROUNDING = 1e-4  # of a product of two lengths, by which sums in float32 may be off
BLOCK = 16_384  # rows at a time
TURNS = 6  # of the power method, which finds the axes


@dataclass(frozen=True)
class Screen:
    """Short forms of G representations.

    Attributes:
        axes: (D, d) orthonormal.
        short: (G, d) coordinates of rows on the axes.
        lengths: (G, 3) of the whole row and of its rest, and the number that is subtracted.
    """

    axes: Float
    short: Float
    lengths: Float

    def near(self, row: Float, number: float) -> tuple[Float, Float]:
        """(G,) logits with a row (D,) and its number, and (G,) by how much they may be off."""
        (short,), ((length, rest, _),) = shortened(self.axes, row[None], np.zeros(1, np.float32))
        logits = products(self.short, short)
        own = self.lengths[:, 2]
        slack = self.lengths[:, 1] * rest + self.lengths[:, 0] * (length * np.float32(ROUNDING))
        slack += (np.abs(own) + np.float32(abs(number))) * np.float32(ROUNDING)
        logits -= own + np.float32(number)
        return logits, slack


def find_axes(sample: Float, count: int = AXES) -> Float:
    """(D, d) orthonormal axes on which most of the length of (S, D) rows lies."""
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


def shortened(axes: Float, rows: Float, numbers: Float) -> tuple[Float, Float]:
    """(N, d) short forms of (N, D) rows, and (N, 3) lengths of whole and rest, and the numbers."""
    short = rows @ axes  # (N, d)
    square = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    kept = np.einsum("ij,ij->i", short, short, dtype=np.float64)
    rest = np.sqrt(np.maximum(square - kept, 0))
    return short, np.stack([np.sqrt(square), rest, numbers], 1).astype(np.float32)


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
    """Whether a head's logits follow from dot products."""
    return head.products(np.empty((0, head.representation_width), np.float32)) is not None


def logit_bounds(head: Head, screen: Screen, probe: Float) -> tuple[Float, Float]:
    """(G,) logits of a probe (W,) with each of a gallery, and (G,) by how much they may be off."""
    form = head.products(np.asarray(probe, np.float32)[None])
    assert form is not None
    (row,), (number,) = form
    return screen.near(row, float(number))
