"""The siamese network: two towers of one trunk, and a head. Its file, and how it runs."""

import io
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from kinembed.backbones import Backbone, Framing, check_views, find_backbone
from kinembed.backbones.embedder import Normalise
from kinembed.backbones.framing import NAMES
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import read_checkpoint
from kinembed.cache.provenance import check_provenance
from kinembed.checked import Bounds, Values
from kinembed.errors import KinembedError, RunError, WeightsError
from kinembed.heads.file import Chooser
from kinembed.io import write_bytes
from kinembed.recipes import FinetuneRecipe, read_recipe
from kinembed.training.head_modules import HEAD_MODULES
from kinembed.views import parts_of

SCHEMA = 5


class SiameseNetwork(nn.Module):
    """Two photos to one logit.

    The towers go through the trunk one after the other, as in Keras: in training, BatchNorm sees
    one tower's photos at a time, and its running statistics take a step for each.

    Args:
        backbone: the record of the trunk.
        trunk: the network of the towers.
        view: which of its views is compared, or several joined by `+`.
        recipe: the head.

    Attributes:
        split: the people held out, as `splits.describe_split` says it; None before.
        epoch: which one it is of: `number`, `kept` (best or last) and `chosen_by`, as
            `heads.file.HeadRecord` has it; None before.
        framing: of the photos that it is trained on.
        asked_framing: the name of the framing that was asked for.
    """

    split: dict[str, Any] | None = None
    epoch: dict[str, Any] | None = None

    def __init__(self, backbone: Backbone, trunk: Trunk, view: str, recipe: FinetuneRecipe) -> None:
        super().__init__()
        self.backbone = backbone
        self.view = view
        self.recipe = recipe
        self.framing = backbone.framing
        self.asked_framing = "auto"
        self.normalise = Normalise(backbone.pixels)
        self.trunk = trunk
        self.head = HEAD_MODULES[recipe.kind](backbone.width(view), recipe)

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
        return self.trunk.vectors(self.view, feature_map).float()


def save_model(network: SiameseNetwork, path: Path) -> Path:
    """Writes all that is needed to rebuild the network: opens with `weights_only=True`."""
    content = io.BytesIO()
    torch.save(
        {
            "kinembed": SCHEMA,
            "backbone": network.backbone.name,
            "pixels": network.backbone.pixels_name,
            "photos": network.backbone.recipe(network.framing),
            "framing": network.asked_framing,
            "view": network.view,
            "recipe": network.recipe.as_record(),
            "split": network.split,
            "epoch": network.epoch,
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
    saved = read_checkpoint(path, is_own=True)
    try:
        if saved["kinembed"] != SCHEMA:
            raise WeightsError(
                f"{path}: found schema {saved['kinembed']}, wanted {SCHEMA}: another version of "
                "kinembed wrote it; run kinembed finetune again"
            )
        backbone = find_backbone(saved["backbone"]).with_pixels(saved["pixels"])
        framing = Framing.of_json(saved["photos"]["framing"])
        if saved["photos"] != backbone.recipe(framing) or framing.side != backbone.framing.side:
            raise WeightsError(
                f"{path}: its photos were prepared otherwise than {backbone.name}'s are in this "
                "version; run kinembed finetune again"
            )
        recipe = read_recipe(saved["recipe"])
        if recipe.kind not in HEAD_MODULES:
            raise TypeError(f"a recipe of kind {recipe.kind}")
        view = Values(saved).text("view")
        check_views(backbone, parts_of(view))
        _check_head(backbone.width(view), cast(FinetuneRecipe, recipe), saved["head"])
        trunk = backbone.build()
        network = SiameseNetwork(backbone, trunk, view, cast(FinetuneRecipe, recipe))
        network.trunk.load_state_dict(saved["trunk"])
        network.head.load_state_dict(saved["head"])
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ValueError("its numbers are not all finite")
        network.split, network.epoch = _read_split(saved), _read_epoch(saved)
        network.framing = framing
        network.asked_framing = Values(saved).choice("framing", NAMES)
    except WeightsError:
        raise
    except (
        *(KinembedError, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError),
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"{path}: not a kinembed model ({reason}); run kinembed finetune"
        ) from None
    return network


def _check_head(width: int, recipe: FinetuneRecipe, saved: dict[str, Tensor]) -> None:
    """Refuses a recipe of other layers than the file holds, before they take memory."""
    with torch.device("meta"):
        wanted = HEAD_MODULES[recipe.kind](width, recipe).state_dict()
    for name, tensor in wanted.items():
        if saved[name].shape != tensor.shape:
            raise ValueError(f"{name} of its head is {tuple(saved[name].shape)}")


def _read_split(saved: dict[str, Any]) -> dict[str, Any] | None:
    """The split of a file, as a cache says it."""
    split: dict[str, Any] | None = saved["split"]
    check_provenance({"model": "", "split": split})
    return split


def _read_epoch(saved: dict[str, Any]) -> dict[str, Any] | None:
    """The epoch of a file, as a cache says it."""
    if saved["epoch"] is None:
        return None
    epoch = Values(saved).object("epoch")
    epoch.whole("number", Bounds(least=1))
    epoch.choice("kept", ("best", "last"))
    epoch.choice("chosen_by", ("", *get_args(Chooser)))
    return dict(epoch.content)
