"""The figure of experiments: how the validation AUC of each went."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kinembed.io import write_bytes

STYLES = ("-", "--", ":", "-.")


def draw_experiments(
    curves: Mapping[tuple[str, str, str], Sequence[tuple[int, float]]], path: Path
) -> Path:
    """Draws all curves, a panel for each split, a colour for each recipe, the legend outside.

    Args:
        curves: (epoch, validation AUC) by split, backbone and recipe; empty where one failed.
        path: where the PNG goes.
    """
    splits, backbones, recipes = (list(dict.fromkeys(part)) for part in zip(*curves, strict=True))
    networks = list(dict.fromkeys((backbone, recipe) for _, backbone, recipe in curves))
    size = (5.2 * len(splits) + 2.6, max(4.2, 0.24 * len(networks) + 1))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for backbone, recipe in networks:
            curve = curves.get((split, backbone, recipe), ())
            axes.plot(
                [epoch for epoch, _ in curve],
                [auc for _, auc in curve],
                color=f"C{recipes.index(recipe)}",
                linestyle=STYLES[backbones.index(backbone) % len(STYLES)],
                marker=".",
                label=f"{backbone} {recipe}",
            )
        axes.axhline(0.5, color="0.6", linewidth=0.8)  # chance
        axes.set(title=f"split by {split}", xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.set_xlim(0.5, max([epoch for c in curves.values() for epoch, _ in c], default=1) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("validation ROC AUC")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small"
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return write_bytes(path, picture.getvalue())
