"""The stage `embed`: the vectors of all photos into the embedding cache.

A reader decodes photos, a mapper computes their vectors, and a writer puts them into shards. `_run`
only passes batches from one to the next.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch

from kinembed.arrays import Vectors
from kinembed.backbones import Framing
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.framing import AUTO
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.published_weights import is_file
from kinembed.cache import EmbeddingCache, Names, cache_at
from kinembed.cache.kept_listing import FILE as LISTING
from kinembed.cache.kept_listing import changed_of, kept_photos, list_and_keep
from kinembed.cache.own import is_own, keep_own
from kinembed.cache.plan import Plan
from kinembed.cache.provenance import Provenance, framings_of, vector_settings
from kinembed.cache.sharded import remove_other, write_sharded
from kinembed.cache.shards import (
    Changes,
    Joined,
    ShardRow,
    Shards,
    ShardWriter,
    join,
    keep_settings,
    locked,
    read_settings,
)
from kinembed.cluster.pool import EMBEDDING, compute_shards
from kinembed.cluster.ray_pool import ray_pool
from kinembed.config import Dtype, EmbedConfig
from kinembed.data.framings import choose_framings
from kinembed.data.listing import Listing, PathsOf, Photo
from kinembed.data.photo_files import TRAIN_FOLDERS, PhotoFiles, describe_people, find_photos
from kinembed.data.photo_processes import PhotoProcesses
from kinembed.data.reader import Batch, Reader
from kinembed.data.relations import RELATIONS
from kinembed.errors import RunError
from kinembed.inference.network import Network, open_network
from kinembed.io import check_writable, make_folder, moved_together
from kinembed.printable import at_run, counted
from kinembed.progress import Bar, Progress, silent
from kinembed.threads import Stopwatch, processors
from kinembed.views import TTA, parts_of, with_tta, without_tta

log = logging.getLogger(__name__)

# Beside a GPU, photos are read by processes, not by threads, where that many processors read that
# many photos: on fewer processors threads are as fast, and of few photos they are read already.
PROCESSORS, MANY = 4, 1000
BELOW = {*TRAIN_FOLDERS, "test"}  # folders of photos in the data folder


def embed(config: EmbedConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Embeds photos with a fine-tuned network, that of the run, or a backbone's own weights.

    With `config.flip`, test-time augmentation, the network also embeds each photo mirrored
    left-right, and each view VIEW has a second one, `VIEW-flip`. Views of an earlier cache of the
    same network stay unless others are asked for.

    With the framing `auto`, a sample of each folder tells where the faces lie on its photos. The
    frames of an earlier cache or of an interrupted embedding stay while they fit.

    Photos with unchanged bytes keep their rows of an earlier cache with the same settings, and an
    interrupted embedding goes on from its finished shards. Equal files of a shard are computed
    once.

    With `config.shard` it computes a part of the shards. Other processes, on this machine or others
    that share the folder, compute the other parts at the same time, and the last one joins them to
    the cache. However many parts there are, the bytes are the same.

    With `config.engine` "ray" actors of Ray compute the shards, on this machine or on a cluster
    that shares the folders; the bytes are the same again.

    Args:
        config: the settings.
        data: the data folder, with the photo folders `train` and `test`.
        run: the run folder; its `embeddings.h5` is replaced at the end.
        progress: shows the progress.

    Returns:
        The path of the cache; of the folder of shards, where other parts are not done.

    Raises:
        KinembedError: photos, weights, views or device are unusable; another process embeds into
            the run folder; or an interrupted embedding had other settings.
    """
    return _embed(config, data, run, progress)


