"""Occlusion: a network that rests on one known region is found out, by region and by sign."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinembed.data.photos import Pixels
from kinembed.inference.explain import GRID, regions

CELL = 32
SIDE = GRID * CELL


def faces(count: int, seed: int) -> Pixels:
    shape = (count, SIDE, SIDE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def detail(crops: Pixels, row: int, column: int) -> float:
    """How much detail a region shows: what a network may rest on, and a blur takes away."""
    rows, columns = (slice(n * CELL + 4, (n + 1) * CELL - 4) for n in (row, column))
    return float(crops[:, rows, columns].astype(float).std(axis=(1, 2, 3)).mean()) / 10


def made_up(pairs: Sequence[tuple[Pixels, Pixels]]) -> NDArray[np.float64]:
    """Log odds that rise with one region of the first face, and fall with one of the second."""
    return np.array([detail(one, 2, 5) - 0.5 * detail(other, 6, 0) for one, other in pairs])


def test_the_region_that_the_answer_rests_on_is_found() -> None:
    people = [faces(1, 0), faces(3, 1)]
    result = regions(people, made_up)
    assert result.log_odds == made_up([(people[0], people[1])])[0]
    assert np.unravel_index(result.falls[0].argmax(), (GRID, GRID)) == (2, 5)
    assert np.unravel_index(result.falls[1].argmin(), (GRID, GRID)) == (6, 0)
    rest = np.abs(result.falls)
    rest[0, 2, 5] = rest[1, 6, 0] = 0
    assert result.falls[0, 2, 5] > 3 and result.falls[1, 6, 0] < -1.5
    assert rest.max() < 0.05 * result.falls[0, 2, 5]


def test_a_network_that_sees_nothing_has_an_empty_map() -> None:
    result = regions([faces(1, 0), faces(1, 1)], lambda pairs: np.full(len(pairs), 0.25))
    assert result.log_odds == 0.25 and not result.falls.any() and result.largest == 0


def test_photos_stay_as_they_are_and_all_pairs_are_reported() -> None:
    people, done = [faces(2, 0), faces(1, 1)], []
    before = [crops.copy() for crops in people]
    regions(people, made_up, done.append)
    assert all((now == then).all() for now, then in zip(people, before, strict=True))
    assert sum(done) == 2 * GRID * GRID
