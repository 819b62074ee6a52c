"""The shards of an embedding: each is computed by itself, by any process, then all are joined.

Shard K is `K.h5`, a cache of its photos, and its row of the manifest, `K.json`, which is written
later: the photos that it is of, how many were computed, the skipped ones, and what tells `K.h5`
from any other file. `settings.json` holds the settings of the embedding. Which photos are in a
shard follows from their sorted names alone, and no batch crosses its border; so whoever computes it
gets the same bytes, but for those of other devices.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Vectors, finite_or_raise
from kinembed.cache import Digests, EmbeddingCache, Names, Stats
from kinembed.cache.lazy_rows import quantised
from kinembed.cache.verify import unsound_rows
from kinembed.cache.writer import write_cache
from kinembed.checked import Values, read_json
from kinembed.data.listing import Photo
from kinembed.embedding.plan import Plan
from kinembed.errors import DataError, RunError
from kinembed.io import locked as locked_file
from kinembed.io import locked_folder, write_bytes
from kinembed.printable import counted
from kinembed.threads import Stopwatch

if TYPE_CHECKING:
    from kinembed.data.reader import Batch  # which imports what decodes photos

log = logging.getLogger(__name__)


@dataclass
class Shard:
    """The photos of one shard while it is computed, in order.

    Attributes:
        number: which it is.
        computed: photos with vectors of their own.
        views: blocks of these vectors by view.
        same: photos with the same bytes as another one, of this shard or of the earlier cache.
        skipped: names of unreadable photos.
    """

    number: int
    computed: list[Photo] = field(default_factory=list)
    views: dict[str, list[Vectors]] = field(default_factory=dict)
    same: list[Photo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.computed) + len(self.same) + len(self.skipped)


@dataclass(frozen=True)
class ShardRow:
    """A finished shard, as its row of the manifest says.

    Attributes:
        number: which it is.
        photos: how many have vectors.
        computed: how many of them were computed; the others have the bytes of another.
        skipped: names of unreadable photos.
    """

    number: int
    photos: int
    computed: int
    skipped: tuple[str, ...]


class Shards:
    """The folder of shards of one embedding.

    Args:
        folder: the folder.
        provenance: of the vectors.
        views: of these.
        plan: the photos to embed.
        batch_size: photos per batch.
        shard_photos: photos per shard, which holds whole batches.

    Attributes:
        shard_photos: as above.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Mapping[str, Any],
        views: Sequence[str],
        plan: Plan,
        batch_size: int,
        shard_photos: int,
    ) -> None:
        self.folder, self.provenance, self.plan = folder, provenance, plan
        self._made_by = json.dumps([provenance, sorted(views)], sort_keys=True).encode()
        self._batch_size = batch_size
        self.shard_photos = shard_photos
        self._size = batch_size * max(1, shard_photos // batch_size)
        self._claims: dict[int, ExitStack] = {}

    def __len__(self) -> int:
        return -(-len(self.plan.todo) // self._size)

    def too_few(self, parts: int) -> str:
        """Why one of so many parts has no shard, and what gives it some, in words."""
        photos = len(self.plan.todo)
        size = photos // parts // self._batch_size * self._batch_size
        cure = f"--shard-photos {size}, in all parts, makes more" if size else "take fewer parts"
        return (
            f"has nothing to compute, as {counted(photos, 'photo')} to embed "
            f"{'is' if photos == 1 else 'are'} {counted(len(self), 'shard')} of --shard-photos "
            f"{self.shard_photos} ({cure})"
        )

    def photos(self, number: int) -> list[Photo]:
        """The photos of a shard, sorted by name."""
        return self.plan.todo[number * self._size : (number + 1) * self._size]

    def size(self, number: int) -> int:
        """How many these are."""
        return min(self._size, len(self.plan.todo) - number * self._size)

    def first(self, number: int) -> str:
        """The name of a shard's first photo."""
        return self.plan.todo[number * self._size].name

    def key(self, number: int) -> str:
        """The sha256 of what makes the vectors, and of a shard's photos: names, sizes and times."""
        text = json.dumps([[photo.name, photo.size, photo.mtime] for photo in self.photos(number)])
        return hashlib.sha256(self._made_by + text.encode()).hexdigest()

    def batches(self, number: int) -> list[list[Photo]]:
        """The photos of a shard, in batches."""
        photos, size = self.photos(number), self._batch_size
        return [photos[start : start + size] for start in range(0, len(photos), size)]

    def path(self, number: int) -> Path:
        """The cache of a shard."""
        return self.folder / f"{number:06}.h5"

    def is_open(self) -> bool:
        """Whether nobody has joined the shards yet."""
        return (self.folder / "settings.json").exists()

    def count(self) -> int:
        """How many shards are there, of whichever photos."""
        return sum(map(self.is_there, range(len(self))))

    def are_all_there(self) -> bool:
        """Whether all are there, or are joined already."""
        return not self.is_open() or self.count() == len(self)

    def is_there(self, number: int) -> bool:
        """Whether there is a row of a shard; it may be of other photos, or damaged."""
        return self.path(number).with_suffix(".json").exists()

    def is_done(self, number: int) -> bool:
        """Whether a shard is there, sound, and of these photos."""
        return self.read(number) is not None

    def claim(self, number: int, wait: bool = False) -> bool:
        """Locks a shard for this process until it is added or released.

        Args:
            number: of the shard.
            wait: for another process that computes it.

        Returns:
            Whether it could.
        """
        taken = RunError(f"{self.path(number)}: another process computes it")
        stack = ExitStack()
        try:
            lock = self.path(number).with_suffix(".lock")
            stack.enter_context(locked_file(lock, None if wait else taken))
        except RunError:
            return False
        self._claims[number] = stack
        return True

    def release(self, number: int) -> None:
        """Unlocks a shard."""
        self._claims.pop(number).close()

    def release_all(self) -> None:
        """Unlocks all shards."""
        for number in list(self._claims):
            self.release(number)

    def add(self, shard: Shard) -> ShardRow:
        """Writes a shard, then its row."""
        row = ShardRow(
            shard.number, len(shard.computed) + len(shard.same), len(shard.computed),
            tuple(shard.skipped),
        )  # fmt: skip
        if row.photos:
            photos, views, scales = self._in_order(shard)
            names, digests, stats, people = columns(photos)
            path = self.path(shard.number)
            write_cache(path, self.provenance, names, digests, views, stats, people, scales)
        content = {
            "of": self.key(shard.number),
            "photos": row.photos,
            "computed": row.computed,
            "skipped": shard.skipped,
            "content": self._content(shard.number) if row.photos else "",
        }
        write_bytes(self.path(shard.number).with_suffix(".json"), json.dumps(content).encode())
        return row

    def _content(self, number: int) -> str:
        """What tells a shard's file from any other."""
        with EmbeddingCache.open(self.path(number)) as cache:
            return cache.content

    def _in_order(
        self, shard: Shard
    ) -> tuple[list[Photo], dict[str, list[NDArray[Any]]], dict[str, list[NDArray[Any]]]]:
        """The photos of a shard by name, and by view their vectors, of bytes with their scales."""
        at = {photo.digest: row for row, photo in reversed([*enumerate(shard.computed)])}
        sources = [(photo, row) for row, photo in enumerate(shard.computed)]
        before: dict[int, int] = {}  # rows of the earlier cache by their rows here
        for photo in shard.same:
            if photo.digest not in at:
                before.setdefault(row := self.plan.known.row(photo.digest), len(before))
                sources.append((photo, len(shard.computed) + before[row]))
            else:
                sources.append((photo, at[photo.digest]))
        sources.sort(key=lambda source: source[0].name.encode())
        rows = np.array([row for _, row in sources])
        views: dict[str, list[NDArray[Any]]] = {}
        scales: dict[str, list[NDArray[Any]]] = {}
        is_bytes = self.provenance.get("dtype") == "int8"
        for view in shard.views or (self.plan.earlier.views if self.plan.earlier else ()):
            blocks: list[NDArray[Any]] = [*shard.views.get(view, [])]
            sizes: list[NDArray[Any]] = []
            if is_bytes:
                pairs = [quantised(block) for block in blocks]
                blocks, sizes = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            if before:  # as they are stored: what is bytes already is not rounded again
                assert self.plan.earlier is not None
                earlier = np.array([*before])
                blocks.append(np.array(self.plan.earlier.stored(f"views/{view}")[earlier]))
                if is_bytes:
                    sizes.append(np.array(self.plan.earlier.stored(f"scales/{view}")[earlier]))
            views[view] = [np.concatenate(blocks)[rows]]
            if sizes:
                scales[view] = [np.concatenate(sizes)[rows]]
        return [photo for photo, _ in sources], views, scales

    def read(self, number: int) -> ShardRow | None:
        """The row of a finished shard; None if it is missing, damaged, or of other photos."""
        try:
            path = self.path(number)
            values = Values(read_json(path.with_suffix(".json").read_bytes()))
            if values.text("of") != self.key(number):
                return None
            row = ShardRow(
                number, values.whole("photos"), values.whole("computed"),
                tuple(values.texts("skipped")),
            )  # fmt: skip
            if row.photos:
                with EmbeddingCache.open(path) as cache:
                    is_own = cache.content == values.text("content") and len(cache) == row.photos
                    is_own &= {*map(cache.dtype_of, cache.views)} == {self.provenance["dtype"]}
                    if not is_own or len(unsound_rows(cache)):
                        return None
                    _ = cache.names
        except (OSError, ValueError, RunError):
            return None
        return row


class ShardWriter:
    """Collects batches into shards; a thread writes each while the next is computed.

    `with ShardWriter(shards, done) as writer` waits for the last one.

    Args:
        shards: the folder to write to.
        done: is told of each that is written.

    Attributes:
        time: the time spent on writing.
    """

    def __init__(self, shards: Shards, done: Callable[[ShardRow], None]) -> None:
        self.shards, self._done = shards, done
        self.time = Stopwatch()
        self._shard: Shard | None = None
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

    def write(self, number: int, batch: Batch, views: Mapping[str, Vectors]) -> None:
        """Adds the photos of a batch and their vectors, and writes the shard when it is full.

        Args:
            number: of the shard.
            batch: photos, in the order of the shard.
            views: (N, D) vectors of `batch.photos`, by view.

        Raises:
            DataError: a vector is not finite; names the photo.
        """
        shard = self._shard = self._shard or Shard(number)
        for view, vectors in views.items():
            finite_or_raise(vectors, partial(_not_finite, view, batch.photos))
            shard.views.setdefault(view, []).append(vectors)
        shard.computed += batch.photos
        shard.same += batch.same
        shard.skipped += batch.skipped
        if len(shard) == self.shards.size(number):
            self._wait()
            self._written = self._thread.submit(self._add, shard)
            self._shard = None

    def _add(self, shard: Shard) -> None:
        with self.time.running():
            row = self.shards.add(shard)
            self.shards.release(shard.number)
        self._done(row)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()


def _not_finite(view: str, photos: Sequence[Photo], row: int) -> DataError:
    return DataError(
        f"{photos[row].name}: view {view} is not finite; the weights are broken, or --dtype "
        "float16 is too narrow for them"
    )


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Makes a folder and locks it for this process; removes it at the end if no shard is left.

    Args:
        folder: the folder.
        shared: wait while another process has it, and leave it for others.

    Raises:
        RunError: another process has locked it.
    """
    if shared:
        with locked_file(folder / "lock", None):
            yield
        return
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


def columns(photos: Sequence[Photo]) -> tuple[Names, Digests, Stats, Names]:
    """(N,) names, (N, 32) digests, (N, 2) stats and (N,) people of photos."""
    names = np.array([photo.name.encode() for photo in photos])
    digests = np.frombuffer(b"".join(photo.digest for photo in photos), np.uint8).reshape(-1, 32)
    people = np.array([photo.person.encode() for photo in photos])
    return names, digests, np.array([(p.size, p.mtime) for p in photos], np.int64), people
