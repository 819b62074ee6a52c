"""The figures of experiments: how the validation AUC of each went, and all scores of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinembed.report.plots import write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")
MARKERS = ("s", "D", "o", "^")


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


def draw_scores(
    names: Sequence[str], scores: Mapping[str, Sequence[float | None]], path: Path
) -> Path | None:
    """Draws the scores of each training on a line of its own, like the report's figure 23.

    Args:
        names: of the trainings (N), the first on top.
        scores: of the trainings (N) by what they are of; None where there is none. The first two
            kinds, which are not ours, are hollow.
        path: where the PNG goes.

    Returns:
        The path; None where matplotlib is not installed.
    """
    lines = range(len(names))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (title, values) in enumerate(scores.items()):
            known = [(value, line) for line, value in zip(lines, values, strict=True)
                     if value is not None]  # fmt: skip
            if known:
                axes.plot(
                    [value for value, _ in known],
                    [line for _, line in known],
                    linestyle="none",
                    marker=MARKERS[number % len(MARKERS)],
                    color=f"C{number}",
                    fillstyle="none" if number < 2 else "full",
                    label=title,
                )
        axes.axvline(0.5, color="0.6", linewidth=0.8)  # chance
        axes.set_yticks(lines, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("ROC AUC; each kind is of other pairs")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=2, fontsize="small")

    return write_plot(draw, (8, max(3.2, 0.34 * len(names) + 1.8)), path)
