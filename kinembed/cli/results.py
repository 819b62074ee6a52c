"""The output of `--json`: a command's result as one JSON object, read from its artefacts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kinembed.errors import UnprintedError
from kinembed.printable import lines, one_line

if TYPE_CHECKING:
    from kinembed.data.aligned_folder import AlignedFolder
    from kinembed.evaluation.published import Published
    from kinembed.inference.album import Album

Result = dict[str, Any]

WHOLE = {"seed", "folds", "pairs", "epoch"}  # columns of CSV tables
FRACTIONS = {"auc", "low", "high", "seconds", "val_auc", "val_accuracy"}


def show(line: object) -> None:
    """Prints one line of a result on standard output, escaped.

    Raises:
        UnprintedError: it is closed, full, or nobody reads it.
    """
    _print(one_line(line))


def show_table(text: str) -> None:
    """Prints lines of a result, as `show`; who makes them escapes the line ends within each."""
    _print(lines(text.removesuffix("\n")))


def _print(text: str) -> None:
    try:
        click.echo(text)
    except OSError as error:
        raise UnprintedError(error) from None


def print_json(result: Mapping[str, Any]) -> None:
    """Prints a result on standard output as JSON."""
    show_table(json.dumps(result, indent=2, default=str))


def of_align(aligned: "AlignedFolder") -> Result:
    """The table of faces, and how many photos and faces there are."""
    counts = aligned.left_out.counts
    return {
        "path": aligned.table,
        "photos": len(aligned.photos),
        "faces": aligned.faces,
        "without_face": counts.get("without a face", 0),
        "unreadable": counts.get("that cannot be read", 0),
        "computed": aligned.computed,
        "seconds": aligned.seconds,
    }


def of_relate(album: "Album", run: Path) -> Result:
    """The page, the tables, and how much there is of everything."""
    return {
        "path": run / "relate.html",
        "people": run / "people.csv",
        "links": run / "relate.csv",
        "photos": album.photos,
        "faces": len(album.faces),
        "persons": len(album.people),
        "pairs": album.pairs,
        "shown": len(album.shown),
        "expected_false": album.expected_false,
        "questions": album.questions,
        "left_out": list(album.left_out),
    }


def of_finetune(path: Path) -> Result:
    """The network's file and its epochs; AUC and accuracy are those of the kept one."""
    rows = _table(path.with_name("history.csv"))
    about = json.loads(path.with_name("config.json").read_bytes())
    kept = rows[about["kept_epoch"] - 1]
    return {
        "path": path,
        "epochs": len(rows),
        "best_epoch": about["best_epoch"],
        "kept_epoch": about["kept_epoch"],
        "val_auc": kept["val_auc"],
        "val_accuracy": kept["val_accuracy"],
        "seconds": sum(row["seconds"] for row in rows),
    }


def of_folds(run: Path) -> Result:
    """The folder of all folds; the mean AUC, each by the fold held out; each fold by itself."""
    from kinembed.fold_runs import FOLDER, fold_runs

    folds = [of_finetune(folder / "model.pt") for folder in fold_runs(run, "model.pt")]
    return {
        "path": run / FOLDER,
        "val_auc": sum(each["val_auc"] for each in folds) / len(folds),
        "seconds": sum(each["seconds"] for each in folds),
        "folds": folds,
    }


def of_experiments(path: Path) -> Result:
    """The table's file and its rows."""
    from dataclasses import asdict

    from kinembed.experiments import read_results

    return {"path": path, "results": [asdict(result) for result in read_results(path)]}


def of_cache(path: Path) -> Result:
    """The contents and provenance of a cache; of a folder of shards just the path."""
    from kinembed.cache.verify import describe

    if path.is_dir():
        keys = ("photos", "people", "families", "bytes", "views", "provenance")
        return {"path": path, **dict.fromkeys(keys)}
    return describe(path)


def of_head(path: Path) -> Result:
    """The head's file and its row of the head log, the last."""
    row = _table(path.with_name("heads.csv"))[-1]
    del row["when"]
    return {"path": path, **row}


