"""Curves as numbers: by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinembed.evaluation.curves import BINS, POINTS, curves, thinned
from kinembed.evaluation.metrics import roc_auc


def sample(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    labels[:2] = True, False
    return labels, rng.standard_normal(count).round(2) + labels


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 3000))
def test_each_point_is_what_its_threshold_accepts(seed: int, count: int) -> None:
    labels, logits = sample(seed, count)
    roc = curves(labels, logits)["roc"]
    assert len(roc["far"]) == len(roc["tar"]) == len(roc["threshold"]) <= POINTS + 1
    for threshold, far, tar in zip(*roc.values(), strict=True):
        accepted = logits >= (np.inf if threshold is None else threshold)
        assert far == pytest.approx(accepted[~labels].mean())
        assert tar == pytest.approx(accepted[labels].mean())
    assert (roc["far"][0], roc["tar"][0], roc["threshold"][0]) == (0, 0, None)
    assert (roc["far"][-1], roc["tar"][-1]) == (1, 1)
    far, tar = np.array(roc["far"]), np.array(roc["tar"])
    area = (np.diff(far) * (tar[1:] + tar[:-1]) / 2).sum()
    assert area == pytest.approx(roc_auc(labels, logits), abs=0.01)


def test_histograms_count_every_pair_once() -> None:
    labels, logits = sample(0, 5000)
    found = curves(labels, logits)["scores"]
    assert len(found["edges"]) == BINS + 1
    assert sum(found["kin"]) == labels.sum() and sum(found["non_kin"]) == (~labels).sum()
    edges = found["edges"]
    inside = (logits >= edges[20]) & (logits < edges[21])
    assert found["kin"][20] == (inside & labels).sum()
    same = curves(np.array([True, False]), np.zeros(2))["scores"]
    assert sum(same["kin"]) == sum(same["non_kin"]) == 1


def test_a_short_curve_stays_and_a_long_one_keeps_its_ends() -> None:
    x = np.linspace(0, 1, 5000) ** 4
    assert thinned(x[:9], x[:9], 9).tolist() == [*range(9)]
    kept = thinned(x, x, 50)
    assert len(kept) <= 51 and kept[0] == 0 and kept[-1] == 4999
    assert np.diff(x[kept]).max() < 0.05
