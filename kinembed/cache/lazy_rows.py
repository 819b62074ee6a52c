"""Rows that are put together when they are asked for: of several files, or of bytes with scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from kinembed.arrays import Rows


class LazyRows(NDArrayOperatorsMixin, ABC):
    """A matrix of vectors whose rows are read by index, by slice or all at once, as numpy's are.

    Attributes:
        shape: (N, D).
        dtype: of the numbers.
    """

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @abstractmethod
    def rows(self, rows: Rows) -> NDArray[Any]:
        """(K, D) some rows."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":  # spares as many as all rows
            numbers = np.where(rows < 0, rows + len(self), rows)
            if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
                raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        else:
            numbers = np.arange(len(self))[rows]
        found = self.rows(np.atleast_1d(numbers).ravel())
        found = found.reshape(*np.shape(numbers), self.shape[1])
        return found[(slice(None),) * np.ndim(numbers) + tuple(rest)] if rest else found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("these rows are put together, which makes a copy")
        return self.rows(np.arange(len(self))).astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = (np.asarray(each) if isinstance(each, LazyRows) else each for each in inputs)
        return getattr(ufunc, method)(*plain, **options)

    def take(self, rows: Rows, axis: int = 0) -> NDArray[Any]:
        """As numpy's, along the first axis."""
        if axis != 0:
            raise ValueError(f"found axis {axis}, wanted 0")
        return np.asarray(self[rows])

    def astype(self, dtype: Any, copy: bool = True) -> NDArray[Any]:
        """As numpy's."""
        return self.__array__(dtype)

    def tobytes(self) -> bytes:
        """As numpy's."""
        return np.asarray(self).tobytes()


class ScaledRows(LazyRows):
    """Vectors whose numbers are bytes times a scale.

    Args:
        numbers: (N, D) int8.
        scales: (N,) float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, numbers: Any, scales: Any) -> None:
        self._numbers, self._scales = numbers, scales
        self.shape = numbers.shape

    def rows(self, rows: Rows) -> NDArray[Any]:
        """(K, D) some rows."""
        scales = np.asarray(self._scales[rows], np.float32)[:, None]
        numbers: NDArray[np.float32] = np.asarray(self._numbers[rows]).astype(np.float32)
        return np.multiply(numbers, scales)


class ShardedRows(LazyRows):
    """The rows of several files, one after the other.

    Args:
        counts: how many each file has.
        open_: a file's rows by its number.
        width: of a row.
        dtype: of its numbers.

    Attributes:
        starts: the first row of each file, and how many there are in all.
    """

    def __init__(
        self, counts: Sequence[int], open_: Callable[[int], Any], width: int, dtype: Any
    ) -> None:
        self.starts = np.cumsum([0, *counts])
        self._open = open_
        self.shape, self.dtype = (int(self.starts[-1]), width), np.dtype(dtype)

    def rows(self, rows: Rows) -> NDArray[Any]:
        """(K, D) some rows; of each file once, in the order of the files."""
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        if not len(rows):
            return found
        shard = np.searchsorted(self.starts, rows, "right") - 1
        order = np.argsort(shard, kind="stable")
        numbers, starts = np.unique(shard[order], return_index=True)
        for number, here in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            found[here] = self._open(number)[rows[here] - self.starts[number]]
        return found


def quantised(vectors: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(N, D) int8 and (N,) float32 whose products are nearest to vectors."""
    largest = np.abs(vectors).max(1).astype(np.float32)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(vectors / scales[:, None]).clip(-127, 127).astype(np.int8), scales
