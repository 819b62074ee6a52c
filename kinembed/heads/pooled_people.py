"""People as a head sees them: several photos of a person pooled into one row.

Numbers of a pair of people depend on their photos alone, never on other people, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.heads.base import Head
from kinembed.heads.exact import row_dots, unit
from kinembed.heads.query_expansion import vectors_at


@dataclass(frozen=True)
class RepresentedPhotos:
    """What a head needs to know of N photos.

    Attributes:
        representations: (N, W) of the head, without query expansion.
        directions: (N, D) unit vectors by which the same person is told.
        ambient: (N,) their ambient similarities; see `SamePerson`. 0 for a head without it.
    """

    representations: Float
    directions: Float
    ambient: Float

    @classmethod
    def of(cls, head: Head, vectors: Vectors, knn_vectors: Vectors) -> RepresentedPhotos:
        """Represents photos.

        Args:
            head: the head.
            vectors: (N, head.width) of the head's view.
            knn_vectors: (N, D) of its `person_view`.
        """
        directions = unit(np.asarray(knn_vectors, np.float32))
        ambient = np.zeros(len(directions), np.float32)
        if head.same_person is not None and len(directions):
            ambient = head.same_person.ambient(directions, in_gallery=False)
        return cls(np.asarray(head.represent(vectors), np.float32), directions, ambient)

    @classmethod
    def at(cls, head: Head, cache: Embeddings, rows: Rows) -> RepresentedPhotos:
        """Represents some photos of a cache.

        Args:
            head: of the cache's network.
            cache: with the head's views.
            rows: (N,) of the cache.
        """
        vectors = vectors_at(cache, head.view, rows)
        return cls.of(head, vectors, vectors_at(cache, person_view(head), rows))

    def __len__(self) -> int:
        return len(self.directions)


def person_view(head: Head) -> str:
    """The view by which a head tells the same person."""
    return head.knn_view if head.same_person is not None else head.view


@dataclass(frozen=True)
class PooledPeople:
    """P people, each pooled over their photos.

    Attributes:
        representations: (P, W), as `Head.pool` makes them.
        directions: (P, D) unit vectors of the means of the photos' directions. The cosine of two
            is above the mean cosine of their photos, the more so the more a person's photos differ
            (Spearman's correction for attenuation, 1904).
        ambient: (P,) means of the photos' ambient similarities.
        counts: (P,) photos of each.
    """

    representations: Float
    directions: Float
    ambient: Float
    counts: Rows

    @classmethod
    def of(cls, head: Head, photos: RepresentedPhotos, groups: Sequence[Rows]) -> PooledPeople:
        """Pools the photos of each person.

        Args:
            head: the head that represented the photos.
            photos: the photos.
            groups: for each person the numbers of their photos, at least one.
        """
        counts = np.array([len(group) for group in groups], np.intp)
        if not len(counts):
            nobody = np.empty(0, np.intp)
            empty = (photos.representations[nobody], photos.directions[nobody])
            return cls(*empty, photos.ambient[nobody], counts)
        rows = np.concatenate([np.asarray(group, np.intp) for group in groups])  # (R,)
        starts = np.cumsum(counts) - counts  # (P,)
        pooled = head.pool(photos.representations, rows, starts)
        single = counts == 1  # keeps its representation to the bit
        pooled[single] = photos.representations[rows[starts[single]]]
        each = counts.astype(np.float32)
        return cls(
            pooled,
            _directions(photos.directions, rows, starts, single),
            (np.add.reduceat(photos.ambient[rows], starts) / each).astype(np.float32),
            counts,
        )

    def __len__(self) -> int:
        return len(self.counts)

    def joined(self, other: PooledPeople) -> PooledPeople:
        """These people, then others."""
        return PooledPeople(
            np.concatenate([self.representations, other.representations]),
            np.concatenate([self.directions, other.directions]),
            np.concatenate([self.ambient, other.ambient]),
            np.concatenate([self.counts, other.counts]),
        )


def _directions(directions: Float, rows: Rows, starts: Rows, single: NDArray[np.bool_]) -> Float:
    """(P, D) directions of people; that of a single photo to the bit."""
    found = unit(np.add.reduceat(directions[rows], starts).astype(np.float32))
    found[single] = directions[rows[starts[single]]]
    return found


@dataclass(frozen=True)
class PersonScores:
    """What is known of K pairs of people before any probability.

    Attributes:
        logits: (K,) kinship logits of the head, of pooled representations.
        likeness: (K,) cosine of their directions above the photos' ambient similarity.
        amount: (K,) of photos: the mean of the logarithms of both people's counts; 0 for two
            single photos.
    """

    logits: NDArray[np.float64]
    likeness: NDArray[np.float64]
    amount: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def joined(cls, parts: Sequence[PersonScores]) -> PersonScores:
        """The scores of several lists of pairs, in their order."""
        return cls(
            np.concatenate([each.logits for each in parts]),
            np.concatenate([each.likeness for each in parts]),
            np.concatenate([each.amount for each in parts]),
        )

    def at(self, chosen: NDArray[np.bool_]) -> PersonScores:
        """The scores of the pairs for which (K,) `chosen` is True."""
        return PersonScores(self.logits[chosen], self.likeness[chosen], self.amount[chosen])


def person_scores(
    head: Head, people: PooledPeople, pairs: Rows, threads: int | None = None
) -> PersonScores:
    """Scores pairs of people; symmetric and independent of other pairs, to the bit.

    Args:
        head: the head that represented them.
        people: P people.
        pairs: (K, 2) their numbers.
        threads: of the head; None: one per processor.

    Raises:
        IndexError: a number is out of range.
    """
    logits = head.score(people.representations, pairs, threads)
    likeness = _likeness(people.directions, people.ambient, pairs)
    amounts = np.log(people.counts[pairs].astype(np.float64))  # (K, 2)
    return PersonScores(logits, likeness, (amounts[:, 0] + amounts[:, 1]) / 2)


def photo_likeness(photos: RepresentedPhotos, rows: Rows) -> NDArray[np.float64]:
    """(F, F) likeness of some photos with each other, as `PersonScores` has it.

    Args:
        photos: N photos.
        rows: (F,) numbers of some.
    """
    pairs = np.indices((len(rows), len(rows))).reshape(2, -1).T
    found = _likeness(photos.directions[rows], photos.ambient[rows], pairs)
    return found.reshape(len(rows), len(rows))


def _likeness(directions: Float, ambient: Float, pairs: Rows) -> NDArray[np.float64]:
    """(K,) cosines of (K, 2) pairs of unit vectors above the ambient similarity of both."""
    likeness = np.empty(len(pairs), np.float64)
    for start in range(0, len(pairs), 4096):  # so that the gathered rows stay small
        left, right = pairs[start : start + 4096].T
        alike = row_dots(directions[left], directions[right])
        alike -= (ambient[left] + ambient[right]) / 2
        likeness[start : start + 4096] = alike
    return likeness
