"""Scores of pairs whose representations do not fit into memory together: block against block.

The photos that the pairs name are cut into blocks, two of which fit. Pairs are sorted by the blocks
that they touch; so each block is read at most as often as there are blocks, however many the pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors
from kinembed.heads.base import Head

BATCH = 1 << 18  # pairs at a time
IN_MEMORY = 64 << 20  # bytes; larger arrays are in a file

Read = Callable[[Rows], Vectors]


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
    used = np.zeros(photos, np.bool_)
    for start in range(0, len(pairs), BATCH):
        used[pairs[start : start + BATCH]] = True
    rows = np.flatnonzero(used)  # (R,) of the cache
    if not len(rows):
        return logits
    width = read(rows[:0])  # none of them, which says what one takes
    cuts = _cuts(rows, starts, max(1, most // 2 // (width.shape[1] * width.itemsize)))
    bounds = np.searchsorted(rows, cuts)  # (B + 1,) of blocks among `rows`
    order, ends = _by_blocks(pairs, cuts)
    count, largest = len(cuts) - 1, int(np.diff(bounds).max())
    table = np.empty((min(count, 2) * largest, width.shape[1]), width.dtype)
    held: list[int] = [-1] * min(count, 2)  # the block in each part of the table

    def hold(block: int, other: int) -> int:
        """Reads a block into the part of the table that does not hold the other."""
        if block not in held:
            at = next(at for at, each in enumerate(held) if each != other)
            own = rows[bounds[block] : bounds[block + 1]]
            table[at * largest : at * largest + len(own)] = read(own)
            held[at] = block
        return held.index(block)

    for one, other in _to_and_fro(count):
        key = one * count + other
        here = order[ends[key] : ends[key + 1]]
        if not len(here):
            continue
        # What is held already stays, whichever of the two it is.
        first, second = (other, one) if other in held else (one, other)
        parts = {first: hold(first, second)}
        parts[second] = hold(second, first)
        for start in range(0, len(here), BATCH):
            where = here[start : start + BATCH]
            asked = np.asarray(pairs[where])  # (K, 2)
            block = np.searchsorted(cuts, asked, "right") - 1
            part = np.where(block == one, parts[one], parts[other])
            within = np.searchsorted(rows, asked) - bounds[block] + part * largest
            logits[where] = head.score(table, within, threads)
    return logits


def _cuts(rows: Rows, starts: Rows, most: int) -> Rows:
    """(B + 1,) rows of the cache between which blocks of at most so many used rows lie."""
    cuts, at = [0], 0
    while len(rows) - at > most:
        end = int(rows[at + most])
        start = int(starts[np.searchsorted(starts, end, "right") - 1])  # of the file of that row
        cuts.append(start if start > rows[at] else end)
        at = int(np.searchsorted(rows, cuts[-1]))
    return np.array([*cuts, int(rows[-1]) + 1])


def _by_blocks(pairs: Rows, cuts: Rows) -> tuple[Rows, Rows]:
    """(K,) numbers of pairs, sorted by the two blocks of each, and where those of each two end."""
    count = len(cuts) - 1
    sizes = np.zeros(count * count + 1, np.int64)

    def keys() -> Iterator[tuple[int, NDArray[np.int64]]]:
        for start in range(0, len(pairs), BATCH):
            block = np.searchsorted(cuts, pairs[start : start + BATCH], "right") - 1
            yield start, block.min(1) * count + block.max(1)

    for _, key in keys():
        sizes[1:] += np.bincount(key, minlength=count * count)
    ends = np.cumsum(sizes)
    order: Rows = scratch((len(pairs),), np.intp)
    free = ends[:-1].copy()  # the next place of each two blocks
    for start, key in keys():
        sorting = np.argsort(key, kind="stable")
        found, firsts, counts = np.unique(key[sorting], return_index=True, return_counts=True)
        for two, first, size in zip(found.tolist(), firsts.tolist(), counts.tolist(), strict=True):
            order[free[two] : free[two] + size] = start + sorting[first : first + size]
            free[two] += size
    return order, ends


def _to_and_fro(count: int) -> Iterator[tuple[int, int]]:
    """All two of some blocks, each with itself too; from one to the next, one stays mostly."""
    for one in range(count):
        others = range(one, count)
        yield from ((one, other) for other in (reversed(others) if one % 2 else others))


def scratch(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros in memory, or in a temporary file if they are many; that vanishes with the process."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    file = tempfile.TemporaryFile(prefix="kinembed-pairs-")  # noqa: SIM115
    file.truncate(size)
    return np.memmap(file, dtype, "r+", shape=shape)
