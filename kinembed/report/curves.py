"""The figure of a training: loss, accuracy and AUC over its epochs."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kinembed.io import write_bytes


def draw_curves(history: list[dict[str, Any]], best_epoch: int, path: Path) -> Path:
    """Draws training and validation curves side by side, the epoch that was kept marked.

    Args:
        history: rows with `epoch` and `train_` and `val_` `loss`, `accuracy` and `auc`.
        best_epoch: the epoch kept.
        path: where the PNG goes.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, (key, title) in zip(
        figure.subplots(1, 3),
        (("loss", "Loss"), ("accuracy", "Accuracy"), ("auc", "ROC AUC")),
        strict=True,
    ):
        for side, label in (("train", "training"), ("val", "validation")):
            axes.plot(epochs, [row[f"{side}_{key}"] for row in history], marker=".", label=label)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return write_bytes(path, picture.getvalue())
