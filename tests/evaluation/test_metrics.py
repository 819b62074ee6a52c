"""Metrics against slow loops and against scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from kinembed.errors import DataError
from kinembed.evaluation import metrics
from kinembed.evaluation.metrics import (
    Interval,
    RankedScores,
    accuracy,
    average_precision,
    brier,
    calibration_error,
    delong_interval,
    equal_error_rate,
    family_bootstrap,
    family_weights,
    roc_auc,
    roc_curve,
    tar_at_far,
    wilson_interval,
)


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
    assert roc_auc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)


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
def test_an_undefined_auc_says_why(labels: list, scores: list, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        roc_auc(labels, scores)


# The curve and metrics from it

rows = st.lists(st.tuples(st.integers(0, 1), few), min_size=2, max_size=30)


def as_arrays(samples: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = map(np.array, zip(*samples, strict=True))
    assume(0 < labels.sum() < len(labels))
    return labels, scores


@given(rows, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_tar_at_far_is_the_best_that_any_threshold_gives(samples: list, far: float) -> None:
    labels, scores = as_arrays(samples)
    best = 0.0
    for threshold in [np.inf, *scores]:
        accepted = scores >= threshold
        if accepted[labels == 0].mean() <= far:
            best = max(best, accepted[labels == 1].mean())
    curve = roc_curve(labels, scores)
    assert tar_at_far(curve, far) == pytest.approx(best, abs=1e-12)


@given(rows)
def test_the_curve_is_scikit_learns(samples: list) -> None:
    labels, scores = as_arrays(samples)
    far, tar, thresholds = oracle.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(labels, scores)
    assert np.allclose(curve.far, far) and np.allclose(curve.tar, tar)
    assert np.array_equal(curve.thresholds, thresholds)


@given(rows)
def test_the_equal_error_rate_lies_on_the_curve_and_on_the_diagonal(samples: list) -> None:
    labels, scores = as_arrays(samples)
    curve = roc_curve(labels, scores)
    rate = equal_error_rate(curve)
    # A fine walk along the curve's lines, apart from the formula.
    walk = np.linspace(0, len(curve.far) - 1, 200 * (len(curve.far) - 1) + 1)
    at = np.arange(len(curve.far))
    far, frr = np.interp(walk, at, curve.far), 1 - np.interp(walk, at, curve.tar)
    nearest = np.argmin(np.abs(far - frr))
    assert rate == pytest.approx((far[nearest] + frr[nearest]) / 2, abs=0.01)


def test_the_equal_error_rate_of_known_cases() -> None:
    assert equal_error_rate(roc_curve([0, 0, 1, 1], [1, 2, 3, 4])) == 0
    assert equal_error_rate(roc_curve([1, 1, 0, 0], [1, 2, 3, 4])) == 1
    assert equal_error_rate(roc_curve([0, 1], [7, 7])) == 0.5
    assert equal_error_rate(roc_curve([0, 0, 1, 1], [1, 3, 2, 4])) == 0.5


@given(rows)
def test_average_precision_is_scikit_learns(samples: list) -> None:
    labels, scores = as_arrays(samples)
    wanted = oracle.average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    "metric", [roc_curve, average_precision, delong_interval], ids=lambda f: f.__name__
)
def test_one_class_has_no_curve(metric) -> None:
    for labels in ([1, 1, 1], [0, 0, 0]):
        with pytest.raises(DataError, match="needs kin and non-kin pairs"):
            metric(labels, [1, 2, 3])


# Probabilities


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_brier_and_calibration_error_agree_with_the_slow_loop(samples: list) -> None:
    labels, said = map(np.array, zip(*samples, strict=True))
    assert brier(labels, said) == pytest.approx(
        sum((p - k) ** 2 for k, p in samples) / len(samples), abs=1e-12
    )
    error = 0.0
    for bin_ in range(15):
        here = [(k, p) for k, p in samples if int(p * 15) == bin_ or (p == 1 and bin_ == 14)]
        if here:
            error += abs(sum(p for _, p in here) - sum(k for k, _ in here)) / len(samples)
    assert calibration_error(labels, said) == pytest.approx(error, abs=1e-12)


def test_brier_and_accuracy_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, 2, 500), rng.random(500)
    assert brier(labels, said) == pytest.approx(oracle.brier_score_loss(labels, said))
    assert accuracy(labels, said > 0.5) == oracle.accuracy_score(labels, said > 0.5)
    weights = rng.integers(0, 4, 500)
    wanted = oracle.accuracy_score(labels, said > 0.5, sample_weight=weights)
    assert accuracy(labels, said > 0.5, weights) == pytest.approx(wanted)


# Intervals


def slow_delong(labels: np.ndarray, scores: np.ndarray) -> float:
    """The variance of the AUC from the placement of every pair among all of the other kind."""
    kin, others = scores[labels == 1], scores[labels == 0]
    won = [[1.0 if k > o else 0.5 if k == o else 0.0 for o in others] for k in kin]
    of_kin = [sum(row) / len(others) for row in won]
    of_others = [sum(column) / len(kin) for column in zip(*won, strict=True)]
    return np.var(of_kin, ddof=1) / len(kin) + np.var(of_others, ddof=1) / len(others)


@pytest.mark.parametrize("decimals", [0, 1, 9], ids=lambda d: f"{d} decimals")
def test_delongs_interval_is_that_of_the_slow_loop(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = np.arange(120) % 3 == 0
    scores = np.round(rng.standard_normal(120) + labels, decimals)
    result = delong_interval(labels, scores)
    area = roc_auc(labels, scores)
    reach = 1.959963985 * np.sqrt(slow_delong(labels, scores)) / (area * (1 - area))
    logit = np.log(area / (1 - area))
    for side, at in ((result.low, logit - reach), (result.high, logit + reach)):
        assert side == pytest.approx(1 / (1 + np.exp(-at)), abs=1e-9)


def test_delongs_interval_covers_the_truth_at_its_level() -> None:
    truth = 0.76024994  # of two normals, one apart: Phi(1 / sqrt 2)
    inside = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = np.arange(200) < 80
        result = delong_interval(labels, rng.standard_normal(200) + labels)
        inside += result.low <= truth <= result.high
    assert 0.92 < inside / 400 < 0.98


def test_an_auc_of_one_and_too_few_pairs() -> None:
    assert delong_interval([0, 0, 1, 1], [1, 2, 3, 4]) == Interval(1, 1)
    with pytest.raises(DataError, match="two kin and two non-kin"):
        delong_interval([0, 1, 1], [1, 2, 3])


def test_wilsons_interval_of_known_cases() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I.
    result = wilson_interval(81, 263)
    assert (result.low, result.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    result = wilson_interval(0, 20)
    assert (result.low, result.high) == pytest.approx((0, 0.1611), abs=5e-5)


def test_weights_count_pairs() -> None:
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 3
    weights = rng.integers(0, 4, 60)
    again = np.repeat(np.arange(60), weights)
    assert roc_auc(labels, scores, weights) == pytest.approx(roc_auc(labels[again], scores[again]))
    one, other = (
        RankedScores(labels, scores).curve(weights),
        roc_curve(labels[again], scores[again]),
    )
    for far in (0.01, 0.1, 0.5):
        assert tar_at_far(one, far) == pytest.approx(tar_at_far(other, far))


def test_a_pair_weighs_the_product_of_its_resampled_families() -> None:
    families = np.array([[3, 3], [3, 7], [7, 3], [7, 7], [9, 3], [5, 9]])
    weights = np.stack([*family_weights(families, 500, np.random.default_rng(0))])
    samples = {3: weights[:, 0], 7: weights[:, 3]}
    assert np.array_equal(weights[:, 1], samples[3] * samples[7])
    assert np.array_equal(weights[:, 1], weights[:, 2])
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)
    assert ((weights[:, 5] > 0) <= (weights[:, 0] + weights[:, 3] < 4)).all()


def test_a_triple_weighs_the_product_of_its_different_families() -> None:
    families = np.array([[3, 3, 3], [3, 3, 7], [7, 3, 3], [3, 7, 3], [3, 7, 9], [9, 9, 9], [7] * 3])
    weights = np.stack([*family_weights(families, 200, np.random.default_rng(0))])
    of = {3: weights[:, 0], 9: weights[:, 5], 7: weights[:, 6]}
    for column in (1, 2, 3):
        assert np.array_equal(weights[:, column], of[3] * of[7])
    assert np.array_equal(weights[:, 4], of[3] * of[7] * of[9])


def test_resamples_take_no_memory_of_their_own() -> None:
    pairs = 300_000
    rng = np.random.default_rng(0)
    families = rng.integers(0, 200_000, (pairs, 2))
    drawn = family_weights(families, 40, rng)
    next(drawn)
    tracemalloc.start()
    total = sum(float(weights.sum()) for weights in drawn)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == pytest.approx(39 * pairs, rel=0.05)
    assert peak < 40 << 20  # 96 MB in one piece


def test_resamples_are_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    families = np.random.default_rng(0).integers(0, 30, (100, 2))
    whole = np.stack([*family_weights(families, 50, np.random.default_rng(1))])
    monkeypatch.setattr(metrics, "RESAMPLED", 7 * len(np.unique(families)))
    assert np.array_equal(
        whole, np.stack([*family_weights(families, 50, np.random.default_rng(1))])
    )


def test_one_family_has_no_interval() -> None:
    ranked = RankedScores([1, 0, 1, 0], [1, 2, 3, 0])
    with pytest.raises(DataError, match="one family alone has no interval"):
        family_bootstrap(ranked.auc, np.zeros((4, 2), np.intp), np.random.default_rng(0))


def test_the_family_bootstrap_is_wider_where_pairs_share_families() -> None:
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(30), 20)
    labels = np.arange(600) % 2
    scores = rng.standard_normal(600) + labels + 2 * rng.standard_normal(30)[family] * labels
    ranked = RankedScores(labels, scores)
    result = family_bootstrap(
        ranked.auc, np.stack([family, family], 1), np.random.default_rng(2), count=300
    )
    independent = delong_interval(labels, scores)
    assert result.low < ranked.auc() < result.high
    assert result.high - result.low > 1.5 * (independent.high - independent.low)
    again = family_bootstrap(
        ranked.auc, np.stack([family, family], 1), np.random.default_rng(2), count=300
    )
    assert again == result


def test_too_few_families_have_no_interval() -> None:
    ranked = RankedScores([1, 0], [1, 2])
    families = np.array([[0, 0], [1, 2]])
    with pytest.raises(DataError, match="3 families are too few"):
        family_bootstrap(
            lambda weights: ranked.auc(weights * 0), families, np.random.default_rng(0)
        )
