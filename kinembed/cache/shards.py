"""The finished shards of an embedding: an interrupted one goes on from them, then joins them.

Shard K is `K.h5`, a cache of the computed rows, and `K.json`, which is written later. It lists the
shard's photos, the skipped ones, and those with the same bytes as another photo. `settings.json`
holds the settings of the embedding. A writer locks the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kinembed.arrays import Rows, Vectors, finite_or_raise
from kinembed.cache import Digests, EmbeddingCache, Names, Stats
from kinembed.cache.verify import unsound_rows
from kinembed.cache.writer import Blocks, write_cache
from kinembed.data.photo_files import Photo
from kinembed.errors import DataError, RunError
from kinembed.io import locked_folder, write_bytes
from kinembed.threads import Stopwatch

if TYPE_CHECKING:
    from kinembed.data.reader import Batch  # which imports what decodes photos

SHARD_PHOTOS = 1024  # the most that an interruption loses


@dataclass
class Shard:
    """The photos of one shard, in order.

    Attributes:
        computed: photos with vectors of their own.
        views: blocks of these vectors by view, until they are written.
        same: photos with the same bytes as another one.
        skipped: names of unreadable photos.
    """

    computed: list[Photo] = field(default_factory=list)
    views: dict[str, list[Vectors]] = field(default_factory=dict)
    same: list[Photo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.computed) + len(self.same) + len(self.skipped)


class Row(NamedTuple):
    """Where to read a photo's vectors: the number of a source cache, and the row in it."""

    photo: Photo
    source: int
    row: int


class Shards:
    """The folder of shards of one embedding.

    Args:
        folder: the folder.
        provenance: of the vectors.
        photos: names, sizes and times of all photos, in order; the first finished shard of other
            photos, and all after it, are ignored.
        batch_size: photos per batch; a shard holds whole batches.

    Attributes:
        done: the finished shards.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Mapping[str, Any],
        photos: Sequence[Photo],
        batch_size: int,
    ) -> None:
        self.folder = folder
        self.provenance = provenance
        self._batch_size = batch_size
        size = batch_size * max(1, SHARD_PHOTOS // batch_size)
        self._photos = [photos[start : start + size] for start in range(0, len(photos), size)]
        self.done: list[Shard] = []
        for number in range(len(self._photos)):
            shard = self._read(number)
            if shard is None:
                break
            self.done.append(shard)

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def sizes(self) -> list[int]:
        """Photos in each shard."""
        return [len(photos) for photos in self._photos]

    @property
    def digests(self) -> set[bytes]:
        """Digests of the files with vectors in finished shards."""
        return {photo.digest for shard in self.done for photo in shard.computed}

    @property
    def skipped(self) -> list[str]:
        """Names of the skipped photos."""
        return [name for shard in self.done for name in shard.skipped]

    def batches(self) -> list[Sequence[Photo]]:
        """The photos of unfinished shards, in batches."""
        size = self._batch_size
        return [
            photos[start : start + size]
            for photos in self._photos[len(self.done) :]
            for start in range(0, len(photos), size)
        ]

    def add(self, shard: Shard) -> None:
        """Writes the next shard."""
        number = len(self.done)
        if shard.computed:
            names, digests, stats, people = columns(shard.computed)
            path = self.folder / f"{number:06}.h5"
            write_cache(path, self.provenance, names, digests, shard.views, stats, people)
        content = {
            "photos": _key(self._photos[number]),
            "computed": len(shard.computed),
            "same": [[p.name, p.digest.hex(), p.size, p.mtime] for p in shard.same],
            "skipped": shard.skipped,
        }
        write_bytes(self.folder / f"{number:06}.json", json.dumps(content).encode())
        shard.views = {}
        self.done.append(shard)

    @contextmanager
    def open(self) -> Iterator[list[EmbeddingCache | None]]:
        """The caches of the finished shards, None for a shard without computed photos."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(EmbeddingCache.open(self.folder / f"{number:06}.h5"))
                if shard.computed
                else None
                for number, shard in enumerate(self.done)
            ]

    def _read(self, number: int) -> Shard | None:
        """A finished shard; None if it is missing, damaged, or of other photos."""
        try:
            content = json.loads((self.folder / f"{number:06}.json").read_bytes())
            if content["photos"] != _key(self._photos[number]):
                return None
            same = [Photo(n, bytes.fromhex(sha), size, at) for n, sha, size, at in content["same"]]
            shard = Shard(same=same, skipped=content["skipped"])
            if content["computed"]:
                with EmbeddingCache.open(self.folder / f"{number:06}.h5") as cache:
                    if len(cache) != content["computed"] or len(unsound_rows(cache)):
                        return None
                    shard.computed = photos_of(cache)
        except (OSError, KeyError, TypeError, ValueError, RunError):
            return None
        return shard


