"""Query expansion: a photo's representation becomes the mean of its person's photos'.

A photo takes in only those that are likely of the same person: see `same_person.py`. A photo
without neighbours keeps its representation, to the bit. Both sides of a pair are expanded: this is
average query expansion plus database-side augmentation (Chum et al., "Total Recall", 2007;
Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval", 2012).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.cache.provenance import networks_of
from kinembed.checked import Bounds, Values
from kinembed.heads import same_person
from kinembed.heads.base import Head
from kinembed.heads.same_person import SamePerson
from kinembed.threads import parallel_map, processors

Expanding = bool | Literal["exact"]  # whether photos are; exact: all pairs are compared for it

log = logging.getLogger(__name__)

MEANS = 128  # photos per block of means, so that the sums stay in the processor's cache
MOST = 10**12
TIMED = 4_096  # photos by which it is told how long


@dataclass(frozen=True)
class MakeUp:
    """How many photos of a gallery likely have others of the same person.

    Attributes:
        photos: of the gallery.
        expanded: of these, how many have others.
        others: how many they have: lower quartile, median and upper quartile.
    """

    photos: int
    expanded: int
    others: tuple[int, int, int]

    @classmethod
    def read(cls, about: Values) -> MakeUp:
        """What a file says.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        about.only(["photos", "expanded", "others"])
        photos = about.whole("photos", Bounds(least=0, most=MOST))
        expanded = about.whole("expanded", Bounds(least=0, most=photos))
        low, median, high = about.wholes("others", Bounds(least=0, most=photos), most=3)
        return cls(photos, expanded, (low, median, high))

    def describe(self) -> str:
        """In a few words."""
        text = f"{self.expanded:,} of {self.photos:,} photos likely have others of the same person"
        low, _, high = self.others
        many = f"{low}" if low == high else f"{low} to {high}"
        return f"{text}: {many} each (interquartile range)" if self.expanded else text


@dataclass(frozen=True)
class Neighbours:
    """Which photos of a gallery are likely of the same person.

    Attributes:
        rows: (P,) the photos of the gallery, sorted.
        first: (P + 1,) index in `others` of the first neighbour of each.
        others: (E,) the neighbours of the first photo, sorted, then of the second, and so on.
    """

    rows: Rows
    first: Rows
    others: Rows

    @property
    def make_up(self) -> MakeUp:
        """How many of the photos have neighbours."""
        counts = np.diff(self.first)
        some = counts[counts > 0]
        quartiles = np.quantile(some, (0.25, 0.5, 0.75), method="nearest") if len(some) else [0] * 3
        low, median, high = (int(count) for count in quartiles)
        return MakeUp(len(counts), len(some), (low, median, high))

    def counts(self, rows: Rows) -> Rows:
        """(R,) how many neighbours each of some photos of the gallery has."""
        nodes = np.searchsorted(self.rows, rows)
        return self.first[nodes + 1] - self.first[nodes]

    def of(self, rows: Rows) -> Rows:
        """All neighbours of some photos of the gallery, sorted, with the photos themselves."""
        nodes, counts = np.searchsorted(self.rows, rows), self.counts(rows)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.union1d(rows, self.others[np.repeat(self.first[nodes], counts) + within])

    def means(self, rows: Rows, values: Float, row_of: Rows) -> Float:
        """(R, W) means of the representations of photos and their neighbours.

        Adds them in the order of a photo's neighbours, independent of the other photos.

        Args:
            rows: (R,) photos of the gallery.
            values: (V, W) representations.
            row_of: (N,) the row in `values` of each photo of the cache.
        """
        nodes, counts = np.searchsorted(self.rows, rows), self.counts(rows)  # (R,) each
        order = np.argsort(-counts, kind="stable")  # photos with many neighbours first
        sums = values[row_of[rows[order]]].astype(np.float32)  # (R, W)
        for nth in range(int(counts.max(initial=0))):
            left = int(np.count_nonzero(counts > nth))  # photos that have an nth neighbour
            others = self.others[self.first[nodes[order[:left]]] + nth]  # (left,)
            sums[:left] += values[row_of[others]]  # (left, W)
        means = np.empty_like(sums)
        means[order] = sums / (counts[order] + 1).astype(np.float32)[:, None]
        return means

    def expand(self, head: Head, rows: Rows, values: Float, row_of: Rows) -> Float:
        """(R, W) representations after expansion; without neighbours they stay, to the bit.

        Args:
            head: the head that made the values.
            rows: (R,) photos of the gallery.
            values: (V, W) representations before expansion, of `of(rows)` at least.
            row_of: (N,) the row in `values` of each photo of the cache.
        """
        expanded = values[row_of[rows]]  # (R, W), a copy
        some = self.counts(rows) > 0
        if some.any():
            expanded[some] = head.normalise(self.means(rows[some], values, row_of))
        return expanded


def expansion_of(others: Rows) -> NDArray[np.float64]:
    """(K,) how much pairs are expanded: the mean of log(1 + others) of both (K, 2) photos.

    0 for pairs of which neither photo is expanded: their score is of the two photos alone.
    """
    expansion: NDArray[np.float64] = np.log1p(others).mean(1)
    return expansion


def gallery_of(cache: Embeddings) -> Rows:
    """(N,) the gallery of each photo of a cache: 1 for those of the data folder's `test/`, else 0.

    A folder `test` below photos of one's own is none: then `embed` was not asked for `test`.
    Vectors that `embed` did not make tell by the names of their photos alone.
    """
    made = networks_of(cache.provenance)
    photos = [about.get("command", {}).get("photos") for about in made]
    if not any(each is None or "test" in each for each in photos):
        return np.zeros(len(cache.names), np.intp)
    return np.char.startswith(np.asarray(cache.names), b"test/").astype(np.intp)


