"""Vectors in two dimensions, for people to look at: by UMAP, or by their principal components.

UMAP: McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for
Dimension Reduction", 2018, https://arxiv.org/abs/1802.03426.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows, Vectors
from kinembed.errors import KinembedError
from kinembed.threads import one_blas_thread

log = logging.getLogger(__name__)

Method = Literal["auto", "umap", "pca"]
Numbers = NDArray[np.float64]

NEIGHBOURS = 15  # of a point, which UMAP keeps near
COMPONENTS = 50  # that UMAP gets: the rest is mostly noise, and takes time
FEWEST = 2 * NEIGHBOURS  # points for UMAP
MOST = 20_000  # points: their distances are all computed
ROWS = 1024  # of a block
INSTALL = "run pip install 'kinembed[map]'"


@dataclass(frozen=True)
class FlatMap:
    """Points of N vectors on a plane.

    Attributes:
        points: (N, 2).
        method: `umap` or `pca`.
        variance: share of the vectors' variance along the two axes of `pca`; else None.
    """

    points: Numbers
    method: Literal["umap", "pca"]
    variance: float | None = None


def flat_map(vectors: Vectors, method: Method, seed: int) -> FlatMap:
    """Places vectors on a plane; equal arguments give equal points on one machine.

    Args:
        vectors: (N, D), finite; at most `MOST`.
        method: `auto` is UMAP where it is installed and there are points enough, else PCA.
        seed: of UMAP.

    Raises:
        KinembedError: UMAP is asked for and missing, or there are too few points for it.
    """
    few = len(vectors) < FEWEST
    if method == "umap" and few:
        raise KinembedError(
            f"{len(vectors)} photos are too few for UMAP, which wants {FEWEST}; leave out --method"
        )
    if method == "pca" or few:
        return _by_components(vectors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that it could use and does not need
            from umap import UMAP
    except ImportError:
        if method == "umap":
            raise KinembedError(f"UMAP is not installed; {INSTALL}") from None
        log.info("by PCA; UMAP shows groups of photos better: %s", INSTALL)
        return _by_components(vectors)
    return FlatMap(_by_umap(UMAP, vectors, seed), "umap")


def principal_components(vectors: Vectors, count: int) -> tuple[Numbers, Numbers]:
    """(N, count) coordinates along the axes of most variance, and (count,) shares of it.

    The largest number of each axis is positive, so that no sign is left to chance.

    Args:
        vectors: (N, D).
        count: of axes; those that there are not stay 0.
    """
    points, width = len(vectors), vectors.shape[1]
    mean = np.zeros(width)
    for start in range(0, points, ROWS):
        mean += vectors[start : start + ROWS].sum(0, dtype=np.float64)
    mean /= points
    products = np.zeros((width, width))
    found, shares = np.zeros((points, count)), np.zeros(count)
    with one_blas_thread():  # with several, the last bits depend on their number
        for start in range(0, points, ROWS):
            rows = vectors[start : start + ROWS] - mean
            products += rows.T @ rows
        variances, axes = np.linalg.eigh(products)  # in rising order
        total = float(variances.sum())
        kept = min(count, width, points - 1)
        if kept > 0 and total > 0:
            axes = axes[:, ::-1][:, :kept]
            axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(kept)])
            shares[:kept] = np.maximum(variances[::-1][:kept], 0) / total
            for start in range(0, points, ROWS):
                found[start : start + ROWS, :kept] = (vectors[start : start + ROWS] - mean) @ axes
    return found, shares


def nearest(points: NDArray[Any], count: int) -> tuple[Rows, NDArray[np.float32]]:
    """(N, count) the nearest points of each, itself left out, and their distances.

    Args:
        points: (N, D).
        count: less than N.
    """
    points = np.asarray(points, np.float32)
    rows = np.empty((len(points), count), np.intp)
    distances = np.empty((len(points), count), np.float32)
    squares = (points * points).sum(1)
    with one_blas_thread():
        for start in range(0, len(points), ROWS):
            block = slice(start, start + ROWS)
            square = squares[block, None] + squares - 2 * (points[block] @ points.T)  # (n, N)
            own = np.arange(len(square))
            square[own, start + own] = np.inf
            chosen = np.argpartition(square, count - 1, axis=1)[:, :count]
            values = np.take_along_axis(square, chosen, 1)
            order = np.lexsort((chosen, values), axis=1)
            rows[block] = np.take_along_axis(chosen, order, 1)
            distances[block] = np.sqrt(np.maximum(np.take_along_axis(values, order, 1), 0))
    return rows, distances


def _by_components(vectors: Vectors) -> FlatMap:
    points, shares = principal_components(vectors, 2)
    return FlatMap(points, "pca", float(shares.sum()))


def _by_umap(umap: Any, vectors: Vectors, seed: int) -> Numbers:
    """Begins from the principal components, not from a draw, and takes exact neighbours."""
    components, _ = principal_components(vectors, COMPONENTS)
    others, distances = nearest(components, NEIGHBOURS - 1)
    own = np.arange(len(others))[:, None]  # UMAP counts a point as its own first neighbour
    neighbours = np.concatenate([own, others], 1)
    lengths = np.concatenate([np.zeros((len(own), 1), np.float32), distances], 1)
    start = components[:, :2] / max(np.abs(components[:, :2]).max(), 1e-12) * 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot place new photos, which it is not asked to
        model = umap(
            n_neighbors=NEIGHBOURS,
            init=start.astype(np.float32),
            random_state=seed % 2**32,
            n_jobs=1,
            precomputed_knn=(neighbours, lengths),
        )
        return np.asarray(model.fit_transform(components.astype(np.float32)), np.float64)
