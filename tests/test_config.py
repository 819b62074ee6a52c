"""Settings of the stages: what Python says means what the command line says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinembed.cli import run as command
from kinembed.config import FinetuneConfig, HeadConfig
from kinembed.errors import KinembedError
from kinembed.recipes import HEAD_KINDS, HEAD_RECIPES, METRIC


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_kind_names_a_recipe(kind: str) -> None:
    assert HeadConfig(kind=kind).full_recipe() == HEAD_RECIPES[HEAD_KINDS[kind]]
    assert HeadConfig(recipe="mix", kind=kind).full_recipe().name == HEAD_KINDS[kind]


def test_a_metric_heads_recipe_takes_ensemble_epochs_and_steps() -> None:
    config = HeadConfig(ensemble=3, epochs=5, steps=7, overrides=("noise=0",))
    assert config.full_recipe() == replace(METRIC, members=3, epochs=5, steps=7, noise=0.0)
    assert HeadConfig().full_recipe() == METRIC


def test_a_pair_head_has_the_reports_epochs_unless_others_are_given() -> None:
    config = HeadConfig(kind="l1")
    assert (config.pair_epochs, config.pair_steps) == (30, 100)
    config = replace(config, epochs=5, steps=2)
    assert (config.pair_epochs, config.pair_steps) == (5, 2)
    assert config.full_recipe() == HEAD_RECIPES["base"]
    config.check()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "l2"}, "kind 'l2' is unknown; known are l1, l1-dense"),
        ({"recipe": "best"}, "recipe 'best' is unknown"),
        ({"epochs": 0}, "epochs: found 0, wanted 1 or more"),
        ({"kind": "l1", "epochs": 0}, "epochs: found 0, wanted 1 or more"),
        ({"kind": "l1", "steps": 0}, "steps: found 0, wanted 1 or more"),
        ({"kind": "l1", "ensemble": 101}, "members: found 101, wanted 1 to 100"),
        ({"kind": "l1", "folds": 3}, "folds: recipe base has none; wanted --kind metric"),
        ({"kind": "l1", "positive_fraction": 0.01}, "0.01 of 32 pairs are kin"),
        ({"ensemble": 101}, "members: found 101, wanted 1 to 100"),
        ({"ensemble": 3, "overrides": ("members=2",)}, "members is set twice"),
        ({"folds": 1}, "folds: found 1, wanted 2 to 100, or 0"),
        ({"validation_fraction": 1.0}, "validation_fraction: found 1.0, wanted between 0 and 1"),
    ],
)
def test_settings_no_head_can_be_trained_with(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(KinembedError, match=problem):
        HeadConfig(**settings).check()


def test_a_metric_head_has_no_batches_of_pairs_to_check() -> None:
    HeadConfig(positive_fraction=0.0, batch_size=1).check()


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ([], HeadConfig()),
        (["--kind", "l1", "--epochs", "3"], HeadConfig(kind="l1", epochs=3)),
        (["--ensemble", "3", "--steps", "4"], HeadConfig(ensemble=3, steps=4)),
        (["--set", "noise=0", "--folds", "0"], HeadConfig(overrides=("noise=0",), folds=0)),
    ],
)
def test_the_command_line_says_no_more_than_the_config(
    options: list[str], config: HeadConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[HeadConfig] = []
    monkeypatch.setattr("kinembed.head.head", lambda config, *_, **__: seen.append(config))
    assert command(["head", "--run", str(tmp_path), *options]) == 0
    assert seen == [config]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"epochs": 0}, "epochs: found 0, wanted 1 or more"),
        ({"warmup": -1}, "warmup: found -1, wanted 0 or more"),
        ({"minutes": 0.0}, "minutes: found 0.0, wanted above 0"),
        ({"accumulate": 33}, "accumulate: found 33 parts of 32 pairs"),
        ({"freeze_epochs": 1}, "freeze_epochs: nothing is frozen"),
        ({"compile": True, "save_memory": True}, "wanted one of the two"),
        ({"positive_fraction": 1.0}, "1 of 32 pairs are kin"),
        ({"overrides": ("members=3",)}, "members: are of heads from the cache"),
        ({"test_fraction": 1.0}, "test_fraction: found 1.0, wanted between 0 and 1"),
        ({"test_fraction": 0.8}, "test_fraction: found 0.8 beside a validation_fraction of 0.2"),
        ({"recipe": "metric"}, "recipe 'metric' is unknown; known are base, .*, kin$"),
        ({"overrides": ("dropout=1",)}, "dropout: found 1.0"),
    ],
)
def test_settings_no_network_can_be_trained_with(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(KinembedError, match=problem):
        FinetuneConfig(**settings).check()


def test_configs_import_no_backbones() -> None:
    script = (
        "import sys; from kinembed.config import FinetuneConfig; FinetuneConfig(); "
        "sys.exit('kinembed.backbones' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
