"""Trainings as TensorBoard shows them: scalars by epoch, in event files of the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kinembed.errors import KinembedError
from kinembed.io import make_folder

FOLDER = "tensorboard"  # of a run folder
MARK = ".kinembed"  # the end of the names of our event files
# Charts by column of the history; those of one name share their left word.
TAGS = {
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "train_auc": "auc/train",
    "val_loss": "loss/held out",
    "val_accuracy": "accuracy/held out",
    "val_auc": "auc/held out",
    "learning_rate": "learning rate",
    "seconds": "seconds",
}


class Tracker:
    """Writes the epochs of one training; `with Tracker(folder) as tracker` closes the file.

    What an earlier training, or the same before it was interrupted, wrote into the folder is
    removed: a resumed training gives its history again, so no epoch is there twice.

    Args:
        folder: of the training, below `RUN/tensorboard`.

    Raises:
        KinembedError: tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        check_tracking()
        from torch.utils.tensorboard import SummaryWriter

        make_folder(folder)
        clear(folder)
        self._writer: Any = SummaryWriter(str(folder), filename_suffix=MARK)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row of a history, at the step `epoch`; what has no value is left out."""
        for column, tag in TAGS.items():
            if row.get(column) is not None:
                self._writer.add_scalar(tag, float(row[column]), int(row["epoch"]))
        self._writer.flush()


def check_tracking() -> None:
    """Refuses to begin where tensorboard is not installed.

    Raises:
        KinembedError: it is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise KinembedError(
            "--track tensorboard needs tensorboard; run pip install 'kinembed[tensorboard]'"
        ) from None


def track_members(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the history of a head: each member is a run of its own, `member-0` and so on."""
    members: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        members.setdefault(int(row.get("member", 0)), []).append(row)
    for old in folder.glob("member-*"):
        clear(old)  # of a head of more members
    for member, epochs in members.items():
        with Tracker(folder / f"member-{member}") as tracker:
            for row in epochs:
                tracker.add(row)


def clear(folder: Path) -> None:
    """Removes our event files from a folder, and nothing else."""
    for path in folder.glob(f"events.out.tfevents.*{MARK}"):
        path.unlink()
