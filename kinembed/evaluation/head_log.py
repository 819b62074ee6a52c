"""The head log `heads.csv` of a run folder: a row for each trained head."""

import csv
import datetime
import logging
from collections.abc import Mapping
from pathlib import Path

from kinembed.errors import RunError
from kinembed.evaluation.out_of_fold import OutOfFold
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord
from kinembed.io import moved_together, read_csv, write_csv

log = logging.getLogger(__name__)

FILE = "heads.csv"
COLUMNS = (
    *("when", "recipe", "settings", "view", "seed", "folds", "pairs", "auc", "low", "high"),
    *("epoch_chosen_by", "seconds", "head"),
)


def describe_head(
    head: Head, record: HeadRecord, seed: int, seconds: float, result: OutOfFold
) -> dict[str, object]:
    """The row of a trained head, all columns but `when`."""
    return {
        "recipe": record.recipe,
        "settings": record.settings,
        "view": head.view,
        "seed": seed,
        "folds": len(head.folds),
        "pairs": result.pairs,
        "auc": result.auc,
        "low": result.low,
        "high": result.high,
        "epoch_chosen_by": record.epoch_chosen_by,
        "seconds": seconds,
        "head": head.digest[:12],
    }


def log_head(path: Path, *rows: Mapping[str, object]) -> Path:
    """Adds rows below those of a head log, while no other process can.

    Args:
        path: the log; created if missing.
        rows: all columns but `when` of each; fractions get four digits.

    Raises:
        RunError: the file is not a head log.
        ValueError: there is no such column.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with moved_together(path.parent):
        logged = read_head_log(path) if path.exists() else []
        for row in rows:
            texts = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in row.items()}
            logged.append({"when": now, **texts})
        return write_csv(path, logged, COLUMNS)


def logged_times(path: Path) -> dict[str, str]:
    """When each head of a head log was last trained, by its digest; logs why there is none."""
    try:
        return {row["head"]: row["when"] for row in read_head_log(path)} if path.exists() else {}
    except RunError as error:
        log.warning("%s", error)
        return {}


def check_head_log(path: Path) -> None:
    """Refuses a file that a row cannot be added to, before a training that would end with it.

    Raises:
        RunError: the file is no head log.
    """
    if path.exists():
        read_head_log(path)


def read_head_log(path: Path) -> list[dict[str, str]]:
    """The rows of a head log, oldest first.

    Raises:
        RunError: the file is not a head log.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RunError(f"{path}: cannot be read (no regular file); move it away")
    try:
        columns, rows = read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error}); move it away") from None
    names = tuple(columns)
    if names != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise RunError(
            f"{path}: found columns {','.join(names)[:80]!r}, wanted the head log of kinembed head "
            f"({','.join(COLUMNS)}); move it away"
        )
    return rows
