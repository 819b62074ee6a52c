"""The stage `embed`: every photo's vectors into the embedding cache."""

import hashlib
import json
import logging
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from kinembed import __version__
from kinembed.arrays import Vectors
from kinembed.backbones import Backbone, Framing, check_views, find_backbone
from kinembed.backbones.device import autocast, choose_device, choose_precision
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.weights import digest, load_trunk
from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.schema import FLIP, base_views, decisive, with_flips
from kinembed.cache.shards import Part, Parts, Photo, join, locked, photos_of
from kinembed.cache.verify import unsound_rows
from kinembed.config import EmbedConfig
from kinembed.data.families import TRAIN_FOLDERS, list_photos, train_folder
from kinembed.data.photos import Pixels, decode_photo, read_file
from kinembed.errors import DataError, RunError
from kinembed.io import write_bytes
from kinembed.progress import Progress, silent
from kinembed.recipes import ContrastiveRecipe
from kinembed.threads import processors
from kinembed.training.siamese import load_model

log = logging.getLogger(__name__)

PART_PHOTOS = 1024  # that an interruption may cost


@dataclass
class Times:
    """Seconds in each part of the pipeline, summed over its threads; the parts overlap."""

    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0


@dataclass
class Batch:
    """Photos that were read: those to be computed, and those of which another row has the bytes.

    Attributes:
        seconds: that reading took.
    """

    photos: list[Photo] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    same: list[Photo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.photos) + len(self.same) + len(self.skipped)

    def leave_out(self, seen: set[bytes]) -> None:
        """Moves photos whose bytes have been seen to `same`; those of the others are seen now."""
        photos, pixels = self.photos, self.pixels
        self.photos, self.pixels = [], []
        for photo, image in zip(photos, pixels, strict=True):
            if photo.digest in seen:
                self.same.append(photo)
            else:
                seen.add(photo.digest)
                self.photos.append(photo)
                self.pixels.append(image)


@dataclass
class Network:
    """What embeds.

    Attributes:
        backbone: the record of the network.
        digest: of its weights.
        views: those wanted of it.
        embedder: uint8 RGB photos (N, side, side, 3) to each of its views (N, D).
        split: whom it was not trained on; None where it was not fine-tuned.
        contrasted: the view that it learnt by contrast, to be compared by its cosine.
        one_by_one: it has threads of its own, or a device, and computes a batch at a time.
    """

    backbone: Backbone
    digest: str
    views: tuple[str, ...]
    embedder: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    split: dict[str, Any] | None
    one_by_one: bool
    contrasted: str | None = None


