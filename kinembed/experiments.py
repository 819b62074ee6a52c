"""The stage `experiments`: fine-tunes recipe after recipe, and tabulates what each reached."""

import csv
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kinembed.backbones import check_views, find_backbone
from kinembed.config import ExperimentsConfig, FinetuneConfig
from kinembed.data.families import read_families
from kinembed.errors import KinembedError, RunError
from kinembed.finetune import can_resume, finetune, is_finished
from kinembed.io import write_bytes, write_csv
from kinembed.progress import Progress, silent
from kinembed.recipes import REPORTED
from kinembed.report.tables import markdown_table

log = logging.getLogger(__name__)

Split = Literal["people", "families"]


@dataclass(frozen=True)
class Result:
    """A row of `experiments.csv`: what the epoch of the best validation AUC reached.

    Attributes:
        seconds: of all epochs, whether or not the training was interrupted between them.
        report_public: Kaggle score of the report's own training, where it ran this one; so, too,
            `report_private`.
        error: why there is no result; empty where there is one.
    """

    backbone: str
    recipe: str
    split: str
    epochs: int | None = None
    best_epoch: int | None = None
    val_auc: float | None = None
    val_accuracy: float | None = None
    report_public: float | None = None
    report_private: float | None = None
    seconds: float | None = None
    error: str = ""


Curve = list[tuple[int, float]]  # validation AUC by epoch


def experiments(
    config: ExperimentsConfig, data: Path, run: Path, *, progress: Progress = silent
) -> Path:
    """Fine-tunes each recipe on each backbone by each split, each in a run folder of its own.

    Those are called `BACKBONE-RECIPE-SPLIT`. One that fails does not stop the others. One that is
    finished, with the same settings and photos, is not run again; one that was interrupted goes
    on from its last whole epoch. The tables are written again after each.

    Args:
        config: what to run.
        data: the data folder.
        run: where the run folders, `experiments.csv`, `experiments.md` and `experiments.png` go.
        progress: shows how far each is.

    Returns:
        The path of `experiments.csv`.

    Raises:
        KinembedError: the data cannot be read, or a setting is unknown: nothing was run.
    """
    trainings = _trainings(config)
    read_families(data)
    results: list[Result] = []
    curves: dict[tuple[str, str, str], Curve] = {}
    for number, training in enumerate(trainings, start=1):
        folder = run / f"{training.backbone}-{training.recipe}-{training.split}"
        log.info("experiment %d of %d: %s", number, len(trainings), folder)
        result, curve = _run(training, data, folder, progress)
        results.append(result)
        curves[training.split, training.backbone, training.recipe] = curve
        _write(results, curves, run)
    return run / "experiments.csv"


def read_results(path: Path) -> list[Result]:
    """Reads `experiments.csv`.

    Raises:
        RunError: it is missing or is something else.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed experiments")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parsed(row) for row in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: no table of experiments ({error})") from None


def _trainings(config: ExperimentsConfig) -> list[FinetuneConfig]:
    """What to train, in turn: what is wrong beforehand is refused here."""
    for name in ("recipes", "backbones", "splits"):
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            found = ",".join(values)
            raise KinembedError(f"{name}: found {found!r}, wanted one or more different names")
    for split in config.splits:
        if split not in get_args(Split):
            known = ", ".join(get_args(Split))
            raise KinembedError(f"split {split!r} is unknown; known are {known}")
    config.training.check()
    trainings = [
        replace(config.training, backbone=backbone, recipe=recipe, split=cast(Split, split))
        for backbone in config.backbones
        for recipe in config.recipes
        for split in config.splits
    ]
    for training in trainings:
        training.full_recipe()
        check_views(find_backbone(training.backbone), (training.view,))
    return trainings


def _run(
    config: FinetuneConfig, data: Path, folder: Path, progress: Progress
) -> tuple[Result, Curve]:
    """One experiment, unless it is done already; its result and its curve."""
    result = Result(config.backbone, config.recipe, config.split)
    if not config.overrides and (config.backbone, config.recipe) in REPORTED:
        public, private = REPORTED[config.backbone, config.recipe]
        result = replace(result, report_public=public, report_private=private)
    try:
        if is_finished(config, data, folder):
            log.info("%s: finished before; not run again", folder)
        else:
            resume = can_resume(config, data, folder)
            finetune(config, data, folder, resume=resume, progress=progress)
        best = int(json.loads((folder / "config.json").read_bytes())["best_epoch"])
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        curve = [(int(row["epoch"]), float(row["val_auc"])) for row in rows]
        result = replace(
            result,
            epochs=len(rows),
            best_epoch=best,
            val_auc=curve[best - 1][1],
            val_accuracy=float(rows[best - 1]["val_accuracy"]),
            seconds=round(sum(float(row["seconds"]) for row in rows), 1),
        )
    except Exception as error:  # whatever it is, the other experiments are still worth running
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, KinembedError):
            reason = f"{type(error).__name__}: {reason}"
            log.debug("%s", folder, exc_info=True)
        log.error("%s: failed: %s", folder, reason)
        return replace(result, error=reason), []
    return result, curve


def _write(results: list[Result], curves: dict[tuple[str, str, str], Curve], run: Path) -> None:
    """Writes the tables and the figure of what has been run so far."""
    from kinembed.report.experiments import draw_experiments

    if draw_experiments(curves, run / "experiments.png") is None:
        (run / "experiments.png").unlink(missing_ok=True)  # an older one, of other experiments
    write_bytes(run / "experiments.md", as_table(results).encode())
    columns = [field.name for field in fields(Result)]
    write_csv(run / "experiments.csv", [asdict(result) for result in results], columns)


def _parsed(row: dict[str, str]) -> Result:
    """A row of the CSV, its numbers as numbers again."""
    kinds = {"epochs": int, "best_epoch": int} | dict.fromkeys(
        ("val_auc", "val_accuracy", "report_public", "report_private", "seconds"), float
    )
    values: dict[str, Any] = {
        name: (kinds[name](text) if text else None) if name in kinds else text
        for name, text in row.items()
    }
    return Result(**values)


def as_table(results: list[Result]) -> str:
    """Results as a Markdown table like the report's figure 23: a row a backbone and recipe."""
    splits = list(dict.fromkeys(result.split for result in results))
    header = ["backbone", "recipe"]
    for split in splits:
        header += [f"AUC by {split}", f"accuracy by {split}"]
    rows = [[*header, "report, public", "report, private", "time"]]
    networks = dict.fromkeys((result.backbone, result.recipe) for result in results)
    for network in networks:
        by_split = {r.split: r for r in results if (r.backbone, r.recipe) == network}
        row = list(network)
        for split in splits:
            row += _reached(by_split.get(split))
        first, *_ = by_split.values()
        row += [_three(first.report_public), _three(first.report_private)]
        rows.append([*row, _duration(result.seconds for result in by_split.values())])
    failed = [
        f"- {result.backbone}-{result.recipe}-{result.split} failed: {result.error}\n"
        for result in results
        if result.error
    ]
    return markdown_table(rows, text_columns=2) + "".join(["\n", *failed] if failed else [])


def _reached(result: Result | None) -> tuple[str, str]:
    """The cells of validation AUC and accuracy."""
    if result is None:  # not run yet
        return "", ""
    if result.error:
        return "failed", "failed"
    return _three(result.val_auc), _three(result.val_accuracy)


def _three(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _duration(parts: Iterable[float | None]) -> str:
    """Seconds of all splits together, as h:mm:ss; empty where none was run."""
    known = [seconds for seconds in parts if seconds is not None]
    if not known:
        return ""
    minutes, seconds = divmod(round(sum(known)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
