"""The base class of backbones: one feature map, and views of it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinembed.views import parts_of


class Trunk(nn.Module):
    """A face network without its classifier.

    A view is one kind of vector per photo. All views come from the same feature map, so one
    forward pass computes them all.
    """

    def feature_map(self, x: Tensor) -> Tensor:
        """Photos (N, 3, side, side) to the last feature map (N, C, H, W)."""
        raise NotImplementedError

    def native(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, C, H, W) to the network's own embedding (N, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no embedding of its own")

    def view(self, name: str, feature_map: Tensor) -> Tensor:
        """One view (N, D) of the feature map: `max`, `avg` or `native`."""
        if name == "max":
            return feature_map.amax((2, 3))
        if name == "avg":
            return feature_map.mean((2, 3))
        if name == "native":
            return self.native(feature_map)
        raise KeyError(name)

    def vectors(self, view: str, feature_map: Tensor) -> Tensor:
        """A view, or several joined by `+`, concatenated: (N, D)."""
        return torch.cat([self.view(part, feature_map) for part in parts_of(view)], 1)

    def views(self, x: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Photos (N, 3, side, side) to each named view (N, D), in one pass."""
        feature_map = self.feature_map(x)
        return {name: self.view(name, feature_map) for name in names}

    def stages(self) -> list[nn.Module]:
        """Its trainable stages, from input to output: blocks of layers, or single layers."""
        stages: list[nn.Module] = []
        for child in self.children():
            several = isinstance(child, nn.Sequential) and any(
                isinstance(layer, nn.Sequential) or list(layer.children()) for layer in child
            )
            stages += child.children() if several else [child]
        return [stage for stage in stages if list(stage.parameters())]

    def freeze(self, count: int) -> None:
        """Freezes the first `count` stages and their BatchNorm statistics."""
        for number, stage in enumerate(self.stages()):
            stage.requires_grad_(number >= count)
            if number < count:
                stage.eval()

    def save_memory(self) -> None:
        """Turns on gradient checkpointing: the backward pass recomputes activations in stages."""
        for stage in self.stages():
            _recompute(stage)


def _recompute(stage: nn.Module) -> None:
    forward = stage.forward

    def checkpointed(*inputs: Tensor) -> Any:
        if not (stage.training and torch.is_grad_enabled()):
            return forward(*inputs)
        return checkpoint(
            forward,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(stage)),
        )

    stage.forward = checkpointed


@contextmanager
def _frozen_statistics(stage: nn.Module) -> Iterator[None]:
    """Keeps the second forward pass from counting a batch twice in BatchNorm's statistics."""
    norms = [m for m in stage.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [(norm.momentum, cast(Tensor, norm.num_batches_tracked).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(batches)