def of_published(path: Path, published: "Published") -> Result:
    """A published head's file and card, and what it says of itself."""
    from dataclasses import asdict

    return {
        "path": path,
        "card": path.with_suffix(".md"),
        "head": published.head.digest,
        **{name: asdict(getattr(published, name)) for name in ("origin", "network", "fidelity")},
        "bytes": path.stat().st_size,
    }


def of_kept_heads(run: Path) -> Result:
    """The heads of a run folder, the oldest first.

    They are of the time that the head log says: a copy of a file has a time of its own.
    """
    from dataclasses import asdict

    from kinembed.evaluation.head_log import FILE, logged_times
    from kinembed.heads.kept import all_heads

    logged = logged_times(run / FILE)
    heads: list[Result] = [
        {
            "name": each.name,
            "view": each.head.view,
            **asdict(each.record),
            "model": each.head.model[:12],
            "when": logged.get(each.head.digest[:12], each.when),
            "in_use": each.in_use,
        }
        for each in all_heads(run)
    ]
    return {"heads": sorted(heads, key=lambda head: str(head["when"]))}


def of_kept_calibrations(run: Path) -> Result:
    """The calibrations of a run folder, the last used last."""
    from kinembed.evaluation.kept_calibrations import all_calibrations

    names = ("map", "target", "prior", "threshold")
    return {
        "calibrations": [
            {
                "name": each.name,
                **{name: getattr(each.calibration.alone, name) for name in names},
                "expanded": each.calibration.expanded is not None,
                "epoch_chosen_by": each.calibration.epoch_chosen_by,
                "head": each.calibration.head[:12],
                "in_use": each.in_use,
            }
            for each in all_calibrations(run)
        ]
    }


def of_sweep(path: Path) -> Result:
    """The table's file and its rows, best head first."""
    return {"path": path, "heads": _table(path)}


def of_calibrate(path: Path) -> Result:
    """The calibration without schema, knots and sha256, and the number of people in its fit.

    Its thresholds are there as logits and as probabilities.
    """
    from kinembed.evaluation.calibration import load_calibration

    calibration = load_calibration(path)
    about = json.loads(path.read_bytes())
    del about["schema"], about["sha256"]
    scales = {"alone": calibration.alone, "expanded": calibration.expanded}
    for name, scale in scales.items():
        if scale is not None:
            del about[name]["knots"]
            about[name]["threshold_probability"] = scale.threshold_probability
    return {"path": path, **about, "people": len(about["people"])}


def of_evaluate(path: Path) -> Result:
    """All of `evaluation.json`."""
    return {"path": path, **json.loads(path.read_bytes())}


def of_score(path: Path) -> Result:
    """The submission's file and its number of pairs."""
    from kinembed.data.pair_files import read_pairs

    return {"path": path, "pairs": sum(len(block) for block in read_pairs(path, 65_536))}


def of_audit(path: Path) -> Result:
    """The findings and how many there are of each kind."""
    from kinembed.auditing.record import AuditRecord

    rows = _table(path)
    counts: dict[str, int] = {}
    for row in rows:
        row["surety"] = float(row["surety"]) if row["surety"] else None  # too few people
        counts[row["kind"]] = counts.get(row["kind"], 0) + 1
    record = AuditRecord.read(path.parent)
    return {
        "path": path,
        "counts": counts,
        "not_judged": record.not_judged,
        "missing": record.missing,
        "changed": record.changed,
        "findings": rows,
    }


def of_weights(path: Path, backbone: str | None = None) -> Result:
    """The contents of a weight file."""
    from dataclasses import asdict

    from kinembed.weights import verify

    return asdict(verify(str(path), backbone))


def _table(path: Path) -> list[Result]:
    """The rows of a CSV, their numbers as numbers."""
    from kinembed.io import read_csv

    return [{k: _value(k, text) for k, text in row.items()} for row in read_csv(path)[1]]


def _value(column: str, text: str) -> Any:
    if column in WHOLE:
        return int(text)
    return float(text) if column in FRACTIONS else text
