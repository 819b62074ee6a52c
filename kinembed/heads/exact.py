"""Products and sums of rows: each row's is the same to the bit, whatever the other rows are.

A BLAS product of floats is not: which kernel a row goes through, and so the order in which its
terms are added, depends on its place in a block, on the block's size and on the threads. Here
factors are rounded to whole numbers of so few bits that every sum is exact in float64: in whatever
order it is added, it is the same. What is too narrow for BLAS is added in an order of our own.

The splitting is that of Ozaki et al., "Error-free transformations of matrix multiplication by using
fast routines of matrix multiplication and its applications", 2012, of which one part is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Vectors

Double = NDArray[np.float64]

SMALLEST = np.float32(1e-12)  # a shorter vector counts as this long: zeros have no direction


@dataclass(frozen=True)
class ExactKernel:
    """A kernel (K, M) whose product with a row depends on that row alone.

    Attributes:
        numbers: (K, M) whole numbers of at most `bits` bits.
        row_scale: (K,) powers of two, one for each number of a row that is multiplied: what is
            learnt of vectors as they are has large kernels where vectors vary little, and small
            ones where they vary much, so that only their products are alike in size.
        scale: (M,) powers of two: the kernel is `row_scale[:, None] * numbers * scale`, to half a
            bit of the largest in each column.
        bits: 53 bits of a float64 hold the sum of K products of two numbers of so many bits.
    """

    numbers: Double
    row_scale: Double
    scale: Double
    bits: int

    @classmethod
    def of(cls, kernel: Float) -> ExactKernel:
        """The kernel (K, M), rounded."""
        bits = min(24, (53 - math.ceil(math.log2(len(kernel)))) // 2)
        row_scale = _power_of_two(np.abs(kernel).max(1), 0)  # (K,)
        balanced = kernel / row_scale[:, None]  # (K, M)
        scale = _power_of_two(np.abs(balanced).max(0), bits)  # (M,)
        return cls(np.rint(balanced / scale), row_scale, scale, bits)

    def product(self, rows: Vectors) -> Double:
        """Products (N, M) of rows (N, K), each rounded to `bits` bits of its largest number."""
        balanced = rows * self.row_scale  # (N, K) float64
        scale = _power_of_two(np.abs(balanced).max(1, initial=0), self.bits)[:, None]  # (N, 1)
        balanced /= scale
        found: Double = np.rint(balanced, out=balanced) @ self.numbers  # (N, M), exact
        found *= scale
        found *= self.scale
        return found


def _power_of_two(largest: Vectors, bits: int) -> Double:
    """What a number of `bits` bits is multiplied by to reach the largest; a power of two."""
    _, exponent = np.frexp(largest.astype(np.float64))  # largest < 2^exponent
    power: Double = np.ldexp(1.0, exponent - bits)
    return power


def row_sums(x: Float) -> Float:
    """The sum (N,) of each row of `x` (N, W), which is overwritten.

    The right half is added to the left, element by element, until one column is left: the order
    of a row's additions depends on its width alone.
    """
    width = x.shape[1]
    while width > 1:
        half = (width + 1) // 2
        x[:, : width - half] += x[:, half:width]  # (N, width // 2)
        width = half
    return x[:, 0]


def row_dots(a: Float, b: Float) -> Float:
    """The dot product (N,) of each row of a with that of b, (N, W) each."""
    return row_sums(np.multiply(a, b, dtype=np.float32))


def unit(x: Vectors) -> Float:
    """Vectors (N, D) at length 1; those of zeros stay."""
    x = np.asarray(x, np.float32)
    lengths = np.sqrt(row_dots(x, x))[:, None]  # (N, 1)
    return (x / np.maximum(lengths, SMALLEST)).astype(np.float32, copy=False)
