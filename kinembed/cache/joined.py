"""Rows of several caches, gathered into a new one in blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache, Names
from kinembed.cache.lazy_rows import quantised
from kinembed.cache.opened import OpenedCaches
from kinembed.cache.writer import Blocks, write_cache
from kinembed.data.listing import Photo
from kinembed.errors import DataError


class Row(NamedTuple):
    """Where to read a photo's vectors: the number of a source cache, and the row in it."""

    photo: Photo
    source: int
    row: int


class Joined:
    """The rows of a new cache, gathered from caches in blocks, in the order of names.

    Args:
        caches: the caches, open or as paths; None for one without photos.
        source: (N,) the number of the cache that each row is in.
        row: (N,) the row in that cache.
    """

    def __init__(
        self, caches: Sequence[Path | EmbeddingCache | None], source: NDArray[np.int32], row: Rows
    ) -> None:
        self.caches, self.source, self.row = caches, source, row
        self._opened = OpenedCaches()

    @classmethod
    def of(cls, rows: Sequence[Row], caches: Sequence[EmbeddingCache]) -> Joined:
        """Those of photos, given in the order of their names."""
        source, row = ([each[at] for each in rows] for at in (1, 2))
        return cls(caches, np.array(source, np.int32), np.array(row, np.intp))

    def __len__(self) -> int:
        return len(self.row)

    def cache(self, number: int) -> EmbeddingCache:
        """A cache; of paths only some are open at a time."""
        cache = self.caches[number]
        assert cache is not None
        return cache if isinstance(cache, EmbeddingCache) else self._opened.get(number, self._open)

    def _open(self, number: int) -> EmbeddingCache:
        path = self.caches[number]
        assert isinstance(path, Path)
        return EmbeddingCache.open(path)

    def close(self) -> None:
        """Closes what it opened."""
        self._opened.close()

    def part(self, start: int, stop: int) -> Joined:
        """Some of the rows, of the same open caches."""
        part = Joined(self.caches, self.source[start:stop], self.row[start:stop])
        part._opened = self._opened
        return part

    def take(
        self, get: Callable[[EmbeddingCache], NDArray[Any]], start: int, stop: int
    ) -> NDArray[Any]:
        """Some rows of what `get` says of a cache."""
        source, row = self.source[start:stop], self.row[start:stop]
        parts = {
            number: np.asarray(get(self.cache(number))[row[source == number]])
            for number in np.unique(source).tolist()
        }
        dtype = np.result_type(*parts.values())
        block = np.empty((stop - start, *next(iter(parts.values())).shape[1:]), dtype)
        for number, part in parts.items():
            block[source == number] = part
        return block

    def blocks(self, get: Callable[[EmbeddingCache], NDArray[Any]]) -> Blocks:
        """All rows of what `get` says of a cache, in blocks."""
        return Blocks(len(self), lambda start, stop: self.take(get, start, stop))


def join(
    path: Path,
    provenance: Mapping[str, Any],
    views: Sequence[str],
    rows: Joined,
    people: Callable[[Names], Names],
    dtype: str | None = None,
) -> Path:
    """Writes one cache from rows of several.

    Args:
        path: the new cache.
        provenance: of the vectors.
        views: the wanted views; each cache has them.
        rows: the rows.
        people: who is on photos, by their names in order.
        dtype: of the vectors; None: as they are stored.

    Raises:
        DataError: there are no photos.
    """
    if not len(rows):
        raise DataError("no photo could be embedded; there is nothing to write")
    names = rows.blocks(lambda cache: cache.names)
    width, widest = 1, 1
    for block in names:
        width = max(width, int(np.char.str_len(block).max()))
        widest = max(widest, int(np.char.str_len(people(block)).max()))

    def own(start: int, stop: int) -> Names:
        return names.make(start, stop).astype(f"S{width}")

    def who(start: int, stop: int) -> Names:
        return people(names.make(start, stop)).astype(f"S{widest}")

    blocks: dict[str, Blocks] = {}
    scales: dict[str, Blocks] = {}
    for view in views:
        if dtype is None:
            blocks[view] = rows.blocks(partial(_stored, f"views/{view}"))
            if blocks[view][0].dtype == np.int8:
                scales[view] = rows.blocks(partial(_stored, f"scales/{view}"))
        else:
            blocks[view] = Blocks(len(rows), partial(_as_type, rows, view, dtype))
            if dtype == "int8":
                scales[view] = Blocks(len(rows), partial(_scales, rows, view))
    return write_cache(
        path, provenance, Blocks(len(rows), own), rows.blocks(lambda cache: cache.digests), blocks,
        rows.blocks(lambda cache: cache.stats), Blocks(len(rows), who), scales,
    )  # fmt: skip


def _stored(dataset: str, cache: EmbeddingCache) -> NDArray[Any]:
    stored: NDArray[Any] = cache.stored(dataset)
    return stored


def _as_type(rows: Joined, view: str, dtype: str, start: int, stop: int) -> NDArray[Any]:
    """Vectors in another format; for bytes their numbers."""
    vectors = rows.take(lambda cache: cache.vectors(view), start, stop)
    return quantised(vectors)[0] if dtype == "int8" else vectors.astype(dtype)


def _scales(rows: Joined, view: str, start: int, stop: int) -> NDArray[Any]:
    return quantised(rows.take(lambda cache: cache.vectors(view), start, stop))[1]
