"""The training curves: loss, accuracy and AUC by epoch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinembed.report.plots import write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(history: list[dict[str, Any]], kept_epoch: int, path: Path) -> Path | None:
    """Draws training and validation curves, and marks the kept epoch.

    Args:
        history: rows with `epoch` and `train_` and `val_` `loss`, `accuracy` and `auc`.
        kept_epoch: the kept epoch.
        path: where the PNG goes.

    Returns:
        The path; None if matplotlib is not installed.
    """
    epochs = [row["epoch"] for row in history]

    def draw(figure: "Figure") -> None:
        for axes, (key, title) in zip(
            figure.subplots(1, 3),
            (("loss", "Loss"), ("accuracy", "Accuracy"), ("auc", "ROC AUC")),
            strict=True,
        ):
            for side, label in (("train", "training"), ("val", "validation")):
                values = [row[f"{side}_{key}"] for row in history]
                axes.plot(epochs, values, marker=".", label=label)
            axes.axvline(kept_epoch, color="0.6", linestyle=":", label=f"kept: epoch {kept_epoch}")
            axes.set(title=title, xlabel="epoch")
            axes.grid(alpha=0.3)
            axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    return write_plot(draw, (12, 3.6), path)
