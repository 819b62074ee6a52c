"""Which photos of a large gallery may be alike: an index by cells, in place of all pairs.

Photos are grouped around centres, and each is compared with those of its nearest few cells only
(an inverted file: Sivic and Zisserman, "Video Google", 2003; Jégou et al., "Product quantization
for nearest neighbor search", 2011). What is compared is compared exactly; pairs that share no cell
are missed. Whole cells are compared at once, by products of blocks, which is faster than an index
that answers photo by photo.

The same photos make the same cells, whatever the threads and the BLAS: products are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows
from kinembed.heads.exact import ExactKernel, unit
from kinembed.threads import one_blas_thread, parallel_map, processors

PER_ROOT = 4  # cells by the square root of the photos
DRAWN = 32  # photos for each cell, of which the centres are made
TURNS = 4  # of k-means
BLOCK = 1024  # photos at a time
LOOKING = 4096  # photos compared with those of a cell at a time


@dataclass(frozen=True)
class Cells:
    """Centres among the photos of a gallery.

    Attributes:
        kernel: (D, C) the centres, unit vectors.
    """

    kernel: ExactKernel

    @classmethod
    def of(cls, directions: Float) -> Cells:
        """Spherical k-means of a sample of (P, D) unit vectors (Dhillon and Modha, 2001)."""
        count = max(1, round(PER_ROOT * len(directions) ** 0.5))
        # Not evenly spread: photos of one person follow each other, at a period perhaps.
        rng = np.random.default_rng(0)
        drawn = rng.permutation(len(directions))[: DRAWN * count]
        sample = directions[drawn]
        sample = sample[np.isfinite(sample).all(1)]
        centres = np.unique(sample[:count], axis=0)  # equal ones would be told by rounding
        if not len(centres):
            centres = np.zeros((1, directions.shape[1]), np.float32)
        cells = cls(ExactKernel.of(np.ascontiguousarray(centres.T)))
        for _ in range(TURNS):
            home = cells.nearest(sample, 1)[:, 0]  # (S,)
            order = np.argsort(home, kind="stable")
            starts = np.flatnonzero(np.diff(home[order], prepend=-1))
            if len(starts):
                sums = np.add.reduceat(sample[order].astype(np.float64), starts)  # (C, D)
                centres = np.unique(unit(sums), axis=0)
            cells = cls(ExactKernel.of(np.ascontiguousarray(centres.T)))
        return cells

    def __len__(self) -> int:
        return len(self.kernel.scale)

    def nearest(self, directions: Float, count: int) -> NDArray[np.int32]:
        """(P, count) nearest cells of (P, D) photos, the nearest first; all if that is fewer."""
        count = min(count, len(self))
        result = np.empty((len(directions), count), np.int32)

        def find_block(start: int) -> None:
            far = -self.kernel.product(directions[start : start + BLOCK])  # (B, C)
            if count == 1:
                result[start : start + BLOCK, 0] = far.argmin(1)
                return
            some = np.argpartition(far, count - 1, axis=1)[:, :count]
            order = np.argsort(np.take_along_axis(far, some, 1), axis=1, kind="stable")
            result[start : start + BLOCK] = np.take_along_axis(some, order, 1)

        starts = range(0, len(directions), BLOCK)
        with one_blas_thread():
            parallel_map(find_block, starts, min(processors(), len(starts)))
        return result


@dataclass(frozen=True)
class Candidates:
    """The pairs of a gallery that are compared.

    Two photos are, if the cell that one is in is among the nearest few of the other.

    Attributes:
        near: (P, n) the nearest cells of each photo; it is in the first.
    """

    near: NDArray[np.int32]

    def have(self, left: Rows, right: Rows) -> NDArray[np.bool_]:
        """(K,) whether pairs of photos are compared."""
        return self._looks_at(left, right) | self._looks_at(right, left)

    def _looks_at(self, photos: Rows, others: Rows) -> NDArray[np.bool_]:
        """(K,) whether photos look into the cell of others."""
        found: NDArray[np.bool_] = (self.near[photos] == self.near[others, :1]).any(1)
        return found

    def are_first(self, photos: Rows, others: Rows) -> NDArray[np.bool_]:
        """(K,) True once for each pair of which one looks into the cell of the other.

        Args:
            photos: which look into the cells of the others.
            others: the others.
        """
        own, other = self.near[photos, 0], self.near[others, 0]
        first = np.where(own == other, photos < others, own < other)
        first[own != other] |= ~self._looks_at(others[own != other], photos[own != other])
        return first

    def blocks(self) -> Iterator[tuple[Rows, Rows]]:
        """Photos that look into a cell, and photos in it; a large cell in several blocks."""
        count = int(self.near.max(initial=-1)) + 1
        flat = self.near.ravel()
        looking = np.argsort(flat, kind="stable")
        ends = np.cumsum(np.bincount(flat, minlength=count))
        looking //= self.near.shape[1]
        home = self.near[:, 0]
        within = np.argsort(home, kind="stable")
        home_ends = np.cumsum(np.bincount(home, minlength=count))
        for cell in range(count):
            members = within[home_ends[cell - 1] if cell else 0 : home_ends[cell]]
            photos = looking[ends[cell - 1] if cell else 0 : ends[cell]]
            for some in range(0, len(members), BLOCK):
                part = members[some : some + BLOCK]
                for start in range(0, len(photos), LOOKING):
                    yield photos[start : start + LOOKING], part