def find_neighbours(
    vectors: Vectors, model: SamePerson, rows: Rows, *, exact: bool = False
) -> Neighbours:
    """Which photos are neighbours in a gallery.

    Args:
        vectors: (P, D) vectors of its photos.
        model: tells how likely two are of the same person.
        rows: (P,) the photos' rows in the cache, sorted.
        exact: compare all pairs of a large gallery, too.
    """
    if exact and len(rows) > same_person.INDEXED:
        _say_how_long(vectors, model)
    pairs = model.neighbours(vectors, exact=exact)
    starts = np.concatenate([pairs.left, pairs.right])  # (E,)
    ends = np.concatenate([pairs.right, pairs.left])  # (E,)
    order = np.lexsort((ends, starts))
    first = np.searchsorted(starts[order], np.arange(len(rows) + 1))
    return Neighbours(rows, first, rows[ends[order]])


def _say_how_long(vectors: Vectors, model: SamePerson) -> None:
    """Says how long it takes to compare all photos, by the time that some of them take."""
    began = time.perf_counter()
    model.neighbours(vectors[:: max(1, len(vectors) // TIMED)], exact=True)
    seconds = (time.perf_counter() - began) * (len(vectors) / TIMED) ** 2
    log.info(
        "comparing %s photos with each other, once: about %.0f s; --expand auto finds nearly all "
        "neighbours sooner", f"{len(vectors):,}", seconds,
    )  # fmt: skip


class QueryExpansion:
    """Query expansion of a cache's photos; finds neighbours on demand, gallery by gallery.

    Photos of the data folder's `test/` are one gallery and all others another, because nobody is in
    both.

    Args:
        cache: the cache.
        knn_view: the view by which photos are compared.
        model: tells how likely two are of the same person.
        known: neighbours that were found by the same view and model, of a gallery perhaps.
        exact: compare all pairs of a large gallery, too.

    Attributes:
        found: the make-up of each gallery asked for, by its name: `test`, or `photos`.
    """

    def __init__(
        self,
        cache: Embeddings,
        knn_view: str,
        model: SamePerson,
        known: Neighbours | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self.exact = exact
        self.cache, self.knn_view, self.model = cache, knn_view, model
        self._known = known
        self._gallery = gallery_of(cache)
        self._by_gallery: dict[int, Neighbours] = {}
        self.found: dict[str, MakeUp] = {}

    @classmethod
    def of(cls, cache: Embeddings, head: Head, expand: Expanding = True) -> QueryExpansion | None:
        """That of a head, if it expands and is asked to."""
        if not expand or head.same_person is None:
            return None
        return cls(cache, head.knn_view, head.same_person, exact=expand == "exact")

    def serves(self, head: Head) -> bool:
        """Whether a head finds the same neighbours: by the same view and model."""
        other = head.same_person
        return (
            other is not None
            and head.knn_view == self.knn_view
            and other.settings() == self.model.settings()
            and np.array_equal(other.cohort, self.model.cohort)
        )

    def represent(self, head: Head, rows: Rows, alone: Float, expanded: Float) -> Rows:
        """Writes the representations of some photos of the cache to two tables.

        Args:
            head: the head; its view is one of the cache's.
            rows: (R,) photos, sorted.
            alone: (N, W) representations before expansion, for the whole cache.
            expanded: (N, W) representations after expansion.

        Returns:
            (R,) how many neighbours each photo has.
        """
        counts = np.zeros(len(rows), np.intp)
        for gallery in np.unique(self._gallery[rows]).tolist():
            of_gallery = self._gallery[rows] == gallery
            neighbours = self._neighbours(gallery)
            self._represent(head, rows[of_gallery], neighbours, alone, expanded)
            counts[of_gallery] = neighbours.counts(rows[of_gallery])
        return counts

    def _represent(
        self, head: Head, rows: Rows, neighbours: Neighbours, alone: Float, expanded: Float
    ) -> None:
        """As `represent`, for photos of one gallery."""
        needed = neighbours.of(rows)  # (V,) sorted
        values = np.asarray(head.represent(vectors_at(self.cache, head.view, needed)))  # (V, W)
        row_of = np.zeros(len(self._gallery), np.intp)  # (N,)
        row_of[needed] = np.arange(len(needed))

        def expand_block(start: int) -> None:
            block = rows[start : start + MEANS]
            alone[block] = values[row_of[block]]  # (MEANS, W)
            expanded[block] = neighbours.expand(head, block, values, row_of)

        starts = range(0, len(rows), MEANS)
        parallel_map(expand_block, starts, min(processors(), len(starts)))

    def _neighbours(self, gallery: int) -> Neighbours:
        if gallery not in self._by_gallery:
            rows = np.flatnonzero(self._gallery == gallery)
            neighbours = self._known
            if neighbours is None or not np.array_equal(neighbours.rows, rows):
                vectors = vectors_at(self.cache, self.knn_view, rows)
                neighbours = find_neighbours(vectors, self.model, rows, exact=self.exact)
            self._by_gallery[gallery] = neighbours
            self.found["test" if gallery else "photos"] = neighbours.make_up
        return self._by_gallery[gallery]


def vectors_at(cache: Embeddings, view: str, rows: Rows) -> Vectors:
    """(R, D) vectors of some photos of a cache; reads only their rows, in composite views too."""
    views = [cache.vectors(name)[rows] for name in view.split("+")]
    return views[0] if len(views) == 1 else np.concatenate(views, 1, dtype=np.float32)