class ShardWriter:
    """Collects batches into shards; a thread writes each while the next is computed.

    `with ShardWriter(shards) as writer` waits for the last one.

    Args:
        shards: the folder to write to.

    Attributes:
        time: the time spent on writing.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.time = Stopwatch()
        self._sizes = iter(shards.sizes[len(shards.done) :])
        self._size = next(self._sizes, 0)
        self._shard = Shard()
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def write(self, batch: Batch, views: Mapping[str, Vectors]) -> None:
        """Adds the photos of a batch and their vectors, and writes the shard when it is full.

        Args:
            batch: photos, in the order of the shards.
            views: (N, D) vectors of `batch.photos`, by view.

        Raises:
            DataError: a vector is not finite; names the photo.
        """
        for view, vectors in views.items():
            finite_or_raise(vectors, partial(_not_finite, view, batch.photos))
            self._shard.views.setdefault(view, []).append(vectors)
        self._shard.computed += batch.photos
        self._shard.same += batch.same
        self._shard.skipped += batch.skipped
        if len(self._shard) == self._size:
            self._wait()
            self._written = self._thread.submit(self._add, self._shard)
            self._shard, self._size = Shard(), next(self._sizes, 0)

    def _add(self, shard: Shard) -> None:
        with self.time.running():
            self.shards.add(shard)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()


def _not_finite(view: str, photos: Sequence[Photo], row: int) -> DataError:
    return DataError(
        f"{photos[row].name}: view {view} is not finite; the weights are broken, or --dtype "
        "float16 is too narrow for them"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and locks it for this process; removes it at the end if no shard is left.

    Raises:
        RunError: another process has locked it.
    """
    taken = (
        f"{folder}: another kinembed embeds into this run folder; wait until it is done, or name "
        "another folder with --run"
    )
    with locked_folder(folder, RunError(taken), partial(_has_shards, folder)):
        yield


def _has_shards(folder: Path) -> bool:
    return any(path.suffix == ".json" and path.stem.isdigit() for path in _listed(folder))


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def keep_settings(folder: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
    """Refuses, or deletes, shards with other settings, and writes the settings.

    Args:
        folder: of the shards.
        settings: as JSON types.
        restart: delete existing shards.

    Raises:
        RunError: there are shards with other settings; says which differ.
    """
    path = folder / "settings.json"
    if path.is_file() and not restart:
        try:
            before = json.loads(path.read_bytes())
            every = {**settings, **before}
            different = [key for key in every if before.get(key) != settings.get(key)]
        except (ValueError, TypeError, AttributeError):
            different = ["settings.json"]
        if different:
            raise RunError(
                f"{folder}: holds shards of an interrupted embedding with another "
                f"{', '.join(different)}; go on with that, or forget it with --restart"
            )
    elif any(folder.glob("*.json")):
        for stale in [*folder.glob("*.json"), *folder.glob("*.h5")]:
            stale.unlink()
    write_bytes(path, json.dumps(settings).encode())


def join(
    path: Path,
    provenance: Mapping[str, Any],
    views: Sequence[str],
    photos: Mapping[str, Row],
    sources: Sequence[EmbeddingCache | None],
) -> Path:
    """Writes one cache from rows of several.

    Args:
        path: the new cache.
        provenance: of the vectors.
        views: the wanted views; each source has them.
        photos: the row of each photo, by name.
        sources: the caches.

    Raises:
        DataError: there are no photos.
    """
    if not photos:
        raise DataError("no photo could be embedded; there is nothing to write")
    rows = [photos[name] for name in sorted(photos, key=str.encode)]
    names, digests, stats, people = columns([row.photo for row in rows])
    source = np.array([row.source for row in rows], np.intp)
    row = np.array([row.row for row in rows], np.intp)
    blocks = {view: _gathered(view, source, row, sources) for view in views}
    return write_cache(path, provenance, names, digests, blocks, stats, people)


def _gathered(
    view: str, source: Rows, row: Rows, caches: Sequence[EmbeddingCache | None]
) -> Blocks:
    """The rows of a view, each gathered from its cache, in blocks."""
    vectors = [cache.vectors(view) if cache is not None else None for cache in caches]
    first = next(each for each in vectors if each is not None)

    def make(start: int, stop: int) -> Vectors:
        block = np.empty((stop - start, first.shape[1]), first.dtype)  # (n, D)
        for number in np.unique(source[start:stop]).tolist():
            here = np.flatnonzero(source[start:stop] == number)
            of_source = vectors[number]
            assert of_source is not None
            block[here] = of_source[row[start + here]]
        return block

    return Blocks(len(row), make)


def columns(photos: Sequence[Photo]) -> tuple[Names, Digests, Stats, Names]:
    """(N,) names, (N, 32) digests, (N, 2) stats and (N,) people of photos."""
    names = np.array([photo.name.encode() for photo in photos])
    digests = np.frombuffer(b"".join(photo.digest for photo in photos), np.uint8).reshape(-1, 32)
    people = np.array([photo.person.encode() for photo in photos])
    return names, digests, np.array([(p.size, p.mtime) for p in photos], np.int64), people


def photos_of(cache: EmbeddingCache) -> list[Photo]:
    """The photos of a cache, in the order of its rows; damaged people count as unknown."""
    texts = [name.decode() for name in cache.names.tolist()]
    sound = not len(cache.damaged_rows("people"))
    people = [p.decode() for p in cache.people.tolist()] if sound else [""] * len(cache)
    shas = cache.digests.tobytes()
    return [
        Photo(name, shas[32 * row : 32 * row + 32], size, mtime, people[row])
        for row, (name, (size, mtime)) in enumerate(zip(texts, cache.stats.tolist(), strict=True))
    ]


def _key(photos: Sequence[Photo]) -> str:
    text = json.dumps([[photo.name, photo.size, photo.mtime] for photo in photos])
    return hashlib.sha256(text.encode()).hexdigest()
