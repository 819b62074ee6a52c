"""Averages of weights, against loops."""

import numpy as np
import pytest
import torch

from kinembed.training.ema import Ema, Soup


def walk(steps: int, seed: int = 0) -> np.ndarray:
    """(steps + 1, 3) values of a parameter as it learns."""
    return np.random.default_rng(seed).normal(size=(steps + 1, 3)).cumsum(0)


def averaged(values: np.ndarray, decay: float) -> np.ndarray:
    mean = values[0]
    for step, value in enumerate(values[1:], start=1):
        kept = min(decay, (step - 1) / (step + 9))
        mean = kept * mean + (1 - kept) * value
    return mean


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 30, 2000])
def test_the_average_is_that_of_a_loop(decay: float, steps: int) -> None:
    values = walk(steps)
    parameter = torch.nn.Parameter(torch.from_numpy(values[0].copy()))
    ema = Ema([parameter], decay)
    for value in values[1:]:
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))
        ema.update()
    assert ema.steps == steps
    assert ema.means[0].numpy() == pytest.approx(averaged(values, decay))
    assert not ema.means[0].requires_grad


def test_a_restart_forgets_the_steps_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([parameter], 0.9)
    for _ in range(50):
        ema.update()
    ema.restart([torch.ones(3)])
    assert ema.steps == 0 and ema.means[0].tolist() == [1, 1, 1]
    ema.update()  # the first step takes the place of what was there
    assert ema.means[0].tolist() == [0, 0, 0]


def test_a_soup_is_the_mean_of_the_cycles_ends() -> None:
    ends = [[torch.full((2,), float(value))] for value in (1, 4, 7)]
    soup = Soup()
    assert soup.with_cycle(ends[0])[0].tolist() == [1, 1]
    soup.finish_cycle(ends[0])
    ends[0][0].zero_()  # the soup keeps a copy
    soup.finish_cycle(ends[1])
    assert (soup.count, soup.means[0].tolist()) == (2, [2.5, 2.5])
    assert soup.with_cycle(ends[2])[0].tolist() == [4, 4]
    assert soup.count == 2
