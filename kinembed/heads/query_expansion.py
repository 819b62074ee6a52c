"""Query expansion: what a gallery's photos say of each other, taken into their representations.

A photo's representation becomes the weighted mean of its own and its neighbours': most of them are
other photos of the same person, and all are nearer to its kin than strangers are. It needs no
labels. Both sides of a pair are expanded, so this is weighted average query expansion together with
database-side augmentation (Chum et al., "Total Recall", 2007; Arandjelovic and Zisserman, "Three
things everyone should know to improve object retrieval", 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.heads.base import Head
from kinembed.heads.exact import row_dots, unit
from kinembed.threads import one_blas_thread, processors, share

QUERIES = 1024  # photos held against their gallery at a time
MEANS = 128  # photos expanded at a time: their sums stay in the processor's cache


@dataclass(frozen=True)
class Neighbours:
    """Who is a neighbour of whom, with which weight.

    Photo j is a neighbour of photo i where j is one of the nearest of i, and where i is one of
    j's: twice where both hold, so that mutual neighbours weigh more.

    Attributes:
        rows: (P,) the photos of the gallery, rising.
        first: (P + 1,) where the neighbours of each begin.
        by: (E,) their rows.
        weights: (E,) their cosines, at least 0; a photo's own is 1.
    """

    rows: Rows
    first: Rows
    by: Rows
    weights: Float

    def of(self, rows: Rows) -> Rows:
        """All neighbours of some photos of the gallery, sorted, those photos among them."""
        at = np.searchsorted(self.rows, rows)
        counts = self.first[at + 1] - self.first[at]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(self.by[np.repeat(self.first[at], counts) + within])

    def means(self, rows: Rows, values: Float, places: Rows) -> Float:
        """Weighted means (R, W) of the values of each photo's neighbours.

        Each photo's are added in the order of its neighbours, whatever the other photos are.

        Args:
            rows: (R,) photos of the gallery.
            values: (V, W) representations.
            places: the row in `values` of each neighbour's, by its row in the gallery.
        """
        at = np.searchsorted(self.rows, rows)
        counts = self.first[at + 1] - self.first[at]
        order = np.argsort(-counts, kind="stable")  # photos with many neighbours first
        sums = np.zeros((len(rows), values.shape[1]), np.float32)
        weights = np.zeros((len(rows), 1), np.float32)
        for nth in range(int(counts.max())):
            left = int(np.count_nonzero(counts > nth))  # photos that have an nth neighbour
            edges = self.first[at[order[:left]]] + nth
            weight = self.weights[edges, None]  # (left, 1)
            sums[:left] += values[places[self.by[edges]]] * weight  # (left, W)
            weights[:left] += weight
        found = np.empty_like(sums)
        found[order] = sums / weights
        return found


def find_neighbours(vectors: Vectors, count: int, rows: Rows) -> Neighbours:
    """The neighbours of each photo of a gallery.

    Args:
        vectors: (P, D) of its photos, by whose cosine neighbours are found.
        count: how many nearest to take for each photo, itself among them.
        rows: (P,) the rows that the photos have elsewhere, rising.
    """
    size, count = len(vectors), min(count, len(vectors))
    nearest, cosines = find_nearest(unit(vectors), count)
    own = np.repeat(np.arange(size), count)
    of = np.concatenate([own, nearest.ravel()])  # (2 P count,)
    by = np.concatenate([nearest.ravel(), own])
    weights = np.concatenate([cosines.ravel()] * 2)
    order = np.argsort(of, kind="stable")
    first = np.searchsorted(of[order], np.arange(size + 1))
    return Neighbours(rows, first, rows[by[order]], weights[order])


def find_nearest(directions: Float, count: int) -> tuple[Rows, Float]:
    """The rows nearest to each row by cosine, itself among them.

    Args:
        directions: (N, D) vectors of length 1, or 0.
        count: how many; at most N.

    Returns:
        Rows (N, count) in no order, and their cosines, at least 0; a row's own is 1.
    """
    rows = np.empty((len(directions), count), np.intp)
    cosines = np.empty(rows.shape, np.float32)
    gallery = np.ascontiguousarray(directions.T)  # (D, N)

    def find_block(start: int) -> None:
        queries = directions[start : start + QUERIES]
        similarity = queries @ gallery  # (Q, N)
        at = np.arange(len(queries))
        similarity[at, start + at] = 2  # before all others, even those equal to it
        found = np.argpartition(similarity, -count, axis=1)[:, -count:]  # (Q, count)
        rows[start : start + QUERIES] = found
        # Again, and each by itself: the product's last bits depend on the gallery's size.
        for nth in range(count):
            cosine = np.maximum(row_dots(queries, directions[found[:, nth]]), 0)
            cosines[start : start + QUERIES, nth] = np.where(found[:, nth] == start + at, 1, cosine)

    starts = range(0, len(directions), QUERIES)
    with one_blas_thread():
        share(find_block, starts, min(processors(), len(starts)))
    return rows, cosines


class QueryExpansion:
    """The neighbours of a cache's photos, found gallery by gallery as they are asked for.

    Photos of `test/` are a gallery of their own, as are all others: nobody is in both.

    Args:
        cache: names of photos, and vectors by which neighbours are found.
        knn_view: the view of those vectors.
        qe_k: nearest photos to take for each, itself among them.
    """

    def __init__(self, cache: Embeddings, knn_view: str, qe_k: int) -> None:
        self.cache, self.knn_view, self.qe_k = cache, knn_view, qe_k
        self._gallery = np.char.startswith(np.asarray(cache.names), b"test/").astype(np.intp)
        self._found: dict[int, Neighbours] = {}

    def represent(self, head: Head, rows: Rows, alone: Float, expanded: Float) -> None:
        """Writes representations of photos of the cache, alone and expanded, to their rows.

        Args:
            head: what represents them; its view is one of the cache.
            rows: (R,) photos.
            alone: (N, W) table of the whole cache.
            expanded: another.
        """
        for gallery in np.unique(self._gallery[rows]).tolist():
            here = rows[self._gallery[rows] == gallery]
            self._represent(head, here, self._neighbours(gallery), alone, expanded)

    def _represent(
        self, head: Head, rows: Rows, neighbours: Neighbours, alone: Float, expanded: Float
    ) -> None:
        """The same of photos of one gallery."""
        asked = neighbours.of(rows)  # sorted; (A,)
        values = np.asarray(head.represent(vectors_at(self.cache, head.view, asked)))  # (A, W)
        places = np.zeros(len(self._gallery), np.intp)
        places[asked] = np.arange(len(asked))

        def expand_block(start: int) -> None:
            block = rows[start : start + MEANS]
            alone[block] = values[places[block]]
            expanded[block] = head.normalise(neighbours.means(block, values, places))

        starts = range(0, len(rows), MEANS)
        share(expand_block, starts, min(processors(), len(starts)))

    def _neighbours(self, gallery: int) -> Neighbours:
        if gallery not in self._found:
            rows = np.flatnonzero(self._gallery == gallery)
            vectors = vectors_at(self.cache, self.knn_view, rows)
            self._found[gallery] = find_neighbours(vectors, self.qe_k, rows)
        return self._found[gallery]


def vectors_at(cache: Embeddings, view: str, rows: Rows) -> Vectors:
    """Vectors (R, D) of some photos of a cache; of a composite view only their rows are read."""
    parts = [cache.vectors(part)[rows] for part in view.split("+")]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1, dtype=np.float32)
