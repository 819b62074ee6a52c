"""The demo: every stage in turn, on few and small faces; the same figure each time."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest

from kinembed import demo as stage
from kinembed.cli import run as command
from kinembed.config import FinetuneConfig
from kinembed.synthetic import generate_dataset


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(generate_dataset, families=8, test_families=2, photos=(1, 2), side=64)
    monkeypatch.setattr(stage, "generate_dataset", few)
    monkeypatch.setattr(stage, "FinetuneConfig", partial(FinetuneConfig, steps=2, val_steps=1))
    monkeypatch.setattr(stage, "EPOCHS", 1)


def test_the_demo_runs_the_chain_and_says_what_to_look_at(tmp_path: Path) -> None:
    result = stage.demo(tmp_path)
    assert 0 <= result.auc <= 1 and 0 <= result.colour_auc <= 1
    with (tmp_path / "submission.csv").open(newline="") as file:
        assert result.pairs == len(list(csv.DictReader(file))) > 0
    assert set(result.files) == {"photos", "network", "training", "embeddings", "scores"}
    assert all(path.is_file() for path in result.files.values())
    assert not (tmp_path / "faces.partial").exists()


def test_its_figure_is_computed_in_float32_on_every_machine(tmp_path: Path) -> None:
    result = stage.demo(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "fp32"
    again = stage.demo(tmp_path)  # over the former one
    assert (again.auc, again.colour_auc) == (result.auc, result.colour_auc)


def test_the_command_prints_the_figure_and_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["demo", "--run", str(tmp_path), "--quiet"]) == 0
    first, *files = capsys.readouterr().out.splitlines()
    assert first.startswith("AUC 0.") and "(chance: 0.500;" in first
    assert len(files) == 5 and all(Path(line.split()[1]).is_file() for line in files)
