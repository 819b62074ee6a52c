"""How alike photos are: to the others of their person, and to those of other people."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from kinembed.arrays import Float, Rows, Vectors
from kinembed.data.families import Families
from kinembed.evaluation.metrics import Numbers
from kinembed.heads.exact import unit
from kinembed.heads.same_person import CELLS, SamePerson
from kinembed.threads import one_blas_thread, parallel_map, processors

BLOCK = 1024  # photos compared with all others at a time, at most
NEAREST = 3  # photos of other people that are looked at for each photo
FEW = 3  # photos of a person that a photo is most like
FLOOR = -1.0  # likeness to nobody


@dataclass(frozen=True)
class Nearest:
    """The most alike photos of other people.

    Attributes:
        rows: (P, K) numbers of photos, the most alike first.
        likeness: (P, K) to each; `FLOOR` where there are fewer.
    """

    rows: Rows
    likeness: Float


class PhotoLikeness:
    """Likeness of the photos of known people: the cosine above the ambient similarity of both.

    Args:
        vectors: (N, D) by whose cosine photos are alike.
        families: who is on the photos; their rows are those of the vectors.
        model: tells how likely two photos are of one person.

    Attributes:
        directions: (P, D) unit vectors, in the order of `families.photos`.
        ambient: (P,) ambient similarities.
    """

    def __init__(self, vectors: Vectors, families: Families, model: SamePerson) -> None:
        self.families, self.model = families, model
        self.directions = unit(vectors[families.rows])
        self.ambient = model.ambient(self.directions)

    def between(self, left: Rows, right: Rows) -> Float:
        """(L, R) likeness of each of some photos to each of others."""
        alike: Float = self.directions[left] @ self.directions[right].T
        alike -= self.ambient[left, None] / 2
        alike -= self.ambient[right] / 2
        return alike

    @cached_property
    def own(self) -> Numbers:
        """(P,) how like the others of its person each photo is; 0 where it is the only one."""
        starts = self.families.photo_start
        result = np.zeros(len(self.families.photos))
        for start, stop in pairwise(starts.tolist()):
            rows = np.arange(start, stop)
            if len(rows) > 1:
                alike = self.between(rows, rows)
                np.fill_diagonal(alike, -np.inf)
                result[rows] = likeness_to_group(alike)
        return result

    @cached_property
    def nearest(self) -> Nearest:
        """The photos of other people that each photo is most like."""
        return nearest_of_others(self.directions, self.ambient, self.families.owner)


def likeness_to_group(alike: Float) -> Numbers:
    """(N,) likeness of photos to a person: the mean of the largest three to each of its photos.

    Args:
        alike: (N, M) likeness to each; -inf to the photo itself.
    """
    largest = -np.sort(-alike.astype(np.float64), axis=1)[:, :FEW]
    counts = np.isfinite(largest).sum(1)
    result: Numbers = np.where(np.isfinite(largest), largest, 0).sum(1) / np.maximum(counts, 1)
    return result


def nearest_of_others(directions: Float, ambient: Float, owner: Rows) -> Nearest:
    """The photos of others that each photo is most like.

    Compares all pairs, block by block: the memory grows with the photos alone.

    Args:
        directions: (P, D) unit vectors.
        ambient: (P,) ambient similarities.
        owner: (P,) who is on each photo, sorted.
    """
    count = min(NEAREST, len(directions))
    rows = np.zeros((len(directions), count), np.intp)
    likeness = np.full((len(directions), count), FLOOR, np.float32)
    half = (ambient / 2).astype(np.float32)
    size = max(1, min(BLOCK, CELLS // max(1, len(directions))))

    firsts, afters = (np.searchsorted(owner, owner, side) for side in ("left", "right"))

    def find_block(start: int) -> None:
        block = range(start, min(start + size, len(directions)))
        near = directions[start : block.stop] @ directions.T  # (B, P)
        near -= half
        for at, row in enumerate(block):
            near[at, firsts[row] : afters[row]] = -np.inf
        for nth in range(count):  # so few that a sort takes longer
            best = near.argmax(1)  # (B,)
            values = near[np.arange(len(block)), best]
            rows[start : block.stop, nth] = best
            likeness[start : block.stop, nth] = np.maximum(values - half[block], FLOOR)
            near[np.arange(len(block)), best] = -np.inf

    starts = range(0, len(directions), size)
    with one_blas_thread():
        parallel_map(find_block, starts, min(processors(), len(starts)))
    return Nearest(rows, likeness)
