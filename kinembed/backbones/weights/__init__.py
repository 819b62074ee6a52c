"""Weights of backbones: reads, checks and loads their files, and computes their digest."""

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # the error alone
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kinembed.backbones import TRAINED, Backbone
from kinembed.backbones.published_weights import (
    converted_path,
    find_source,
    find_weights,
    kept_if_writable,
    no_such_file,
    record_sha256,
)
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights.dlib_dat import read_dlib_state
from kinembed.backbones.weights.foreign_names import adapt, resemblance
from kinembed.backbones.weights.keras_h5 import read_keras_state
from kinembed.backbones.weights.sface_onnx import read_sface_state
from kinembed.errors import WeightsError
from kinembed.file_kinds import describe_file
from kinembed.io import write_bytes
from kinembed.limits import limited_memory
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

State = dict[str, Tensor]

SPARE = 256 << 20  # bytes that reading may take beyond twice the file
MOST_NESTED = 50
MOST_EMPTY = 1_000_000  # numbers of a tensor that is not stored as such

# Files of other programs, which only the networks made for them can read.
FOREIGN = {".dat": read_dlib_state, ".h5": read_keras_state, ".onnx": read_sface_state}


def load_trunk(
    backbone: Backbone, weights: str, progress: Progress = silent, *, accept_licence: bool = False
) -> Trunk:
    """A backbone's network with its weights loaded strictly, on the CPU.

    Args:
        backbone: which.
        weights: `auto` (the first of its published weights), the name of published weights,
            `none` (random), or the path of a file.
        progress: shows how far a download is.
        accept_licence: the user accepts the licence of what is downloaded.

    Raises:
        KinembedError: the weights cannot be had or belong to another network.
    """
    trunk = backbone.build()
    if weights == "none":
        return trunk
    source = find_source(backbone, weights)
    if source is None:
        fill(trunk, backbone, Path(weights))
        return trunk
    path = find_weights(backbone, source, progress, accept_licence=accept_licence)
    try:
        fill(trunk, backbone, path)
    except WeightsError as error:
        if not source.url:
            raise
        raise WeightsError(f"{error}; delete {path} to download it again") from None
    converted = converted_path(source)
    with kept_if_writable():
        if converted is not None and converted != path:
            write_safetensors(trunk, backbone, converted, public=True)
            record_sha256(converted, source, is_new=True)
        else:
            record_sha256(path, source)
    return trunk


def fill(trunk: Trunk, backbone: Backbone, path: Path) -> None:
    """Loads a file's weights into a backbone's network, strictly.

    Raises:
        WeightsError: the file cannot be read or is of another network.
    """
    content = read_content(trunk, backbone, path)
    try:
        state, said = adapt(content, parameters(trunk), backbone.ignored)
    except ValueError as error:
        raise WeightsError(f"{path}: {str(error)[:300]}") from None
    if not state:
        raise WeightsError(f"{path}: holds more than tensors, wanted a PyTorch state dict")
    state = {
        name: tensor
        for name, tensor in state.items()
        if name not in backbone.ignored and not name.endswith("num_batches_tracked")
    }
    try:
        check_state(trunk, state, path, backbone.name)
    except WeightsError as error:
        like = resemblance(content)
        raise WeightsError(f"{error}; {like}" if like else str(error)) from None
    trunk.load_state_dict(state, strict=False)
    if said:
        log.info("%s: weights read %s", path, "; ".join(said)[:300])


def read_content(trunk: Trunk, backbone: Backbone, path: Path) -> dict[str, Any]:
    """The tensors of a weight file by name, and what else is in it; nothing in it is run.

    Args:
        trunk: the network of `backbone`; tells the files of other programs what to read.
        backbone: which.
        path: a `.pt`, `.pth`, `.pth.tar` or `.ckpt` of PyTorch, a `.safetensors`, or a file as it
            was published.

    Raises:
        WeightsError: the file is missing, damaged, or of no kind that the network can have.
    """
    kind = path.suffix.lower()
    published = {Path(source.file_name).suffix for source in backbone.sources.values()}
    known = sorted({".pt", ".pth", ".safetensors"} | published)
    if kind not in {*known, ".tar", ".ckpt"}:
        looks = describe_file(path)
        raise WeightsError(
            f"{path}: weights of {backbone.name} are read from {', '.join(known)} files, or a "
            f".pth.tar or .ckpt{f'; it is {looks}' if looks else ''}"
        )
    if not path.is_file():
        raise no_such_file(path, backbone)
    if kind in FOREIGN:
        try:
            return FOREIGN[kind](path, trunk)
        except WeightsError as error:
            _refuse_other_kind(path, kind)
            raise WeightsError(f"{error} (as weights of {backbone.name})") from None
    if kind == ".safetensors":
        return {**read_safetensors(path)}
    content = read_checkpoint(path)
    if "kinembed" in content and "trunk" in content:
        raise WeightsError(
            f"{path}: is a whole network of kinembed finetune, wanted weights of {backbone.name}; "
            f"embed with it by --model {path}"
        )
    return content


def read_safetensors(path: Path) -> State:
    """The tensors of a safetensors file.

    Raises:
        WeightsError: the file is something else, or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        _refuse_other_kind(path, ".safetensors")
        raise WeightsError(f"{path}: not a whole safetensors file ({_line(error)})") from None


def read_backbone_name(path: Path) -> str | None:
    """The backbone that `write_safetensors` noted in a file; None where there is no note."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            name: str | None = (file.metadata() or {}).get("backbone")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({_line(error)})") from None
    return name


