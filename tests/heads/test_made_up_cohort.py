"""Made-up cohorts: they keep photos' ambient similarities, and hold no vector of a person."""

from dataclasses import replace

import numpy as np
import pytest

from kinembed.heads.exact import unit
from kinembed.heads.made_up_cohort import with_made_up_cohort
from kinembed.heads.same_person import SamePerson

WIDTH, STRANGERS = 32, 600


def collection(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, D) directions of strangers of four kinds, as babies or blurred photos are kinds."""
    kinds = unit(np.random.default_rng(9).normal(size=(4, WIDTH)).astype(np.float32))
    mean = np.full(WIDTH, 0.12, np.float32)
    noise = rng.normal(0, 1 / WIDTH**0.5, (count, WIDTH))
    return unit((mean + 0.5 * kinds[rng.integers(0, 4, count)] + noise).astype(np.float32))


@pytest.fixture(scope="module")
def real() -> SamePerson:
    cohort = collection(np.random.default_rng(0), STRANGERS)
    return SamePerson(cohort, 2.0, 30.0, -6.0, 0.01, 0.8, 1e-4)


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return collection(np.random.default_rng(1), 800)


def test_photos_keep_their_ambient_similarity(real: SamePerson, photos: np.ndarray) -> None:
    fitted, others = photos[:400], photos[400:]
    made_up = with_made_up_cohort(real, fitted, seed=0)
    before = real.ambient(others, in_gallery=False)
    after = made_up.ambient(others, in_gallery=False)
    # As near as another cohort of real strangers of the same collection.
    second = replace(real, cohort=collection(np.random.default_rng(2), STRANGERS))
    chance = np.std(second.ambient(others, in_gallery=False) - before)
    assert abs(np.median(after - before)) < 0.01
    assert np.std(after - before) < 2 * chance
    assert np.corrcoef(before, after)[0, 1] > 0.7


def test_no_vector_is_a_persons(real: SamePerson, photos: np.ndarray) -> None:
    made_up = with_made_up_cohort(real, photos, seed=0).cohort
    assert made_up.shape == real.cohort.shape
    assert np.allclose(np.linalg.norm(made_up, axis=1), 1, atol=1e-3)
    # Those of the cohort are no nearer to made-up vectors than strangers outside of it are.
    members = (real.cohort @ made_up.T).max(1)
    outside = (photos[:STRANGERS] @ made_up.T).max(1)
    assert members.max() < 0.95
    assert np.mean(members[:, None] > outside) == pytest.approx(0.5, abs=0.1)


def test_the_rest_of_the_model_stays_and_a_seed_draws_the_same(
    real: SamePerson, photos: np.ndarray
) -> None:
    one, two, other = (with_made_up_cohort(real, photos, seed) for seed in (0, 0, 1))
    assert one.settings() == real.settings()
    assert np.array_equal(one.cohort, two.cohort)
    assert not np.isclose(one.cohort, other.cohort).all(1).any()
    assert np.array_equal(one.cohort, one.cohort.astype(np.float16))


@pytest.mark.parametrize("count", [1, 2, 29, 30, 45])
def test_a_small_cohort_shows_nobody(real: SamePerson, photos: np.ndarray, count: int) -> None:
    few = replace(real, cohort=real.cohort[:count])
    made_up = with_made_up_cohort(few, photos[:50], seed=0).cohort
    assert made_up.shape == (count, WIDTH)
    assert np.isfinite(made_up).all()
    assert (few.cohort @ made_up.T).max() < 0.95
