"""Pairs of people with some photos of each: the same person twice, kin, and unrelated people."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinembed.arrays import Rows
from kinembed.errors import DataError

if TYPE_CHECKING:  # a score imports this module, and lists no photos
    from kinembed.data.families import Families

SAME, KIN, UNRELATED = range(3)
MOST_PHOTOS = 6  # of a side
SINGLE = 0.5  # share of the sides that have one photo


@dataclass(frozen=True)
class PersonPairs:
    """K pairs of people, each side with some photos.

    Attributes:
        kinds: (K,) `SAME`, `KIN` or `UNRELATED`.
        people: (K, 2) rows of `Families.people`; equal for the same person.
        photos: (K, 2) rows of the vectors of each side; no photo is on both.
    """

    kinds: Rows
    people: Rows
    photos: list[tuple[Rows, Rows]]


def sample_person_pairs(
    families: Families, people: Collection[str], count: int, rng: np.random.Generator
) -> PersonPairs:
    """Samples `count` pairs of each kind among some people.

    How many photos a side has is drawn first and alike for all kinds, so that the number tells
    nothing of the kind; then people are drawn who have as many.

    Args:
        families: photos, people and relations.
        people: names of the people to sample from.
        count: pairs of each kind.
        rng: the random generator.

    Raises:
        DataError: nobody has two photos, or there are no kin or no unrelated people.
    """
    from kinembed.data.samplers import PairSampler

    names = set(people)
    chosen = np.array([i for i, name in enumerate(families.people) if name in names], np.intp)
    sampler = PairSampler(families, chosen, 0.5)
    owned = np.diff(families.photo_start)  # (people,)
    if not (owned[chosen] > 1).any():
        raise DataError("nobody held out has two photos, so that the same person could be told")
    strangers = sampler.strangers(20 * count, rng)
    kinds, sides, photos = [], [], []
    for kind in (SAME, KIN, UNRELATED):
        wanted = 1 + rng.integers(1, MOST_PHOTOS, (count, 2)) * (rng.random((count, 2)) >= SINGLE)
        candidates = {
            SAME: np.repeat(chosen[:, None], 2, 1), KIN: sampler.relations, UNRELATED: strangers,
        }[kind]  # fmt: skip
        available = owned[candidates]  # (C, 2)
        fitting: dict[tuple[int, int], Rows] = {}  # candidates with as many photos
        for one, other in wanted.tolist():
            if (one, other) not in fitting:
                fits = (available >= (one, other)).all(1)
                if kind == SAME:
                    fits = available[:, 0] >= one + other
                fitting[one, other] = np.flatnonzero(fits)
            where = fitting[one, other]
            if not len(where):
                continue
            pair = candidates[where[rng.integers(len(where))]]
            first, second = (families.photo_start[each] for each in pair.tolist())
            if kind == SAME:
                mixed = rng.permutation(owned[pair[0]])
                left, right = mixed[:one], mixed[one : one + other]
            else:
                left, right = (
                    rng.permutation(owned[each])[:size]
                    for each, size in zip(pair.tolist(), (one, other), strict=True)
                )
            kinds.append(kind)
            sides.append(pair)
            photos.append((families.rows[first + left], families.rows[second + right]))
    return PersonPairs(np.array(kinds, np.intp), np.array(sides, np.intp).reshape(-1, 2), photos)
