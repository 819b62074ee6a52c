"""The plan of an embedding: rows to keep from an earlier cache, and photos to embed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import vector_settings
from kinembed.cache.shards import Row, Shard, photos_of
from kinembed.cache.verify import unsound_rows
from kinembed.data.photo_files import Photo, photo_at
from kinembed.errors import RunError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The remaining work of a run that may have a cache; `with` closes that cache.

    Attributes:
        earlier: the run's cache, if its rows can be kept.
        known: its photos by name, in the order of its rows; damaged ones without a digest.
        kept: photos whose rows stay, without reading their files.
        todo: photos to read, sorted by name.
        people: who is on each photo, by its name.
    """

    earlier: EmbeddingCache | None
    known: dict[str, Photo]
    kept: list[Photo]
    todo: list[Photo]
    people: Mapping[str, str]

    @classmethod
    def of(
        cls,
        path: Path,
        views: Sequence[str],
        provenance: Mapping[str, Any],
        photos: Mapping[str, Path],
        people: Mapping[str, str],
        rehash: bool = False,
    ) -> "Plan":
        """Compares photos with an earlier cache, if there is one.

        Args:
            path: the cache.
            views: the wanted views.
            provenance: the wanted provenance; a cache with other settings is not kept.
            photos: files by name.
            people: who is on each photo, by its name.
            rehash: read all photos, even those with unchanged size and modification time.
        """
        earlier = _open_earlier(path, views, provenance)
        known = _known_photos(earlier)
        kept, todo = [], []
        for name, file in photos.items():
            now, before = photo_at(file, name), known.get(name)
            unchanged = (
                before is not None
                and before.digest
                and (before.size, before.mtime) == (now.size, now.mtime)
            )
            if before is not None and unchanged and not rehash:
                kept.append(before)
            else:
                todo.append(now)
        return cls(earlier, known, kept, todo, people)

    def __enter__(self) -> "Plan":
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

    @property
    def digests(self) -> set[bytes]:
        """Digests of the files with known vectors."""
        return {photo.digest for photo in self.known.values()}

    def rows(self, shards: Sequence[Shard]) -> dict[str, Row]:
        """The row of each photo's vectors; source 0 is the earlier cache, source k the k-th shard.

        Args:
            shards: the shards of `todo`.
        """
        row_of = {name: row for row, name in enumerate(self.known)}
        by_digest = {p.digest: (0, row_of[name]) for name, p in self.known.items() if p.digest}
        rows = {photo.name: Row(photo, 0, row_of[photo.name]) for photo in self.kept}
        for source, shard in enumerate(shards, start=1):
            for row, photo in enumerate(shard.computed):
                by_digest[photo.digest] = (source, row)
                rows[photo.name] = Row(photo, source, row)
        for shard in shards:
            rows |= {photo.name: Row(photo, *by_digest[photo.digest]) for photo in shard.same}
        # Neither an earlier cache nor shards know who is on a photo today.
        return {
            name: row._replace(photo=replace(row.photo, person=self.people.get(name, "")))
            for name, row in rows.items()
        }

    def is_done(self, views: Sequence[str], rows: Mapping[str, Row]) -> bool:
        """Whether the earlier cache holds exactly these photos, people and views."""
        if self.earlier is None or set(self.earlier.views) != set(views):
            return False
        return {name: row.photo for name, row in rows.items()} == self.known

    def unchanged(self, rows: Mapping[str, Row]) -> int:
        """The number of photos whose bytes have not changed."""
        return sum(
            name in self.known and self.known[name].digest == row.photo.digest
            for name, row in rows.items()
        )


def _open_earlier(
    path: Path, views: Sequence[str], provenance: Mapping[str, Any]
) -> EmbeddingCache | None:
    """The cache, if its vectors have the same settings and it has all views."""
    if not path.exists():
        return None
    try:
        cache = EmbeddingCache.open(path)
    except RunError as error:
        log.info("%s; all photos are embedded again", error)
        return None
    same = vector_settings(cache.provenance) == vector_settings(provenance)
    if same and set(views) <= set(cache.views):
        return cache
    cache.close()
    return None


def _known_photos(cache: EmbeddingCache | None) -> dict[str, Photo]:
    """The photos of a cache by name, in its order; damaged ones without digest, size and time."""
    if cache is None:
        return {}
    try:
        photos = photos_of(cache)
    except RunError as error:
        log.info("%s; all photos are embedded again", error)
        return {}
    damaged = unsound_rows(cache).tolist()
    if damaged:
        log.info("%s: %s damaged rows are computed again", cache.path, f"{len(damaged):,}")
    for row in damaged:
        photos[row] = Photo(photos[row].name, b"", -1, -1)
    return {photo.name: photo for photo in photos}
