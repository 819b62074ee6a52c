"""The run folders of `finetune --folds`: `folds/1` and so on in a run folder, one for each fold."""

import json
from pathlib import Path
from typing import Any

from kinembed.errors import RunError

FOLDER = "folds"
SETTINGS = "config.json"  # what the folds share

# What makes a file of each fold.
MADE_BY = {
    "model.pt": "kinembed finetune --folds with --resume and the same settings",
    "embeddings.h5": "kinembed embed --folds",
    "head.h5": "kinembed finetune --folds with --resume and the same settings",
}


def fold_run(run: Path, fold: int) -> Path:
    """The run folder of a fold, the first being 1."""
    return run / FOLDER / str(fold)


def has_folds(run: Path) -> bool:
    """Whether `finetune --folds` was started in a run folder."""
    return (run / FOLDER / SETTINGS).is_file()


def shared_settings(run: Path) -> dict[str, Any]:
    """What the folds of a run folder share: settings of `finetune`, and a digest of the data.

    Raises:
        RunError: there are no folds, or their file is damaged.
    """
    path = run / FOLDER / SETTINGS
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed finetune --folds N")
    try:
        about = json.loads(path.read_bytes())
        if not isinstance(about["folds"], int) or not 2 <= about["folds"] <= 1000:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{path}: does not say how many folds there are; run kinembed finetune --folds N in "
            "another folder"
        ) from None
    return dict(about)


def fold_runs(run: Path, file: str) -> list[Path]:
    """The run folders of all folds, each of which has a file.

    Args:
        run: the run folder.
        file: one of `MADE_BY`.

    Raises:
        RunError: there are no folds, or one lacks the file.
    """
    folders = [fold_run(run, fold) for fold in range(1, 1 + shared_settings(run)["folds"])]
    lacking = [folder / file for folder in folders if not (folder / file).is_file()]
    if lacking:
        more = f", nor are {len(lacking) - 1} of other folds" if len(lacking) > 1 else ""
        raise RunError(f"{lacking[0]}: no such file{more}; run {MADE_BY[file]}")
    return folders
