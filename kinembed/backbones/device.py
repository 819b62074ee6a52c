"""Every rule about devices: which there are, in what they compute, how kernels lie in memory."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from kinembed.config import Precision
from kinembed.errors import KinembedError
from kinembed.threads import processors


def channels_last(network: nn.Module) -> None:
    """Lays out a network's kernels as convolutions run fastest, on CPUs and GPUs alike."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first there is of cuda, mps and cpu.

    Raises:
        KinembedError: it is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError:  # torch knows no such name
        device = None
    if device is None or not available.get(device.type, False):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise KinembedError(f"device {name!r} is not on this machine; there is {there}")
    return device


def choose_precision(name: Precision, device: torch.device) -> Precision:
    """`bf16` or `fp32`; `auto` takes bf16 where the device computes in it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        able = torch.cpu.get_capabilities()
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    else:
        native = False
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bf16 where `precision` says so; its range is that of float32, so nothing is rescaled."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device_if_fits(photos: Tensor, device: torch.device) -> Tensor:
    """The photos on the device where they take at most half of its free memory."""
    if device.type == "cuda" and photos.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return photos.to(device)
    return photos


def parallel_passes(device: torch.device) -> int:
    """Into how many parts a batch is best divided, a thread for each; 1 on anything but CPUs."""
    return processors() if device.type == "cpu" else 1


def fuses_keras_adam(device: torch.device) -> bool:
    """Whether Adam with Keras' epsilon takes torch's fused kernel; AdamW takes it everywhere."""
    return device.type == "cuda"


def could_not_compile(error: RuntimeError) -> bool:
    """Whether an error is torch.compile's: it lacks a compiler or knows no such device."""
    from torch._dynamo.exc import TorchDynamoException  # takes its time to import

    return isinstance(error, TorchDynamoException)
