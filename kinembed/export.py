"""The stage `export`: a run's network and head as one ONNX file, for programs without kinembed."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kinembed.backbones import Framing
from kinembed.cache import EmbeddingCache
from kinembed.cache.own import network_settings
from kinembed.cache.provenance import framings_of
from kinembed.config import EmbedConfig, ExportConfig
from kinembed.errors import KinembedError, RunError
from kinembed.heads.base import Head
from kinembed.heads.file import load_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.kept import is_cache, learnt_from, names_of
from kinembed.heads.metric import MetricHead
from kinembed.inference.network import Network, open_network
from kinembed.inference.onnx_network import REPRESENTATION, OnnxNetwork, onnx_bytes
from kinembed.io import written_beside
from kinembed.outputs import check_output, check_suffix
from kinembed.progress import Progress, silent
from kinembed.views import JOIN, TTA, without_tta

log = logging.getLogger(__name__)

NEAR = 1e-4  # of the largest number of an output, by which onnxruntime's may differ
CHECKED = (1, 3)  # photos at a time


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        model: digest of the network.
        outputs: its views and, with a head, the representation.
        scale: of the head; None: there is no head.
        centre: of the head. The kinship logit of two photos is the scale times the dot product of
            their representations less the centre; `similarity` and `normalised` in the file's
            metadata say where it is another.
    """

    path: Path
    model: str
    outputs: tuple[str, ...]
    scale: float | None = None
    centre: float | None = None


def export(config: ExportConfig, data: Path, run: Path, *, progress: Progress = silent) -> Exported:
    """Writes an ONNX network: uint8 pixels in, the views and the head's representation out.

    The network is the run's: that of its cache, else `model.pt`; or a backbone with weights. The
    head's projection is in it where the run has a metric head of this network; its cosines, times
    the head's scale, less its centre, are kinship logits. At the end onnxruntime runs the file,
    and what it gives has to be what kinembed gives.

    Args:
        config: what is exported, and where to.
        data: not read.
        run: the run folder.
        progress: shows a download of weights.

    Returns:
        What was written.

    Raises:
        KinembedError: packages, network or weights are missing, or onnxruntime's numbers differ.
    """
    read = [run / name for name in ("head.h5", "embeddings.h5", "model.pt")]
    check_suffix(".onnx", config.out)
    check_output(config.out, [*read, Path(config.weights)], [run], data=data)
    head, settings = _head_and_network(config, run)
    network = open_network(settings, run, torch.device("cpu"), progress)
    if head is not None and head.model != network.digest:
        raise RunError(
            f"{run / 'head.h5'}: is of network {head.model[:12]}, found {network.digest[:12]}; run "
            "kinembed head again, or leave it out with --no-head"
        )
    log.info("exporting %s, which takes up to a minute", network.backbone.name)
    tta = bool(settings.flip)
    exported = OnnxNetwork(network, head, tta)
    framings = {} if config.backbone is not None else _framings(run / "embeddings.h5")
    content = onnx_bytes(exported, network, framings, head)
    worst = _check(content, exported, network)
    with written_beside(config.out) as file:
        file.write(content)
    log.info(
        "%s: %s %s, outputs %s, %.1f MB; onnxruntime's differ by at most %.1e of their largest",
        config.out, network.backbone.name, network.digest[:12], ", ".join(exported.names),
        len(content) / 1e6, worst,
    )  # fmt: skip
    if head is not None:
        log.info(
            "the logit of two photos is %g * (the %s of their %ss%s - %g)", head.scale,
            "negative squared distance" if head.similarity == "l2" else "dot product",
            REPRESENTATION, " - the mean of their last numbers, which are not part of that"
            if head.norms else "", head.centre,
        )  # fmt: skip
    return Exported(
        config.out, network.digest, exported.names, *((head.scale, head.centre) if head else ())
    )


def _framings(cache: Path) -> dict[str, Framing]:
    """Where the photos of the run's cache lie in the input, by folder; none: there is no cache."""
    if not is_cache(cache):
        return {}
    with EmbeddingCache.open(cache) as opened:
        about = opened.provenance
    return framings_of(about["input"], about["command"]["photos"])


def _head_and_network(config: ExportConfig, run: Path) -> tuple[MetricHead | None, EmbedConfig]:
    """The head whose projection is exported, and the settings of the network with its views."""
    if config.backbone is not None:
        return None, EmbedConfig(
            backbone=config.backbone, weights=config.weights, views=config.views
        )
    cache = run / "embeddings.h5"
    networks = learnt_from(run / "head.h5")
    if networks and not is_cache(cache) and not (run / "model.pt").is_file():
        raise KinembedError(
            f"{run / 'head.h5'}: is of the networks of {names_of(networks)}, and an ONNX file "
            "holds one; run kinembed export --no-head --run "
            f"{shlex.quote(str(networks[0].parent))} for the views of one"
        )
    head = _metric_head(run / "head.h5") if config.head else None
    if not is_cache(cache):
        views = config.views
        if head is not None:
            views = without_tta(tuple(dict.fromkeys([*(views or ()), *head.view.split(JOIN)])))
        return head, EmbedConfig(views=views)
    known, _ = network_settings(cache)
    if known.onnx is not None:
        raise KinembedError(f"{cache}: its network is an ONNX file already, {known.onnx}")
    needed = head.view.split(JOIN) if head is not None else []
    views = tuple(dict.fromkeys([*(config.views or known.views or ()), *without_tta(needed)]))
    flip = any(view.endswith(TTA) for view in needed)
    return head, EmbedConfig(
        backbone=known.backbone, weights=known.weights, model=known.model, pixels=known.pixels,
        views=views, flip=flip,
    )  # fmt: skip


def _metric_head(path: Path) -> MetricHead | None:
    """The run's head, if it represents photos one by one by a projection."""
    if not path.exists():
        return None
    head: Head = load_head(path)
    if isinstance(head, MetricHead):
        return head
    if isinstance(head, FusedHead):
        raise KinembedError(
            f"{path}: is fused of {len(head.parts)} heads, which no ONNX file holds; --no-head "
            "exports the views of a network alone"
        )
    log.info("%s: compares pairs by their features, so the views are exported alone", path)
    return None


def _check(content: bytes, exported: OnnxNetwork, network: Network) -> float:
    """How far onnxruntime's numbers are from torch's, as a share of the largest of each output.

    Raises:
        KinembedError: onnxruntime is missing, or they differ by more than `NEAR`.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        needed = "export needs onnxruntime; run pip install 'kinembed[export]'"
        raise KinembedError(needed) from None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    side, worst = network.backbone.framing.side, 0.0
    for count in CHECKED:
        photos = rng.integers(256, size=(count, side, side, 3), dtype=np.uint8)
        with torch.inference_mode():
            wanted = exported(torch.from_numpy(photos))
        found = session.run(list(exported.names), {"photos": photos})
        for name, one, other in zip(exported.names, wanted, found, strict=True):
            numbers = one.numpy()
            largest = max(float(np.abs(numbers).max()), 1e-12)
            difference = float(np.abs(numbers - other).max()) / largest
            if not difference <= NEAR:
                raise KinembedError(
                    f"output {name}: onnxruntime's numbers differ by {difference:.1e} of the "
                    f"largest, wanted {NEAR:.0e}; nothing was written"
                )
            worst = max(worst, difference)
    return worst
