"""All rules about devices: choice, precision, memory layout and threads."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kinembed.config import Precision
from kinembed.errors import KinembedError
from kinembed.threads import processors


def channels_last(network: nn.Module) -> None:
    """Sets the memory layout in which convolutions run fastest, on CPUs and GPUs."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first available of cuda, mps and cpu.

    From then on float32 is float32: torch would let convolutions on NVIDIA's GPUs compute in TF32,
    with 10 bits of mantissa in place of 23.

    Raises:
        KinembedError: it is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    try:
        device = torch.device(name)
    except RuntimeError:  # torch knows no such name
        device = None
    if device is None or not available.get(device.type, False):
        names = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise KinembedError(f"device {name!r} is not on this machine; there is {names}")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def choose_precision(name: Precision, device: torch.device) -> Precision:
    """`bf16` or `fp32`; `auto` is bf16 if the device supports it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        features = torch.cpu.get_capabilities()
        native = bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    else:
        native = False
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bf16 if `precision` says so; its range is float32's, so gradients need no scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device_if_fits(photos: Tensor, device: torch.device) -> Tensor:
    """Moves photos to the device if they take at most half of its free memory."""
    if device.type == "cuda" and photos.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return photos.to(device)
    return photos


def parallel_passes(device: torch.device) -> int:
    """How many threads should share a batch: one per processor on CPUs, else 1."""
    return processors() if device.type == "cpu" else 1


def fuses_keras_adam(device: torch.device) -> bool:
    """Whether Adam with Keras' epsilon uses torch's fused kernel; AdamW always does."""
    return device.type == "cuda"


def could_not_compile(error: RuntimeError) -> bool:
    """Whether an error is torch.compile's: no compiler, or an unsupported device."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    return isinstance(error, TorchDynamoException)


# What torch and its libraries say of memory that they do not get, in errors of no class of its own.
_NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch is that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def explained_memory(device: torch.device, work: str, advice: str) -> Iterator[None]:
    """Turns a lack of memory into one line.

    Args:
        device: of the computation.
        work: what was too much, as in `16 photos at a time`.
        advice: what needs less, as in `--batch-size 8`.

    Raises:
        KinembedError: the device has no memory left.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise KinembedError(
            f"device {device}: out of memory{_memory(device)}, no room for {work}; run it with "
            f"{advice}"
        ) from None


def _memory(device: torch.device) -> str:
    """How much memory a GPU has, and who holds it."""
    if device.type != "cuda":
        return ""
    try:
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
    except RuntimeError:  # the GPU is lost
        return ""
    others = max(0, total - free - own)
    return f" ({total / 1e9:.1f} GB, of which other programs hold {others / 1e9:.1f})"
