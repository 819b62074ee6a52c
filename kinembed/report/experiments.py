"""The figure of experiments: how the validation AUC of each went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinembed.report.plots import write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")


def draw_experiments(
    curves: Mapping[tuple[str, str, str], Sequence[tuple[int, float]]], path: Path
) -> Path | None:
    """Draws all curves, a panel for each split, a colour for each recipe, the legend outside.

    Args:
        curves: (epoch, validation AUC) by split, backbone and recipe; empty where one failed.
        path: where the PNG goes.

    Returns:
        The path; None where matplotlib is not installed.
    """
    splits, backbones, recipes = (list(dict.fromkeys(part)) for part in zip(*curves, strict=True))
    networks = list(dict.fromkeys((backbone, recipe) for _, backbone, recipe in curves))
    last = max([epoch for curve in curves.values() for epoch, _ in curve], default=1)

    def draw(figure: "Figure") -> None:
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
            axes.set_xlim(0.5, last + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("validation ROC AUC")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize="small")

    size = (5.2 * len(splits) + 2.6, max(4.2, 0.24 * len(networks) + 1))
    return write_plot(draw, size, path)
