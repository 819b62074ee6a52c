"""Training metric heads: how numbers are scaled, and how members' weights count."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.families import group_families
from kinembed.heads.metric import Projection
from kinembed.recipes import METRIC
from kinembed.training.metric_heads import (
    LEAST_STD,
    TrainedMember,
    _standard_deviations,
    metric_head,
)
from kinembed.training.on_arrays import train_head

PHOTOS = [f"F{f:02}/MID{m}/{p}.jpg" for f in range(12) for m in (1, 2) for p in range(2)]
FAMILIES = group_families(PHOTOS, [(f"F{f:02}/MID1", f"F{f:02}/MID2") for f in range(12)])
SMALL = ("embed_dim=4", "hidden_dim=0", "epochs=1", "steps=20", "batch_pairs=6", "expand=off")


def test_a_number_that_is_constant_in_training_does_not_rule_other_photos() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(12, 6)), 4, axis=0) + 0.1 * rng.normal(size=(48, 6))
    vectors[:, 5] = 3.0
    head = train_head(vectors.astype(np.float32), FAMILIES, folds=3, overrides=SMALL).head
    assert all(np.abs(member.kernel).max() < 100 for member in head.projections)  # type: ignore[attr-defined]
    # A hair more of the constant number, and the representation is nearly the same.
    others = vectors[:20].astype(np.float32)
    moved = others + np.array([0, 0, 0, 0, 0, 1e-3], np.float32)
    assert head.represent(moved) == pytest.approx(head.represent(others), abs=0.05)


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_deviations_have_a_floor_relative_to_their_view(
    seed: int, width: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(40, width + 3)).astype(np.float32)
    seen[:, :width] *= scale
    seen[:, 0] = 7
    found = _standard_deviations(torch.from_numpy(seen), (width, 3)).numpy()
    spread = seen.std(0, ddof=1, dtype=np.float64)
    for view in (slice(0, width), slice(width, width + 3)):
        floor = LEAST_STD * np.sqrt((spread[view] ** 2).mean())
        assert found[view] == pytest.approx(np.maximum(spread[view], floor) + 1e-6, rel=1e-4)


def test_scale_and_centre_are_of_the_members_means() -> None:
    same = Projection(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    members = [TrainedMember(same, [], 0.6, 0.2), TrainedMember(same, [], 0.2, 0.0)]
    head = metric_head(members, replace(METRIC, expand="off"), 1, view="max", model="m")
    assert head.centre == pytest.approx((0.4 + 0.1) / 2)
    assert head.scale == pytest.approx(4 / (0.4 - 0.1))
