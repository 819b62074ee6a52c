"""The file of an interrupted training: written after each epoch, read by `--resume`."""

import hashlib
import io
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from kinembed.backbones.weights import read_checkpoint
from kinembed.checked import Values
from kinembed.config import FinetuneConfig
from kinembed.data.families import Families
from kinembed.errors import RunError
from kinembed.io import write_bytes
from kinembed.training.ranks import Ranks
from kinembed.training.trainer import Epoch, Trainer, TrainState

NAME = "checkpoint.pt"
# What may be changed without changing the epochs that were trained.
FREE = frozenset({"epochs", "patience", "minutes", "device", "keep"})


def listing(families: Families) -> str:
    """A digest of what is trained on: the photos' names, the people and the relations."""
    sha = hashlib.sha256("\n".join(families.photos).encode())
    sha.update("\0".join(families.people).encode())
    sha.update(families.relations.astype("<i8").tobytes())
    sha.update(families.apart.astype("<i8").tobytes())
    return sha.hexdigest()


def write_state(path: Path, config: FinetuneConfig, state: TrainState) -> None:
    """Writes where a training stands; opens with `weights_only=True`."""
    content = io.BytesIO()
    torch.save({**_plain(state), "config": asdict(config)}, content)
    write_bytes(path, content.getvalue())


def _plain(state: TrainState) -> dict[str, Any]:
    return {**vars(state), "history": [asdict(row) for row in state.history]}


def refuse_missing(path: Path) -> None:
    """Refuses to resume where there is no checkpoint.

    Raises:
        RunError: there is none.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; nothing to resume, run kinembed finetune without it")


def read_state(path: Path, config: FinetuneConfig) -> TrainState:
    """Where an interrupted training stands.

    Raises:
        RunError: there is none, or it was trained with other settings.
    """
    refuse_missing(path)
    saved = read_checkpoint(path, is_own=True)
    now = asdict(config)
    # A cosine has the rest of the epochs in view from the first.
    free = FREE - {"epochs"} if config.schedule == "cosine" else FREE
    try:
        for name, value in saved.pop("config").items():
            if name not in free and now[name] != value:
                raise RunError(
                    f"{path}: was trained with {name} {value!r}, now {now[name]!r}; resume with "
                    "the same settings, or start again without --resume"
                )
        history = [_read_epoch(Values(row)) for row in saved["history"]]
        if not history:
            raise ValueError("it has no epoch")
        return TrainState(**{**saved, "history": history})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _malformed(path, error) from None


def read_on_all(path: Path, config: FinetuneConfig, ranks: Ranks) -> TrainState:
    """Where an interrupted training stands, on all ranks; only the writer needs the file.

    Raises:
        RunError: as of `read_state`.
    """
    plain = ranks.from_writer(lambda: _plain(read_state(path, config)))
    return TrainState(**{**plain, "history": [Epoch(**row) for row in plain["history"]]})


def _read_epoch(row: Values) -> Epoch:
    """A row of the history, whose losses may be anything but text."""
    row.only([field.name for field in fields(Epoch)])
    if not all(isinstance(value, int | float) for value in row.content.values()):
        raise ValueError("its history has no numbers")
    return Epoch(**row.content)


def restore(trainer: Trainer, state: TrainState, path: Path) -> None:
    """Puts a trainer back to where the checkpoint at `path` stands.

    Raises:
        RunError: the checkpoint is of another network.
    """
    try:
        trainer.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _malformed(path, error) from None


def _malformed(path: Path, error: Exception) -> RunError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return RunError(
        f"{path}: not a checkpoint of this training ({reason}); start again without --resume"
    )
