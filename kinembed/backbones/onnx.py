"""Any face network from an ONNX file, run by onnxruntime."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinembed.backbones import BACKBONES, Backbone, Framing, PixelRecipe, Triple
from kinembed.backbones.embedder import Normalise
from kinembed.backbones.framing import framed_by_side
from kinembed.backbones.published_weights import (
    check_copy,
    find_source,
    find_weights,
    kept_if_writable,
    record_sha256,
)
from kinembed.checked import Bounds, Values, read_json
from kinembed.config import Precision
from kinembed.errors import KinembedError, WeightsError, unknown_name
from kinembed.file_kinds import describe_file
from kinembed.limits import limited_memory
from kinembed.progress import Progress, silent
from kinembed.views import TTA

log = logging.getLogger(__name__)

Array = NDArray[Any]

# Types of an input, which pixels are cast to.
INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
METADATA = "kinembed"  # of a file that `kinembed export` wrote: what its network is
INPUT = "photos"
SPARE = 1 << 30  # bytes that opening may take beyond four times the file
USUAL_SIDE = 112  # where neither the file nor the caller says it
USUAL_MEAN, USUAL_SCALE = (127.5, 127.5, 127.5), (128.0, 128.0, 128.0)
NO_MEAN, NO_SCALE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class OnnxEmbedder:
    """Embeds photos with an ONNX file: one input of photos, an output of vectors, view `native`.

    A file of `kinembed export` says which network it is, and has an output for each view.

    When it is opened, it runs on two photos. A network that fails on both together, or then gives
    other vectors, gets one photo at a time.

    Args:
        path: the file.
        side: of its square input, in pixels; None: the file's own, or 112 if that is free.
        mean: subtracted from each pixel value, per channel in the network's order; None: 127.5, or
            0 if the input is of bytes.
        scale: divisor of the difference, per channel; None: 128, or 1 if the input is of bytes.
        order: of the channels.
        device: cpu, or cuda if onnxruntime supports it.
        output: name of the output of vectors; None: the only one with a vector of each photo.

    Attributes:
        backbone: its record, like those of the built-in networks.
        digest: sha256 of the file; with several outputs, of that and the name of the one taken; of
            an exported network that network's own.
        names: its views: `native`, or those of an exported network.
        own_threads: True; onnxruntime splits a batch among its threads.

    Raises:
        KinembedError: onnxruntime is missing, or the file is not such a network.
    """

    own_threads = True

    def __init__(
        self,
        path: Path,
        side: int | None,
        mean: Triple | None,
        scale: Triple | None,
        order: Literal["rgb", "bgr"],
        device: torch.device,
        output: str | None = None,
    ) -> None:
        self.path = path
        self._session, self.digest = _open(path, device)
        self._read_input()
        side = self._choose_side(side)
        pixels = self._choose_pixels(order, mean, scale)
        self._normalise = Normalise(pixels)
        self.names: tuple[str, ...] = ("native",)
        if (exported := self._exported(side, output)) is not None:
            self.backbone, self.digest, self.names = exported
            self._outputs = self.names
            return
        name, width = self._choose_output(output, side)
        self._outputs = (name,)
        if len(self._session.get_outputs()) > 1:
            self.digest = hashlib.sha256(f"{self.digest} {name}".encode()).hexdigest()
        record = Backbone(
            name=path.stem,
            network="",
            parameters=0,
            framing=Framing(side, side),
            pixels=pixels,
            views={"native": width},
            sources={},
        )
        self.backbone = framed_by_side(record)

    def __call__(self, photos: Tensor) -> dict[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to each view (N, D)."""
        x = self._prepare(photos.cpu())
        size = self._batch or len(x)
        starts = range(0, len(x), size)
        try:
            parts = [self._run(x[start : start + size], self._outputs) for start in starts]
        except Exception as error:  # onnxruntime's exceptions have no common base
            if size == 1 or self._batch:
                raise WeightsError(f"{self.path}: fails on a photo ({_line(error)})") from None
            self._go_one_by_one(_line(error))
            return self(photos)
        return {
            view: torch.from_numpy(np.concatenate(each).astype(np.float32))
            for view, each in zip(self.names, zip(*parts, strict=True), strict=True)
        }

    def optimize(self, device: torch.device, precision: Precision) -> None:
        """Does nothing: onnxruntime optimises when it opens the file."""

    def _read_input(self) -> None:
        """Reads type and axes of the one input."""
        photos = self._session.get_inputs()
        if len(photos) != 1 or len(photos[0].shape) != 4:
            inputs = ", ".join(f"{one.name} {one.shape}" for one in photos)
            raise WeightsError(
                f"{self.path}: found inputs {inputs}; wanted one of photos, with four axes"
            )
        self._input = photos[0].name
        if photos[0].type not in INPUT_TYPES:
            raise WeightsError(
                f"{self.path}: its input is a {photos[0].type}; wanted {', '.join(INPUT_TYPES)}"
            )
        self._type = INPUT_TYPES[photos[0].type]
        # a number is fixed by the file; a name, or None, is free
        axes = [size if isinstance(size, int) and size > 0 else None for size in photos[0].shape]
        self._batch: int | None = axes[0]
        self._channels_last = axes[3] == 3 and axes[1] != 3
        channels = axes[3] if self._channels_last else axes[1]
        if channels not in (3, None):
            raise WeightsError(f"{self.path}: takes photos of {channels} channels, wanted 3")
        self._sides = axes[1:3] if self._channels_last else axes[2:4]

    def _choose_side(self, given: int | None) -> int:
        """The side of its input: the file's, if it says one."""
        fixed = sorted({side for side in self._sides if side is not None})
        if len(fixed) == 2:
            raise WeightsError(
                f"{self.path}: takes photos of {self._sides[0]} x {self._sides[1]} px; wanted a "
                "square"
            )
        if fixed and given not in (None, fixed[0]):
            raise WeightsError(
                f"--side {given}: {self.path} takes photos of {fixed[0]} x {fixed[0]} px; leave "
                "out --side"
            )
        return fixed[0] if fixed else given or USUAL_SIDE

    def _choose_pixels(
        self, order: Literal["rgb", "bgr"], mean: Triple | None, scale: Triple | None
    ) -> PixelRecipe:
        """The normalisation of its input; bytes stay as they are."""
        if self._type is np.uint8:
            for name, value, wanted in (("mean", mean, NO_MEAN), ("scale", scale, NO_SCALE)):
                if value not in (None, wanted):
                    raise WeightsError(
                        f"{self.path}: takes pixels as they are, 0 to 255; leave out --{name}"
                    )
            return PixelRecipe(order, NO_MEAN, NO_SCALE)
        pixels = PixelRecipe(order, mean or USUAL_MEAN, scale or USUAL_SCALE)
        if not all(pixels.scale):
            raise KinembedError("--scale: found 0, wanted a divisor of pixel values")
        return pixels

    def _choose_output(self, wanted: str | None, side: int) -> tuple[str, int]:
        """The output of vectors and their width, found by a run on two photos."""
        names = [one.name for one in self._session.get_outputs()]
        if wanted is not None and wanted not in names:
            raise unknown_name(f"{self.path}: output", wanted, names)
        # Noise: of a flat photo the vector may have no length, and hence no direction.
        noise = np.random.default_rng(0).integers(256, size=(2, side, side, 3), dtype=np.uint8)
        x = self._prepare(torch.from_numpy(noise))
        try:
            alone = [
                self._session.run(names, {self._input: self._filled(x[at : at + 1])})
                for at in range(len(x))
            ]
        except Exception as error:  # as above
            cause = f"does not take photos of {side} x {side} px ({_line(error)}); see --side"
            if None not in self._sides:
                cause = f"fails on a photo ({_line(error)})"
            raise WeightsError(f"{self.path}: {cause}") from None
        rows = self._batch or 1
        shapes = {
            name: f"{name} {getattr(result, 'shape', type(result).__name__)}"
            for name, result in zip(names, alone[0], strict=True)
        }
        found = [
            at
            for at, name in enumerate(names)
            if wanted in (None, name) and all(_is_vectors(one[at], rows) for one in alone)
        ]
        if len(found) != 1:
            cause = f"no output is a vector, (1, D), of a photo: {', '.join(shapes.values())}"
            if found:
                several = ", ".join(shapes[names[at]] for at in found)
                cause = f"found the outputs {several}; choose one with --output NAME"
            elif wanted is not None:
                cause = f"of a photo, output {shapes[wanted]} is no vector (1, D)"
            raise WeightsError(f"{self.path}: {cause}")
        name = names[found[0]]
        vectors = np.concatenate([one[found[0]].reshape(rows, -1)[:1] for one in alone])  # (2, D)
        if self._batch is None:
            self._try_together(x, name, vectors)
        if len(names) > 1:
            log.info("%s: takes its output %s", self.path, name)
        return name, vectors.shape[1]

    def _try_together(self, x: Array, output: str, alone: Array) -> None:
        """Goes one by one from now on, if two photos together do not give their vectors."""
        try:
            (together,) = self._run(x, (output,))
        except Exception as error:  # as above
            self._go_one_by_one(f"fails on several ({_line(error)})")
            return
        # float16 differs by less
        bound = 0.01 * float(np.abs(alone[np.isfinite(alone)]).max(initial=0.0))
        if not np.allclose(together, alone, 0.01, bound, equal_nan=True):
            self._go_one_by_one("several photos change each other's vectors")

    def _go_one_by_one(self, reason: str) -> None:
        self._batch = 1
        log.warning("%s: goes one photo at a time, which is slower: %s", self.path, reason)

    def _prepare(self, photos: Tensor) -> Array:
        """uint8 RGB photos (N, side, side, 3) to the network's input, in its type and layout."""
        x = self._normalise(photos)
        x = (x.permute(0, 2, 3, 1) if self._channels_last else x).contiguous()
        prepared: Array = x.numpy().astype(self._type, copy=False)
        return prepared

    def _filled(self, x: Array) -> Array:
        """Photos (n, …), the last one repeated up to the batch that the file fixes."""
        missing = (self._batch or len(x)) - len(x)
        return np.concatenate([x, *[x[-1:]] * missing]) if missing else x

    def _run(self, x: Array, outputs: Sequence[str]) -> list[Array]:
        """Photos of one batch to their vectors (n, D), by each output.

        Raises:
            ValueError: an output is something else.
        """
        filled = self._filled(x)
        vectors = []
        for result in self._session.run(list(outputs), {self._input: filled}):
            if not _is_vectors(result, len(filled)):
                raise ValueError(f"gives {getattr(result, 'shape', '')} for {len(filled)} photos")
            vectors.append(np.reshape(result, (len(filled), -1))[: len(x)])
        return vectors

    def _exported(
        self, side: int, output: str | None
    ) -> tuple[Backbone, str, tuple[str, ...]] | None:
        """Record, digest and views of a network that `kinembed export` wrote; None for others.

        Raises:
            KinembedError: what it says of itself is malformed, or an output was named.
        """
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            return None
        try:
            about = Values(read_json(text.encode()))
            model, name = about.text("model", 64), about.text("backbone")
            widths = about.object("views")
            views = {v: widths.whole(v, Bounds(least=2, most=1 << 20)) for v in widths.content}
            if not re.fullmatch("[0-9a-f]{64}", model) or not views:
                raise ValueError("model or views")
            framing = Framing.of_json(about.object("framing").content)
        except (TypeError, ValueError) as error:
            raise WeightsError(
                f"{self.path}: is of kinembed export, and what it says of itself is malformed "
                f"({error}); export it again"
            ) from None
        if output is not None:
            raise KinembedError(f"{self.path}: has an output for each view; leave out --output")
        names = {one.name for one in self._session.get_outputs()}
        if not names.issuperset(views) or framing.side != side:
            raise WeightsError(f"{self.path}: lacks its views {', '.join(views)}; export it again")
        plain = {view: width for view, width in views.items() if not view.endswith(TTA)}
        pixels = PixelRecipe("rgb", NO_MEAN, NO_SCALE)
        record = BACKBONES.get(name)
        if record is None or record.framing != framing:
            record = Backbone(name, "", 0, framing, pixels, plain, {})
        return replace(record, views=plain, pixels=pixels, sources={}), model, tuple(plain)


