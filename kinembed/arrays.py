"""Names for the array types of all rooms, and the check for finite numbers."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]  # rows of a cache, of a table or of people
Vectors = NDArray[np.floating[Any]]  # (N, D), float16 to float64
Float = NDArray[np.float32]
Labels = NDArray[np.float32]  # (K,) 1 of kin, 0 of strangers

Array = TypeVar("Array", bound=NDArray[Any])

BLOCK = 4096  # rows per check: vectors may be mapped from a file larger than memory


def rows_not_finite(array: NDArray[Any]) -> Rows:
    """(K,) sorted rows of an array (N, ...) that hold a number that is not finite."""
    rows = [
        start + np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(1))
        for start in range(0, len(array), BLOCK)
        for block in [array[start : start + BLOCK]]
    ]
    return np.concatenate(rows) if rows else np.empty(0, np.intp)


def finite_or_raise(array: Array, problem: Callable[[int], Exception]) -> Array:
    """Returns the array (N, ...) if all of its numbers are finite.

    Args:
        array: the array.
        problem: makes the exception to raise for the first row that is not finite.
    """
    rows = rows_not_finite(array)
    if len(rows):
        raise problem(int(rows[0]))
    return array
