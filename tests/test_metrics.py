"""ROC AUC against a slow loop and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kinembed.errors import DataError
from kinembed.metrics import roc_auc


def slow_auc(labels: list[int], scores: list[float]) -> float:
    """Every kin pair against every other pair: 1 where it scores above, 1/2 where they tie."""
    won, games = 0.0, 0
    for kin, above in zip(labels, scores, strict=True):
        for other, below in zip(labels, scores, strict=True):
            if kin and not other:
                won += 1 if above > below else 0.5 if above == below else 0
                games += 1
    return won / games


few = st.sampled_from([-2.0, 0.0, 0.5, 1.0])  # ties
many = st.floats(-1e300, 1e300)


@given(st.lists(st.tuples(st.integers(0, 1), st.one_of(few, many)), min_size=2, max_size=40))
def test_auc_agrees_with_the_slow_loop(rows: list[tuple[int, float]]) -> None:
    labels, scores = map(list, zip(*rows, strict=True))
    assume(0 < sum(labels) < len(labels))
    assert roc_auc(labels, scores) == pytest.approx(slow_auc(labels, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 2, 12], ids=lambda d: f"{d} decimals")
def test_auc_agrees_with_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = rng.integers(0, 2, 5000)
    scores = np.round(rng.standard_normal(5000) + 0.7 * labels, decimals)
    assert 0.6 < roc_auc(labels, scores) < 0.8
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "wanted"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1),
        ([1, 1, 0, 0], [1, 2, 3, 4], 0),
        ([0, 1], [7, 7], 0.5),
        ([0, 1, 1], [2, 1, 3], 0.5),
        ([0, 0, 1, 1], [1, 2, 2, 3], 0.875),
        ([False, True], np.float32([0.1, 0.2]), 1),
    ],
)
def test_auc_of_known_cases(labels: list, scores: list, wanted: float) -> None:
    assert roc_auc(labels, scores) == wanted


@given(st.permutations(range(12)))
def test_auc_does_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1])[order]
    scores = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])[order]
    assert roc_auc(labels, scores) == slow_auc(labels.tolist(), scores.tolist())


@pytest.mark.parametrize(
    ("labels", "scores", "problem"),
    [
        ([1, 1], [1, 2], "found 2 kin and 0 non-kin"),
        ([0, 0, 0], [1, 2, 3], "found 0 kin and 3 non-kin"),
        ([], [], "found 0 kin and 0 non-kin"),
        ([0, 1], [1, np.nan], "1 scores are not finite numbers"),
        ([0, 1], [-np.inf, np.inf], "2 scores are not finite numbers"),
        ([0, 1, 1], [1, 2], r"labels \(3,\) and scores \(2,\)"),
        ([[0, 1]], [[1, 2]], r"labels \(1, 2\) and scores \(1, 2\)"),
    ],
)
def test_auc_that_cannot_be_told_says_why(labels: list, scores: list, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        roc_auc(labels, scores)
