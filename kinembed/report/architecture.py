"""The diagram of a siamese network: `architecture.svg`."""

from pathlib import Path
from typing import TYPE_CHECKING

from kinembed.io import write_bytes
from kinembed.printable import in_xml
from kinembed.recipes import ContrastiveRecipe, PairRecipe

if TYPE_CHECKING:
    from kinembed.training.summary import Summary

WIDTH = 900
CENTRE = WIDTH // 2
LEFT, RIGHT = CENTRE - 200, CENTRE + 200  # middle of each tower
GAP = 34  # between rows, for the arrows
LOSSES = {"bce": "binary cross-entropy", "focal": "focal loss"}
OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop"}

STYLE = """
  text { font-family: "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif;
         fill: #1c2733; text-anchor: middle }
  .title { font-size: 17px; font-weight: 600 }
  .detail { font-size: 14px; fill: #45525f }
  rect { stroke-width: 1.5 }
  .photo { fill: #f3f5f7; stroke: #93a1ae }
  .trunk { fill: #dceafb; stroke: #4580c2 }
  .view { fill: #e9f2fc; stroke: #4580c2 }
  .head { fill: #fdefdc; stroke: #cb8a32 }
  .result { fill: #e2f3e5; stroke: #469653 }
  .arrow { stroke: #5d6b78; stroke-width: 1.5; fill: none; marker-end: url(#tip) }
"""


def draw_architecture(summary: "Summary", path: Path) -> Path:
    """Draws the network from two photos to a probability, as SVG."""
    drawing = Drawing()
    recipe = summary.recipe
    photo = f"{summary.side} x {summary.side} x 3"
    drawing.row((LEFT, "photo a", photo), (RIGHT, "photo b", photo), kind="photo", width=240)
    drawing.lines((LEFT, LEFT), (RIGHT, RIGHT))
    drawing.row(
        (
            CENTRE,
            f"{summary.backbone}, one trunk for both photos",
            f"{summary.trunk:,} parameters; last map {_times(summary.feature_map)}",
        ),
        kind="trunk",
        width=680,
    )
    drawing.lines((LEFT, LEFT), (RIGHT, RIGHT))
    title = f"view {summary.view}"
    made = f"{summary.view_kind}; {summary.width:,} numbers"
    drawing.row((LEFT, title, made), (RIGHT, title, made), kind="view", width=380)
    drawing.lines((LEFT, CENTRE - 40), (RIGHT, CENTRE + 40))
    if isinstance(recipe, ContrastiveRecipe):
        scale = f"times {1 / recipe.temperature:g}, sigmoid"
        drawing.row((CENTRE, "cosine of a and b", scale), kind="head", width=240)
    else:
        _draw_head(drawing, summary, recipe)
    drawing.lines((CENTRE, CENTRE))
    drawing.row((CENTRE, "probability of kin", "0 to 1"), kind="result", width=240)
    for text in _learning(recipe):
        drawing.note(text)
    return write_bytes(path, drawing.svg().encode())


def _draw_head(drawing: "Drawing", summary: "Summary", recipe: PairRecipe) -> None:
    """Features and dense layers."""
    width, box_width = summary.distance.shape[0], 240 if len(recipe.features) < 3 else 380
    features = f"{width:,} numbers"
    drawing.row((CENTRE, summary.distance.kind, features), kind="head", width=box_width)
    for out in recipe.hidden:
        drawing.lines((CENTRE, CENTRE))
        details = [f"{(width + 1) * out:,} parameters"]
        if recipe.l2:
            details.append(f"L2 {recipe.l2:g}")
        if recipe.dropout:
            details.append(f"then dropout {recipe.dropout:g}")
        drawing.row((CENTRE, f"dense {out:,}, relu", ", ".join(details)), kind="head", width=420)
        width = out
    drawing.lines((CENTRE, CENTRE))
    drawing.row((CENTRE, "dense 1, sigmoid", f"{width + 1:,} parameters"), kind="head", width=420)


def _learning(recipe: PairRecipe | ContrastiveRecipe) -> tuple[str, str]:
    """Loss, optimiser and initial values, in words."""
    if isinstance(recipe, ContrastiveRecipe):
        return (
            f"recipe {recipe.name}: {recipe.contrast} over batches of {recipe.batch_pairs} kin "
            f"pairs, each of another family; AdamW, one cycle up to {recipe.learning_rate:g}",
            f"augmentation: {recipe.augment}; BatchNorm statistics frozen; exponential moving "
            "average (EMA) of the weights",
        )
    kernels = "Glorot uniform"
    if recipe.hidden and recipe.kernel_std is not None:
        kernels = f"N(0, {recipe.kernel_std:g}), the last Glorot uniform"
    biases = "0" if recipe.bias_mean is None else f"N({recipe.bias_mean:g}, 0.01)"
    return (
        f"recipe {recipe.name}: {_loss(recipe)}, {OPTIMIZERS[recipe.optimizer]}, "
        f"learning rate {recipe.learning_rate:g}",
        f"dense layers begin with kernels {kernels}; biases {biases}",
    )


def _loss(recipe: PairRecipe) -> str:
    """The loss in words."""
    values = f" (gamma {recipe.gamma:g}, alpha {recipe.alpha:g})" if recipe.loss == "focal" else ""
    summed = ", summed over a batch" if recipe.reduction == "sum" else ""
    return f"{LOSSES[recipe.loss]}{values}{summed}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class Drawing:
    """Rows of boxes, from the top down, and arrows between them."""

    def __init__(self) -> None:
        self.y = 24
        self.parts: list[str] = []

    def row(self, *boxes: tuple[int, str, str], kind: str, width: int) -> None:
        """A row of boxes of one kind, given by middle, title and detail."""
        for middle, title, detail in boxes:
            self.parts.append(
                f'<rect class="{kind}" x="{middle - width // 2}" y="{self.y}" width="{width}" '
                'height="56" rx="8"/>'
            )
            self._text(middle, self.y + 24, "title", title)
            self._text(middle, self.y + 44, "detail", detail)
        self.y += 56

    def lines(self, *ends: tuple[int, int]) -> None:
        """Arrows to the next row, each from one x to another."""
        for start, end in ends:
            self.parts.append(
                f'<path class="arrow" d="M{start} {self.y} L{end} {self.y + GAP - 2}"/>'
            )
        self.y += GAP

    def note(self, text: str) -> None:
        """A line of text below."""
        self.y += 26
        self._text(CENTRE, self.y, "detail", text)

    def _text(self, x: int, y: int, kind: str, text: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{in_xml(text)}</text>')

    def svg(self) -> str:
        """The whole drawing."""
        height = self.y + 24
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
                f'viewBox="0 0 {WIDTH} {height}">',
                "<!-- drawn by kinembed -->",  # another call may replace it
                f"<style>{STYLE}</style>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
                'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#5d6b78"/>'
                "</marker></defs>",
                f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
                *self.parts,
                "</svg>\n",
            )
        )
