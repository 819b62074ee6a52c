"""Experiments: all of the report's recipes, failures, kills, and the tables they leave."""

import csv
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import Forked
from PIL import Image
from small_networks import stand_in

from kinembed import experiments as stage
from kinembed.backbones import BACKBONES, Framing
from kinembed.cli import run as command
from kinembed.config import ExperimentsConfig, FinetuneConfig, HeadConfig
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.metrics import roc_auc
from kinembed.experiments import Result, as_table, experiments, read_results
from kinembed.head import head
from kinembed.recipes import RECIPES, REPORTED
from kinembed.report.plots import write_plot
from kinembed.training.siamese import load_model

# The report's figure 23: public and private score by recipe, with ResNet-50.
FIGURE_23 = {
    "base": (0.499, 0.524),
    "adam-lr": (0.722, 0.723),
    "dense": (0.726, 0.716),
    "rmsprop": (0.591, 0.618),
    "focal": (0.703, 0.691),
    "regularized": (0.745, 0.759),
}
LEAST = [
    *("--weights", "none", "--precision", "fp32", "--epochs", "1"),
    *("--steps", "2", "--val-steps", "1", "--batch-size", "2", "--framing", "loose"),
]


@pytest.fixture
def small() -> ExperimentsConfig:
    """Two recipes of a second each."""
    settings = {"epochs": 2, "steps": 2, "val_steps": 2, "batch_size": 6, "seed": 3}
    settings |= {"device": "cpu", "precision": "fp32", "framing": "loose"}
    return ExperimentsConfig(("base", "adam-lr"), ("mtcnn-onet",), ("families",), settings)


def columns(path: Path) -> tuple[list[str], list[float]]:
    """The pairs of a submission or of labels, and their numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["img_pair"] for row in rows], [float(row["is_related"]) for row in rows]


def untimed(path: Path) -> list[Result]:
    return [replace(result, seconds=None) for result in read_results(path)]


def mtimes(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("model*.pt")}


def drawn(run: Path, name: str) -> Image.Image:
    """A figure of the table as it stands, drawn: after each training it was a sketch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinembed.report.experiments.write_plot", write_plot)
        stage._write(read_results(run / "experiments.csv"), run)
    with Image.open(run / name) as figure:
        return figure.convert("RGB")


# The report's networks and recipes


