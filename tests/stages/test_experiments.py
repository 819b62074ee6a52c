"""Experiments: all of the report's recipes, failures, kills, and the tables they leave."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from small_networks import stand_in

from kinembed import experiments as stage
from kinembed.backbones import BACKBONES
from kinembed.cli import run as command
from kinembed.config import ExperimentsConfig, FinetuneConfig
from kinembed.errors import KinembedError, RunError
from kinembed.experiments import Result, as_table, experiments, read_results
from kinembed.recipes import RECIPES
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
    *("--steps", "2", "--val-steps", "1", "--batch-size", "2"),
]


@pytest.fixture
def small(short: FinetuneConfig) -> ExperimentsConfig:
    """Two recipes of a second each."""
    training = replace(short, recipe="base", epochs=2, steps=2, val_steps=2, batch_size=6)
    return ExperimentsConfig(("base", "adam-lr"), ("mtcnn-onet",), ("families",), training)


def untimed(path: Path) -> list[Result]:
    return [replace(result, seconds=None) for result in read_results(path)]


def mtimes(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("model*.pt")}


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
            assert "{:.3f} | {:>15.3f} |".format(*FIGURE_23[name]) in line
    with Image.open(run / "experiments.png") as figure:
        assert len(figure.convert("RGB").getcolors(1 << 20) or ()) > len(wanted) + 2


@pytest.mark.parametrize("backbone", ["resnet50", "senet50", "vgg16"])
def test_the_reports_networks_learn(backbone: str, faces: Path, tmp_path: Path) -> None:
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


def test_a_kill_loses_no_finished_one(faces: Path, tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    arguments = ["experiments", "--data", str(faces), "--splits", "families"]
    arguments += ["--recipes", "base,adam-lr,dense", "--backbones", "mtcnn-onet", "--epochs", "2"]
    arguments += ["--steps", "2", "--val-steps", "2", "--batch-size", "6", "--precision", "fp32"]
    start = [sys.executable, "-m", "kinembed", *arguments, "--run", str(run)]
    process = subprocess.Popen(start, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (run / "experiments.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
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
    longer = replace(small, training=replace(small.training, epochs=3))
    results = read_results(experiments(longer, faces, tmp_path))
    assert [result.epochs for result in results] == [3, 3]
    assert all(after != before[path] for path, after in mtimes(tmp_path).items())


def test_an_override_reaches_every_one_and_hides_the_reports_scores(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    training = replace(small.training, overrides=("hidden=7",))
    experiments(replace(small, training=training), faces, tmp_path)
    for name in small.recipes:
        text = (tmp_path / f"mtcnn-onet-{name}-families" / "config.json").read_text()
        assert '"hidden=7"' in text
    config = replace(small, backbones=("resnet50",), training=training)
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
    done = Result("resnet50", "base", "people", 1, 1, 0.61234, 0.5, 0.499, 0.524, 3725.0)
    failed = Result("resnet50", "dense", "people", error="no room")
    other = replace(done, split="families", val_auc=0.5555, seconds=10.0)
    lines = as_table([done, other, failed]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert cells[2] == [
        *("resnet50", "base", "0.612", "0.500", "0.555", "0.500"),  # as Python rounds 0.5555
        *("0.499", "0.524", "1:02:15"),
    ]
    assert cells[3] == ["resnet50", "dense", "failed", "failed", "", "", "", "", ""]
    assert lines[4:] == ["", "- resnet50-dense-people failed: no room"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_csv_says_what_the_histories_say(
    small: ExperimentsConfig, faces: Path, tmp_path: Path
) -> None:
    path = experiments(small, faces, tmp_path)
    for result in read_results(path):
        with (tmp_path / f"mtcnn-onet-{result.recipe}-families/history.csv").open() as file:
            rows = list(csv.DictReader(file))
        aucs = [float(row["val_auc"]) for row in rows]
        assert result.val_auc == max(aucs)
        assert result.best_epoch == aucs.index(max(aucs)) + 1
        assert result.val_accuracy == float(rows[result.best_epoch - 1]["val_accuracy"])
