"""Row products and row sums that depend on that row alone, to the bit.

A BLAS product of floats does not: the order of its additions depends on the row's position in a
block, the size of the block and the threads. Here factors are rounded to integers of so few bits
that every sum is exact in float64, whatever the order. Sums too narrow for BLAS have a fixed order.

The rounding is the first slice of Ozaki et al., "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications", 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Vectors

Double = NDArray[np.float64]

SMALLEST = np.float32(1e-12)  # the least divisor in `unit`, so that zeros stay zeros


def unbounded() -> np.errstate:
    """Lets numbers of huge weights become infinite without a warning: their scores are refused."""
    return np.errstate(over="ignore", invalid="ignore")


def single(x: Double) -> Float:
    """float64 numbers as float32, infinite where they are too large."""
    with unbounded():
        return x.astype(np.float32)


@dataclass(frozen=True)
class ExactKernel:
    """A (K, M) kernel whose product with a row depends on that row alone.

    Attributes:
        numbers: (K, M) integers of at most `bits` bits.
        row_scale: (K,) powers of two, one per input. A kernel trained on raw vectors is large for
            inputs that vary little and small for those that vary much; this evens them out.
        scale: (M,) powers of two: the kernel is `row_scale[:, None] * numbers * scale`, to half a
            bit of the largest in each column.
        bits: few enough that a float64 holds the sum of K products of two such integers.
    """

    numbers: Double
    row_scale: Double
    scale: Double
    bits: int

    @classmethod
    def of(cls, kernel: Float) -> ExactKernel:
        """Rounds a (K, M) kernel."""
        bits = min(24, (53 - math.ceil(math.log2(len(kernel)))) // 2)
        row_scale = _power_of_two(np.abs(kernel).max(1), 0)  # (K,)
        balanced = kernel / row_scale[:, None]  # (K, M)
        scale = _power_of_two(np.abs(balanced).max(0), bits)  # (M,)
        return cls(np.rint(balanced / scale), row_scale, scale, bits)

    def product(self, rows: Vectors) -> Double:
        """(N, M) products of (N, K) rows, each row rounded to `bits` bits of its largest number."""
        balanced = rows * self.row_scale  # (N, K) float64
        # Without np.abs: its fresh array, zeroed by the kernel, takes as long as all the rest.
        largest = np.maximum(balanced.max(1), -balanced.min(1))  # (N,)
        scale = _power_of_two(largest, self.bits)[:, None]  # (N, 1)
        balanced /= scale
        with unbounded():
            product: Double = np.rint(balanced, out=balanced) @ self.numbers  # (N, M), exact
            product *= scale
            product *= self.scale
        return product


def _power_of_two(largest: Vectors, bits: int) -> Double:
    """The power of two that scales `largest` to `bits` bits."""
    _, exponent = np.frexp(largest.astype(np.float64))  # largest < 2^exponent
    power: Double = np.ldexp(1.0, exponent - bits)
    return power


def row_sums(x: Float) -> Float:
    """(N,) sums of the rows of `x` (N, W), which is overwritten.

    Adds the right half to the left half until one column remains, so the order of additions
    depends on the width alone.
    """
    width = x.shape[1]
    with unbounded():
        while width > 1:
            half = (width + 1) // 2
            x[:, : width - half] += x[:, half:width]  # (N, width // 2)
            width = half
    return x[:, 0]


def row_dots(a: Float, b: Float) -> Float:
    """(N,) dot products of the rows of `a` and `b`, (N, W) each."""
    with unbounded():
        return row_sums(np.multiply(a, b, dtype=np.float32))


def unit(x: Vectors) -> Float:
    """Scales (N, D) vectors to length 1; zero vectors stay."""
    x = np.asarray(x, np.float32)
    lengths = np.sqrt(row_dots(x, x))[:, None]  # (N, 1)
    with unbounded():
        return (x / np.maximum(lengths, SMALLEST)).astype(np.float32, copy=False)