def embed(config: EmbedConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Embeds photos with the run's fine-tuned network, or a backbone's own weights.

    With `config.flip` each photo goes through the network mirrored left-right as well, and each
    view VIEW has a second one beside it, `VIEW-flip`.

    Rows of an earlier cache of the same settings are kept where the photo's bytes are the same,
    and finished parts of an interrupted embedding are gone on from. The same bytes under two names
    are computed once.

    Args:
        config: what to embed, and how.
        data: the data folder; photo folders of `config` are looked for in it first.
        run: the run folder; `embeddings.h5` in it is replaced when all is done.
        progress: shows how far it is.

    Returns:
        The path of the cache.

    Raises:
        KinembedError: photos, weights, views or device are not as they have to be; another
            process embeds into the run folder; or an interrupted embedding had other settings.
    """
    start = time.perf_counter()
    photos = find_photos(config.photos, data)
    device = choose_device(config.device)
    network = _network(config, run, device, progress)
    views = with_flips(network.views) if config.flip else network.views
    precision = choose_precision(config.precision, device) if config.onnx is None else "fp32"
    if (device.type, precision) == ("cpu", "fp32") and isinstance(network.embedder, Embedder):
        network.embedder.merge_activations()
    provenance = {
        "schema": SCHEMA,
        "backbone": network.backbone.name,
        "model": network.digest,
        "photos": network.backbone.recipe(),
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
        "command": {
            "photos": list(config.photos),
            "backbone": config.backbone,
            "weights": config.weights,
            **({"onnx": str(config.onnx)} if config.onnx else {}),
        },
        **({"split": network.split} if network.split else {}),
        **({"contrasted": network.contrasted} if network.contrasted else {}),
    }
    times = Times()
    path, folder = run / "embeddings.h5", run / "embed.partial"
    with locked(folder), ExitStack() as stack:
        _check_settings(folder, config, network.views, provenance)
        old = _earlier(path, views, provenance)
        if old is not None:
            stack.callback(old.close)
        known = _known(old)
        kept, todo = _plan(photos, known, config.rehash)
        share = config.batch_size * max(1, PART_PHOTOS // config.batch_size)
        shares = [todo[at : at + share] for at in range(0, len(todo), share)]
        parts = Parts(folder, provenance, shares)
        if parts.done:
            log.info("%s: %d of %d parts are done already", folder, len(parts.done), len(shares))
        known_bytes = {photo.digest for photo in known.values()}
        seen = known_bytes | {photo.digest for part in parts.done for photo in part.computed}
        rest = [photo for part in shares[len(parts.done) :] for photo in part]

        def compute(pixels: list[Pixels]) -> tuple[dict[str, Vectors], float]:
            began = time.perf_counter()
            found = {}
            with torch.inference_mode(), autocast(device, precision):
                batch = torch.from_numpy(np.stack(pixels)).to(device, non_blocking=True)
                found.update(network.embedder(batch))
                if config.flip:
                    flipped = network.embedder(batch.flip(2))
                    found.update({view + FLIP: x for view, x in flipped.items()})
            rows = {v: found[v].float().cpu().numpy().astype(config.dtype) for v in views}
            return rows, time.perf_counter() - began

        with ThreadPoolExecutor(1) as pen, progress("embedding", len(rest)) as bar:
            written: Future[None] | None = None
            part, held = Part(), 0
            for batch, vectors, seconds in _embedded(
                rest, photos, config, network, compute, known_bytes, seen
            ):
                times.read += batch.seconds
                times.infer += seconds
                bar.advance(len(batch))
                _add(part, batch, vectors)
                held += len(batch)
                if held in (share, len(rest)):
                    if written is not None:
                        written.result()
                    written = pen.submit(_write, parts, part, times)
                    part, held, rest = Part(), 0, rest[held:]
            if written is not None:
                written.result()
        began = time.perf_counter()
        rows = _rows(known, kept, parts.done)
        skipped = [name for part in parts.done for name in part.skipped]
        if old is not None and _is_as_before(old, views, known, rows):
            log.info("%s: is as it has to be already", path)
        else:
            with parts.open() as caches:
                join(path, provenance, views, rows, [old, *caches])
        shutil.rmtree(folder, ignore_errors=True)
        times.write += time.perf_counter() - began
    seconds = time.perf_counter() - start
    computed = sum(len(part.computed) for part in parts.done)
    unchanged = sum(
        name in known and known[name].digest == photo.digest for name, (photo, *_) in rows.items()
    )
    for name in skipped:
        log.warning("left out: %s", name)
    log.info(
        "%s: %s photos (%s left out), views %s, %s on %s; %s computed, %s kept, %s of the same "
        "bytes as another, %s gone; %.1f s, %.0f photos/s (read %.1f s in %d threads, infer %.1f "
        "s in %d, write %.1f s, side by side)",
        path, f"{len(rows):,}", len(skipped), ",".join(views), precision, device.type,
        f"{computed:,}", f"{unchanged:,}", f"{len(rows) - computed - unchanged:,}",
        f"{len(known.keys() - rows.keys()):,}",
        seconds, len(rows) / seconds, times.read, processors(), times.infer,
        1 if network.one_by_one else processors(), times.write,
    )  # fmt: skip
    return path


def repair(run: Path, data: Path, *, progress: Progress = silent) -> Path:
    """Computes the damaged rows of a run's cache anew, as it was made.

    All is computed where only some of its views have one of mirrored photos beside them, as after
    a merge; then all of them get one.

    Args:
        run: the run folder.
        data: the data folder.
        progress: shows how far it is.

    Raises:
        KinembedError: the cache does not say how it was made, or the photos or the model that it
            was made of are not there any more.
    """
    path = run / "embeddings.h5"
    with EmbeddingCache.open(path) as cache:
        about, views = cache.provenance, cache.views
    try:
        config = EmbedConfig(
            photos=tuple(about["command"]["photos"]),
            views=base_views(views),
            flip=any(view.endswith(FLIP) for view in views),
            backbone=about["command"]["backbone"],
            weights=about["command"]["weights"],
            **_onnx_settings(about),
            device=about["device"],
            precision=about["precision"],
            dtype=about["dtype"],
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: was not made by kinembed embed ({error} is not told)") from None
    if _network(config, run, choose_device("cpu"), progress).digest != about["model"]:
        raise RunError(
            f"{path}: was made by another model than is there now; run kinembed embed, which "
            "computes all of it"
        )
    return embed(config, data, run, progress=progress)


def _onnx_settings(about: dict[str, Any]) -> dict[str, Any]:
    if "onnx" not in about["command"]:
        return {}
    pixels = about["photos"]["pixels"]
    return {
        "onnx": Path(about["command"]["onnx"]),
        "side": about["photos"]["framing"]["side"],
        "mean": tuple(pixels["mean"]),
        "scale": tuple(pixels["scale"]),
        "order": pixels["order"],
    }


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


def _network(config: EmbedConfig, run: Path, device: torch.device, progress: Progress) -> Network:
    split = contrasted = None
    if config.onnx is not None:
        if config.backbone is not None or config.weights != "auto":
            raise DataError("--onnx names the whole network; leave out --backbone and --weights")
        from kinembed.backbones.onnx import OnnxEmbedder  # onnxruntime is an extra

        onnx = OnnxEmbedder(
            config.onnx, config.side, config.mean, config.scale, config.order, device
        )
        views = _views(config, onnx.backbone)
        return Network(onnx.backbone, onnx.digest, views, onnx, split, one_by_one=True)
    if config.backbone is None and config.weights == "auto":
        model = load_model(run / "model.pt")
        backbone, trunk, split = model.backbone, model.trunk.eval(), model.split
        contrasted = model.view if isinstance(model.recipe, ContrastiveRecipe) else None
    elif config.backbone is None:
        raise DataError("--weights is of a backbone: name it with --backbone")
    else:
        backbone = find_backbone(config.backbone)
        trunk = load_trunk(backbone, config.weights, progress).eval()
    views = _views(config, backbone)
    embedder = Embedder(backbone, trunk, views).to(device)
    one_by_one = device.type != "cpu"
    return Network(backbone, digest(trunk), views, embedder, split, one_by_one, contrasted)


def _views(config: EmbedConfig, backbone: Backbone) -> tuple[str, ...]:
    """The views wanted of a network."""
    if config.views is None:
        return tuple(view for view in ("max", "native") if view in backbone.views)
    check_views(backbone, config.views)
    return config.views


def _check_settings(
    folder: Path, config: EmbedConfig, views: tuple[str, ...], provenance: dict[str, Any]
) -> None:
    """Goes on from parts of the same settings only.

    Raises:
        RunError: there are parts of other settings; says which differ.
    """
    path = folder / "settings.json"
    settings = decisive(provenance) | {
        "views": list(views),
        "flip": config.flip,
        "batch_size": config.batch_size,
        "skip_unreadable": config.skip_unreadable,
    }
    if path.is_file() and not config.restart:
        try:
            before = json.loads(path.read_bytes())
            different = [key for key in settings if before.get(key) != settings[key]]
        except (ValueError, AttributeError):
            different = ["settings.json"]
        if different:
            raise RunError(
                f"{folder}: holds parts of an interrupted embedding with another "
                f"{', '.join(different)}; go on with that, or forget it with --restart"
            )
    elif any(folder.glob("*.json")):
        for stale in [*folder.glob("*.json"), *folder.glob("*.h5")]:
            stale.unlink()
    write_bytes(path, json.dumps(settings).encode())


def _earlier(
    path: Path, views: tuple[str, ...], provenance: dict[str, Any]
) -> EmbeddingCache | None:
    """The run's cache, if rows of it can be kept."""
    if not path.exists():
        return None
    try:
        cache = EmbeddingCache.open(path)
    except RunError as error:
        log.info("%s; all photos are embedded anew", error)
        return None
    same = decisive(cache.provenance) == decisive(provenance)
    if same and set(views) <= set(cache.views):
        return cache
    cache.close()
    return None


def _known(old: EmbeddingCache | None) -> dict[str, Photo]:
    """The photos of an earlier cache by name, in its order, without damaged rows."""
    if old is None:
        return {}
    try:
        photos = photos_of(old)
    except RunError as error:
        log.info("%s; all photos are embedded anew", error)
        return {}
    damaged = unsound_rows(old).tolist()
    if damaged:
        log.info("%s: %s damaged rows are computed anew", old.path, f"{len(damaged):,}")
    for row in damaged:
        photos[row] = Photo(photos[row].name, b"", -1, -1)
    return {photo.name: photo for photo in photos}


def _plan(
    photos: dict[str, Path], known: dict[str, Photo], rehash: bool
) -> tuple[list[Photo], list[Photo]]:
    """Photos whose row is kept without a look at them, and those to be read, sorted by name."""
    kept, todo = [], []
    for name, path in photos.items():
        try:
            stat = path.stat()
            size, mtime = stat.st_size, stat.st_mtime_ns
        except OSError:  # to be named when it is read
            size, mtime = -1, -1
        before = known.get(name)
        same = before is not None and before.digest and (before.size, before.mtime) == (size, mtime)
        if before is not None and same and not rehash:
            kept.append(before)
        else:
            todo.append(Photo(name, b"", size, mtime))
    return kept, todo


def _add(part: Part, batch: Batch, views: dict[str, Vectors]) -> None:
    """Adds the photos of a batch and their vectors to a part."""
    _check_finite(views, [photo.name for photo in batch.photos])
    part.same += batch.same
    part.skipped += batch.skipped
    part.computed += batch.photos
    for view, vectors in views.items():
        part.views.setdefault(view, []).append(vectors)


def _rows(
    known: dict[str, Photo], kept: list[Photo], parts: list[Part]
) -> dict[str, tuple[Photo, int, int]]:
    """Every photo by name, with the number of the cache and the row in which its vectors lie."""
    old = {name: row for row, name in enumerate(known)}
    places = {photo.digest: (0, old[name]) for name, photo in known.items() if photo.digest}
    rows = {photo.name: (photo, 0, old[photo.name]) for photo in kept}
    for number, part in enumerate(parts, start=1):
        for row, photo in enumerate(part.computed):
            places[photo.digest] = (number, row)
            rows[photo.name] = (photo, number, row)
    for part in parts:
        rows |= {photo.name: (photo, *places[photo.digest]) for photo in part.same}
    return rows


def _is_as_before(
    old: EmbeddingCache,
    views: tuple[str, ...],
    known: dict[str, Photo],
    rows: dict[str, tuple[Photo, int, int]],
) -> bool:
    """Whether the earlier cache holds these photos already, and nothing else."""
    photos = {name: photo for name, (photo, *_) in rows.items()}
    return photos == known and set(old.views) == set(views)


def _embedded(
    todo: list[Photo],
    photos: dict[str, Path],
    config: EmbedConfig,
    network: Network,
    compute: Callable[[list[Pixels]], tuple[dict[str, Vectors], float]],
    known: set[bytes],
    seen: set[bytes],
) -> Iterator[tuple[Batch, dict[str, Vectors], float]]:
    """Batches in order, their vectors, and the seconds that these took.

    On the CPU the threads that decode compute as well, each a batch on a processor of its own:
    torch's own threads would wait for each other after each layer. What is in a batch, and hence
    its vectors, does not depend on how many threads there are.
    """
    size, threads = config.batch_size, processors()
    framing, skip = network.backbone.framing, config.skip_unreadable
    chunks = iter([todo[start : start + size] for start in range(0, len(todo), size)])
    read: deque[Future[Batch]] = deque()
    computed: deque[tuple[Batch, Future[tuple[dict[str, Vectors], float]] | None]] = deque()
    before = torch.get_num_threads()
    with ExitStack() as stack:
        if network.one_by_one:
            pool = ThreadPoolExecutor(threads)
            computer = ThreadPoolExecutor(1)
            stack.callback(computer.shutdown, cancel_futures=True)
        else:
            # Each thread sets its own number, and that which threads begun later have.
            pool = computer = ThreadPoolExecutor(threads, "", torch.set_num_threads, (1,))
            stack.callback(torch.set_num_threads, before)
        stack.callback(pool.shutdown, cancel_futures=True)
        while True:
            for chunk in islice(chunks, 2 * threads + 1 - len(read)):
                read.append(pool.submit(_read, chunk, photos, framing, known, skip))
            if read and len(computed) <= threads:
                batch = read.popleft().result()
                batch.leave_out(seen)
                future = computer.submit(compute, batch.pixels) if batch.photos else None
                computed.append((batch, future))
                continue
            if not computed:
                return
            batch, future = computed.popleft()
            vectors, seconds = future.result() if future is not None else ({}, 0.0)
            batch.pixels = []
            yield batch, vectors, seconds


def _read(
    chunk: list[Photo],
    photos: dict[str, Path],
    framing: Framing,
    known: set[bytes],
    skip_unreadable: bool,
) -> Batch:
    began = time.perf_counter()
    batch = Batch()
    for photo in chunk:
        path = photos[photo.name]
        try:
            content = read_file(path)
            read = replace(photo, digest=hashlib.sha256(content).digest())
            if read.digest in known:  # nothing of it needs to be computed
                batch.same.append(read)
                continue
            pixels = decode_photo(content, framing, str(path))
        except DataError:
            if not skip_unreadable:
                raise
            batch.skipped.append(photo.name)
            continue
        batch.photos.append(read)
        batch.pixels.append(pixels)
    batch.seconds = time.perf_counter() - began
    return batch


def _write(parts: Parts, part: Part, times: Times) -> None:
    began = time.perf_counter()
    parts.add(part)
    times.write += time.perf_counter() - began


def _check_finite(rows: dict[str, Any], names: list[str]) -> None:
    for view, vectors in rows.items():
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            raise DataError(
                f"{names[int(np.argmin(finite))]}: view {view} is not finite; the weights are "
                "broken, or --dtype float16 is too narrow for them"
            )
