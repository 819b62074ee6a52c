"""The stage `embed`: every photo's vectors into the embedding cache."""

import hashlib
import logging
import platform
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from kinembed import __version__
from kinembed.cache import SCHEMA, CacheWriter
from kinembed.config import EmbedConfig
from kinembed.errors import DataError
from kinembed.families import TRAIN_FOLDERS, list_photos, train_folder
from kinembed.networks import Backbone, Framing, check_views, find_backbone
from kinembed.networks.siamese import (
    Embedder,
    autocast,
    choose_device,
    choose_precision,
    load_model,
)
from kinembed.networks.trunk import Trunk
from kinembed.networks.weights import digest, load_trunk
from kinembed.photos import Pixels, read_photo, workers
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)


@dataclass
class Times:
    """Seconds of work in each part of the pipeline; the parts overlap."""

    read: float = 0.0  # summed over the decoding threads
    infer: float = 0.0
    write: float = 0.0


@dataclass
class Batch:
    """Photos that are ready for the network; those that cannot be read are left out."""

    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def embed(config: EmbedConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Embeds photos with the run's fine-tuned network, or a backbone's own weights.

    Args:
        config: what to embed, and how.
        data: the data folder; photo folders of `config` are looked for in it first.
        run: the run folder; `embeddings.h5` in it is replaced when all is done.
        progress: shows how far it is.

    Returns:
        The path of the cache.

    Raises:
        KinembedError: photos, weights, views or device are not as they have to be.
    """
    photos = find_photos(config.photos, data)
    backbone, trunk = _trunk(config, run, progress)
    check_views(backbone, config.views)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    provenance = {
        "schema": SCHEMA,
        "backbone": backbone.name,
        "model": digest(trunk),
        "photos": backbone.recipe(),
        "dtype": config.dtype,
        "precision": precision,
        "device": device.type,
        "versions": {
            "kinembed": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "python": platform.python_version(),
        },
    }
    embedder = Embedder(backbone, trunk, config.views).to(device)
    times = Times()
    skipped: list[str] = []
    start = time.perf_counter()
    with (
        CacheWriter(run / "embed.partial", provenance) as writer,
        ThreadPoolExecutor(1) as pen,
        progress("embedding", len(photos)) as bar,
    ):
        written: Future[None] | None = None
        for batch in _batches(photos, config, backbone.framing):
            times.read += batch.seconds
            skipped += batch.skipped
            bar.advance(len(batch.names) + len(batch.skipped))
            if not batch.names:
                continue
            began = time.perf_counter()
            with torch.inference_mode(), autocast(device, precision):
                pixels = torch.from_numpy(np.stack(batch.pixels)).to(device, non_blocking=True)
                views = embedder(pixels)
            rows = {v: x.float().cpu().numpy().astype(config.dtype) for v, x in views.items()}
            times.infer += time.perf_counter() - began
            _check_finite(rows, batch.names)
            if written is not None:
                written.result()
            written = pen.submit(_write, writer, batch, rows, times)
        if written is not None:
            written.result()
        began = time.perf_counter()
        path = writer.finish(run / "embeddings.h5")
        times.write += time.perf_counter() - began
    seconds = time.perf_counter() - start
    done = len(photos) - len(skipped)
    for name in skipped:
        log.warning("left out: %s", name)
    log.info(
        "%s: %s photos (%s left out), views %s, %s on %s; %.1f s, %.0f photos/s "
        "(read %.1f s in %d threads, infer %.1f s, write %.1f s, side by side)",
        path, f"{done:,}", len(skipped), ",".join(config.views), precision, device.type,
        seconds, done / seconds, times.read, workers(), times.infer, times.write,
    )  # fmt: skip
    return path


def find_photos(folders: tuple[str, ...], data: Path) -> dict[str, Path]:
    """Photo files by the names they have in the cache, sorted.

    `train` and `test` are folders below `data` and stay in the name; any other folder is taken
    as it is, and the name is the path below it.

    Raises:
        DataError: a folder is missing or holds no photo, or two photos have one name.
    """
    photos: dict[str, Path] = {}
    for folder in folders:
        if folder in (*TRAIN_FOLDERS, "test"):
            name = train_folder(data) if folder in TRAIN_FOLDERS else folder
            root, prefix = data / name, f"{name}/"
        else:
            root, prefix = Path(folder), ""
        found = list_photos(root, prefix)
        if not found:
            raise DataError(f"{root}: no JPEG or PNG below it; name a folder of photos")
        for name in found:
            if name in photos:
                raise DataError(f"{name}: both below {photos[name].parent} and {root}")
            photos[name] = root / name.removeprefix(prefix)
    return dict(sorted(photos.items()))


def _trunk(config: EmbedConfig, run: Path, progress: Progress) -> tuple[Backbone, Trunk]:
    model = run / "model.pt"
    if config.backbone is None and config.weights == "auto":
        network = load_model(model)
        return network.backbone, network.trunk.eval()
    if config.backbone is None:
        raise DataError("--weights is of a backbone: name it with --backbone")
    backbone = find_backbone(config.backbone)
    return backbone, load_trunk(backbone, config.weights, progress).eval()


def _batches(photos: dict[str, Path], config: EmbedConfig, framing: Framing) -> Iterator[Batch]:
    """Batches in order, decoded ahead by other threads, a few at a time."""
    items = list(photos.items())
    chunks = [
        items[start : start + config.batch_size]
        for start in range(0, len(items), config.batch_size)
    ]
    threads = workers()
    ahead: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk in chunks:
            ahead.append(pool.submit(_read, chunk, framing, config.skip_unreadable))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(items: list[tuple[str, Path]], framing: Framing, skip_unreadable: bool) -> Batch:
    began = time.perf_counter()
    batch = Batch()
    for name, path in items:
        try:
            content, pixels = read_photo(path, framing)
        except DataError:
            if not skip_unreadable:
                raise
            batch.skipped.append(name)
            continue
        batch.names.append(name)
        batch.digests.append(hashlib.sha256(content).digest())
        batch.pixels.append(pixels)
    batch.seconds = time.perf_counter() - began
    return batch


def _write(writer: CacheWriter, batch: Batch, rows: dict[str, Any], times: Times) -> None:
    began = time.perf_counter()
    writer.append(batch.names, batch.digests, rows)
    times.write += time.perf_counter() - began


def _check_finite(rows: dict[str, Any], names: list[str]) -> None:
    for view, vectors in rows.items():
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            raise DataError(
                f"{names[int(np.argmin(finite))]}: view {view} is not finite; the weights are "
                "broken, or --dtype float16 is too narrow for them"
            )
