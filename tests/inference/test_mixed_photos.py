"""Photos given as one person's that are of two."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.heads.pooled_people import RepresentedPhotos
from kinembed.inference.answerer import Answerer
from kinembed.inference.mixed_photos import mixed_note, two_parts


class ByNumber:
    """Photos are numbers on an arc, alike if these are near; people are one if their means are."""

    def people(self, photos: RepresentedPhotos, groups: Any) -> np.ndarray:
        return np.array([photos.representations[group].mean() for group in groups])

    def scores(self, people: np.ndarray, pairs: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(likeness=-np.abs(people[pairs[:, 0]] - people[pairs[:, 1]]))

    def probabilities(self, scores: SimpleNamespace) -> np.ndarray:
        same = np.exp(scores.likeness)
        return np.stack([same, (1 - same) / 2, (1 - same) / 2], 1)


def note(photos: list[float], rows: list[int] | None = None) -> str:
    rows = list(range(len(photos))) if rows is None else rows
    names = [f"{row}.jpg" for row in rows]
    numbers = np.array(photos, np.float32)
    angles = numbers / 10
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    known = RepresentedPhotos(numbers[:, None], directions, np.zeros_like(numbers))
    return mixed_note(cast(Answerer, ByNumber()), known, rows, names)


def test_halves_are_told_and_one_person_is_not() -> None:
    assert "2 photos such as 0.jpg, and 2 such as 2.jpg" in note([0, 1, 9, 10])
    assert "2 photos such as 1.jpg, and 4 such as 0.jpg" in note([0, 9, 1, 10, 0.5, 0.2])
    assert "two people: 0.jpg and 1.jpg" in note([0, 9])
    for one in ([0, 1, 2, 3], [0, 1], [5], [0, 1, 9], [0, 1, 0.5, 9]):
        assert note(one) == ""


@given(st.permutations(range(6)))
def test_the_order_of_the_photos_changes_nothing(order: list[int]) -> None:
    photos = [0, 1, 1.5, 9, 10, 11.25]
    assert note(photos, order) == note(photos)


def slow(likeness: np.ndarray) -> set[frozenset[int]]:
    parts = [frozenset([number]) for number in range(len(likeness))]
    while len(parts) > 2:
        pairs = [(one, other) for one in parts for other in parts if one != other]
        mean = [np.mean([likeness[a, b] for a in one for b in other]) for one, other in pairs]
        one, other = pairs[int(np.argmax(mean))]
        parts = [each for each in parts if each not in (one, other)] + [one | other]
    return set(parts)


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_those_of_a_slow_loop(seed: int) -> None:
    likeness = np.random.default_rng(seed).normal(size=(9, 9))
    likeness += likeness.T
    parts = two_parts(likeness.astype(np.float32))
    assert {frozenset(part.tolist()) for part in parts} == slow(likeness)
