"""Pairs of people with some photos of each."""

import numpy as np
import pytest

from kinembed.data.families import group_families
from kinembed.data.person_pairs import (
    KIN,
    MOST_PHOTOS,
    SAME,
    UNRELATED,
    PersonPairs,
    sample_person_pairs,
)
from kinembed.errors import DataError

PEOPLE = [f"F{f}/M{m}" for f in range(12) for m in range(3)]
KIN_PAIRS = [(f"F{f}/M0", f"F{f}/M{m}") for f in range(12) for m in (1, 2)]


def families_of(sizes: list[int]):  # type: ignore[no-untyped-def]
    photos = [f"train/{who}/{n:02}.jpg" for who, size in zip(PEOPLE, sizes) for n in range(size)]
    return group_families(photos, KIN_PAIRS)


SIZES = np.random.default_rng(0).integers(1, 15, len(PEOPLE)).tolist()
FAMILIES = families_of(SIZES)


def drawn(count: int = 400, seed: int = 0) -> PersonPairs:
    return sample_person_pairs(FAMILIES, PEOPLE, count, np.random.default_rng(seed))


def test_each_kind_is_what_it_says() -> None:
    pairs = drawn()
    related = {frozenset(pair) for pair in FAMILIES.relations.tolist()}
    for kind, (one, other), (left, right) in zip(
        pairs.kinds.tolist(), pairs.people.tolist(), pairs.photos, strict=True
    ):
        assert set(FAMILIES.owner_of(left)) == {one} and set(FAMILIES.owner_of(right)) == {other}
        assert len({*left, *right}) == len(left) + len(right) and min(len(left), len(right)) >= 1
        assert len(left) <= MOST_PHOTOS >= len(right)
        assert (one == other) == (kind == SAME)
        if kind != SAME:
            assert (frozenset((one, other)) in related) == (kind == KIN)
    assert np.bincount(pairs.kinds).min() > 300


def test_the_number_of_photos_tells_nothing_of_the_kind() -> None:
    pairs = drawn(3000)
    sizes = np.array([(len(left), len(right)) for left, right in pairs.photos])
    for kind in (SAME, KIN, UNRELATED):
        assert np.mean(sizes[pairs.kinds == kind] == 1) == pytest.approx(0.5, abs=0.03)
        assert sizes[pairs.kinds == kind].mean() == pytest.approx(2.5, abs=0.15)


def test_the_same_seed_draws_the_same_and_only_named_people_are_drawn() -> None:
    one, other = drawn(seed=3), drawn(seed=3)
    assert (one.people == other.people).all()
    assert all((a[0] == b[0]).all() for a, b in zip(one.photos, other.photos, strict=True))
    some = PEOPLE[:18]
    pairs = sample_person_pairs(FAMILIES, some, 50, np.random.default_rng(0))
    assert {FAMILIES.people[row] for row in pairs.people.ravel()} <= set(some)


def test_people_of_one_photo_each_cannot_tell_the_same_person() -> None:
    with pytest.raises(DataError, match="nobody held out has two photos"):
        sample_person_pairs(families_of([1] * 36), PEOPLE, 10, np.random.default_rng(0))
