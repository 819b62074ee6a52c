"""Labelled photo pairs: the input of every evaluation and calibration."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from dataclasses import dataclass, replace
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
    """Pairs of photos, kin or not; or triples of father, mother and child.

    Attributes:
        rows: (K, 2) rows of the cache; of triples (K, 3).
        labels: (K,) True for kin.
        families: the family number of each photo, in the shape of `rows`; of its person, or its
            own, if the family is not known.
        relations: (K,) the relation of each pair (`fs`, `bb`, …), "" if unknown; empty if no pair
            has one.
        folds: (K,) the fold of each pair, if the protocol has folds.
        path: the file of the pairs; None for sampled pairs.
        lines: (K,) the line of each pair in that file.
        unit: what the numbers of families count: `families`, `people`, `photos`, or several.
        who: (N,) who is on each photo of the cache, if the protocol says so; None: as the cache
            has it.
    """

    rows: Rows
    labels: NDArray[np.bool_]
    families: Rows
    relations: tuple[str, ...] = ()
    folds: NDArray[np.intp] | None = None
    path: Path | None = None
    lines: tuple[int, ...] = ()
    unit: str = "families"
    who: NDArray[np.bytes_] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def are_triples(self) -> bool:
        """Whether each row is of a father, a mother and a child."""
        return bool(self.rows.shape[1] == 3)

    def at(self, chosen: NDArray[np.bool_]) -> LabelledPairs:
        """Some of the pairs, by (K,) flags."""
        rows = np.flatnonzero(chosen).tolist()
        return replace(
            self,
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            families=self.families[chosen],
            relations=tuple(self.relations[row] for row in rows) if self.relations else (),
            folds=None if self.folds is None else self.folds[chosen],
            lines=tuple(self.lines[row] for row in rows) if self.lines else (),
        )

    def names(self, cache: Embeddings) -> list[tuple[str, ...]]:
        """(K,) the names of each pair's photos."""
        return _texts(cache.names, self.rows)

    def people(self, cache: Embeddings) -> list[tuple[str, ...]]:
        """(K,) who is on each pair's photos, `FAMILY/PERSON`; empty if nobody is known."""
        return _texts(cache.people if self.who is None else self.who, self.rows)


def _texts(texts: NDArray[np.bytes_], rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(text.decode() for text in row) for row in np.array(texts)[rows].tolist()]


def families_of(rows: Rows, cache: Embeddings) -> tuple[Rows, str]:
    """The family of the photos of each pair, and what these numbers count.

    A photo whose family is not known counts as its person, or, if nobody is known on it, as itself.

    Args:
        rows: (K, 2), or (K, 3) of triples, rows of the cache.
        cache: says who is on each photo.

    Returns:
        Numbers in the shape of `rows`, equal for photos of one family, and their unit: `families`,
        `people`, `photos`, or several, such as `families and photos`.
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
    return unit_of[inverse].reshape(rows.shape), " and ".join(found) or "families"
