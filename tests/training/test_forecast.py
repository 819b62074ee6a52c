"""How long a training takes, as its first steps tell."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinembed.config import FinetuneConfig
from kinembed.finetune import finetune
from kinembed.training import forecast
from kinembed.training.forecast import INSTEAD, Forecast, duration

CPU = torch.device("cpu")


def clock(step: float) -> Iterator[float]:
    now = 100.0
    while True:
        yield now
        now += step * forecast.TIMED_STEPS


@pytest.mark.parametrize(
    ("seconds_a_step", "said"),
    [
        (0.005, []),
        (0.11, ["about 6 min for 30 epochs on cpu"]),
        (5.5, ["about 5 h for 30 epochs on cpu", INSTEAD]),
    ],
)
def test_it_is_said_once_on_a_cpu_and_what_is_quicker_where_it_is_long(
    seconds_a_step: float, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    ticks = clock(seconds_a_step)
    with caplog.at_level(logging.INFO, logger="kinembed"):
        one = Forecast(CPU, 30 * (100 + 30 / 3), 30, lambda: next(ticks))
        for _ in range(50):
            one.step()
        other = Forecast(torch.device("cuda"), 1e9, 30, lambda: next(ticks))
        for _ in range(50):
            other.step()
    assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (300, "5 min"), (5.2 * 3600, "5 h"), (3.1 * 86_400, "3 days")],
)
def test_durations_are_in_the_unit_that_a_person_would_choose(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("recipe", ["dense", "kin"])
def test_finetune_says_it_and_goes_on(
    recipe: str,
    faces: Path,
    tmp_path: Path,
    short: FinetuneConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast, "SHORT", 0)
    monkeypatch.setattr(forecast, "LONG", 0)
    config = replace(short, recipe=recipe, steps=5)
    if recipe == "kin":
        batch_size = FinetuneConfig.batch_size
        config = replace(config, overrides=("batch_pairs=3",), batch_size=batch_size)
    with caplog.at_level(logging.INFO, logger="kinembed"):
        assert finetune(config, faces, tmp_path).is_file()
    said = [record.getMessage() for record in caplog.records]
    (place,) = (number for number, line in enumerate(said) if "for 2 epochs on cpu" in line)
    assert said[place + 1] == INSTEAD
    assert said[place + 2].startswith("epoch 1/2")  # before the first epoch is over
