"""Fewer draws behind intervals and three-way answers, for tests that look at neither closely."""

from collections.abc import Callable

import numpy as np
import pytest

from kinembed.arrays import Rows
from kinembed.evaluation.metrics import Interval, Numbers, family_bootstrap

FEWER = {
    "kinembed.calibrate.PERSON_PAIRS": 2_000,
    "kinembed.evaluation.cross_fitting.RESAMPLES": 100,
    "kinembed.evaluation.out_of_fold.RESAMPLES": 50,
    "kinembed.evaluation.fusion.RESAMPLES": 50,
}


def draw_fewer(patch: pytest.MonkeyPatch) -> None:
    """From now on a calibration and an evaluation take a third of the time."""
    for place, count in FEWER.items():
        patch.setattr(place, count)
    patch.setattr("kinembed.evaluation.figures.family_bootstrap", _bootstrap)


def _bootstrap(
    statistic: Callable[[Numbers], float], families: Rows, rng: np.random.Generator, count: int = 0
) -> Interval:
    return family_bootstrap(statistic, families, rng, 100)
