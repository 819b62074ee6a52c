"""Query expansion: each representation becomes the weighted mean of its neighbours'.

A photo's neighbours are mostly other photos of the same person, and all are closer to its kin than
strangers are. No labels are needed. Both sides of a pair are expanded, so this is weighted average
query expansion plus database-side augmentation (Chum et al., "Total Recall", 2007; Arandjelovic and
Zisserman, "Three things everyone should know to improve object retrieval", 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.heads.base import Head
from kinembed.heads.exact import row_dots, unit
from kinembed.threads import one_blas_thread, parallel_map, processors

QUERIES = 1024  # photos per block of the neighbour search
MEANS = 128  # photos per block of means, so that the sums stay in the processor's cache


@dataclass(frozen=True)
class Neighbours:
    """The weighted neighbour graph of a gallery.

    Photos i and j are neighbours if j is among the nearest of i, or i among the nearest of j; if
    both hold, the edge counts twice, so that mutual neighbours weigh more.

    Attributes:
        rows: (P,) the photos of the gallery, sorted.
        first: (P + 1,) index of each photo's first edge.
        neighbours: (E,) the photo at the end of each edge.
        weights: (E,) their cosines, at least 0; a photo is its own neighbour with weight 1.
    """

    rows: Rows
    first: Rows
    neighbours: Rows
    weights: Float

    def of(self, rows: Rows) -> Rows:
        """All neighbours of some photos of the gallery, sorted, the photos themselves included."""
        nodes = np.searchsorted(self.rows, rows)  # (R,)
        counts = self.first[nodes + 1] - self.first[nodes]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(self.neighbours[np.repeat(self.first[nodes], counts) + within])

    def means(self, rows: Rows, values: Float, row_of: Rows) -> Float:
        """(R, W) weighted means of the neighbours' representations.

        Adds them in the order of a photo's edges, independent of the other photos.

        Args:
            rows: (R,) photos of the gallery.
            values: (V, W) representations.
            row_of: (N,) the row in `values` of each photo of the cache.
        """
        nodes = np.searchsorted(self.rows, rows)  # (R,)
        counts = self.first[nodes + 1] - self.first[nodes]  # (R,)
        order = np.argsort(-counts, kind="stable")  # photos with many neighbours first
        sums = np.zeros((len(rows), values.shape[1]), np.float32)
        weights = np.zeros((len(rows), 1), np.float32)
        for nth in range(int(counts.max())):
            left = int(np.count_nonzero(counts > nth))  # photos that have an nth neighbour
            edges = self.first[nodes[order[:left]]] + nth  # (left,)
            weight = self.weights[edges, None]  # (left, 1)
            sums[:left] += values[row_of[self.neighbours[edges]]] * weight  # (left, W)
            weights[:left] += weight
        means = np.empty_like(sums)
        means[order] = sums / weights
        return means


def find_neighbours(vectors: Vectors, count: int, rows: Rows) -> Neighbours:
    """The neighbours of each photo of a gallery.

    Args:
        vectors: (P, D) vectors of its photos, compared by cosine.
        count: nearest photos to take for each photo, itself included.
        rows: (P,) the photos' rows in the cache, sorted.
    """
    size, count = len(vectors), min(count, len(vectors))
    nearest, cosines = find_nearest(unit(vectors), count)  # (P, count) each
    own = np.repeat(np.arange(size), count)  # (P * count,)
    starts = np.concatenate([own, nearest.ravel()])  # (E,)
    ends = np.concatenate([nearest.ravel(), own])  # (E,)
    weights = np.concatenate([cosines.ravel()] * 2)  # (E,)
    order = np.argsort(starts, kind="stable")
    first = np.searchsorted(starts[order], np.arange(size + 1))
    return Neighbours(rows, first, rows[ends[order]], weights[order])


def find_nearest(directions: Float, count: int) -> tuple[Rows, Float]:
    """The rows nearest to each row by cosine, itself included.

    Args:
        directions: (N, D) vectors of length 1, or 0.
        count: how many; at most N.

    Returns:
        (N, count) rows in no order, and (N, count) their cosines, at least 0; a row's own is 1.
    """
    rows = np.empty((len(directions), count), np.intp)
    cosines = np.empty(rows.shape, np.float32)
    gallery = np.ascontiguousarray(directions.T)  # (D, N)

    def find_block(start: int) -> None:
        queries = directions[start : start + QUERIES]  # (Q, D)
        similarity = queries @ gallery  # (Q, N)
        index = np.arange(len(queries))
        similarity[index, start + index] = 2  # ahead of all others, even of its duplicates
        nearest = np.argpartition(similarity, -count, axis=1)[:, -count:]  # (Q, count)
        rows[start : start + QUERIES] = nearest
        # Recomputed by row_dots: the last bits of the product depend on the gallery's size.
        for nth in range(count):
            cosine = np.maximum(row_dots(queries, directions[nearest[:, nth]]), 0)  # (Q,)
            cosine = np.where(nearest[:, nth] == start + index, 1, cosine)
            cosines[start : start + QUERIES, nth] = cosine

    starts = range(0, len(directions), QUERIES)
    with one_blas_thread():
        parallel_map(find_block, starts, min(processors(), len(starts)))
    return rows, cosines


class QueryExpansion:
    """Query expansion of a cache's photos; finds neighbours on demand, gallery by gallery.

    Photos of `test/` are one gallery and all others another, because nobody is in both.

    Args:
        cache: the cache.
        knn_view: the view whose cosines find neighbours.
        qe_k: nearest photos to take for each photo, itself included.
    """

    def __init__(self, cache: Embeddings, knn_view: str, qe_k: int) -> None:
        self.cache, self.knn_view, self.qe_k = cache, knn_view, qe_k
        self._gallery = np.char.startswith(np.asarray(cache.names), b"test/").astype(np.intp)
        self._found: dict[int, Neighbours] = {}

    def represent(self, head: Head, rows: Rows, alone: Float, expanded: Float) -> None:
        """Writes the representations of some photos of the cache to two tables.

        Args:
            head: the head; its view is one of the cache's.
            rows: (R,) photos.
            alone: (N, W) representations before expansion, for the whole cache.
            expanded: (N, W) representations after expansion.
        """
        for gallery in np.unique(self._gallery[rows]).tolist():
            of_gallery = rows[self._gallery[rows] == gallery]
            self._represent(head, of_gallery, self._neighbours(gallery), alone, expanded)

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
            expanded[block] = head.normalise(neighbours.means(block, values, row_of))

        starts = range(0, len(rows), MEANS)
        parallel_map(expand_block, starts, min(processors(), len(starts)))

    def _neighbours(self, gallery: int) -> Neighbours:
        if gallery not in self._found:
            rows = np.flatnonzero(self._gallery == gallery)
            vectors = vectors_at(self.cache, self.knn_view, rows)
            self._found[gallery] = find_neighbours(vectors, self.qe_k, rows)
        return self._found[gallery]


def vectors_at(cache: Embeddings, view: str, rows: Rows) -> Vectors:
    """(R, D) vectors of some photos of a cache; reads only their rows, in composite views too."""
    views = [cache.vectors(name)[rows] for name in view.split("+")]
    return views[0] if len(views) == 1 else np.concatenate(views, 1, dtype=np.float32)
