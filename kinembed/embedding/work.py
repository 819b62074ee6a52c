"""The work of an embedding, by numbered shards, for one process or many."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from kinembed.backbones import Framing
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.mapper import Mapper
from kinembed.cache import cache_at
from kinembed.config import EmbedConfig
from kinembed.data.listing import PathsOf
from kinembed.data.photo_files import PhotoFiles
from kinembed.data.photo_processes import PhotoProcesses
from kinembed.data.reader import Reader
from kinembed.embedding.frames import Framed, frames_of
from kinembed.embedding.joining import join_rows, join_shards
from kinembed.embedding.kept_listing import asked_photos, changed_of, kept_photos
from kinembed.embedding.pipeline import compute_batches, in_processes
from kinembed.embedding.plan import Plan
from kinembed.embedding.settings import as_earlier, keep_settings, settings_of, warn_of_views
from kinembed.embedding.shards import ShardRow, Shards, ShardWriter, locked
from kinembed.inference.network import open_network
from kinembed.io import check_writable
from kinembed.memory import reused_memory
from kinembed.printable import counted
from kinembed.progress import Bar, Progress, silent
from kinembed.threads import Stopwatch, processors

log = logging.getLogger(__name__)


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
        about, find = asked_photos(config, data)
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
        asked, config = config, as_earlier(config, path, folder, network)
        if asked.views != config.views:
            network = open_network(config, run, device, progress)
        warn_of_views(config, network, run)
        precision = "fp32" if network.is_onnx else choose_precision(config.precision, device)
        fewer = batch // 2
        mapper = Mapper(
            network.ready, device, precision,
            np.float16 if config.dtype == "float16" else np.float32, bool(config.flip),
            f"--batch-size {fewer}" if fewer else "--device cpu",
        )  # fmt: skip
        listing = found.listing
        with ExitStack() as stack:
            stack.enter_context(reused_memory())  # before the first threads take memory
            lock = stack.enter_context(ExitStack())
            lock.enter_context(locked(folder, shared=config.shard is not None))
            looking = Stopwatch()
            if framings is None:
                files = {k: PathsOf(listing, rows) for k, rows in listing.by_folder.items()}
                with looking.running():
                    framings = frames_of(config, network, files, path, folder)
            provenance = keep_settings(
                folder, settings_of(config, network, mapper, framings), config.restart
            )
            plan = stack.enter_context(
                Plan.of(path, mapper.views, provenance, listing, config.rehash)
            )
            if config.shard is not None:
                lock.close()
            shards = Shards(folder, provenance, mapper.views, plan, batch, config.shard_photos)
            stack.callback(shards.release_all)
            framed = Framed(listing, framings)
            processes = None
            if in_processes(mapper, len(listing)):
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
                compute_batches(batches, self._reader, self._mapper, writer, bar)
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
                result = join_rows(path, mapper.views, self._found, shards, rows, self._in_shards)
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
                f"{reader.time.seconds:.1f} s in {counted(count, 'thread')}, infer "
                f"{mapper.time.seconds:.1f} s in {mapper.at_once or count}, write "
                f"{self._writing:.1f} s, at the same time)"
            )
        return ", ".join([*words, f"joining {joining:.1f} s"])
