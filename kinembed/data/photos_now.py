"""Which photos of a cache are still the files that were embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.listing import photo_at
from kinembed.threads import parallel_map, processors


@dataclass(frozen=True)
class PhotosNow:
    """The files of a cache's photos, as they are now.

    Attributes:
        missing: rows whose files are not there.
        changed: rows whose files have other bytes than those that were embedded.
    """

    missing: frozenset[int]
    changed: frozenset[int]


def photos_now(cache: Embeddings, data: Path, rows: Rows | None = None) -> PhotosNow:
    """Compares files with what a cache says of them: size and modification time, else bytes.

    Of a cache of imported vectors it is not known what was embedded, so nothing counts as changed.

    Args:
        cache: of the photos.
        data: the folder that their names are below.
        rows: of the photos that matter; None: all.
    """
    numbers = list(range(len(cache))) if rows is None else rows.tolist()
    names, digests, stats = cache.names, cache.digests, cache.stats

    def state(row: int) -> str:
        name = names[row].decode()
        now = photo_at(data / name, name)
        if now.size < 0:
            return "missing"
        size, mtime = stats[row].tolist()
        digest = digests[row].tobytes()
        if not any(digest) or (now.size, now.mtime) == (size, mtime):
            return "same"
        if 0 <= size != now.size:
            return "changed"
        try:
            found = hashlib.sha256((data / name).read_bytes()).digest()
        except OSError:
            return "missing"
        return "same" if found == digest else "changed"

    found = parallel_map(state, numbers, processors())
    states = list(zip(numbers, found, strict=True))
    return PhotosNow(*(_rows(states, what) for what in ("missing", "changed")))


def _rows(states: Collection[tuple[int, str]], what: str) -> frozenset[int]:
    return frozenset(row for row, state in states if state == what)
