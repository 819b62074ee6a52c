"""The stage `experiments`: fine-tunes recipe after recipe, and tabulates what each reached."""

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kinembed.backbones import check_views, find_backbone
from kinembed.config import (
    EmbedConfig,
    EvaluateConfig,
    ExperimentsConfig,
    FinetuneConfig,
    ScoreConfig,
)
from kinembed.data.families import read_families
from kinembed.data.photo_files import find_photos
from kinembed.embed import embed
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluate import evaluate
from kinembed.finetune import can_resume, finetune, is_finished
from kinembed.heads.file import read_head
from kinembed.heads.kept import IN_USE
from kinembed.io import read_csv, write_bytes, write_csv
from kinembed.printable import in_markdown
from kinembed.progress import Progress, silent
from kinembed.recipes import REPORTED
from kinembed.report.tables import markdown_table
from kinembed.score import score
from kinembed.views import parts_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A row of `experiments.csv`: what the epoch that is kept reached.

    Attributes:
        best_epoch: that of the best validation AUC; `kept_epoch`: that of all else in the row.
        test_auc: on labelled pairs of test photos; None where none were given.
        report_public: Kaggle score of the report's own training, where it ran this one; so, too,
            `report_private`.
        seconds: of all epochs, whether or not the training was interrupted between them.
        submission: its path below the folder of the table; empty where none was written.
        error: why there is no result, or no submission; empty where nothing failed.
    """

    backbone: str
    recipe: str
    split: str
    epochs: int | None = None
    best_epoch: int | None = None
    kept_epoch: int | None = None
    val_auc: float | None = None
    val_accuracy: float | None = None
    test_auc: float | None = None
    report_public: float | None = None
    report_private: float | None = None
    seconds: float | None = None
    submission: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a row is of: another result of the same takes its place."""
        return self.backbone, self.recipe, self.split

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        return "-".join(self.key)


@dataclass(frozen=True)
class PairFiles:
    """What each trained network scores.

    Attributes:
        submission: the pairs of a submission; None: there are none, or no photos of them.
        labelled: a CSV of labelled pairs; None: there is none.
    """

    submission: Path | None = None
    labelled: Path | None = None


Curve = list[tuple[int, float]]  # validation AUC by epoch

WHOLE = ("epochs", "best_epoch", "kept_epoch")
NUMBERS = ("val_auc", "val_accuracy", "test_auc", "report_public", "report_private", "seconds")
NOTE = (
    "- AUC and accuracy at .5: validation pairs of people held out here, at the kept epoch.\n"
    "- Kaggle: ROC AUC of the report's own submissions. Other pairs: compare within a column.\n"
)
JUDGED = "- Test AUC: the labelled pairs given by --labels, all of them.\n"


def experiments(
    config: ExperimentsConfig, data: Path, run: Path, *, progress: Progress = silent
) -> Path:
    """Fine-tunes each recipe on each backbone by each split, each in a run folder of its own.

    Those are called `BACKBONE-RECIPE-SPLIT`. One that fails does not stop the others. One that is
    finished, with the same settings and photos, is not run again; one that was interrupted goes
    on from its last whole epoch. The tables are written again after each; rows of earlier calls
    stay in them.

    With `config.report` or `config.labels`, all photos are then embedded, the submission is
    written and the labelled pairs are scored, in the same run folder.

    Args:
        config: what to run.
        data: the data folder.
        run: where the run folders, `experiments.csv`, `experiments.md`, `experiments.png` and
            `scores.png` go.
        progress: shows how far each is.

    Returns:
        The path of `experiments.csv`.

    Raises:
        KinembedError: the data or an earlier table cannot be read, or a setting is unknown:
            nothing was run.
    """
    trainings = _trainings(config)
    read_families(data)
    pairs = _pair_files(config, data)
    path = run / "experiments.csv"
    results = {each.key: each for each in (read_results(path) if path.exists() else [])}
    for number, training in enumerate(trainings, start=1):
        result = Result(training.backbone, training.recipe, training.split)
        log.info("experiment %d of %d: %s", number, len(trainings), run / result.folder)
        earlier = results.get(result.key, result)
        results[result.key] = _run(training, earlier, pairs, data, run, progress)
        _write(list(results.values()), run)
    return path


