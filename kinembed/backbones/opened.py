"""A backbone with its weights, ready to embed, whichever library runs it."""

from collections.abc import Sequence

import torch

from kinembed.backbones import Backbone
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.mapper import ReadyNetwork
from kinembed.backbones.weights import load_trunk, model_digest
from kinembed.progress import Progress, silent


def open_backbone(
    backbone: Backbone,
    weights: str,
    views: Sequence[str],
    device: torch.device,
    progress: Progress = silent,
) -> tuple[ReadyNetwork, str]:
    """A backbone ready to embed, and the digest of its weights.

    Args:
        backbone: its record.
        weights: `auto`, the name of published weights, `none` (random), or the path of a file.
        views: the vectors wanted of it, as its record names them.
        device: of the computation.
        progress: shows a download of weights.

    Raises:
        KinembedError: the weights cannot be had or belong to another network.
    """
    if backbone.is_onnx:
        from kinembed.backbones.onnx import open_published  # onnxruntime is an extra

        network = open_published(backbone, weights, device, progress)
        return network, network.digest
    with torch.random.fork_rng(devices=[]):  # random weights are the same each time they are opened
        torch.manual_seed(torch.initial_seed())
        trunk = load_trunk(backbone, weights, progress).eval()
    return Embedder(backbone, trunk, views).to(device), model_digest(backbone, trunk)
