"""The network that turns photos into vectors, opened as settings or a cache name it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinembed.backbones import TRAINED, Backbone, Framing, check_views, find_backbone
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.framing import AUTO
from kinembed.backbones.mapper import ReadyNetwork
from kinembed.backbones.opened import open_backbone
from kinembed.backbones.weights import model_digest
from kinembed.cache.provenance import Finetuned
from kinembed.config import EmbedConfig
from kinembed.errors import DataError, RunError
from kinembed.fold_runs import has_folds
from kinembed.progress import Progress, silent
from kinembed.training.siamese import load_model
from kinembed.views import parts_of


@dataclass(frozen=True)
class Network:
    """The network that embeds.

    Attributes:
        backbone: the record of the network.
        digest: of its weights.
        ready: the network, prepared for inference.
        split: the split of people in fine-tuning; None if it was not fine-tuned.
        finetuned: the fine-tuning; None if there was none.
        asked: the framing that it was fine-tuned with, by name; `auto` for other networks.
        framing: the frame that it was fine-tuned with, if it was.
    """

    backbone: Backbone
    digest: str
    ready: ReadyNetwork
    split: dict[str, Any] | None = None
    finetuned: Finetuned | None = None
    asked: str = AUTO
    framing: Framing | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs it, in the precision of its file."""
        return not isinstance(self.ready, Embedder)


def open_network(
    config: EmbedConfig, run: Path, device: torch.device, progress: Progress = silent
) -> Network:
    """The network that settings ask for.

    Args:
        config: names it: `onnx`, `backbone` with `weights`, or `model`.
        run: the run folder, with the `model.pt` that is taken where nothing is named.
        device: of the computation.
        progress: shows a download of weights.

    Raises:
        KinembedError: the settings contradict each other, or network or weights are missing.
    """
    if config.onnx is not None:
        return _onnx(config, device)
    if config.output is not None:
        raise DataError("--output is of an ONNX file: name it with --onnx")
    if config.model is not None and (config.backbone is not None or config.weights != "auto"):
        raise DataError("--model names the whole network; leave out --backbone and --weights")
    if config.backbone is None and config.weights != "auto":
        raise DataError("--weights is of a backbone: name it with --backbone")
    if config.backbone is not None:
        backbone = find_backbone(config.backbone).with_pixels(config.pixels or TRAINED)
        views = _views(config, backbone)
        ready, digest = open_backbone(backbone, config.weights, views, device, progress)
        return Network(backbone, digest, ready)
    path = config.model or run / "model.pt"
    if config.model is None and not path.is_file() and has_folds(run):
        raise RunError(
            f"{path}: no such file; say --folds to embed with the networks of {run}/folds"
        )
    if config.model is None and not path.is_file():
        raise RunError(
            f"{path}: no such file; name a face network with --backbone NAME, such as sface "
            "(kinembed weights list shows them), or run kinembed finetune first"
        )
    model = load_model(path)
    backbone, trunk = model.backbone, model.trunk.eval()
    if config.pixels not in (None, backbone.pixels_name):
        raise RunError(
            f"{path}: was trained with --pixels {backbone.pixels_name}, found {config.pixels}; "
            "leave it out, or run kinembed finetune with it"
        )
    views = _views(config, backbone, model.view)
    ready = Embedder(backbone, trunk, views).to(device)
    return Network(
        backbone,
        model_digest(backbone, trunk),
        ready,
        split=model.split or None,
        finetuned=Finetuned(model.recipe, model.view, (model.epoch or {}).get("chosen_by", "")),
        asked=model.asked_framing,
        framing=model.framing,
    )


def _onnx(config: EmbedConfig, device: torch.device) -> Network:
    """The network of an ONNX file."""
    if config.backbone is not None or config.model is not None or config.weights != "auto":
        raise DataError("--onnx names the whole network; leave out --backbone and --weights")
    if config.pixels is not None:
        raise DataError("--pixels is of a backbone; --order and --mean describe those of --onnx")
    from kinembed.backbones.onnx import OnnxEmbedder  # onnxruntime is an extra

    assert config.onnx is not None
    onnx = OnnxEmbedder(
        config.onnx, config.side, config.mean, config.scale, config.order, device, config.output
    )
    _views(config, onnx.backbone)
    return Network(onnx.backbone, onnx.digest, onnx)


def _views(config: EmbedConfig, backbone: Backbone, compared: str = "max") -> tuple[str, ...]:
    """The views wanted of a network, whose head compares one of them."""
    if config.views is None:
        usual = [view for view in ("max", "native") if view in backbone.views]
        compared_too = [view for view in parts_of(compared) if view in backbone.views]
        return tuple(dict.fromkeys([*usual, *compared_too]))
    check_views(backbone, config.views)
    return config.views
