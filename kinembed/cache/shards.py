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
import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors, finite_or_raise
from kinembed.cache import Digests, EmbeddingCache, Names, Stats
from kinembed.cache.lazy_rows import quantised
from kinembed.cache.plan import Plan, rows_of
from kinembed.cache.provenance import check_provenance
from kinembed.cache.verify import unsound_rows
from kinembed.cache.writer import Blocks, write_cache
from kinembed.checked import Bounds, Values, read_json
from kinembed.data.listing import Photo
from kinembed.errors import DataError, RunError
from kinembed.io import locked as locked_file
from kinembed.io import locked_folder, write_bytes
from kinembed.printable import counted, one_line
from kinembed.threads import Stopwatch

if TYPE_CHECKING:
    from kinembed.data.reader import Batch  # which imports what decodes photos

log = logging.getLogger(__name__)

OPENED = 32  # caches at once: a process may open some hundred files


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


def keep_settings(
    folder: Path, settings: Mapping[str, Any], restart: bool = False
) -> dict[str, Any]:
    """Refuses, or deletes, shards with other settings, and writes the settings.

    Args:
        folder: of the shards.
        settings: as JSON types; `provenance` among them may differ.
        restart: delete existing shards.

    Returns:
        The provenance of all shards: that of the first process.

    Raises:
        RunError: there are shards with other settings; says which differ.
    """
    path = folder / "settings.json"
    if path.is_file() and not restart:
        before: dict[str, Any] = {}
        try:
            before = read_settings(folder)
            every = {**settings, **before}
            different = [
                key for key in every if before.get(key) != settings.get(key) and key != "provenance"
            ]
        except RunError:
            different = ["settings.json"]
        if different:
            named = [word for key in different if (word := _option(key, before.get(key)))]
            raise RunError(
                f"{folder}: holds shards of an interrupted embedding with another "
                f"{', '.join(different)}; go on with {' '.join(named) or 'that'}, or forget it "
                "with --restart"
            )
        provenance: dict[str, Any] = before["provenance"]
        return provenance
    for stale in [*folder.glob("*.json"), *folder.glob("*.h5")]:
        stale.unlink()
    write_bytes(path, json.dumps(settings).encode())
    return dict(settings["provenance"])