def read_results(path: Path) -> list[Result]:
    """Reads `experiments.csv`.

    Raises:
        RunError: it is missing or is something else.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; run kinembed experiments")
    try:
        return [_parsed(row) for row in read_csv(path)[1]]
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: no table of experiments ({error}); move it away, and run kinembed "
            "experiments again: what is trained is not trained again"
        ) from None


def _trainings(config: ExperimentsConfig) -> list[FinetuneConfig]:
    """What to train, in turn: what is wrong beforehand is refused here."""
    trainings = config.trainings()
    for training in trainings:
        training.check()
        backbone = find_backbone(training.backbone)
        backbone.check_trainable()
        check_views(backbone, parts_of(training.view))
    return trainings


def _pair_files(config: ExperimentsConfig, data: Path) -> PairFiles:
    """What each trained network scores; says why there are no submissions."""
    if not config.report and config.labels is None:
        return PairFiles()
    labelled = None
    if config.labels is not None:
        labelled = _found(config.labels, data)
        if labelled is None:
            raise DataError(
                f"{config.labels}: no such file, here or in {data}; wanted a CSV of labelled pairs"
            )
    try:
        find_photos(("test",), data)
    except DataError as error:
        if labelled is not None:
            raise
        log.warning("no submissions are written: %s", error)
        return PairFiles()
    submission = _found(config.pairs, data)
    if submission is None:
        log.warning(
            "no submissions are written: %s: no such file, here or in %s", config.pairs, data
        )
    return PairFiles(submission, labelled)


def _found(path: Path, data: Path) -> Path | None:
    """A file where its path says, else in the data folder."""
    return next((at for at in (path, data / path) if at.is_file()), None)


def _run(
    config: FinetuneConfig,
    earlier: Result,
    pairs: PairFiles,
    data: Path,
    run: Path,
    progress: Progress,
) -> Result:
    """The result of one experiment, which is trained unless that is done already."""
    result = Result(config.backbone, config.recipe, config.split)
    folder = run / result.folder
    if not config.overrides and (config.backbone, config.recipe) in REPORTED:
        public, private = REPORTED[config.backbone, config.recipe]
        result = replace(result, report_public=public, report_private=private)
    try:
        if is_finished(config, data, folder):
            log.info("%s: finished before; not run again", folder)
            result = replace(result, test_auc=earlier.test_auc, submission=earlier.submission)
        else:
            resume = can_resume(config, data, folder)
            finetune(config, data, folder, resume=resume, progress=progress)
        result = _trained(result, folder)
        return _scored(result, config, pairs, data, folder, progress)
    except Exception as error:  # whatever it is, the other experiments are still worth running
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, KinembedError):
            reason = f"{type(error).__name__}: {reason}"
            log.debug("%s", folder, exc_info=True)
        log.error("%s: failed: %s", folder, reason)
        return replace(result, error=reason)


def _trained(result: Result, folder: Path) -> Result:
    """The result with what the training reached."""
    about = json.loads((folder / "config.json").read_bytes())
    kept = int(about["kept_epoch"])
    rows = read_csv(folder / "history.csv")[1]
    return replace(
        result,
        epochs=len(rows),
        best_epoch=int(about["best_epoch"]),
        kept_epoch=kept,
        val_auc=float(rows[kept - 1]["val_auc"]),
        val_accuracy=float(rows[kept - 1]["val_accuracy"]),
        seconds=round(sum(float(row["seconds"]) for row in rows), 1),
    )


def _scored(
    result: Result,
    config: FinetuneConfig,
    pairs: PairFiles,
    data: Path,
    folder: Path,
    progress: Progress,
) -> Result:
    """The result with its submission and its AUC on labelled pairs, by the network's own head.

    Raises:
        RunError: another head has taken its place.
    """
    if pairs == PairFiles():
        return result
    _, record = read_head(folder / IN_USE)
    if record.stage != "finetune":
        raise RunError(
            f"{folder / IN_USE}: kinembed head trained it, so its scores are not the network's "
            f"own; kinembed head --list --run {folder} shows the network's head, --use takes it"
        )
    photos = EmbedConfig(
        device=config.device, precision=config.precision, skip_unreadable=config.skip_unreadable
    )
    embed(photos, data, folder, progress=progress)
    if pairs.submission is not None:
        path = score(ScoreConfig(pairs.submission, raw=True), data, folder)
        result = replace(result, submission=f"{folder.name}/{path.name}")
    if pairs.labelled is not None:
        judged = EvaluateConfig(pairs.labelled, pictures=False, seed=config.seed)
        about = json.loads(evaluate(judged, data, folder).read_bytes())
        result = replace(result, test_auc=float(about["auc"]))
    return result


def _write(results: Sequence[Result], run: Path) -> None:
    """Writes the tables and the figures of what has been run so far."""
    from kinembed.report.experiments import draw_experiments, draw_scores

    curves = {
        (result.split, result.backbone, result.recipe): _curve(result, run) for result in results
    }
    scores = {
        "the report, Kaggle public": [result.report_public for result in results],
        "the report, Kaggle private": [result.report_private for result in results],
        "ours, validation": [result.val_auc for result in results],
        "ours, labelled test pairs": [result.test_auc for result in results],
    }
    one_split = len({result.split for result in results}) == 1
    names = [" ".join(result.key[:2] if one_split else result.key) for result in results]
    if draw_experiments(curves, run / "experiments.png") is None:
        for name in ("experiments.png", "scores.png"):  # older ones, of other experiments
            (run / name).unlink(missing_ok=True)
    else:
        draw_scores(names, scores, run / "scores.png")
    write_bytes(run / "experiments.md", as_table(results).encode())
    columns = [field.name for field in fields(Result)]
    write_csv(run / "experiments.csv", [asdict(result) for result in results], columns)


def _curve(result: Result, run: Path) -> Curve:
    """How a training went; empty where it failed, or its run folder is gone."""
    path = run / result.folder / "history.csv"
    if result.val_auc is None or not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["epoch"]), float(row["val_auc"])) for row in csv.DictReader(file)]


def _parsed(row: dict[str, str]) -> Result:
    """A row of the CSV, its numbers as numbers again."""
    kinds: dict[str, type] = dict.fromkeys(WHOLE, int) | dict.fromkeys(NUMBERS, float)
    values: dict[str, Any] = {
        name: (kinds[name](text) if text else None) if name in kinds else text
        for name, text in row.items()
    }
    return Result(**values)


def as_table(results: Sequence[Result]) -> str:
    """Results as a Markdown table like the report's figure 23: a row a backbone and recipe.

    Scores of one column are of the same pairs; those of different columns are not.
    """
    splits = list(dict.fromkeys(result.split for result in results))
    judged = any(result.test_auc is not None for result in results)
    header = ["backbone", "recipe"]
    for split in splits:
        header += [f"AUC by {split}", f"accuracy by {split}"]
        header += [f"test AUC by {split}"] * judged
    rows = [[*header, "Kaggle public (report)", "Kaggle private (report)", "kept epoch", "time"]]
    networks = dict.fromkeys((result.backbone, result.recipe) for result in results)
    for network in networks:
        by_split = {r.split: r for r in results if (r.backbone, r.recipe) == network}
        row = list(network)
        for split in splits:
            row += _reached(by_split.get(split), judged)
        first, *_ = by_split.values()
        row += [_three(first.report_public), _three(first.report_private)]
        row += [", ".join(_kept_epoch(r) for r in by_split.values())]
        rows.append([*row, _duration(result.seconds for result in by_split.values())])
    failed = [
        f"- {in_markdown(f'{result.folder} failed: {result.error}')}\n"
        for result in results
        if result.error
    ]
    notes = [NOTE, *([JUDGED] if judged else [])]
    return markdown_table(rows, text_columns=2) + "".join(["\n", *notes, *failed])


def _reached(result: Result | None, judged: bool) -> list[str]:
    """The cells of validation AUC and accuracy and, where there is one, of the test AUC."""
    cells = 3 if judged else 2
    if result is None:  # not run yet
        return [""] * cells
    if result.val_auc is None:
        return ["failed"] * cells
    found = [_three(result.val_auc), _three(result.val_accuracy), _three(result.test_auc)]
    return found[:cells]


def _kept_epoch(result: Result) -> str:
    return "" if result.epochs is None else f"{result.kept_epoch} of {result.epochs}"


def _three(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _duration(parts: Iterable[float | None]) -> str:
    """Seconds of all splits together, as h:mm:ss; empty where none was run."""
    known = [seconds for seconds in parts if seconds is not None]
    if not known:
        return ""
    minutes, seconds = divmod(round(sum(known)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
