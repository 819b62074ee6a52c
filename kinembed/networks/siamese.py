"""The siamese network: two towers of one trunk, and a head. Its file, and how it runs."""

import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kinembed.config import KinRecipe, Precision, Recipe
from kinembed.errors import KinembedError, RunError, WeightsError
from kinembed.files import write_bytes
from kinembed.heads.network import CosineHead, KinHead
from kinembed.networks import Backbone, PixelRecipe, find_backbone
from kinembed.networks.trunk import Trunk
from kinembed.networks.weights import read_checkpoint

SCHEMA = 2


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
        """The same of float RGB photos (N, 3, side, side), 0 to 255."""
        if self.flip:
            x = x.flip(1)
        return ((x - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)


class SiameseNetwork(nn.Module):
    """Two photos to one logit.

    The towers go through the trunk one after the other, as in Keras: in training, BatchNorm sees
    one tower's photos at a time, and its running statistics take a step for each.

    Args:
        backbone: the record of the trunk.
        trunk: the network of the towers.
        view: which of its views is compared.
        recipe: the head.

    Attributes:
        split: whom it was not trained on, as `families.describe_split` says it; None before.
    """

    split: dict[str, Any] | None = None

    def __init__(
        self, backbone: Backbone, trunk: Trunk, view: str, recipe: Recipe | KinRecipe
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.view = view
        self.recipe = recipe
        self.normalise = Normalise(backbone.pixels)
        self.trunk = trunk
        self.head: KinHead | CosineHead
        if isinstance(recipe, KinRecipe):
            self.head = CosineHead(backbone.views[view], 1 / recipe.temperature)
        else:
            self.head = KinHead(backbone.views[view], recipe)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """uint8 RGB photos, (N, side, side, 3) each, to logits (N,)."""
        return cast(Tensor, self.head(self.embed(left), self.embed(right)))

    def embed(self, photos: Tensor) -> Tensor:
        """uint8 RGB photos (N, side, side, 3) to float32 vectors (N, width)."""
        return self.vectors(self.feature_map(photos))

    def feature_map(self, photos: Tensor) -> Tensor:
        """uint8 RGB photos (N, side, side, 3) to the trunk's last feature map (N, C, H, W)."""
        return self.trunk.feature_map(self.normalise(photos))

    def vectors(self, feature_map: Tensor) -> Tensor:
        """The last feature map (N, C, H, W) to float32 vectors (N, width)."""
        return self.trunk.view(self.view, feature_map).float()


class Embedder(nn.Module):
    """A trunk made ready to embed: BatchNorm folded into the convolutions, channels last.

    Args:
        backbone: the record of the trunk.
        trunk: the network; it is left as it is.
        views: the views wanted.
    """

    def __init__(self, backbone: Backbone, trunk: Trunk, views: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(views)
        self.side = backbone.framing.side
        self.normalise = Normalise(backbone.pixels)
        self.folded = fuse(_Views(trunk, self.names).eval())
        channels_last(self.folded)

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        """uint8 RGB photos (N, side, side, 3) to each view (N, D)."""
        return dict(zip(self.names, self.folded(self.normalise(photos)), strict=True))

    def merge_activations(self) -> None:
        """Computes activations within the convolutions before them, as CPUs do in float32."""
        example = torch.zeros(2, 3, self.side, self.side)
        example = example.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), warnings.catch_warnings():
            # TorchScript is deprecated, and what would follow it takes a minute to compile.
            warnings.simplefilter("ignore", DeprecationWarning)
            for parameter in self.folded.parameters():
                parameter.requires_grad_(False)
            frozen = torch.jit.freeze(_traced(self.folded, example).eval())
            self.folded = torch.jit.optimize_for_inference(frozen)


def _traced(network: nn.Module, example: Tensor) -> Any:
    return torch.jit.trace(network, example)  # type: ignore[no-untyped-call]


def channels_last(network: nn.Module) -> None:
    """Lays out a network's kernels as convolutions run fastest, on CPUs and GPUs alike."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Views(nn.Module):
    """A trunk with its views fixed, as `fuse` wants it: one tensor in."""

    def __init__(self, trunk: Trunk, views: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = views

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk.views(x, self.names).values())


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


def save_model(network: SiameseNetwork, path: Path) -> Path:
    """Writes all that is needed to rebuild the network: opens with `weights_only=True`."""
    content = io.BytesIO()
    torch.save(
        {
            "kinembed": SCHEMA,
            "backbone": network.backbone.name,
            "photos": network.backbone.recipe(),
            "view": network.view,
            "recipe": asdict(network.recipe),
            "split": network.split,
            "trunk": network.trunk.state_dict(),
            "head": network.head.state_dict(),
        },
        content,
    )
    return write_bytes(path, content.getvalue())


def load_model(path: Path) -> SiameseNetwork:
    """Rebuilds a fine-tuned network from its file, on the CPU.

    Raises:
        RunError: there is no such file.
        WeightsError: it is no model of kinembed, or of another version.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed finetune")
    saved = read_checkpoint(path)
    try:
        if saved["kinembed"] != SCHEMA:
            raise WeightsError(f"{path}: schema {saved['kinembed']}, this version reads {SCHEMA}")
        backbone = find_backbone(saved["backbone"])
        if saved["photos"] != backbone.recipe():
            raise WeightsError(
                f"{path}: its photos were framed otherwise than {backbone.name}'s are in this "
                "version; run kinembed finetune again"
            )
        kind = KinRecipe if "contrast" in saved["recipe"] else Recipe
        recipe = kind(**{**saved["recipe"], **_tuples(saved["recipe"])})
        network = SiameseNetwork(backbone, backbone.build(), saved["view"], recipe)
        network.trunk.load_state_dict(saved["trunk"])
        network.head.load_state_dict(saved["head"])
        network.split = saved["split"]
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: not a kinembed model ({reason}); run kinembed finetune"
        ) from None
    return network


def _tuples(recipe: dict[str, Any]) -> dict[str, Any]:
    """Lists back to the tuples that a recipe holds."""
    return {key: tuple(value) for key, value in recipe.items() if isinstance(value, list | tuple)}
