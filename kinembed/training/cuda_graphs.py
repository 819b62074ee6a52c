"""Passes on an NVIDIA GPU that are recorded once, as a CUDA graph, and then started by one call.

A step of training is a thousand small kernels and more. Starting them one after the other takes
Python longer than the GPU takes to run them, so that without this a large GPU mostly waits.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from kinembed.backbones.device import is_out_of_memory
from kinembed.config import FinetuneConfig
from kinembed.training.ranks import Ranks

log = logging.getLogger(__name__)


def can_record(device: torch.device, config: FinetuneConfig, ranks: Ranks) -> bool:
    """Whether the passes of a training may be recorded.

    A graph writes its gradients into the same tensors each time, so nothing may add them up over
    several passes. What ranks tell each other is outside of it, but for a BatchNorm of all photos.
    """
    one_pass = config.accumulate == 1 and not config.save_memory
    talks = config.sync_batchnorm and not ranks.is_alone
    return device.type == "cuda" and one_pass and not talks


class InContext(nn.Module):
    """A network that computes in a context, as autocast, which it enters itself.

    Args:
        network: tensors to tensors.
        context: makes one.
    """

    def __init__(
        self, network: nn.Module, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__()
        self.network = network
        self.context = context

    def forward(self, *photos: Tensor) -> Any:
        """What the network makes of photos (N, …)."""
        with self.context():
            return self.network(*photos)


class RecordedPass:
    """A network whose passes forward and back are recorded when they first come.

    Photos of another shape, or other parameters that learn, are recorded again. Where a network
    cannot be recorded, its passes run as without.

    Args:
        network: tensors to tensors; where it computes under autocast, it enters that itself.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.recorded: Any = None
        self.key: tuple[Any, ...] | None = None

    def __call__(self, *photos: Tensor) -> Any:
        """What the network makes of photos (N, …); overwritten by the next call."""
        shapes = tuple((each.shape, each.dtype) for each in photos)
        learns = tuple(p.requires_grad for p in self.network.parameters())
        key = (shapes, learns)
        if key != self.key:
            self.recorded = None  # its memory is given back before the next takes some
            self.recorded = _record(self.network, photos)
            self.key = key
        return self.recorded(*photos)


class _Passes(nn.Module):
    """A network under another name: recording replaces the method `forward` of what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *photos: Tensor) -> Any:
        return self.network(*photos)


def _record(network: nn.Module, photos: tuple[Tensor, ...]) -> Any:
    """The network as a graph, its buffers and the random numbers as they were before.

    To be recorded, a network first runs a few times, in which BatchNorm counts and dropout draws.
    """
    buffers = [(each, each.clone()) for each in network.buffers()]
    passes = _Passes(network)
    # torch warns that gradients come in the stream in which the pass was recorded.
    quiet = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if quiet is not None:
        quiet(False)
    devices = [each.device for each in photos if each.is_cuda]
    with torch.random.fork_rng(devices):
        try:
            recorded = torch.cuda.make_graphed_callables(
                passes, photos, allow_unused_input=True
            )  # layers behind the compared view have no gradient
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            log.info(
                "no CUDA graph of the network, so its passes run one kernel by one: %s", reason
            )
            recorded = cast(Any, network)
        finally:
            with torch.no_grad():
                for each, before in buffers:
                    each.copy_(before)
    return recorded