def _embed(
    config: EmbedConfig,
    data: Path,
    run: Path,
    progress: Progress,
    framings: Mapping[str, Framing] | None = None,
) -> Path:
    """Embeds as `embed` does; with `framings`, the frames of the folders, it looks at no face."""
    if config.engine == "ray":
        return _embed_by_ray(config, data, run, progress)
    with Embedding.open(config, data, run, progress, framings) as work:
        part, parts = config.shard or (1, 1)
        count = len(work.shards)
        own = range(count * (part - 1) // parts, count * part // parts)
        work.compute(own)
        if config.shard is None or work.shards.are_all_there():
            return work.finish()
        there = work.shards.count()
        log.info(
            "%s: part %d of %d %s; %s of %s %s there, and the last part joins them",
            work.shards.folder, part, parts, "is done" if own else work.shards.too_few(parts),
            f"{there:,}", counted(count, "shard"), "is" if there == 1 or count == 1 else "are",
        )  # fmt: skip
        return work.shards.folder


def _embed_by_ray(config: EmbedConfig, data: Path, run: Path, progress: Progress) -> Path:
    """Lets actors of Ray compute the shards, and joins them. This process needs no network."""
    path, folder = run / "embeddings.h5", run / "embed.partial"
    check_writable(path)
    if config.restart:  # here, as an actor that starts again would delete what is done
        with locked(folder):
            for each in [*folder.glob("*.json"), *folder.glob("*.h5")]:
                each.unlink()
    alike = replace(config, shard=(1, 1), restart=False, engine="local")
    opening = partial(Embedding.open, alike, data, run, is_listed=True)
    make_folder(folder)
    try:
        with TemporaryDirectory(prefix="seen-", dir=folder) as seen:
            token = Path(seen).resolve() / "token"
            token.touch()
            with ray_pool(
                config.address, config.actors, config.actor_cpus, config.actor_gpus,
                [opening, token, Path.cwd()],
            ) as pool:  # fmt: skip
                list_and_keep(folder, *_listed(config, data))
                are_there = compute_shards(pool, folder, EMBEDDING, progress)
    finally:
        if not (folder / "settings.json").exists():  # nothing has begun
            with suppress(OSError):
                for each in (folder / LISTING, (folder / LISTING).with_suffix(".lock")):
                    each.unlink(missing_ok=True)
                folder.rmdir()
    if not are_there:
        return cache_at(path)
    return join_shards(
        run, data, config.photos, config.people_table, config.in_shards, is_shared=True
    )


def _listed(
    config: EmbedConfig, data: Path
) -> tuple[dict[str, Any], Callable[[], PhotoFiles]]:  # fmt: skip
    """What a listing of the photos depends on, and what lists them."""
    tables = [config.people_table, data / RELATIONS]
    about = {
        "photos": list(config.photos),
        "data": str(data),
        "from": str(Path.cwd()),
        "layout": config.layout,
        "people": [str(config.people_table or ""), *map(_stamp, tables)],
    }
    found = partial(find_photos, config.photos, data, config.layout, config.people_table)
    return about, found


def _stamp(path: Path | None) -> list[int]:
    """Size and modification time of a file; empty where there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        status = None
    return [] if status is None else [status.st_size, status.st_mtime_ns]


class Embedding:
    """An embedding, ready to be computed shard by shard, by one process or by many.

    Whoever opens one of the same photos, settings and run folder has the same shards, by number.
    `compute` writes some of them, whole or not at all, and none that is there; `finish` joins all.
    So a pool of workers needs no more than numbers, and may compute any again.

    Attributes:
        shards: the folder of the shards.
    """

    def __init__(
        self, path: Path, found: PhotoFiles, mapper: Mapper, reader: Reader, shards: Shards,
        progress: Progress, *, is_shared: bool, in_shards: bool | None,
    ) -> None:  # fmt: skip
        self.shards = shards
        self._path, self._found, self._mapper, self._reader = path, found, mapper, reader
        self._progress, self._is_shared, self._in_shards = progress, is_shared, in_shards
        self._start, self._writing = time.perf_counter(), 0.0
        self._framing = self._opening = 0.0  # seconds
        self._computing, self._computed = Stopwatch(), 0  # photos, by this process
        self._rows: dict[int, ShardRow] = {}
        self._join_again: Callable[[], Path] | None = None  # by a listing of now

    @classmethod
    @contextmanager
    def open(
        cls,
        config: EmbedConfig,
        data: Path,
        run: Path,
        progress: Progress = silent,
        framings: Mapping[str, Framing] | None = None,
        *,
        is_listed: bool = False,
    ) -> Iterator[Embedding]:
        """Lists the photos and opens the network.

        With a part of the shards, the listing that another part has kept is used.

        Args:
            config: the settings; with a part of the shards, other processes may open it, too.
            data: the data folder.
            run: the run folder.
            progress: shows the progress.
            framings: the frames of the folders; None: as `config` says.
            is_listed: a driver has listed the photos a moment ago, and kept them.

        Raises:
            KinembedError: as of `embed`.
        """
        start = time.perf_counter()
        about, find = _listed(config, data)
        is_kept = False
        if config.shard is None:
            found = find()
        else:
            part = None if is_listed else config.shard
            found, is_kept = kept_photos(run / "embed.partial", about, find, part)
        for note in found.notes:
            log.info("%s", note)
        device = choose_device(config.device)
        batch = config.batch_of(device.type)
        path, folder = run / "embeddings.h5", run / "embed.partial"
        check_writable(path)
        network = open_network(config, run, device, progress)
        asked, config = config, _as_earlier(config, path, network)
        if asked.views != config.views:
            network = open_network(config, run, device, progress)
        _warn_of_views(config, network, run)
        precision = "fp32" if network.is_onnx else choose_precision(config.precision, device)
        fewer = batch // 2
        mapper = Mapper(
            network.ready, device, precision,
            np.float16 if config.dtype == "float16" else np.float32, bool(config.flip),
            f"--batch-size {fewer}" if fewer else "--device cpu",
        )  # fmt: skip
        listing = found.listing
        with ExitStack() as stack:
            lock = stack.enter_context(ExitStack())
            lock.enter_context(locked(folder, shared=config.shard is not None))
            looking = Stopwatch()
            if framings is None:
                files = {k: PathsOf(listing, rows) for k, rows in listing.by_folder.items()}
                with looking.running():
                    framings = _framings(config, network, files, path, folder)
            provenance = keep_settings(
                folder, _settings(config, network, mapper, framings), config.restart
            )
            plan = stack.enter_context(
                Plan.of(path, mapper.views, provenance, listing, config.rehash)
            )
            if config.shard is not None:
                lock.close()
            shards = Shards(folder, provenance, mapper.views, plan, batch, config.shard_photos)
            stack.callback(shards.release_all)
            framed = _Framed(listing, framings)
            processes = None
            if _in_processes(mapper, len(listing)):
                processes = stack.enter_context(closing(PhotoProcesses()))
            reader = Reader(found.paths, framed, plan.known, config.skip_unreadable, processes)
            work = cls(
                path, found, mapper, reader, shards, progress, is_shared=config.shard is not None,
                in_shards=config.in_shards,
            )  # fmt: skip
            work._start, work._framing = start, looking.seconds
            work._opening = time.perf_counter() - start - looking.seconds
            if is_kept:
                work._join_again = partial(
                    join_shards, run, data, config.photos, config.people_table, config.in_shards,
                    is_shared=True,
                )  # fmt: skip
            yield work

    def compute(self, numbers: Sequence[int]) -> list[ShardRow]:
        """Computes shards that are not there; of several processes, one computes a shard.

        Args:
            numbers: of the shards, from 0.

        Returns:
            Their rows of the manifest; fewer, if another process has joined all meanwhile.

        Raises:
            KinembedError: a photo cannot be decoded, or its vector is not finite.
        """
        self._rows |= {n: row for n in numbers if (row := self.shards.read(n)) is not None}
        missing = [number for number in numbers if number not in self._rows]
        if done := len(numbers) - len(missing):
            log.info("%s: %d of %d shards are done", self.shards.folder, done, len(numbers))
        with self._progress("embedding", sum(map(self.shards.size, missing))) as bar:
            taken: list[int] = []
            self._compute(self._claimed(missing, taken, bar), bar)
            for number in taken:  # only now: who waits holds nothing that another waits for
                log.info("%s: waits for another process", self.shards.path(number))
                self._compute(self._claimed([number], None, bar), bar)
        return [self._rows[number] for number in numbers if number in self._rows]

    def _compute(self, numbers: Iterable[int], bar: Bar) -> None:
        try:
            with self._computing.running(), ShardWriter(self.shards, self._wrote) as writer:
                batches = ((n, batch) for n in numbers for batch in self.shards.batches(n))
                _run(batches, self._reader, self._mapper, writer, bar)
        except BaseException:
            self.shards.release_all()  # a worker lives on, and others try these shards again
            raise
        self._writing += writer.time.seconds

    def _wrote(self, row: ShardRow) -> None:
        self._computed += row.computed
        self._keep(row)

    def _keep(self, row: ShardRow) -> None:
        self._rows[row.number] = row

    def _claimed(self, numbers: Sequence[int], taken: list[int] | None, bar: Bar) -> Iterator[int]:
        """Claims shards one by one; those of other processes go to `taken`, or are waited for."""
        for number in numbers:
            if not self.shards.claim(number, wait=taken is None):
                assert taken is not None
                taken.append(number)
                continue
            row = self.shards.read(number) if self.shards.is_there(number) else None
            if row is None and self.shards.is_open():
                yield number
                continue
            if row is not None:  # another process was faster
                self._keep(row)
                bar.advance(self.shards.size(number))
            self.shards.release(number)

    def finish(self) -> Path:
        """Joins all shards to the cache, and removes them.

        Raises:
            RunError: some are missing, or of other photos; names them.
        """
        shards, mapper, path = self.shards, self._mapper, self._path
        if self._join_again is not None and shards.is_open():
            changed = changed_of(self._found, (1, 1))
            if changed is not None:
                log.info("%s has changed; the photos are listed again", changed)
                return self._join_again()
        with ExitStack() as stack:
            if self._is_shared:
                stack.enter_context(locked(shards.folder, shared=True))
                if not shards.is_open():
                    shutil.rmtree(shards.folder, ignore_errors=True)
                    log.info("%s: another process has joined the shards", path)
                    return cache_at(path)
            rows = [self._rows.get(number) or shards.read(number) for number in range(len(shards))]
            watch = Stopwatch()
            with watch.running():
                result = _join(path, mapper.views, self._found, shards, rows, self._in_shards)
        own = f" ({self._computed:,} of them by this command)"
        own = "" if self._computed == result.computed else own
        log.info(
            "%s: %s (%s left out), views %s, %s on %s; %s computed%s, %s kept, %s of the same "
            "bytes as another, %s gone; %.1f s: %s",
            cache_at(path), counted(result.photos, "photo"), f"{len(self._found.left_out):,}",
            ",".join(mapper.views), mapper.precision, mapper.device.type,
            f"{result.computed:,}",
            own,
            f"{result.unchanged:,}",
            f"{result.photos - result.computed - result.unchanged:,}", f"{result.gone:,}",
            time.perf_counter() - self._start, self._times(watch.seconds),
        )  # fmt: skip
        return cache_at(path)

    def _times(self, joining: float) -> str:
        """Where the time went; the rate is of the photos that this process computed."""
        reader, mapper, count = self._reader, self._mapper, processors()
        words = [f"opening {self._opening:.1f} s", f"framing {self._framing:.1f} s"]
        if reader.time.seconds:
            rate = f"{self._computed / self._computing.seconds:,.0f} photos/s in "
            words.append(
                f"{rate if self._computed else 'reading '}{self._computing.seconds:.1f} s (read "
                f"{reader.time.seconds:.1f} s in {count} threads, infer "
                f"{mapper.time.seconds:.1f} s in {mapper.at_once or count}, write "
                f"{self._writing:.1f} s, at the same time)"
            )
        return ", ".join([*words, f"joining {joining:.1f} s"])


@dataclass(frozen=True)
class _Result:
    """What an embedding did: numbers of photos."""

    photos: int
    computed: int
    unchanged: int
    gone: int


def _join(
    path: Path,
    views: Sequence[str],
    found: PhotoFiles,
    shards: Shards,
    rows: Sequence[ShardRow | None],
    in_shards: bool | None,
) -> _Result:
    """Joins the shards to the cache of their run, and removes them; their folder is locked.

    Raises:
        RunError: some shards are missing.
    """
    done = [row for row in rows if row is not None]
    if len(done) < len(rows):
        raise RunError(_missing(shards, [n for n, row in enumerate(rows) if row is None]))
    listing, plan = found.listing, shards.plan
    joined = Joined.of_plan(plan, shards, done)

    def people(names: Names) -> Names:
        return listing.people(listing.rows(names))

    computed = sum(row.computed for row in done)
    changes = Changes.of(plan, joined, views, computed, people)
    counts: Counter[str] = Counter()
    for names in joined.blocks(lambda cache: cache.names):
        counts.update(person.decode() for person in people(names).tolist())
    is_sharded = cache_at(path).suffix == ".json"
    in_shards = is_sharded if in_shards is None else in_shards
    is_none = changes.is_none and not _has_moved(plan.earlier, shards.provenance)
    if is_none and in_shards == is_sharded:
        log.info("%s: is as it has to be already", cache_at(path))
    elif in_shards:
        files = [shards.path(row.number) for row in done if row.photos]
        ready = files if plan.earlier is None and _are_of(files, people) else []
        write_sharded(
            path.with_suffix(".json"), shards.provenance, views, joined, people,
            shards.shard_photos, ready,
        )  # fmt: skip
        joined.close()
        plan.release()
    else:
        with moved_together(path.parent):
            join(path, shards.provenance, views, joined, people)
            joined.close()
            plan.release()  # Windows replaces no file that is open
        remove_other(path)
    keep_own(path)
    shutil.rmtree(shards.folder, ignore_errors=True)
    for row in done:
        for name in row.skipped:
            log.warning("left out: %s", name)
            found.left_out.add("that cannot be decoded", name)
    log.info("%s: %s", cache_at(path), describe_people(counts))
    if found.left_out:
        log.info("%s: left out: %s", cache_at(path), found.left_out)
    return _Result(len(joined), computed, changes.unchanged, changes.gone)


def _has_moved(earlier: EmbeddingCache | None, provenance: Mapping[str, Any]) -> bool:
    """Whether a cache names another place of the same network than is named now."""
    abouts = ({} if earlier is None else earlier.provenance, provenance)
    before, now = (about.get("command", {}) for about in abouts)
    return any(before.get(key) != now.get(key) for key in ("onnx", "model"))


def _are_of(files: Sequence[Path], people: Callable[[Names], Names]) -> bool:
    """Whether shards say who is on their photos as the listing does."""
    for file in files:
        with EmbeddingCache.open(file) as cache:
            if not np.array_equal(cache.people, people(cache.names)):
                return False
    return True


def _missing(shards: Shards, numbers: Sequence[int]) -> str:
    """Which shards are missing, and what computes them."""
    first = shards.photos(numbers[0])
    files = [shards.path(number).name for number in numbers[:5]]
    some = ", ".join(files) + (" …" if len(numbers) > 5 else "")
    count = len(shards)
    parts = min(count, 1000)
    part = next(i for i in range(1, parts + 1) if count * i // parts > numbers[0])
    return (
        f"{shards.folder}: {len(numbers):,} of {counted(count, 'shard')} are not there, damaged, "
        f"or of other photos: {some} (from {first[0].name} on); run kinembed embed as before, "
        f"which computes and joins them, or with --shard, as in --shard {part}/{parts}"
    )


class _Framed(Mapping[str, Framing]):
    """The frame of each photo, by its name."""

    def __init__(self, listing: Listing, framings: Mapping[str, Framing]) -> None:
        self._listing = listing
        self._framings = {key: framings[key] for key in listing.by_folder}

    def __getitem__(self, name: str) -> Framing:
        return self._framings[self._listing.folder(self._listing.row(name))]

    def __iter__(self) -> Iterator[str]:
        return self._listing.names()

    def __len__(self) -> int:
        return len(self._listing)

    def values(self) -> ValuesView[Framing]:
        """The frames of all folders."""
        return self._framings.values()


def join_shards(
    run: Path,
    data: Path,
    photos: tuple[str, ...] | None = None,
    people_table: Path | None = None,
    in_shards: bool | None = None,
    *,
    is_shared: bool = False,
) -> Path:
    """Joins the shards that `kinembed embed --shard` left in a run folder.

    Args:
        run: the run folder.
        data: the data folder.
        photos: the folders of photos, if they are others than `train` and `test` of `data`.
        people_table: as embed took it.
        in_shards: as of `EmbedConfig`.
        is_shared: other processes may join them at the same time, which is waited for.

    Returns:
        The path of the cache.

    Raises:
        KinembedError: there are no shards, some are missing, or they are of other photos.
    """
    path, folder = run / "embeddings.h5", run / "embed.partial"
    if not is_shared and not (folder / "settings.json").is_file():
        raise RunError(f"{folder}: no shards to join; kinembed embed --shard 1/2 computes some")
    with locked(folder, shared=is_shared):
        if not (folder / "settings.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            log.info("%s: another process has joined the shards", path)
            return cache_at(path)
        settings = read_settings(folder)
        known = Provenance.read(settings["provenance"], folder)
        config = known.settings(())
        named = {
            "--photos": (config.photos, photos, set(config.photos) <= BELOW),
            "--people-table": (config.people_table, people_table, config.people_table is None),
        }
        for option, (wanted, given, is_safe) in named.items():
            if given != wanted and (given is not None or not is_safe):
                text = ",".join(wanted) if isinstance(wanted, tuple) else wanted
                raise RunError(
                    f"{folder}: its shards are of {option} {text}; name it as it was: kinembed "
                    f"cache join {option} …"
                )
        found = find_photos(config.photos, data, config.layout, config.people_table)
        views = tuple(settings["views"])
        views = with_tta(views) if settings["flip"] else views
        provenance = known.as_json()
        with Plan.of(path, views, provenance, found.listing, "rehash" in settings) as plan:
            sizes = settings["batch_size"], settings["shard_photos"]
            shards = Shards(folder, provenance, views, plan, *sizes)
            rows = [*map(shards.read, range(len(shards)))]
            result = _join(path, views, found, shards, rows, in_shards)
    path = cache_at(path)
    log.info("%s: %s from %s", path, counted(result.photos, "photo"), counted(len(shards), "shard"))
    return path


def repair(
    run: Path,
    data: Path,
    *,
    photos: tuple[str, ...] | None = None,
    weights: str | None = None,
    model: Path | None = None,
    onnx: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Computes the damaged rows of a run's own cache again, with the cache's settings.

    It reads photos of `train` and `test` below `data`, the run's `model.pt` and published weights.
    Any other place that the cache names has to be named here, too. If only some of its views have a
    mirrored one, as after a merge, it computes all rows, and all views get a mirrored one.

    Args:
        run: the run folder.
        data: the data folder.
        photos: as of `EmbedConfig`, and `weights`, `model` and `onnx` too: as the cache names them.
        weights: as above.
        model: as above.
        onnx: as above.
        progress: shows the progress.

    Raises:
        KinembedError: `kinembed embed` did not write the cache into this folder, the cache names
            another place, or its photos or model are missing.
    """
    path = run / "embeddings.h5"
    with EmbeddingCache.open(path) as cache:
        provenance, views = Provenance.read(cache.provenance, path), cache.views
    if not is_own(path):
        raise RunError(
            f"{path}: kinembed embed did not write it into this folder, and a repair reads the "
            "photos and the network that a cache names; run kinembed embed with what it was made of"
        )
    config = provenance.settings(views)
    named = {
        "--photos": (",".join(config.photos), ",".join(photos or ()), set(config.photos) <= BELOW),
        "--weights": (config.weights, weights or "", not is_file(config.backbone, config.weights)),
        "--model": (str(config.model or ""), str(model or ""), config.model is None),
        "--onnx": (str(config.onnx or ""), str(onnx or ""), config.onnx is None),
    }
    for option, (wanted, given, is_safe) in named.items():
        if given != wanted and (given or not is_safe):
            raise RunError(
                f"{path}: was made with {option} {wanted!r}, found "
                f"{repr(given) if given else 'none'}; name it as it was: kinembed cache verify "
                f"--repair {option} PATH"
            )
    log.info(
        "%s: repaired with %s of %s, and photos of %s below %s", path,
        config.onnx or config.model or config.backbone or run / "model.pt",
        config.weights if config.backbone else "the file", ", ".join(config.photos), data,
    )  # fmt: skip
    if open_network(config, run, choose_device("cpu"), progress).digest != provenance.model:
        raise RunError(
            f"{path}: was made by another model than the present one; run kinembed embed, which "
            "computes all of it"
        )
    return _embed(config, data, run, progress, provenance.framings())


def _warn_of_views(config: EmbedConfig, network: Network, run: Path) -> None:
    """Says where the head of `finetune` compares a view that is not made."""
    if network.finetuned is None or config.views is None:
        return
    if not set(parts_of(network.finetuned.view)) <= set(config.views):
        log.warning(
            "views %s: the head of kinembed finetune compares %s; run %s before score",
            ",".join(config.views), network.finetuned.view, at_run("kinembed head", run),
        )  # fmt: skip


def _as_earlier(config: EmbedConfig, path: Path, network: Network) -> EmbedConfig:
    """The settings, with views and number format of the run's cache where no others are named."""
    usual, (earlier, dtype) = network.ready.names, _earlier(path, network.digest)
    if config.dtype is None:
        config = replace(config, dtype=dtype)
        if dtype != "float32":
            log.info("%s: its numbers stay %s; --dtype names another format", path, dtype)
    more = [view for view in without_tta(earlier) if view not in usual]
    if config.views is None and more:
        config = replace(config, views=(*usual, *more))
    if config.flip is None:
        config = replace(config, flip=any(view.endswith(TTA) for view in earlier))
    views = config.views or usual
    now = {*views, *(with_tta(views) if config.flip else ())}
    if dropped := [view for view in earlier if view not in now]:
        log.info("%s: views %s are dropped, as others are asked for", path, ",".join(dropped))
    elif any(view not in usual for view in earlier):
        log.info(
            "%s: its views %s are kept; --views and --no-flip drop some", path, ",".join(earlier)
        )
    return config


def _earlier(path: Path, model: str) -> tuple[tuple[str, ...], Dtype]:
    """Views and number format of a cache of the same network; the usual where there is none."""
    with suppress(RunError):  # which is said where its rows would be kept
        if cache_at(path).is_file():
            with EmbeddingCache.open(path) as cache:
                if cache.provenance["model"] == model:
                    dtype = cache.provenance.get("dtype")
                    known: tuple[Dtype, ...] = get_args(Dtype)
                    return cache.views, next((each for each in known if each == dtype), "float32")
    return (), "float32"


def _in_processes(mapper: Mapper, photos: int) -> bool:
    """Whether processes read the photos, in place of threads."""
    return mapper.device.type != "cpu" and processors() >= PROCESSORS and photos >= MANY


def _run(
    batches: Iterable[tuple[int, Sequence[Photo]]],
    reader: Reader,
    mapper: Mapper,
    writer: ShardWriter,
    bar: Bar,
) -> None:
    """Reads, maps and writes batches of shards in order, several at a time.

    The contents of a batch, and hence its vectors, do not depend on the number of threads.
    """
    count, waiting = processors(), iter(batches)
    read: deque[tuple[int, Future[Batch]]] = deque()
    mapped: deque[tuple[int, Batch, Future[dict[str, Vectors]] | None]] = deque()
    shard = None
    with mapper.threads(count) as (readers, mappers):
        while True:
            for number, photos in islice(waiting, 2 * count + 1 - len(read)):
                read.append((number, readers.submit(reader.read, photos)))
            if read and len(mapped) <= count:
                number, reading = read.popleft()
                batch = reading.result()
                if number != shard:
                    reader.forget()
                    shard = number
                reader.drop_repeats(batch)
                future = mappers.submit(mapper.map, batch.pixels) if batch.photos else None
                mapped.append((number, batch, future))
            elif mapped:
                number, batch, future = mapped.popleft()
                vectors = future.result() if future is not None else {}
                batch.pixels = []
                bar.advance(len(batch))
                writer.write(number, batch, vectors)
            else:
                return


def _framings(
    config: EmbedConfig,
    network: Network,
    folders: Mapping[str, Sequence[Path]],
    cache: Path,
    partial: Path,
) -> dict[str, Framing]:
    """The frame of each folder's photos."""
    if config.framing == AUTO and network.asked != AUTO and network.framing is not None:
        log.info("framing %s, as in fine-tuning; name another with --framing", network.asked)
        return dict.fromkeys(folders, network.framing)
    before = _framings_before(network, folders, cache, partial)
    if network.framing is not None:
        before = dict.fromkeys(folders, network.framing) | before
    return choose_framings(network.backbone, folders, config.framing, before)


def _framings_before(
    network: Network, folders: Iterable[str], cache: Path, partial: Path
) -> dict[str, Framing]:
    """The frames that an interrupted embedding or the run's cache has by itself."""
    try:
        settings = json.loads((partial / "settings.json").read_bytes())
        backbone, framings = settings["backbone"], framings_of(settings, [*folders])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if not cache_at(cache).is_file():
            return {}
        try:
            with EmbeddingCache.open(cache) as earlier:
                provenance = Provenance.read(earlier.provenance, cache)
        except RunError:  # of another version, damaged or imported: its rows are not kept either
            return {}
        if provenance.command["framing"] != AUTO:
            return {}
        backbone, framings = provenance.backbone, provenance.framings()
    side = network.backbone.framing.side
    if backbone != network.backbone.name or any(each.side != side for each in framings.values()):
        return {}
    return framings


def _provenance(
    config: EmbedConfig, network: Network, mapper: Mapper, framings: Mapping[str, Framing]
) -> dict[str, Any]:
    return Provenance.of(
        config,
        network.backbone,
        network.digest,
        framings=framings,
        precision=mapper.precision,
        device=mapper.device.type,
        torch=torch.__version__,
        split=network.split,
        finetuned=network.finetuned,
    ).as_json()


def _settings(
    config: EmbedConfig, network: Network, mapper: Mapper, framings: Mapping[str, Framing]
) -> dict[str, Any]:
    """The settings that all shards of one embedding share, and what made the first of them."""
    provenance = _provenance(config, network, mapper, framings)
    return vector_settings(provenance) | {
        "views": list(network.ready.names),
        "flip": config.flip,
        "batch_size": config.batch_of(mapper.device.type),
        "shard_photos": config.shard_photos,
        "skip_unreadable": config.skip_unreadable,
        **({"rehash": True} if config.rehash else {}),
        "provenance": provenance,
    }
