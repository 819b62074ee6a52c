"""A trunk prepared for inference: photos in, views out."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kinembed.backbones import Backbone, PixelRecipe
from kinembed.backbones.device import channels_last
from kinembed.backbones.trunk import Trunk
from kinembed.config import Precision

FEW = 4  # photos whose feature maps stay in the caches of a processor


class Normalise(nn.Module):
    """uint8 RGB photos (N, side, side, 3) to float input (N, 3, side, side), channels last."""

    mean: Tensor
    scale: Tensor

    def __init__(self, pixels: PixelRecipe) -> None:
        super().__init__()
        self.flip = pixels.order == "bgr"
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(pixels.scale).view(3, 1, 1), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """Applies the pixel recipe."""
        return self.pixels(photos.permute(0, 3, 1, 2).float())

    def pixels(self, x: Tensor) -> Tensor:
        """Applies the pixel recipe to float RGB photos (N, 3, side, side), 0 to 255."""
        if self.flip:
            x = x.flip(1)
        return ((x - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)


class Embedder(nn.Module):
    """A trunk prepared for inference: BatchNorm folded into the convolutions, channels last.

    Args:
        backbone: the record of the trunk.
        trunk: the network, which stays unchanged.
        views: names of the wanted views.

    Attributes:
        names: names of its views.
        own_threads: False; a batch is fastest in one thread.
        at_once: how many photos of a batch go through together; None: all.
    """

    own_threads = False
    at_once: int | None = None

    def __init__(self, backbone: Backbone, trunk: Trunk, views: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(views)
        self.side = backbone.framing.side
        self.normalise = Normalise(backbone.pixels)
        self.folded = fuse(_Views(trunk, self.names).eval())
        channels_last(self.folded)

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to each view (N, D)."""
        parts = [photos] if self.at_once is None else torch.split(photos, self.at_once)
        views = zip(*(self.folded(self.normalise(part)) for part in parts), strict=True)
        return dict(zip(self.names, map(torch.cat, views), strict=True))

    def optimize(self, device: torch.device, precision: Precision) -> None:
        """For float32 on the CPU, fuses activations into convolutions, and takes few photos a pass.

        Between convolutions, the maps of a whole batch would go to memory and back.
        """
        if (device.type, precision) != ("cpu", "fp32"):
            return
        self.at_once = FEW
        example = torch.zeros(FEW, 3, self.side, self.side)
        example = example.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), warnings.catch_warnings():
            # TorchScript is deprecated, but its successor takes a minute to compile.
            warnings.simplefilter("ignore", DeprecationWarning)
            for parameter in self.folded.parameters():
                parameter.requires_grad_(False)
            frozen = torch.jit.freeze(_traced(self.folded, example).eval())
            self.folded = torch.jit.optimize_for_inference(frozen)


def _traced(network: nn.Module, example: Tensor) -> Any:
    return torch.jit.trace(network, example)  # type: ignore[no-untyped-call]


class _Views(nn.Module):
    """A trunk with its views fixed, as `fuse` wants it: one tensor in."""

    def __init__(self, trunk: Trunk, views: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = views

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk.views(x, self.names).values())
