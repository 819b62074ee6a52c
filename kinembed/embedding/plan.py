"""The plan of an embedding: rows to keep from an earlier cache, and photos to embed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.footer import release
from kinembed.cache.lookup import rows_of
from kinembed.cache.provenance import vector_settings
from kinembed.cache.sharded import ShardedCache
from kinembed.cache.verify import unsound_rows
from kinembed.data.listing import Listing, Photo
from kinembed.errors import RunError
from kinembed.printable import one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The remaining work of a run that may have a cache; `with` closes that cache.

    Attributes:
        earlier: the run's cache, if its rows can be kept.
        listing: the photos.
        kept: (K,) rows of the earlier cache that stay, without reading their photos.
        todo: the photos to read, sorted by name.
        known: the digests of the earlier cache.
    """

    earlier: EmbeddingCache | None
    listing: Listing
    kept: Rows
    todo: Todo
    known: KnownDigests

    @classmethod
    def of(
        cls,
        path: Path,
        views: Sequence[str],
        provenance: Mapping[str, Any],
        listing: Listing,
        rehash: bool = False,
    ) -> Plan:
        """Compares photos with an earlier cache, if there is one.

        Args:
            path: the cache.
            views: the wanted views.
            provenance: the wanted provenance; a cache with other settings is not kept.
            listing: the photos.
            rehash: read all photos, even those with unchanged size and modification time.
        """
        earlier = _open_earlier(path, views, provenance)
        if earlier is None:
            nothing = np.empty(0, np.intp)
            return cls(None, listing, nothing, Todo(listing), KnownDigests(None, nothing))
        damaged = unsound_rows(earlier)
        if len(damaged):
            log.info("%s: %s damaged rows are computed again", path, f"{len(damaged):,}")
        sound = np.ones(len(earlier), np.bool_)
        sound[damaged] = False
        kept: list[Rows] = []
        todo: list[Rows] = []
        digests, stats = earlier.digests, earlier.stats
        for start, names, own in listing.blocks():
            rows = rows_of(earlier.names, names)
            same = np.zeros(len(names), np.bool_)
            if not rehash:
                found = np.flatnonzero(rows >= 0)
                at = rows[found]
                same[found] = sound[at] & (stats[at] == own[found]).all(1) & digests[at].any(1)
            kept.append(rows[same])
            todo.append(start + np.flatnonzero(~same))
            release(digests)
            release(stats)
        photos = Todo(listing, np.concatenate(todo))
        known = KnownDigests(earlier, np.flatnonzero(sound))
        return cls(earlier, listing, np.concatenate(kept), photos, known)

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Closes the earlier cache, of which no rows are needed any more."""
        if self.earlier is not None:
            self.earlier.close()


class Todo(Sequence[Photo]):
    """Photos of a listing, made when they are asked for.

    Args:
        listing: the photos.
        rows: (K,) theirs, rising; None: all.
    """

    def __init__(self, listing: Listing, rows: Rows | None = None) -> None:
        self._listing, self._rows = listing, rows

    def __len__(self) -> int:
        return len(self._listing) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Photo: ...

    @overload
    def __getitem__(self, number: slice) -> list[Photo]: ...

    def __getitem__(self, number: int | slice) -> Photo | list[Photo]:
        if self._rows is None:
            return self._listing[number]
        if isinstance(number, slice):
            return [self._listing[row] for row in self._rows[number].tolist()]
        return self._listing[int(self._rows[number])]


class KnownDigests(Collection[bytes]):
    """Digests of the files whose vectors a cache has.

    Args:
        cache: the cache, if there is one.
        rows: its sound rows.

    Attributes:
        rows: as above.
    """

    def __init__(self, cache: EmbeddingCache | None, rows: Rows) -> None:
        self._cache, self.rows = cache, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[bytes]:
        return (self._sorted[0].tobytes()[at * 32 : at * 32 + 32] for at in range(len(self)))

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self.row(digest) >= 0

    def row(self, digest: bytes) -> int:
        """The last row of the cache with a digest; -1 if there is none."""
        if not len(self.rows) or not any(digest):  # imported ones have none
            return -1
        digests, rows = self._sorted
        at = int(np.searchsorted(digests, digest, "right")) - 1
        # Trailing zeros do not count, and both are 32 bytes long.
        return int(rows[at]) if at >= 0 and digests[at] == digest.rstrip(b"\0") else -1

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.bytes_], Rows]:
        assert self._cache is not None
        digests = np.ascontiguousarray(self._cache.digests[self.rows]).view("S32").ravel()
        order = np.argsort(digests, kind="stable")
        return digests[order], self.rows[order]


def _open_earlier(
    path: Path, views: Sequence[str], provenance: Mapping[str, Any]
) -> EmbeddingCache | None:
    """The cache, if its vectors have the same settings and it has all views; else says why not."""
    if not cache_at(path).exists():
        return None
    try:
        cache = _sound_files(EmbeddingCache.open(path))
    except RunError as error:
        log.info("%s; all photos are embedded again", error)
        return None
    try:
        why = _difference(vector_settings(cache.provenance), vector_settings(provenance))
        if not why and (lacking := [view for view in views if view not in cache.views]):
            why = f"has no view {', '.join(lacking)}"
        if not why and {*map(cache.dtype_of, views)} != {provenance["dtype"]}:
            why = f"its numbers are no {provenance['dtype']}, as it says"
        if not why:
            _ = cache.names
    except RunError as error:
        log.info("%s; all photos are embedded again", error)
    else:
        if not why:
            return cache
        log.info("%s: %s; all photos are embedded again", cache.path, why)
    cache.close()
    return None


def _sound_files(cache: EmbeddingCache) -> EmbeddingCache:
    """A cache; of one in shards without the files that are gone or damaged, which are said."""
    refused = cache.refused() if isinstance(cache, ShardedCache) else {}
    if not refused:
        return cache
    assert isinstance(cache, ShardedCache)
    first = next(iter(refused.values()))
    more = f", and {len(refused) - 1:,} more cannot be used" if len(refused) > 1 else ""
    log.info("%s%s: %s photos are embedded again", first, more, "their" if more else "its")
    cache.close()
    return cache.without(refused)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What makes the vectors of two settings differ, in words; empty where nothing does."""
    if before.get("model") != now.get("model"):
        names = before.get("backbone"), now.get("backbone")
        which = f" ({names[0]}, now {names[1]})" if names[0] != names[1] else ""
        return one_line(f"was made by another network{which}")
    others = []
    for key in sorted({*before, *now} - {"backbone"}):  # of an ONNX file it is but the file's name
        one, other = before.get(key), now.get(key)
        if one != other:
            plain = isinstance(one, str) and isinstance(other, str)
            others.append(f"{key} ({one}, now {other})" if plain else key)
    return one_line(f"was made with another {', '.join(others)}") if others else ""
