"""The siamese network layer by layer, as Keras lists it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinembed.backbones import Backbone, check_views
from kinembed.recipes import ContrastiveRecipe, PairRecipe, feature_widths
from kinembed.training.head_modules import KinHead
from kinembed.views import parts_of

Shape = tuple[int, ...]

VIEWS = {
    "max": "maximum",
    "avg": "mean",
    "map-max": "maximum",
    "native": "the network's own",
}
FEATURES = {"abs": "|a - b|", "square": "(a - b)^2", "diff-squares": "(a^2 - b^2)^2"}
FEATURES |= {"product": "a * b", "sum": "a + b"}
FEATURES |= {"l2": "length of a - b", "cosine": "cosine of a and b"}


@dataclass(frozen=True)
class Layer:
    """One step on the way from two photos to a probability.

    Attributes:
        name: as in the state dict, for layers that have one.
        kind: the torch module, or what is done.
        shape: of its output for one photo or pair: (channels, height, width) or (width,).
        trainable: numbers that learn.
        fixed: other numbers it keeps: BatchNorm's running means and variances.
    """

    name: str
    kind: str
    shape: Shape
    trainable: int = 0
    fixed: int = 0


@dataclass(frozen=True)
class Summary:
    """What `kinembed finetune --summary` and `architecture.svg` show.

    Attributes:
        side: pixels along each side of a photo.
        view_kind: how the view is made from the last map.
        layers: in the order in which they run; those of the trunk once, as both towers share it.
        feature_map: shape (C, H, W) of the trunk's last map.
        trunk: numbers in the trunk, as Keras counts them: trainable and fixed.
        unused: numbers of the trunk that this view does not use, and that therefore do not learn.
    """

    backbone: str
    side: int
    view: str
    view_kind: str
    recipe: PairRecipe | ContrastiveRecipe
    layers: tuple[Layer, ...]
    feature_map: Shape
    trunk: int
    unused: int

    @property
    def width(self) -> int:
        """Numbers in the view."""
        return next(layer.shape[0] for layer in self.layers if layer.name == f"view {self.view}")

    @property
    def distance(self) -> Layer:
        """The layer that compares two vectors."""
        return next(layer for layer in self.layers if layer.name == "distance")

    def as_table(self) -> str:
        """The listing, with totals below."""
        rows = [("layer", "kind", "output", "parameters")]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.shape))
            rows.append((layer.name, layer.kind, shape, f"{layer.trainable + layer.fixed:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}  {count:>{widths[3]}}"
            for name, kind, shape, count in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        trainable = sum(layer.trainable for layer in self.layers)
        fixed = sum(layer.fixed for layer in self.layers)
        lines += [
            lines[1],
            f"parameters     {trainable + fixed:,}",
            f"trainable      {trainable:,}",
            f"not trainable  {fixed:,} (running means and variances of BatchNorm)",
        ]
        if self.unused:
            lines.append(f"not listed     {self.unused:,} of the trunk that this view does not use")
        return "\n".join(lines)


def summarise(backbone: Backbone, view: str, recipe: PairRecipe | ContrastiveRecipe) -> Summary:
    """Lists a siamese network without weights: nothing is read, computed or allocated.

    Args:
        backbone: the record of the trunk.
        view: one of the backbone's views, or several joined by `+`.
        recipe: the head.

    Raises:
        KinembedError: the backbone has no such view.
    """
    backbone.check_trainable()
    check_views(backbone, parts_of(view))
    side = backbone.framing.side
    with torch.device("meta"), torch.no_grad():
        trunk = backbone.build().eval()
        x = torch.zeros(1, 3, side, side)
        layers = [Layer("left, right", f"photos, {backbone.pixels.order}", _shape(x))]
        for name, module in trunk.named_modules(prefix="trunk"):
            if not any(module.children()):
                module.register_forward_hook(_listing(layers, name))
        feature_map = trunk.feature_map(x)
        layers.append(Layer("feature map", "", _shape(feature_map)))
        vector = trunk.vectors(view, feature_map)
    used = sum(layer.trainable + layer.fixed for layer in layers)
    total = sum(sum(_numbers(module)) for module in trunk.modules())
    kind = _view_kind(backbone, view)
    layers.append(Layer(f"view {view}", kind, _shape(vector)))
    layers += _head_layers(backbone.width(view), recipe)
    return Summary(
        backbone.name,
        side,
        view,
        kind,
        recipe,
        tuple(layers),
        feature_map=_shape(feature_map),
        trunk=total,
        unused=total - used,
    )


def _head_layers(width: int, recipe: PairRecipe | ContrastiveRecipe) -> list[Layer]:
    """From two vectors of `width` numbers to a probability."""
    if isinstance(recipe, ContrastiveRecipe):
        scale = f"times {1 / recipe.temperature:g}, sigmoid"
        return [Layer("distance", "cosine", (1,)), Layer("head", scale, (1,))]
    with torch.device("meta"), torch.no_grad():
        head = KinHead(width, recipe)
    features = ", ".join(FEATURES[name] for name in recipe.features)
    layers = [Layer("distance", features, (sum(feature_widths(recipe.features, width)),))]
    for number, dense in enumerate(head.hidden):
        shape = (recipe.hidden[number],)
        layers.append(Layer(f"head.hidden.{number}", "Linear, relu", shape, *_numbers(dense)))
        if recipe.dropout:
            layers.append(Layer(f"head.dropout.{number}", f"Dropout {recipe.dropout:g}", shape))
    return [*layers, Layer("head.output", "Linear, sigmoid", (1,), *_numbers(head.output))]


def _view_kind(backbone: Backbone, view: str) -> str:
    """What a view does; where there is a `map-max`, others stand behind a 7 x 7 average pool."""
    parts = parts_of(view)
    pooled = "map-max" in backbone.views and "map-max" not in parts
    what = " and ".join(VIEWS.get(part, part) for part in parts)
    return f"{'7 x 7 average, ' if pooled else ''}{what}"


def _listing(layers: list[Layer], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook that lists its module; its parameters only where it runs first."""

    def listen(module: nn.Module, _: Any, output: Tensor) -> None:
        first = all(layer.name != name for layer in layers)
        numbers = _numbers(module) if first else (0, 0)
        layers.append(Layer(name, type(module).__name__, _shape(output), *numbers))

    return listen


def _numbers(module: nn.Module) -> tuple[int, int]:
    """How many numbers a module itself learns, and how many others it keeps."""
    trainable = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    fixed = sum(buffer.numel() for buffer in module.buffers(recurse=False) if buffer.ndim)
    return trainable, fixed  # a buffer without axes is BatchNorm's count of batches


def _shape(x: Tensor) -> Shape:
    return tuple(x.shape[1:])
