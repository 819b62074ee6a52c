"""The ledger `experiments.csv` of a run folder: a row for each head that was trained there."""

import csv
import datetime
import io
from collections.abc import Mapping
from pathlib import Path

from kinembed.errors import RunError
from kinembed.io import write_bytes

COLUMNS = (
    *("when", "recipe", "settings", "view", "seed", "folds", "pairs", "auc", "low", "high"),
    *("seconds", "head"),
)


def enter(path: Path, row: Mapping[str, object]) -> Path:
    """Adds a row to the ledger, below those that are there.

    Args:
        path: the ledger; it is begun where there is none.
        row: the columns but `when`; numbers with four digits.

    Raises:
        RunError: the file is no ledger.
    """
    rows = read_ledger(path) if path.exists() else []
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    shown = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in row.items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, {"when": now, **shown}])
    return write_bytes(path, text.getvalue().encode())


def read_ledger(path: Path) -> list[dict[str, str]]:
    """The rows of a ledger, the oldest first.

    Raises:
        RunError: the file is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error}); move it away") from None
    if names != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise RunError(
            f"{path}: found columns {','.join(names)[:80]!r}, wanted the ledger of kinembed head "
            f"({','.join(COLUMNS)}); move it away"
        )
    return rows