def open_published(
    backbone: Backbone,
    weights: str,
    device: torch.device,
    progress: Progress = silent,
    *,
    accept_licence: bool = False,
) -> OnnxEmbedder:
    """A backbone that is an ONNX file, from where that is published.

    Args:
        backbone: its record.
        weights: `auto`, the name of published weights, or the path of a copy of their file.
        device: cpu, or cuda if onnxruntime supports it.
        progress: shows a download.
        accept_licence: the user accepts the licence of what is downloaded.

    Raises:
        KinembedError: onnxruntime or the file is missing, or the file is another one.
    """
    source = find_source(backbone, weights)
    if source is None:
        check_copy(Path(weights), backbone)
        return run_file(backbone, Path(weights), device)
    path = find_weights(backbone, source, progress, accept_licence=accept_licence)
    try:
        network = run_file(backbone, path, device)
    except WeightsError as error:
        raise WeightsError(f"{error}; delete {path} to download it again") from None
    with kept_if_writable():
        record_sha256(path, source)
    return network


def run_file(backbone: Backbone, path: Path, device: torch.device) -> OnnxEmbedder:
    """The ONNX file of a backbone, with the pixels, frame and views of its record.

    Raises:
        KinembedError: onnxruntime is missing, or the file is of another network.
    """
    pixels, side = backbone.pixels, backbone.framing.side
    network = OnnxEmbedder(path, side, pixels.mean, pixels.scale, pixels.order, device)
    if network.backbone.views != backbone.views:
        found, wanted = (
            " ".join(f"{view}:{width}" for view, width in views.items())
            for views in (network.backbone.views, backbone.views)
        )
        raise WeightsError(f"{path}: not {backbone.name}: found views {found}, wanted {wanted}")
    network.backbone = backbone
    return network