@pytest.mark.parametrize(
    ("backbones", "recipes"), [("resnet50", "all"), ("senet50,vgg16", "regularized")]
)
def test_the_reports_experiments_run(
    backbones: str,
    recipes: str,
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under their names, but small: the next test trains the real ones."""
    stand_in(monkeypatch, *backbones.split(","))
    run = tmp_path / "run"
    arguments = ["experiments", "--data", str(faces), "--run", str(run), "--splits", "people"]
    arguments += ["--backbones", backbones, "--recipes", recipes, *LEAST]
    assert command(arguments) == 0
    results = read_results(run / "experiments.csv")
    names = list(RECIPES) if recipes == "all" else [recipes]
    wanted = [(backbone, name) for backbone in backbones.split(",") for name in names]
    assert [(result.backbone, result.recipe) for result in results] == wanted
    for result in results:
        assert result.error == ""
        assert result.epochs == result.best_epoch == 1
        assert result.val_auc is not None
        assert 0 <= result.val_auc <= 1
        scores = FIGURE_23[result.recipe] if result.backbone == "resnet50" else (None, None)
        assert (result.report_public, result.report_private) == scores
        assert (run / f"{result.backbone}-{result.recipe}-people" / "model.pt").is_file()
    table = (run / "experiments.md").read_text()
    assert capsys.readouterr().out == table
    for backbone, name in wanted:
        (line,) = (row for row in table.splitlines() if f"| {backbone} " in row and name in row)
        if backbone == "resnet50":
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[4:6] == [f"{number:.3f}" for number in FIGURE_23[name]]
    figure = drawn(run, "experiments.png")
    assert len(figure.getcolors(1 << 20) or ()) > len(wanted) + 2


@pytest.mark.parametrize("backbone", ["resnet50", "senet50", "vgg16"])
def test_the_reports_networks_learn(
    backbone: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole networks; the slowest on smaller photos, which change no layer and no parameter."""
    if backbone == "vgg16":  # the others pool maps of seven by seven
        small = replace(BACKBONES[backbone], framing=Framing(side=64, inner=64))
        monkeypatch.setitem(BACKBONES, backbone, small)
    run = tmp_path / "run"
    arguments = ["experiments", "--data", str(faces), "--run", str(run), "--splits", "people"]
    arguments += ["--backbones", backbone, "--recipes", "regularized", *LEAST, "--steps", "1"]
    assert command(arguments) == 0
    (result,) = read_results(run / "experiments.csv")
    assert result.error == ""
    assert result.epochs == result.best_epoch == 1
    network = load_model(run / f"{backbone}-regularized-people" / "model.pt")
    assert network.backbone == BACKBONES[backbone]
    count = sum(parameter.numel() for parameter in network.trunk.parameters())
    assert count == BACKBONES[backbone].parameters
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def test_the_reports_other_scores_are_there() -> None:
    others = {key: scores for key, scores in stage.REPORTED.items() if key[0] != "resnet50"}
    assert others == {("senet50", "base"): (0.541, 0.559), ("vgg16", "base"): (0.5, 0.5)}
    ours = {name: scores for (network, name), scores in stage.REPORTED.items() - others.items()}
    assert ours == FIGURE_23


# The report's eight trainings, whole: --report


def test_report_runs_the_reports_eight_trainings_whole(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, embedded, scored and judged; the networks are small."""
    stand_in(monkeypatch, "resnet50", "senet50", "vgg16")
    run = tmp_path / "run"
    arguments = ["experiments", "--report", "--data", str(faces), "--run", str(run), *LEAST]
    assert command([*arguments, "--labels", "test_labels.csv"]) == 0
    table = (run / "experiments.md").read_text()
    assert capsys.readouterr().out == table
    results = read_results(run / "experiments.csv")
    assert [(result.backbone, result.recipe) for result in results] == list(REPORTED)
    assert {path.name for path in run.iterdir() if path.is_dir()} == {r.folder for r in results}
    for result in results:
        assert (result.split, result.error, result.epochs) == ("people", "", 1)
        scores = REPORTED[result.backbone, result.recipe]
        assert (result.report_public, result.report_private) == scores
        assert result.submission == f"{result.folder}/submission.csv"
        pairs, said = columns(run / result.submission)
        wanted, labels = columns(faces / "test_labels.csv")
        assert pairs == wanted == columns(faces / "sample_submission.csv")[0]
        assert len(set(said)) > 1
        assert result.test_auc == pytest.approx(roc_auc(np.array(labels), np.array(said)), abs=1e-5)
        (line,) = (row for row in table.splitlines() if f" {result.backbone} " in row
                   and f" {result.recipe} " in row)  # fmt: skip
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        mine = (result.val_auc, result.val_accuracy, result.test_auc)
        assert cells[2:7] == [f"{number:.3f}" for number in (*mine, *scores)]
    assert len(drawn(run, "scores.png").getcolors(1 << 20) or ()) > 4
    before = mtimes(run)
    assert command([*arguments, "--labels", "test_labels.csv"]) == 0
    assert mtimes(run) == before
    assert read_results(run / "experiments.csv") == results


def test_report_is_the_reports_protocol_unless_options_say_otherwise() -> None:
    trainings = ExperimentsConfig(report=True).trainings()
    assert [(each.backbone, each.recipe) for each in trainings] == list(REPORTED)
    assert {(each.epochs, each.steps, each.split) for each in trainings} == {(30, 100, "people")}
    short = ExperimentsConfig(report=True, splits=("families",), settings={"epochs": 2})
    assert {(each.epochs, each.split) for each in short.trainings()} == {(2, "families")}


def test_report_chooses_recipes_and_networks_itself(tmp_path: Path) -> None:
    for option in ("--recipes", "--backbones"):
        assert command(["experiments", "--report", option, "all", "--run", str(tmp_path)]) == 2


@pytest.mark.parametrize("missing", ["test", "sample_submission.csv"])
def test_a_missing_test_set_is_said_and_the_networks_are_trained(
    missing: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small, caplog
) -> None:
    monkeypatch.setattr("kinembed.config.REPORTED", {("mtcnn-onet", "base"): (0.5, 0.5)})
    (data / missing).rename(data / "elsewhere")
    run = tmp_path / "run"
    (result,) = read_results(experiments(replace(small, splits=None, report=True), data, run))
    assert (result.error, result.submission) == ("", "")
    assert result.val_auc is not None
    said = [text for text in caplog.messages if "no submissions are written" in text]
    assert len(said) == 1
    assert str(missing) in said[0]


def test_labels_judge_any_experiments(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    config = replace(small, recipes=("base",), labels=Path("test_labels.csv"))
    (result,) = read_results(experiments(config, faces, tmp_path))
    _, said = columns(tmp_path / result.submission)
    _, labels = columns(faces / "test_labels.csv")
    assert result.test_auc == pytest.approx(roc_auc(np.array(labels), np.array(said)), abs=1e-5)
    with pytest.raises(KinembedError, match=r"known\.csv: no such file, here or in"):
        experiments(replace(config, labels=Path("known.csv")), faces, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_call_without_labels_keeps_what_they_said(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    config = replace(small, recipes=("base",), labels=Path("test_labels.csv"))
    judged = read_results(experiments(config, faces, tmp_path))
    assert judged[0].test_auc is not None
    assert read_results(experiments(replace(config, labels=None), faces, tmp_path)) == judged
    longer = replace(config, labels=None, settings={**small.settings, "epochs": 3})
    (other,) = read_results(experiments(longer, faces, tmp_path))  # is of another network
    assert (other.test_auc, other.submission) == (None, "")


def test_what_cannot_be_scored_keeps_what_its_training_reached(
    small: ExperimentsConfig, data: Path, tmp_path: Path
) -> None:
    (data / "sample_submission.csv").write_text("img_pair,is_related\nno.jpg-one.jpg,0\n")
    config = replace(small, recipes=("base",), labels=Path("test_labels.csv"))
    (result,) = read_results(experiments(config, data, tmp_path))
    assert "no.jpg" in result.error
    assert result.val_auc is not None
    table = (tmp_path / "experiments.md").read_text()
    assert f"| {result.val_auc:.3f} |" in table.replace("  ", "")
    assert f"- mtcnn-onet-base-families failed: {result.error}" in table


def test_any_view_is_scored(small: ExperimentsConfig, faces: Path, tmp_path: Path) -> None:
    """`embed` takes the view that the head compares, whichever it is."""
    settings = {**small.settings, "view": "avg"}
    labels = Path("test_labels.csv")
    config = replace(small, recipes=("base",), settings=settings, labels=labels)
    (result,) = read_results(experiments(config, faces, tmp_path))
    assert (result.error, result.test_auc is None) == ("", False)


def test_scores_are_by_the_networks_own_head(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    config = replace(small, recipes=("base",), labels=Path("test_labels.csv"))
    (before,) = read_results(experiments(config, faces, tmp_path))
    folder = tmp_path / before.folder
    own = (folder / "head.h5").read_bytes()
    head(HeadConfig(recipe="dense", epochs=1, steps=2), faces, folder)
    (result,) = read_results(experiments(config, faces, tmp_path))
    assert "kinembed head trained it" in result.error
    assert result.val_auc == before.val_auc
    (folder / "head.h5").write_bytes(own)
    assert read_results(experiments(config, faces, tmp_path)) == [before]


# Rows of earlier calls


def test_rows_accumulate_over_calls(
    small: ExperimentsConfig, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_results(experiments(small, faces, tmp_path))
    other = replace(small, recipes=("dense",), splits=("people",))
    results = read_results(experiments(other, faces, tmp_path))
    assert results[:2] == first
    assert [result.folder for result in results[2:]] == ["mtcnn-onet-dense-people"]

    def failing(*args, **options) -> Path:
        raise MemoryError("not that much")

    monkeypatch.setattr(stage, "finetune", failing)
    longer = replace(small, settings={**small.settings, "epochs": 3}, recipes=("base",))
    again = read_results(experiments(longer, faces, tmp_path))
    assert again[0].error == "MemoryError: not that much"  # in its place
    assert again[1:] == results[1:]
    table = (tmp_path / "experiments.md").read_text()
    assert all(result.recipe in table for result in results)
    # a panel for each split, of both calls
    assert drawn(tmp_path, "experiments.png").width > 1200


def test_an_earlier_failure_does_not_fail_the_next_call(faces: Path, tmp_path: Path) -> None:
    arguments = ["experiments", "--data", str(faces), "--run", str(tmp_path), "--splits", "people"]
    arguments += ["--backbones", "mtcnn-onet", *LEAST]
    assert command([*arguments, "--recipes", "base", "--weights", "none.pt"]) == 1
    assert command([*arguments, "--recipes", "adam-lr"]) == 0
    first, second = read_results(tmp_path / "experiments.csv")
    assert "none.pt" in first.error
    assert second.error == ""


def test_a_table_that_cannot_be_read_is_refused_before_anything_runs(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    (tmp_path / "experiments.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="move it away"):
        experiments(small, faces, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["experiments.csv"]


# The view


def test_each_recipe_takes_its_own_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that all share are made before the recipe is known."""
    config = ExperimentsConfig(("kin", "base"), ("mobilefacenet",), ("families",))
    assert [each.view for each in config.trainings()] == ["native", "max"]
    both = replace(config, settings={"view": "avg"})
    assert [each.view for each in both.trainings()] == ["avg", "avg"]
    seen: list[ExperimentsConfig] = []

    def keep(config: ExperimentsConfig, *args, **options) -> Path:
        seen.append(config)
        raise KinembedError("seen")

    monkeypatch.setattr("kinembed.experiments.experiments", keep)
    assert command(["experiments", "--recipes", "kin", "--backbones", "mobilefacenet"]) == 1
    assert command(["experiments", "--recipes", "kin,base", "--view", "avg"]) == 1
    kin, avg = ([each.view for each in config.trainings()] for config in seen)
    assert set(kin) == {"native"}
    assert set(avg) == {"avg"}


# Failing, stopping, going on


def test_a_failed_one_does_not_stop_the_others(
    small: ExperimentsConfig, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = stage.finetune

    def failing(config: FinetuneConfig, *args, **options) -> Path:
        if config.recipe == "base":
            raise MemoryError("not that much\nin two lines")
        return finetune(config, *args, **options)

    monkeypatch.setattr(stage, "finetune", failing)
    run = tmp_path / "run"
    first, second = read_results(experiments(small, faces, run))
    assert first.error == "MemoryError: not that much"
    assert first.val_auc is None
    assert second.error == ""
    table = (run / "experiments.md").read_text()
    assert "- mtcnn-onet-base-families failed: MemoryError: not that much" in table
    monkeypatch.setattr(stage, "finetune", finetune)
    before = mtimes(run)
    first, _ = read_results(experiments(small, faces, run))  # now it is made up for
    assert first.error == ""
    assert before.items() < mtimes(run).items()


def test_a_diverging_one_is_said_and_ends_with_1(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiments", "--data", str(faces), "--run", str(tmp_path), "--splits", "people"]
    arguments += ["--backbones", "mtcnn-onet", "--recipes", "base,adam-lr", *LEAST, "--steps", "6"]
    assert command([*arguments, "--set", "learning_rate=1e30"]) == 1
    for result in read_results(tmp_path / "experiments.csv"):
        assert "not finite" in result.error
        assert "\n" not in result.error
    assert "failed" in capsys.readouterr().out


def test_a_kill_loses_no_finished_one(faces: Path, tmp_path: Path, forked: Path) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    arguments = ["experiments", "--data", str(faces), "--splits", "families"]
    arguments += ["--recipes", "base,adam-lr,dense", "--backbones", "mtcnn-onet", "--epochs", "2"]
    arguments += ["--steps", "2", "--val-steps", "2", "--batch-size", "6", "--precision", "fp32"]
    arguments += ["--framing", "loose"]
    start = [forked, "-m", "kinembed", *arguments, "--run", str(run)]
    process = Forked(start, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (run / "experiments.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(read_results(run / "experiments.csv")) <= 3
    before = mtimes(run / "mtcnn-onet-base-families")
    assert command([*arguments, "--run", str(run)]) == 0
    assert mtimes(run / "mtcnn-onet-base-families") == before
    assert command([*arguments, "--run", str(undisturbed)]) == 0
    assert untimed(run / "experiments.csv") == untimed(undisturbed / "experiments.csv")


def test_other_settings_are_run_anew(small: ExperimentsConfig, faces: Path, tmp_path: Path) -> None:
    experiments(small, faces, tmp_path)
    before = mtimes(tmp_path)
    experiments(small, faces, tmp_path)
    assert mtimes(tmp_path) == before
    longer = replace(small, settings={**small.settings, "epochs": 3})
    results = read_results(experiments(longer, faces, tmp_path))
    assert [result.epochs for result in results] == [3, 3]
    assert all(after != before[path] for path, after in mtimes(tmp_path).items())


def test_an_override_reaches_every_one_and_hides_the_reports_scores(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    settings = {**small.settings, "overrides": ("hidden=7",)}
    experiments(replace(small, settings=settings), faces, tmp_path)
    for name in small.recipes:
        text = (tmp_path / f"mtcnn-onet-{name}-families" / "config.json").read_text()
        assert '"hidden=7"' in text
    config = replace(small, backbones=("resnet50",), settings=settings)
    assert all(result.report_public is None for result in untimed(tmp_path / "experiments.csv"))
    assert len(stage._trainings(config)) == 2


# What is refused


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"recipes": ("base", "best")}, "recipe 'best' is unknown; known are base, adam-lr"),
        ({"recipes": ()}, "recipes: found '', wanted one or more different names"),
        ({"recipes": ("base", "base")}, "recipes: found 'base,base'"),
        ({"backbones": ("resnet51",)}, "resnet51"),
        ({"splits": ("photos",)}, "split 'photos' is unknown; known are people, families"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_runs(
    change: dict[str, tuple[str, ...]],
    wanted: str,
    small: ExperimentsConfig,
    faces: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(KinembedError, match=wanted):
        experiments(replace(small, **change), faces, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_malformed_table_is_refused(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    path = experiments(replace(small, recipes=("base",)), faces, tmp_path)
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("val_auc")
    row = lines[1].split(",")
    words = ",".join([*row[:column], "high", *row[column + 1 :]])
    for text in (
        lines[0] + "\n" + words,  # a word for a number
        lines[0] + ",more\n" + lines[1] + ",1",  # a column more
        lines[0] + "\n" + lines[1] + ",1,2",  # a row too long
        "a,b\n1,2",  # another table
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=r"experiments\.csv: no table of experiments"):
            read_results(path)
    path.unlink()
    with pytest.raises(RunError, match="no such file; run kinembed experiments"):
        read_results(path)


def test_the_table_holds_what_was_run_so_far() -> None:
    done = Result("resnet50", "base", "people", 2, 2, 1, 0.61234, 0.5, None, 0.499, 0.524, 3725.0)
    failed = Result("resnet50", "dense", "people", error="no room")
    other = replace(done, split="families", val_auc=0.5555, seconds=10.0)
    lines = as_table([done, other, failed]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert cells[2] == [
        *("resnet50", "base", "0.612", "0.500", "0.555", "0.500"),  # as Python rounds 0.5555
        *("0.499", "0.524", "1 of 2, 1 of 2", "1:02:15"),
    ]
    assert cells[3] == ["resnet50", "dense", "failed", "failed", "", "", "", "", "", ""]
    assert lines[4] == ""
    assert lines[-1] == "- resnet50-dense-people failed: no room"
    assert sum("Kaggle" in cell for cell in cells[0]) == 2  # in columns of their own
    assert not any("test" in cell for cell in cells[0])  # nobody gave labels
    judged = as_table([replace(done, test_auc=0.7), other, failed]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in judged[:4]]
    assert cells[0][2:8] == [
        *("AUC by people", "accuracy by people", "test AUC by people"),
        *("AUC by families", "accuracy by families", "test AUC by families"),
    ]
    assert cells[2][2:8] == ["0.612", "0.500", "0.700", "0.555", "0.500", ""]
    assert "- Test AUC: the labelled pairs given by --labels, all of them." in judged
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_csv_says_what_the_histories_say(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    path = experiments(small, faces, tmp_path)
    for result in read_results(path):
        with (tmp_path / f"mtcnn-onet-{result.recipe}-families/history.csv").open() as file:
            rows = list(csv.DictReader(file))
        aucs = [float(row["val_auc"]) for row in rows]
        assert result.best_epoch == aucs.index(max(aucs)) + 1
        assert result.kept_epoch == len(rows)  # the last, as in the report
        assert result.val_auc == aucs[-1]
        assert result.val_accuracy == float(rows[-1]["val_accuracy"])
    best = replace(small, recipes=("base",), settings={**small.settings, "keep": "best"})
    (result,) = read_results(experiments(best, faces, tmp_path / "best"))
    assert result.kept_epoch == result.best_epoch
