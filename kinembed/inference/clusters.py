"""Who is the same person: faces joined to people, the surest pair of groups first.

Agglomerative clustering. Two groups are compared by all of their photos together, so that each join
makes the next ones surer; a mean over pairs of photos would not gain by more of them. What must not
be together never is, through all joins: the faces of one photograph, people of different names, and
what somebody answered (constrained clustering: Wagstaff et al., "Constrained k-means clustering
with background knowledge", 2001; Davidson and Ravi, "Agglomerative hierarchical clustering with
constraints", 2005).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows

Odds = NDArray[np.float64]
Faces = tuple[int, ...]
Pairs = Collection[tuple[int, int]]


class Groups(Protocol):
    """Groups of faces, at first one face each, that can be compared and joined.

    A joined group keeps the lower number, and the other number is of nothing any more.
    """

    def log_odds(self, pairs: Rows) -> Odds:
        """(K,) log odds that (K, 2) pairs of groups are of one person."""

    def join(self, into: int, other: int) -> None:
        """Joins a group to one of a lower number."""


@dataclass(frozen=True)
class Join:
    """Two groups of faces that were joined, or that stayed apart at the end.

    Attributes:
        left, right: the faces of each, sorted.
        log_odds: that they are of one person.
    """

    left: Faces
    right: Faces
    log_odds: float


@dataclass(frozen=True)
class Clusters:
    """Faces by person.

    Attributes:
        people: the faces of each, sorted; the person of the lowest face first.
        joins: what was joined by likeness, in that order; not what had to be together.
        apart: pairs of the people that were compared and may be together, the likeliest first.
    """

    people: tuple[Faces, ...]
    joins: tuple[Join, ...]
    apart: tuple[Join, ...]


def components(count: int, together: Pairs) -> list[int]:
    """The lowest of the faces that each face has to be together with, directly or through others.

    Args:
        count: of the faces.
        together: pairs of faces.
    """
    root = list(range(count))

    def find(face: int) -> int:
        while root[face] != face:
            root[face] = root[root[face]]
            face = root[face]
        return face

    for left, right in together:
        low, high = sorted((find(left), find(right)))
        root[high] = low
    return [find(face) for face in range(count)]


def of_one_name(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of faces that put all faces of one name together; an empty name is none."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(name, face), face) for face, name in enumerate(names) if name]
    return [(left, right) for left, right in pairs if left != right]


def cluster(
    groups: Groups,
    photos: Rows,
    compared: Rows,
    together: Pairs = (),
    apart: Pairs = (),
    named: Sequence[str] = (),
) -> Clusters:
    """Joins faces to people as long as two groups are more likely than not of one person.

    Args:
        groups: the faces, one each.
        photos: (F,) the photograph of each face; two faces of one are never one person.
        compared: (E, 2) pairs of faces that are compared. Groups are compared if any two of their
            faces are.
        together: pairs of faces that are one person, also where they are on one photograph.
        apart: pairs of faces that are not.
        named: (F,) what the person of each face is called, empty where that is not known: faces of
            one name are one person, those of two names are not. Empty: no name is known.

    Raises:
        ValueError: two faces are both.
    """
    work = _Work(groups, photos, together, apart, named)
    work.compare(compared)
    work.join_all()
    return work.result()


class _Work:
    """Groups by their lowest face, and what they may be joined to."""

    def __init__(
        self, groups: Groups, photos: Rows, together: Pairs, apart: Pairs, named: Sequence[str]
    ) -> None:
        self.groups = groups
        self.root = components(len(photos), [*together, *of_one_name(named)])
        self.faces: dict[int, list[int]] = {}
        for face, root in enumerate(self.root):
            self.faces.setdefault(root, []).append(face)
            if face != root:
                groups.join(root, face)
        self.forbidden: dict[int, set[int]] = {root: set() for root in self.faces}
        for left, right in apart:
            if self.root[left] == self.root[right]:
                raise ValueError(f"faces {left} and {right} are one person, and are not")
            self._forbid(left, right)
        on_photo: dict[int, list[int]] = {}
        for face, photo in enumerate(photos.tolist()):
            for other in on_photo.setdefault(photo, []):
                if self.root[other] != self.root[face]:
                    self._forbid(other, face)
            on_photo[photo].append(face)
        self.name: dict[int, str] = {}
        for face, name in enumerate(named):
            if name and self.name.setdefault(self.root[face], name) != name:
                raise ValueError(f"face {face} is one person with faces of another name")
        self.odds: dict[int, dict[int, float]] = {root: {} for root in self.faces}
        self.queue: list[tuple[float, int, int]] = []
        self.joins: list[Join] = []

    def _may_be_one(self, a: int, b: int) -> bool:
        if b in self.forbidden[a]:
            return False
        return not (a in self.name and b in self.name)  # those of one name are one group already

    def _forbid(self, left: int, right: int) -> None:
        a, b = self.root[left], self.root[right]
        self.forbidden[a].add(b)
        self.forbidden[b].add(a)

    def compare(self, compared: Rows) -> None:
        """Compares the groups of pairs of faces."""
        pairs = {
            (min(a, b), max(a, b))
            for a, b in ((self.root[i], self.root[j]) for i, j in compared.tolist())
            if a != b and self._may_be_one(a, b)
        }
        self._score(sorted(pairs))

    def _score(self, pairs: list[tuple[int, int]]) -> None:
        if not pairs:
            return
        for (a, b), odds in zip(pairs, self.groups.log_odds(np.array(pairs)).tolist(), strict=True):
            self.odds[a][b] = self.odds[b][a] = odds
            if odds > 0:
                heapq.heappush(self.queue, (-odds, a, b))

    def join_all(self) -> None:
        """Joins the likeliest groups until no two are more likely than not of one person."""
        while self.queue:
            odds, a, b = heapq.heappop(self.queue)
            # Not of before another join, after which the two were compared again, or never are.
            if self.odds.get(a, {}).get(b) == -odds:
                self._join(a, b, -odds)

    def _join(self, a: int, b: int, odds: float) -> None:
        """Joins group b to a, which has the lower number."""
        self.joins.append(Join(tuple(self.faces[a]), tuple(self.faces[b]), odds))
        self.groups.join(a, b)
        self.faces[a] = sorted(self.faces[a] + self.faces.pop(b))
        for other in self.forbidden.pop(b):
            self.forbidden[other].remove(b)
            self.forbidden[other].add(a)
            self.forbidden[a].add(other)
        if b in self.name:
            self.name[a] = self.name.pop(b)
        near = (self.odds[a].keys() | self.odds.pop(b).keys()) - {a, b}
        self.odds[a] = {}
        for other in near:
            self.odds[other].pop(a, None)
            self.odds[other].pop(b, None)
        self._score([(min(a, c), max(a, c)) for c in sorted(near) if self._may_be_one(a, c)])

    def result(self) -> Clusters:
        """What was found."""
        left = [
            Join(tuple(self.faces[a]), tuple(self.faces[b]), odds)
            for a, near in self.odds.items()
            for b, odds in near.items()
            if a < b
        ]
        people = tuple(tuple(self.faces[root]) for root in sorted(self.faces))
        order = sorted(left, key=lambda join: (-join.log_odds, join.left, join.right))
        return Clusters(people, tuple(self.joins), tuple(order))