def _option(key: str, value: Any) -> str:
    """The option that sets an embedding's setting as it was; empty where no option alone does."""
    option = f"--{key.replace('_', '-')}"
    if key in ("shard_photos", "batch_size", "dtype", "precision", "device"):
        return f"{option} {shlex.quote(one_line(str(value)))}"
    if key == "views":
        return f"{option} {shlex.quote(one_line(','.join(value)))}"
    if key == "flip":
        return option if value else "--no-flip"
    if key in ("skip_unreadable", "rehash"):
        return option if value else f"no {option}"
    return ""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of shards.

    Raises:
        RunError: they are missing or malformed.
    """
    try:
        settings = read_json((folder / "settings.json").read_bytes())
        values = Values(settings)
        values.texts("views")
        check_provenance(values.object("provenance").content)
        for key in ("batch_size", "shard_photos"):
            values.whole(key, Bounds(least=1))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / 'settings.json'}: is not understood ({error}); delete {folder}, and run "
            "kinembed embed again"
        ) from None
    return settings


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
        self._opened: OrderedDict[int, EmbeddingCache] = OrderedDict()

    @classmethod
    def of(cls, rows: Sequence[Row], caches: Sequence[EmbeddingCache]) -> Joined:
        """Those of photos, given in the order of their names."""
        source, row = ([each[at] for each in rows] for at in (1, 2))
        return cls(caches, np.array(source, np.int32), np.array(row, np.intp))

    @classmethod
    def of_plan(cls, plan: Plan, shards: Shards, rows: Sequence[ShardRow]) -> Joined:
        """The kept rows of the earlier cache and those of all shards, by name."""
        return _joined(plan, shards, rows)

    def __len__(self) -> int:
        return len(self.row)

    def cache(self, number: int) -> EmbeddingCache:
        """A cache; of paths only some are open at a time."""
        cache = self.caches[number]
        assert cache is not None
        if isinstance(cache, EmbeddingCache):
            return cache
        if number not in self._opened:
            self._opened[number] = EmbeddingCache.open(cache)
            if len(self._opened) > OPENED:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(number)
        return self._opened[number]

    def close(self) -> None:
        """Closes what it opened."""
        while self._opened:
            self._opened.popitem()[1].close()

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


def _joined(plan: Plan, shards: Shards, rows: Sequence[ShardRow]) -> Joined:
    earlier = plan.earlier
    paths = [shards.path(row.number) if row.photos else None for row in rows]
    caches = [earlier, *paths]
    counts = np.array([row.photos for row in rows], np.intp)
    new = int(counts.sum())
    if not len(plan.kept):
        number = np.repeat(np.arange(1, len(rows) + 1, dtype=np.int32), counts)
        within = np.arange(new) - np.repeat(np.cumsum(counts) - counts, counts)
        return Joined(caches, number, within)
    assert earlier is not None
    known = earlier.names
    source = np.zeros(len(plan.kept) + new, np.int32)
    row = np.empty(len(source), np.intp)
    is_new = np.zeros(len(source), np.bool_)
    start = 0
    for number_, each in enumerate(rows, start=1):
        if not each.photos:
            continue
        with EmbeddingCache.open(shards.path(each.number)) as cache:
            names = cache.names.astype(known.dtype)
        # No name is in both; so of one that is cut off, its beginning comes first.
        before = np.searchsorted(plan.kept, np.searchsorted(known, names, "right"))
        at = start + np.arange(len(names)) + before
        source[at], row[at], is_new[at] = number_, np.arange(len(names)), True
        start += len(names)
    row[~is_new] = plan.kept
    return Joined(caches, source, row)


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


@dataclass(frozen=True)
class Changes:
    """What an embedding changes of the earlier cache.

    Attributes:
        unchanged: photos whose bytes are still the same, and their rows sound.
        gone: photos that are no longer there.
        is_none: nothing changes.
    """

    unchanged: int
    gone: int
    is_none: bool

    @classmethod
    def of(
        cls, plan: Plan, rows: Joined, views: Sequence[str], computed: int,
        people: Callable[[Names], Names],
    ) -> Changes:  # fmt: skip
        """Compares the new rows with the earlier cache."""
        earlier = plan.earlier
        if earlier is None:
            return cls(0, 0, is_none=False)
        unchanged = found = 0
        same = not computed and len(rows) == len(earlier) and set(views) == set(earlier.views)
        digests, stats = earlier.digests, earlier.stats
        sound = np.zeros(len(earlier), np.bool_)
        sound[plan.known.rows] = True
        for start in range(0, len(rows), Blocks.ROWS):
            stop = min(len(rows), start + Blocks.ROWS)
            names = rows.take(lambda cache: cache.names, start, stop)
            own = rows.take(lambda cache: cache.digests, start, stop)
            at = rows_of(earlier.names, names)
            there = at >= 0
            found += int(there.sum())
            alike = (own[there] == digests[at[there]]).all(1)
            unchanged += int((alike & sound[at[there]]).sum())
            if same:
                same = bool(
                    there.all()
                    and (own == digests[at]).all()
                    and (rows.take(lambda cache: cache.stats, start, stop) == stats[at]).all()
                    and (people(names) == _people_of(earlier)[at]).all()
                )
        return cls(unchanged, len(earlier) - found, same)


def _people_of(cache: EmbeddingCache) -> Names:
    """Who is on the photos; damaged people count as unknown."""
    if len(cache.damaged_rows("people")):
        return np.zeros(len(cache), "S1")
    return cache.people


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
