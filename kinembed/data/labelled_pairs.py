"""Labelled photo pairs: the input of every evaluation and calibration."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.layouts import family_of

if TYPE_CHECKING:  # training samples pairs without a cache
    from kinembed.cache import Embeddings


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs of photos, kin or not.

    Attributes:
        rows: (K, 2) rows of the cache.
        labels: (K,) True for kin.
        families: (K, 2) the family number of each photo; of its person, or its own, if the family
            is not known.
        relations: (K,) the relation of each pair (`fs`, `bb`, …), "" if unknown; empty if no pair
            has one.
        folds: (K,) the fold of each pair, if the protocol has folds.
        path: the file of the pairs; None for sampled pairs.
        lines: (K,) the line of each pair in that file.
        unit: what the numbers of families count: `families`, `people`, `photos`, or several.
    """

    rows: Rows
    labels: NDArray[np.bool_]
    families: Rows
    relations: tuple[str, ...] = ()
    folds: NDArray[np.intp] | None = None
    path: Path | None = None
    lines: tuple[int, ...] = ()
    unit: str = "families"

    def __len__(self) -> int:
        return len(self.rows)

    def names(self, cache: Embeddings) -> list[tuple[str, str]]:
        """(K,) the names of each pair's two photos."""
        names = np.array(cache.names)[self.rows].tolist()  # (K, 2) bytes
        return [(left.decode(), right.decode()) for left, right in names]

    def people(self, cache: Embeddings) -> list[tuple[str, str]]:
        """(K,) who is on each pair's two photos, `FAMILY/PERSON`; empty if nobody is known."""
        people = cache.people[self.rows].tolist()  # (K, 2) bytes
        return [(left.decode(), right.decode()) for left, right in people]


def families_of(rows: Rows, cache: Embeddings) -> tuple[Rows, str]:
    """The family of both photos of each pair, and what these numbers count.

    A photo whose family is not known counts as its person, or, if nobody is known on it, as itself.

    Args:
        rows: (K, 2) rows of the cache.
        cache: says who is on each photo.

    Returns:
        (K, 2) numbers, equal for photos of one family, and their unit: `families`, `people`,
        `photos`, or several, such as `families and photos`.
    """
    units: dict[str, str] = {}
    numbers: dict[str, int] = {}
    unique, inverse = np.unique(rows, return_inverse=True)
    unit_of = np.empty(len(unique), np.intp)
    for index, row in enumerate(unique.tolist()):
        person = cache.people[row].decode()
        family = family_of(person)
        if family:
            unit, key = "families", f"{family}/"
        elif person:
            unit, key = "people", person
        else:
            unit, key = "photos", f"//{row}"
        units[unit] = unit
        unit_of[index] = numbers.setdefault(key, len(numbers))
    found = [unit for unit in ("families", "people", "photos") if unit in units]
    return unit_of[inverse].reshape(-1, 2), " and ".join(found) or "families"
