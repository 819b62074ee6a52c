"""The table of a sweep: one row per head, best first."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kinembed.evaluation.out_of_fold import OutOfFold
from kinembed.io import write_bytes, write_csv
from kinembed.recipes import as_set
from kinembed.report.tables import markdown_table

log = logging.getLogger(__name__)


def write_sweep(
    sweep: Sequence[str],
    variants: Sequence[tuple[Any, int]],
    trained: Sequence[Any],
    results: Sequence[OutOfFold],
    run: Path,
) -> Path:
    """Writes `sweep.csv` and `sweep.md`.

    Args:
        sweep: the swept settings, `key=value,value` each.
        variants: recipe and seed of each head.
        trained: the heads, with the epoch and the seconds of their training.
        results: their AUCs on held-out people.
        run: the run folder.

    Returns:
        The path of `sweep.csv`.
    """
    keys = [text.partition("=")[0].strip() for text in sweep]
    rows: list[dict[str, str]] = []
    for (recipe, seed), head, result in zip(variants, trained, results, strict=True):
        values = {**asdict(recipe), "seed": seed}
        rows.append(
            {
                **{key: as_set(values[key]) for key in keys},
                "auc": f"{result.auc:.4f}",
                "low": f"{result.low:.4f}",
                "high": f"{result.high:.4f}",
                "epoch": str(head.epoch),
            }
        )
    rows.sort(key=lambda row: -float(row["auc"]))
    table = markdown_table([list(rows[0]), *(list(row.values()) for row in rows)], len(keys))
    write_bytes(run / "sweep.md", table.encode())
    path = write_csv(run / "sweep.csv", rows)
    log.info(
        "%s: %d heads; the best of many looks better than it is: the interval is of one; train it "
        "with --set", path, len(rows),
    )  # fmt: skip
    return path
