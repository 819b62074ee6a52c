"""Scores of pairs whose representations do not fit into memory together: block against block.

The photos that the pairs name are cut into blocks, two of which fit. Pairs are sorted by the blocks
that they touch; so each block is read at most as often as there are blocks, however many the pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors
from kinembed.heads.base import Head

BATCH = 1 << 18  # pairs at a time
IN_MEMORY = 64 << 20  # bytes; larger arrays are in a file

Read = Callable[[Rows], Vectors]


@dataclass(frozen=True)
class Blocks:
    """The photos that some pairs name, in blocks of which two fit into memory.

    Attributes:
        rows: (R,) of the cache, sorted; may be mapped from a file.
        cuts: (B + 1,) rows of the cache between which the blocks lie.
    """

    rows: Rows
    cuts: Rows

    @classmethod
    def of(cls, pairs: Rows, starts: Rows, photos: int, most: int) -> Blocks:
        """Cuts the photos of (K, 2) pairs, one at least.

        Args:
            pairs: rows of the cache, which are in range; may be mapped from a file.
            starts: the first row of each file of the cache; blocks end with files, if they can.
            photos: of the cache.
            most: photos of a block.
        """
        used = np.zeros(photos, np.bool_)
        for start in range(0, len(pairs), BATCH):
            used[pairs[start : start + BATCH]] = True
        rows = np.flatnonzero(used)
        return cls(rows, _cuts(rows, starts, most))

    def __len__(self) -> int:
        return len(self.cuts) - 1

    @cached_property
    def bounds(self) -> Rows:
        """(B + 1,) where the blocks begin and end among `rows`."""
        return np.searchsorted(self.rows, self.cuts)

    @property
    def largest(self) -> int:
        """Photos of the largest block."""
        return int(np.diff(self.bounds).max())

    def in_turn(self) -> Iterator[tuple[int, int]]:
        """All two of the blocks, each with itself too; from one to the next, one stays mostly."""
        for one in range(len(self)):
            others = range(one, len(self))
            yield from ((one, other) for other in (reversed(others) if one % 2 else others))

    def sorted(self, pairs: Rows, order: Rows) -> Rows:
        """Sorts (K, 2) pairs by the two blocks that each touches.

        Args:
            pairs: rows of the cache.
            order: (K,) gets the numbers of the pairs, sorted.

        Returns:
            (B * B + 1,) where those of block `one` and a later block `other`, or itself, begin, at
            `one * B + other`, and end.
        """
        count = len(self)
        sizes = np.zeros(count * count + 1, np.int64)

        def keys() -> Iterator[tuple[int, NDArray[np.int64]]]:
            for start in range(0, len(pairs), BATCH):
                block = np.searchsorted(self.cuts, pairs[start : start + BATCH], "right") - 1
                yield start, block.min(1) * count + block.max(1)

        for _, key in keys():
            sizes[1:] += np.bincount(key, minlength=count * count)
        ends = np.cumsum(sizes)
        free = ends[:-1].copy()  # the next place of each two blocks
        for start, key in keys():
            sorting = np.argsort(key, kind="stable")
            found, firsts, counts = np.unique(key[sorting], return_index=True, return_counts=True)
            each = zip(found.tolist(), firsts.tolist(), counts.tolist(), strict=True)
            for two, first, size in each:
                order[free[two] : free[two] + size] = start + sorting[first : first + size]
                free[two] += size
        return ends


class BlockScorer:
    """Scores pairs of two blocks, which it holds in memory until others are asked for.

    Args:
        head: the head.
        read: (R, W) representations of R sorted rows of the cache.
        blocks: the photos.
    """

    def __init__(self, head: Head, read: Read, blocks: Blocks) -> None:
        self._head, self._read, self._blocks = head, read, blocks
        one = read(blocks.rows[:0])  # none of them, which says what one takes
        self._largest = blocks.largest
        parts = min(len(blocks), 2)
        self._table = np.empty((parts * self._largest, one.shape[1]), one.dtype)
        self._held: list[int] = [-1] * parts  # the block in each part of the table

    def score(
        self, pairs: Rows, one: int, other: int, threads: int | None = None
    ) -> NDArray[np.float64]:
        """(K,) logits of (K, 2) pairs of rows of two blocks, or of one with itself."""
        blocks = self._blocks
        # What is held already stays, whichever of the two it is.
        first, second = (other, one) if other in self._held else (one, other)
        parts = {first: self._hold(first, second)}
        parts[second] = self._hold(second, first)
        block = np.searchsorted(blocks.cuts, pairs, "right") - 1  # (K, 2)
        part = np.where(block == one, parts[one], parts[other])
        within = np.searchsorted(blocks.rows, pairs) - blocks.bounds[block]
        return self._head.score(self._table, within + part * self._largest, threads)

    def _hold(self, block: int, other: int) -> int:
        """Reads a block into the part of the table that does not hold the other."""
        held, bounds = self._held, self._blocks.bounds
        if block not in held:
            at = next(at for at, each in enumerate(held) if each != other)
            held[at] = -1  # if reading fails, neither is there
            own = self._blocks.rows[bounds[block] : bounds[block + 1]]
            self._table[at * self._largest : at * self._largest + len(own)] = self._read(own)
            held[at] = block
        return held.index(block)


def score_blockwise(
    head: Head, read: Read, pairs: Rows, starts: Rows, photos: int, most: int,
    threads: int | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """(K,) logits of (K, 2) pairs, the same to the bit as those of all representations at once.

    Args:
        head: the head.
        read: (R, W) representations of R sorted rows of the cache.
        pairs: rows of the cache, which are in range; may be mapped from a file.
        starts: the first row of each file of the cache; blocks end with files, if they can.
        photos: of the cache.
        most: bytes of representations in memory.
        threads: as of `Head.score`.

    Returns:
        The logits; many are in a temporary file, which vanishes with them.
    """
    logits = scratch((len(pairs),), np.float64)
    if not len(pairs):
        return logits
    one = read(np.empty(0, np.intp))
    blocks = Blocks.of(pairs, starts, photos, photos_in(most, one))
    order: Rows = scratch((len(pairs),), np.intp)
    ends = blocks.sorted(pairs, order)
    scorer = BlockScorer(head, read, blocks)
    for first, second in blocks.in_turn():
        key = first * len(blocks) + second
        here = order[ends[key] : ends[key + 1]]
        for start in range(0, len(here), BATCH):
            where = here[start : start + BATCH]
            logits[where] = scorer.score(np.asarray(pairs[where]), first, second, threads)
    return logits


def photos_in(most: int, one: Vectors) -> int:
    """Photos of a block, two of which take so many bytes, by (0, W) representations."""
    return max(1, most // 2 // int(one.shape[1] * one.itemsize))


def _cuts(rows: Rows, starts: Rows, most: int) -> Rows:
    """(B + 1,) rows of the cache between which blocks of at most so many used rows lie."""
    cuts, at = [0], 0
    while len(rows) - at > most:
        end = int(rows[at + most])
        start = int(starts[np.searchsorted(starts, end, "right") - 1])  # of the file of that row
        cuts.append(start if start > rows[at] else end)
        at = int(np.searchsorted(rows, cuts[-1]))
    return np.array([*cuts, int(rows[-1]) + 1])


def scratch(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros in memory, or in a temporary file if they are many; that vanishes with the process."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    file = tempfile.TemporaryFile(prefix="kinembed-pairs-")  # noqa: SIM115
    file.truncate(size)
    return np.memmap(file, dtype, "r+", shape=shape)