def _is_vectors(result: object, rows: int) -> bool:
    """Whether an output is a vector of each photo: (rows, D), or with axes of 1 behind."""
    return (
        isinstance(result, np.ndarray)
        and result.dtype.kind == "f"
        and result.ndim >= 2
        and result.shape[0] == rows
        and result.shape[1] == result.size // rows >= 2
    )


def _open(path: Path, device: torch.device) -> tuple[Any, str]:
    """A session of onnxruntime, and the sha256 of the file.

    Raises:
        KinembedError: onnxruntime is missing, or does not load the file.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise KinembedError("--onnx needs onnxruntime; run pip install 'kinembed[onnx]'") from None
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; wanted an ONNX network")
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise KinembedError(f"device {device.type!r}: this onnxruntime has no {wanted}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    # No external weights: the digest would not cover them, and strangers could name any file.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    content = path.read_bytes()
    try:
        # Constants are computed as it opens, and a small file can ask for large ones. A GPU's
        # driver takes far more addresses than memory, so there nothing is limited.
        spare = 4 * len(content) + SPARE
        with limited_memory(spare) if device.type == "cpu" else nullcontext():
            session = onnxruntime.InferenceSession(
                content, options, providers=[wanted], enable_fallback=False
            )
    except Exception as error:  # onnxruntime's exceptions have no common base
        if "External data" in str(error):
            raise WeightsError(
                f"{path}: keeps weights in another file; wanted one file, as "
                "onnx.save(onnx.load(PATH), ONE_FILE) writes it"
            ) from None
        looks = describe_file(path)
        if looks and looks != "an ONNX network":
            raise WeightsError(f"{path}: is {looks}; wanted an ONNX network") from None
        if type(error).__name__ == "InvalidProtobuf":
            raise WeightsError(f"{path}: not a whole ONNX file ({_line(error)})") from None
        raise WeightsError(
            f"{path}: onnxruntime {onnxruntime.__version__} does not load it ({_line(error)})"
        ) from None
    return session, hashlib.sha256(content).hexdigest()


def _line(error: Exception) -> str:
    """What onnxruntime says of a failure, without the places in its own source."""
    from textwrap import shorten  # only errors need it

    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    node = re.search(r"while running (\w+) node", text)
    message = re.sub(r"^\S+:\d+ .*?\) (?=\w)", "", text.rpartition("Status Message: ")[2])
    return shorten(f"{node[1]}: {message}" if node else message, 200, placeholder=" …")