def write_safetensors(
    trunk: Trunk, backbone: Backbone, path: Path, *, public: bool = False
) -> Path:
    """Writes a network's weights, and its name, as a safetensors file, all or nothing.

    Args:
        trunk: the network.
        backbone: its record.
        path: the file.
        public: they are published: the umask decides who may read them.
    """
    state = {name: tensor.contiguous() for name, tensor in parameters(trunk).items()}
    # one note only: safetensors writes several in random order, with a new sha256 each time
    content = safetensors.torch.save(state, {"backbone": backbone.name})
    return write_bytes(path, content, public=public)


def read_checkpoint(path: Path, *, is_own: bool = False) -> dict[str, Any]:
    """What `torch.save` wrote of a dict, opened without running anything in it.

    Args:
        path: the file.
        is_own: kinembed wrote it, so that its checksums are right; they are verified.

    Raises:
        WeightsError: the file is something else.
    """
    try:
        size = path.stat().st_size
        _check_archive(path, size, is_own)
        with warnings.catch_warnings(), limited_memory(2 * size + SPARE):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_unstored(content, 0, set())
    except UnpicklingError as error:
        _refuse_other_kind(path, ".pt")
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"{path}: not a PyTorch file of tensors: it holds code, which is not run "
                f"({code[1][:100]}); of a network saved whole, its maker can save the state_dict()"
            ) from None
        raise WeightsError(
            f"{path}: not a PyTorch file of tensors (damaged, or it holds code, which is not run)"
        ) from None
    except Exception as error:  # a damaged file raises whatever it makes the reader trip over
        _refuse_other_kind(path, ".pt")
        raise WeightsError(f"{path}: not a PyTorch file of tensors ({_line(error)})") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, wanted a dict of tensors")
    return dict(content)


def _check_archive(path: Path, size: int, is_own: bool) -> None:
    """Refuses a zip file whose members take more than the file: torch.save does not compress.

    Of kinembed's own files it verifies the checksums, which torch.load does not.
    """
    if not zipfile.is_zipfile(path):
        if is_own:
            raise ValueError("it is no zip file, or was cut short")
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise ValueError("it is compressed; torch.save writes its tensors as they are")
        if is_own and archive.testzip() is not None:
            raise ValueError("it is damaged")


def _refuse_unstored(value: object, depth: int, seen: set[int]) -> None:
    """Refuses tensors of more numbers than the file holds: a small one can claim any shape.

    `seen` holds what was looked at: a file may name one dict any number of times.
    """
    if depth > MOST_NESTED:
        raise ValueError("its values are nested too deeply")
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.layout == torch.strided and value.device.type != "meta":
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"a tensor of shape {tuple(value.shape)} is more than it stores")
        elif value.numel() > MOST_EMPTY:
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is sparse or empty")
    elif isinstance(value, Mapping):
        for each in value.values():
            _refuse_unstored(each, depth + 1, seen)
    elif isinstance(value, list | tuple | set):
        for each in value:
            _refuse_unstored(each, depth + 1, seen)


def check_state(trunk: Trunk, state: State, path: Path, network: str) -> None:
    """Checks that a state dict fills a network exactly.

    Raises:
        WeightsError: naming the first difference.
    """
    wanted = parameters(trunk)
    for name, tensor in wanted.items():
        if name not in state:
            problem = f"lacks {name}"
        elif (form := _form(state[name])) != _form(tensor):
            problem = f"{name} is {form}, wanted {_form(tensor)}"
        elif not state[name].isfinite().all():
            problem = f"{name} holds NaN or infinity"
        else:
            continue
        break
    else:
        extra = next((name for name in state if name not in wanted), None)
        if extra is None:
            return
        problem = f"holds {extra}, which the network does not have"
    raise WeightsError(
        f"{path}: not weights of {network}: {problem[:300]}; choose the --backbone it is of"
    )


# What a file of each suffix may be; anything else that it looks like is its problem.
OWN_KINDS = {
    ".pt": ("a PyTorch file", "a PyTorch file of before 1.6", "a pickle", "a damaged ZIP archive"),
    ".safetensors": ("a safetensors file",),
    ".dat": ("a file of dlib",),
    ".h5": ("an HDF5 file",),
    ".onnx": ("an ONNX network",),
}


def _refuse_other_kind(path: Path, suffix: str) -> None:
    """Says what a file is that could not be read as what its suffix says.

    Raises:
        WeightsError: it is something else.
    """
    looks = describe_file(path)
    if looks and looks not in OWN_KINDS[suffix]:
        raise WeightsError(f"{path}: is {looks}; wanted {OWN_KINDS[suffix][0]}")


def _form(tensor: Tensor) -> str:
    """Type, shape and layout, which a tensor must share with another to be copied into it."""
    plain = tensor.layout == torch.strided and tensor.device.type != "meta"
    kind = "" if plain else "sparse or empty "
    return f"{kind}{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _line(error: Exception) -> str:
    """The first line of an error, cut to a length that fits into another one."""
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def parameters(trunk: torch.nn.Module) -> State:
    """A network's parameters and statistics by name, without BatchNorm's step counters."""
    state: State = trunk.state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def digest(trunk: torch.nn.Module) -> str:
    """The sha256 over names, types, shapes and values of all parameters, as hexadecimal digits.

    The digest is of the tensors, so the same weights in another kind of file have the same one.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(parameters(trunk).items()):
        value = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.numpy().tobytes())
    return sha.hexdigest()


def model_digest(backbone: Backbone, trunk: torch.nn.Module) -> str:
    """The digest that names what makes vectors: of the weights, and of pixels not their own."""
    weights = digest(trunk)
    if backbone.pixels_name == TRAINED:
        return weights
    return hashlib.sha256(f"{weights} {backbone.pixels}".encode()).hexdigest()
