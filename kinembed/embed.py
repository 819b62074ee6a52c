"""The stage `embed`: the vectors of all photos into the embedding cache.

A reader decodes photos, a mapper computes their vectors, and a writer puts them into shards. `_run`
only passes batches from one to the next.
"""

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kinembed.arrays import Vectors
from kinembed.backbones import Framing
from kinembed.backbones.device import choose_device, choose_precision
from kinembed.backbones.framing import AUTO
from kinembed.backbones.mapper import Mapper
from kinembed.backbones.published_weights import is_file
from kinembed.cache import EmbeddingCache
from kinembed.cache.own import is_own, keep_own
from kinembed.cache.plan import Plan
from kinembed.cache.provenance import Provenance, framings_of, vector_settings
from kinembed.cache.shards import Shards, ShardWriter, join, keep_settings, locked
from kinembed.config import EmbedConfig
from kinembed.data.framings import choose_framings
from kinembed.data.photo_files import (
    TRAIN_FOLDERS,
    Photo,
    describe_people,
    find_photos,
    photos_by_folder,
)
from kinembed.data.reader import Batch, Reader
from kinembed.errors import RunError
from kinembed.inference.network import Network, open_network
from kinembed.io import check_writable, moved_together
from kinembed.printable import counted
from kinembed.progress import Bar, Progress, silent
from kinembed.threads import processors
from kinembed.views import TTA, with_tta, without_tta

log = logging.getLogger(__name__)

BELOW = {*TRAIN_FOLDERS, "test"}  # folders of photos in the data folder


def embed(config: EmbedConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Embeds photos with a fine-tuned network, that of the run, or a backbone's own weights.

    With `config.flip`, test-time augmentation, the network also embeds each photo mirrored
    left-right, and each view VIEW has a second one, `VIEW-flip`. Views of an earlier cache of the
    same network stay unless others are asked for.

    With the framing `auto`, a sample of each folder tells where the faces lie on its photos. The
    frames of an earlier cache or of an interrupted embedding stay while they fit.

    Photos with unchanged bytes keep their rows of an earlier cache with the same settings, and an
    interrupted embedding goes on from its finished shards. Equal files are computed once.

    Args:
        config: the settings.
        data: the data folder, with the photo folders `train` and `test`.
        run: the run folder; its `embeddings.h5` is replaced at the end.
        progress: shows the progress.

    Returns:
        The path of the cache.

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
    start = time.perf_counter()
    found = find_photos(config.photos, data, config.layout, config.people_table)
    for note in found.notes:
        log.info("%s", note)
    photos = found.paths
    device = choose_device(config.device)
    path, folder = run / "embeddings.h5", run / "embed.partial"
    check_writable(path)
    network = open_network(config, run, device, progress)
    asked, config = config, _with_earlier_views(config, path, network)
    if asked.views != config.views:
        network = open_network(config, run, device, progress)
    precision = "fp32" if network.is_onnx else choose_precision(config.precision, device)
    mapper = Mapper(network.ready, device, precision, config.dtype, tta=bool(config.flip))
    folders = photos_by_folder(photos, config.photos, data)
    with locked(folder):
        if framings is None:
            files = {key: [photos[name] for name in names] for key, names in folders.items()}
            framings = _framings(config, network, files, path, folder)
        provenance = _provenance(config, network, mapper, framings)
        keep_settings(folder, _settings(config, network, provenance), config.restart)
        with Plan.of(path, mapper.views, provenance, photos, found.people, config.rehash) as plan:
            shards = Shards(folder, provenance, plan.todo, config.batch_size)
            if shards.done:
                log.info("%s: %d of %d shards are done", folder, len(shards.done), len(shards))
            known, batches = plan.digests | shards.digests, shards.batches()
            framed = {name: framings[key] for key, names in folders.items() for name in names}
            reader = Reader(photos, framed, known, config.skip_unreadable)
            writer = ShardWriter(shards)
            with writer, progress("embedding", sum(map(len, batches))) as bar:
                _run(batches, reader, mapper, writer, bar)
            rows = plan.rows(shards.done)
            with writer.time.running():
                if plan.is_done(mapper.views, rows):
                    log.info("%s: is as it has to be already", path)
                else:
                    with moved_together(run):
                        with shards.open() as caches:
                            join(path, provenance, mapper.views, rows, [plan.earlier, *caches])
                        plan.release()  # Windows replaces no file that is open
                keep_own(path)
                shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - start
    computed, unchanged = sum(len(s.computed) for s in shards.done), plan.unchanged(rows)
    for name in shards.skipped:
        log.warning("left out: %s", name)
        found.left_out.add("that cannot be decoded", name)
    log.info("%s: %s", path, describe_people([row.photo.person for row in rows.values()]))
    if found.left_out:
        log.info("%s: left out: %s", path, found.left_out)
    log.info(
        "%s: %s (%s left out), views %s, %s on %s; %s computed, %s kept, %s of the same "
        "bytes as another, %s gone; %.1f s, %.0f photos/s (read %.1f s in %d threads, infer %.1f "
        "s in %d, write %.1f s, at the same time)",
        path, counted(len(rows), "photo"), f"{len(found.left_out):,}", ",".join(mapper.views),
        precision, device.type, f"{computed:,}", f"{unchanged:,}",
        f"{len(rows) - computed - unchanged:,}",
        f"{len(plan.known.keys() - rows.keys()):,}",
        seconds, len(rows) / seconds, reader.time.seconds, processors(), mapper.time.seconds,
        1 if mapper.one_by_one else processors(), writer.time.seconds,
    )  # fmt: skip
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


def _with_earlier_views(config: EmbedConfig, path: Path, network: Network) -> EmbedConfig:
    """The settings, with the views of the run's cache as far as no others are asked for."""
    usual, earlier = network.ready.names, _earlier_views(path, network.digest)
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


def _earlier_views(path: Path, model: str) -> tuple[str, ...]:
    """The views of a cache of the same network; none where there is no such cache."""
    if not path.is_file():
        return ()
    try:
        with EmbeddingCache.open(path) as cache:
            return cache.views if cache.provenance["model"] == model else ()
    except RunError:
        return ()  # which is said where its rows would be kept


def _run(
    batches: Sequence[Sequence[Photo]],
    reader: Reader,
    mapper: Mapper,
    writer: ShardWriter,
    bar: Bar,
) -> None:
    """Reads, maps and writes batches in order, several at a time.

    The contents of a batch, and hence its vectors, do not depend on the number of threads.
    """
    count, waiting = processors(), iter(batches)
    read: deque[Future[Batch]] = deque()
    mapped: deque[tuple[Batch, Future[dict[str, Vectors]] | None]] = deque()
    with mapper.threads(count) as (readers, mappers):
        while True:
            for photos in islice(waiting, 2 * count + 1 - len(read)):
                read.append(readers.submit(reader.read, photos))
            if read and len(mapped) <= count:
                batch = read.popleft().result()
                reader.drop_repeats(batch)
                future = mappers.submit(mapper.map, batch.pixels) if batch.photos else None
                mapped.append((batch, future))
            elif mapped:
                batch, future = mapped.popleft()
                vectors = future.result() if future is not None else {}
                batch.pixels = []
                bar.advance(len(batch))
                writer.write(batch, vectors)
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
        if not cache.is_file():
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


def _settings(config: EmbedConfig, network: Network, provenance: dict[str, Any]) -> dict[str, Any]:
    """The settings that all shards of one embedding share."""
    return vector_settings(provenance) | {
        "views": list(network.ready.names),
        "flip": config.flip,
        "batch_size": config.batch_size,
        "skip_unreadable": config.skip_unreadable,
    }
