"""A network as one ONNX file: pixels in; views, and a head's representation, out."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from kinembed.backbones import Framing
from kinembed.backbones.embedder import Embedder
from kinembed.backbones.onnx import INPUT, METADATA
from kinembed.errors import KinembedError
from kinembed.heads.metric import MetricHead
from kinembed.heads.score_norm import TAIL
from kinembed.inference.network import Network
from kinembed.views import JOIN, TTA

REPRESENTATION = "representation"
OPSET = 17
# What `place_photo` does, for programs without kinembed.
PIXELS = {
    "type": "uint8",
    "order": "rgb",
    "crop": "the square in the middle of the photo, upright",
    "resize": "that square to inner x inner pixels, bilinear as Pillow's, which averages",
    "place": "its first column at left, its first row at top, of a side x side input",
    "around": "the nearest pixel of the square; what lies beyond the input is cut off",
}


class OnnxNetwork(nn.Module):
    """Photos (N, side, side, 3) uint8 RGB to each view (N, D), then the head's representation.

    Args:
        network: the network; its embedder has the views.
        head: whose projection comes last; None: views alone.
        tta: views of the mirrored photo, too.

    Attributes:
        names: of the outputs.
    """

    def __init__(self, network: Network, head: MetricHead | None = None, tta: bool = False) -> None:
        super().__init__()
        if not isinstance(network.ready, Embedder):
            raise KinembedError("--onnx: the network is an ONNX file already")
        self.embedder = network.ready
        self.tta = tta
        views = [*self.embedder.names]
        if tta:
            views += [view + TTA for view in views]
        self.views = tuple(views)
        self.head_views = tuple(head.view.split(JOIN)) if head is not None else ()
        self.projections = _Projections(head) if head is not None else None
        self.names = (*self.views, *((REPRESENTATION,) if head is not None else ()))

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of `names`."""
        vectors = dict(self.embedder(photos))
        if self.tta:
            mirrored = self.embedder(photos.flip(2))  # (N, side, side, 3), along the width
            vectors |= {view + TTA: x for view, x in mirrored.items()}
        found = [vectors[view] for view in self.views]
        if self.projections is not None:
            found.append(self.projections(torch.cat([vectors[v] for v in self.head_views], 1)))
        return tuple(found)


class _Projections(nn.Module):
    """What `MetricHead.represent` does, in torch: (N, width) to (N, W)."""

    factors: Tensor

    def __init__(self, head: MetricHead) -> None:
        super().__init__()
        self.versions = head.tta_views
        self.cosine = head.similarity == "cosine"
        self.members = [
            [torch.from_numpy(array.copy()) for array in projection.arrays]
            for projection in head.projections
        ]
        self.register_buffer("factors", torch.from_numpy(head._factors()))
        self.norms = [
            (torch.from_numpy(norm.mean.copy()), torch.from_numpy(norm.root.copy()), norm.level)
            for norm in head.norms
        ]
        self.shares = head._shares().tolist()

    def forward(self, x: Tensor) -> Tensor:
        members = []
        for arrays in self.members:
            projected = [self._unit(_project(arrays, each)) for each in x.chunk(self.versions, 1)]
            members.append(self._unit(torch.stack(projected).mean(0)))
        stacked = torch.cat(members, 1) * self.factors
        if not self.norms:
            return stacked
        nearest = [
            share
            * (y @ mean + TAIL * torch.linalg.vector_norm(y @ root, dim=1, keepdim=True) - level)
            for y, share, (mean, root, level) in zip(members, self.shares, self.norms, strict=True)
        ]
        return torch.cat([stacked, torch.stack(nearest).sum(0)], 1)

    def _unit(self, y: Tensor) -> Tensor:
        return nn.functional.normalize(y, dim=1) if self.cosine else y


def _project(arrays: Sequence[Tensor], x: Tensor) -> Tensor:
    """(N, d) projections of (N, D) vectors, by the arrays of `Projection.arrays`."""
    kernel, bias, *hidden = arrays
    y: Tensor = x @ kernel + bias
    if hidden:
        inner, offset, outer = hidden
        y = y + torch.relu(x @ inner + offset) @ outer
    return y


def onnx_bytes(
    exported: OnnxNetwork,
    network: Network,
    framings: Mapping[str, Framing],
    head: MetricHead | None = None,
) -> bytes:
    """The bytes of an ONNX file.

    Args:
        exported: what is written.
        network: where it comes from.
        framings: where the photos of the run's cache lie in its input, by folder.
        head: whose projection it has.

    Raises:
        KinembedError: the package onnx is missing.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise KinembedError("export needs onnx; run pip install 'kinembed[export]'") from None
    side = network.backbone.framing.side
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    file = io.BytesIO()
    free = {name: {0: "photos"} for name in (INPUT, *exported.names)}
    with warnings.catch_warnings(), torch.no_grad():
        # The successor of this exporter needs another package, and writes the same network.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            exported.eval(), (example,), cast(Any, file), input_names=[INPUT], dynamo=False,
            output_names=list(exported.names), dynamic_axes=free, opset_version=OPSET,
        )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    about = {
        "backbone": network.backbone.name,
        "model": network.digest,
        "views": {view: _width(model, view) for view in exported.views},
        "pixels": PIXELS,
        "framing": asdict(network.backbone.framing),  # of a face crop as `kinembed align` makes it
        "framings": {folder: asdict(each) for folder, each in framings.items()},
        "head": head
        and {
            "digest": head.digest,
            "similarity": head.similarity,
            "normalised": bool(head.norms),
            "scale": head.scale,
            "centre": head.centre,
        },
    }
    model.producer_name = "kinembed"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about, sort_keys=True)
    return bytes(model.SerializeToString())


def _width(model: Any, view: str) -> int:
    (output,) = (each for each in model.graph.output if each.name == view)
    return int(output.type.tensor_type.shape.dim[1].dim_value)
