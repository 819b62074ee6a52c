"""Labelled photo pairs: the input of every evaluation and calibration."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.families import person_of

if TYPE_CHECKING:  # training samples pairs without a cache
    from kinembed.cache import Embeddings


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs of photos, kin or not.

    Attributes:
        rows: (K, 2) rows of the cache.
        labels: (K,) True for kin.
        families: (K, 2) the family number of each photo.
        relations: (K,) the relation of each pair (`fs`, `bb`, …), "" if unknown; empty if no pair
            has one.
        folds: (K,) the fold of each pair, if the protocol has folds.
        path: the file of the pairs; None for sampled pairs.
        lines: (K,) the line of each pair in that file.
    """

    rows: Rows
    labels: NDArray[np.bool_]
    families: Rows
    relations: tuple[str, ...] = ()
    folds: NDArray[np.intp] | None = None
    path: Path | None = None
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def names(self, cache: Embeddings) -> list[tuple[str, str]]:
        """(K,) the names of each pair's two photos."""
        names = np.array(cache.names)[self.rows].tolist()  # (K, 2) bytes
        return [(left.decode(), right.decode()) for left, right in names]


def families_of(names: Sequence[tuple[str, str]]) -> Rows:
    """(K, 2) the family number of each photo; a photo without a family gets its own number."""
    known: dict[str, int] = {}

    def number(name: str) -> int:
        person = person_of(name)
        return known.setdefault(person[0] if person else name, len(known))

    return np.array([[number(left), number(right)] for left, right in names], np.intp)
