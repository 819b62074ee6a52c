"""Links: the estimate of how common kin are, and the largest set at a rate of false ones."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.person_pairs import KIN, UNRELATED
from kinembed.errors import KinembedError
from kinembed.inference.links import (
    EXPECTED,
    EXPECTED_PAIRS,
    LEAST,
    RELATIVES,
    SAME_FOR_KIN,
    check_fdr,
    choose_links,
    estimate_prior,
    false_rates,
    posterior,
)

PROBABILITIES = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=9)


def pairs(shares: tuple[float, ...], count: int, strength: float, seed: int = 0) -> np.ndarray:
    """Probabilities of drawn pairs at even classes; the larger the strength, the surer."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=shares)
    means = np.array([[2.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]) * strength
    seen = rng.normal(means[classes], 1.0)  # (K, 2)
    logs = -((seen[:, None] - means) ** 2).sum(2) / 2
    likelihoods = np.exp(logs - logs.max(1, keepdims=True))
    result: np.ndarray = likelihoods / likelihoods.sum(1, keepdims=True)
    return result


@given(PROBABILITIES, st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_no_larger_set_keeps_the_rate(listed: list[float], fdr: float) -> None:
    probability = np.array(listed)
    chosen = choose_links(probability, fdr)
    if chosen.any():
        assert (1 - probability[chosen]).mean() <= fdr + 1e-12
        assert probability[chosen].min() > max(probability[~chosen], default=-1)
    for size in range(int(chosen.sum()) + 1, len(listed) + 1):
        # A set that treats equal pairs alike: as likely ones are in it or out of it together.
        for some in combinations(range(len(listed)), size):
            inside = probability[list(some)]
            outside = np.delete(probability, some)
            if not np.isin(inside, outside).any():
                assert (1 - inside).mean() > fdr - 1e-12


@given(PROBABILITIES, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(listed: list[float], random: object) -> None:
    probability = np.array(listed)
    order = np.random.default_rng(len(listed)).permutation(len(listed))
    assert np.allclose(false_rates(probability)[order], false_rates(probability[order]))
    assert (choose_links(probability, 0.1)[order] == choose_links(probability[order], 0.1)).all()


@given(PROBABILITIES)
def test_a_larger_rate_shows_a_superset(listed: list[float]) -> None:
    probability = np.array(listed)
    rates = [0.01, 0.05, 0.1, 0.2, 0.5, 0.9]
    chosen = [choose_links(probability, rate) for rate in rates]
    for few, many in pairwise(chosen):
        assert (many | ~few).all()


def test_false_rates_by_hand() -> None:
    rates = false_rates(np.array([0.5, 1.0, 0.9, 0.9]))
    assert np.allclose(rates, [0.7 / 4, 0.0, 0.2 / 3, 0.2 / 3])
    assert len(false_rates(np.empty(0))) == 0


def test_the_prior_of_a_large_album_is_found() -> None:
    for kin in (0.05, 0.4):
        shares = (SAME_FOR_KIN * kin, kin, 1 - kin - SAME_FOR_KIN * kin)
        found = estimate_prior(pairs(shares, 4000, 1.5), 90)
        assert np.abs(found - shares).max() < 0.02


def test_the_prior_is_the_likeliest_one() -> None:
    """By trying all shares of kin on a grid, with what is expected as pairs seen before."""
    even = pairs((0.03, 0.3, 0.67), 40, 1.0)
    each = 1 + SAME_FOR_KIN
    expected = EXPECTED * each
    best, at = -np.inf, 0.0
    for kin in np.linspace(0.001, 0.8, 8000):
        prior = np.array([SAME_FOR_KIN * kin, kin, 1 - each * kin])
        value = np.log(even @ prior).sum() + EXPECTED_PAIRS * (
            expected * np.log(each * kin) + (1 - expected) * np.log(1 - each * kin)
        )
        best, at = (value, kin) if value > best else (best, at)
    assert estimate_prior(even, 10)[KIN] == pytest.approx(at, abs=2e-4)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_few_pairs_move_the_prior_little(count: int) -> None:
    alike = np.tile([0.01, 0.98, 0.01], (count, 1))
    strange = np.tile([0.01, 0.01, 0.98], (count, 1))
    assert estimate_prior(alike, 5)[KIN] < (EXPECTED * 12 + count) / (12 + count) + 1e-9
    assert EXPECTED / 2 < estimate_prior(strange, 5)[KIN] < EXPECTED
    assert estimate_prior(np.empty((0, 3)), 1)[KIN] == pytest.approx(EXPECTED)
    for prior in (
        estimate_prior(alike, 5),
        estimate_prior(np.tile([0.0, 1.0, 0.0], (500, 1)), 33),
    ):
        assert prior.sum() == pytest.approx(1) and (prior > 0).all()


@pytest.mark.parametrize(("people", "least"), [(3, LEAST), (20, LEAST), (400, RELATIVES / 399)])
def test_a_large_album_has_kin_though_its_pairs_look_strange(people: int, least: float) -> None:
    """Three in a thousand are kin, and all pairs look a bit less alike than they are."""
    even = pairs((0.0006, 0.003, 0.9964), people * (people - 1) // 2, 0.7)
    even[:, UNRELATED] *= 1.2
    even /= even.sum(1, keepdims=True)
    found = estimate_prior(even, people)[KIN]
    assert found >= least
    if people == 400:
        assert found == pytest.approx(least)  # the pairs alone say less
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kinembed.inference.links.RELATIVES", 0.0)
            assert estimate_prior(even, people)[KIN] < least / 5


def test_answers_count_as_pairs_that_are_known() -> None:
    even = pairs((0.01, 0.1, 0.89), 60, 1.0)
    known = np.full(60, -1)
    before = estimate_prior(even, 12, known)
    assert np.allclose(before, estimate_prior(even, 12))
    known[:20] = KIN
    assert estimate_prior(even, 12, known)[KIN] > before[KIN] + 0.1
    known[:20] = UNRELATED
    assert estimate_prior(even, 12, known)[KIN] < before[KIN]


def test_posterior_by_bayes() -> None:
    even = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    found = posterior(even, np.array([0.1, 0.2, 0.7]))
    assert np.allclose(found[0], np.array([0.02, 0.06, 0.35]) / 0.43)
    assert np.allclose(found.sum(1), 1)


@pytest.mark.parametrize("fdr", [0.0, 1.0, -0.1, float("nan")])
def test_what_is_no_rate(fdr: float) -> None:
    with pytest.raises(KinembedError, match="wanted above 0 and below 1"):
        check_fdr(fdr)
