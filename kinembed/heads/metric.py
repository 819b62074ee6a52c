"""Heads that learn a metric: each photo is projected, two are compared by their similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.heads.base import Head, People
from kinembed.heads.exact import ExactKernel, row_dots, row_sums, unit
from kinembed.threads import one_blas_thread, processors, share

Similarity = Literal["cosine", "l2", "dot"]

SIMILARITIES = ("cosine", "l2", "dot")
ROWS = 512  # photos projected at a time
PAIRS = 256  # compared at a time: what they need stays in the processor's second cache


@dataclass(frozen=True)
class Projection:
    """One member of a metric head: a linear map, and a relu layer added to it where there is one.

    Attributes:
        kernel: (D, d) float32.
        bias: (d,) float32.
        hidden: kernel (D, h), bias (h,) and kernel (h, d) of the relu layer, or nothing.
    """

    kernel: Float
    bias: Float
    hidden: tuple[Float, ...] = ()

    def __call__(self, x: Vectors) -> Float:
        """Vectors (N, D) to projections (N, d), each the same whatever the others are."""
        linear, *units = self._kernels
        y = linear.product(x) + self.bias  # (N, d) float64
        if units:
            inner, outer = units
            hidden = (inner.product(x) + self.hidden[1]).astype(np.float32)  # (N, h)
            y += outer.product(np.maximum(hidden, 0, out=hidden))
        return y.astype(np.float32)

    @cached_property
    def _kernels(self) -> tuple[ExactKernel, ...]:
        return tuple(ExactKernel.of(kernel) for kernel in (self.kernel, *self.hidden[::2]))

    @property
    def width(self) -> int:
        """Numbers in a projection."""
        return int(self.kernel.shape[1])

    @property
    def arrays(self) -> tuple[Float, ...]:
        """All that it holds, in order."""
        return (self.kernel, self.bias, *self.hidden)


@dataclass(frozen=True)
class MetricHead(Head):
    """Compares two photos by the similarity of their projected vectors.

    The members are an ensemble: a photo's representation is their projections stacked, so that the
    similarity of two photos is the members' weighted mean.

    Attributes:
        projections: the members.
        weights: of the members in the mean; empty: all alike.
        tta_views: test-time augmentation: how many versions of a photo a vector holds, one after
            the other, such as the photo and its mirror image; their projections are averaged.
        similarity: of projections a and b: `cosine`, `l2` (minus the squared distance), or `dot`
            (a product of both, the low-rank bilinear form).
        scale: a logit is `scale * (similarity - centre)`.
        centre: the similarity at which kin and strangers are equally likely, judged by those who
            trained it.
        others: as of `Head`.
    """

    kind: ClassVar[str] = "metric"

    view: str
    model: str
    projections: tuple[Projection, ...]
    weights: tuple[float, ...] = ()
    tta_views: int = 1
    similarity: Similarity = "cosine"
    scale: float = 10.0
    centre: float = 0.0
    knn_view: str = ""
    qe_k: int = 0
    held_out: People = ()
    trained: People = ()
    folds: tuple[People, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in each vector it takes, all versions of the photo together."""
        return len(self.projections[0].kernel) * self.tta_views

    @property
    def representation_width(self) -> int:
        """Those of all members together."""
        return sum(projection.width for projection in self.projections)

    def represent(self, vectors: Vectors) -> Float:
        """Representations (N, W), float32, of vectors (N, width): the members' projections."""
        found = np.empty((len(vectors), self.representation_width), np.float32)
        factors = self._factors()

        def represent_block(start: int) -> None:
            rows = vectors[start : start + ROWS]
            versions = np.reshape(rows, (len(rows), self.tta_views, -1))  # (n, T, D)
            parts = [
                self._average([projection(versions[:, t]) for t in range(self.tta_views)])
                for projection in self.projections
            ]  # (n, d) each
            np.multiply(np.concatenate(parts, 1), factors, out=found[start : start + ROWS])

        starts = range(0, len(vectors), ROWS)
        for projection in self.projections:
            _ = projection._kernels  # made once, before several threads want them
        with one_blas_thread():
            share(represent_block, starts, min(processors(), len(starts)))
        return found

    def _average(self, versions: list[Float]) -> Float:
        """One member's projection (n, d) of all versions (n, d) of each photo."""
        if self.similarity == "cosine":
            versions = [unit(version) for version in versions]
        total = versions[0]
        for version in versions[1:]:
            total = total + version
        return unit(total) if self.similarity == "cosine" else total / np.float32(len(versions))

    def _factors(self) -> Float:
        """What the members' parts (W,) are multiplied by, so that products are weighted means."""
        weights = np.array(self.weights or [1.0] * len(self.projections))
        shares = np.sqrt(weights / weights.sum())
        return np.repeat(shares, [each.width for each in self.projections]).astype(np.float32)

    def normalise(self, means: Float) -> Float:
        """Means (N, W) of representations as such again: of cosines each member's part is unit."""
        if self.similarity != "cosine":
            return means
        cuts = np.cumsum([each.width for each in self.projections])[:-1]
        parts = [unit(part) for part in np.split(means, cuts, axis=1)]
        return np.concatenate(parts, 1) * self._factors()

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        for start in range(0, len(pairs), PAIRS):
            left, right = pairs[start : start + PAIRS].T
            a, b = representations[left], representations[right]  # (PAIRS, W)
            if self.similarity == "l2":
                similarity = -row_sums(np.square(np.subtract(a, b, out=a), out=a))
            else:
                similarity = row_dots(a, b)
            out[start : start + PAIRS] = self.scale * (similarity.astype(np.float64) - self.centre)

    def members(self) -> list[Head]:
        """Each member as a head of its own."""
        return [replace(self, projections=(p,), weights=(), folds=()) for p in self.projections]

    def settings(self) -> dict[str, Any]:
        """All but people, model and arrays."""
        return {
            "view": self.view,
            "layers": [len(projection.arrays) for projection in self.projections],
            "weights": list(self.weights),
            "tta_views": self.tta_views,
            "similarity": self.similarity,
            "scale": self.scale,
            "centre": self.centre,
            "knn_view": self.knn_view,
            "qe_k": self.qe_k,
        }

    def arrays(self) -> dict[str, Float]:
        """`members/0/0` and so on: a member's arrays in the order of `Projection.arrays`."""
        return {
            f"members/{number}/{place}": array
            for number, projection in enumerate(self.projections)
            for place, array in enumerate(projection.arrays)
        }

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> MetricHead:
        """The head of settings and arrays, as `Head.from_arrays` says."""
        projections = []
        for number, count in enumerate(settings["layers"]):
            if count not in (2, 5):
                raise ValueError(f"member {number} has {count} arrays")
            kernel, bias, *hidden = (arrays[f"members/{number}/{place}"] for place in range(count))
            projections.append(_checked(Projection(kernel, bias, tuple(hidden))))
        if len(arrays) != sum(settings["layers"]) or not projections:
            raise ValueError(f"{len(arrays)} arrays for {len(projections)} members")
        if len({len(projection.kernel) for projection in projections}) != 1:
            raise ValueError("its members take vectors of different widths")
        weights = tuple(float(weight) for weight in settings["weights"])
        if len(weights) not in (0, len(projections)) or not all(0 < w < np.inf for w in weights):
            raise ValueError(
                f"{len(weights)} weights for {len(projections)} members, or not above 0"
            )
        if settings["similarity"] not in SIMILARITIES:
            raise ValueError(f"similarity {str(settings['similarity'])[:20]!r} is unknown")
        tta_views, qe_k = int(settings["tta_views"]), int(settings["qe_k"])
        scale, centre = float(settings["scale"]), float(settings["centre"])
        if tta_views < 1 or not (np.isfinite([scale, centre]).all() and scale > 0):
            raise ValueError("its tta_views, scale or centre are out of range")
        return cls(
            view=str(settings["view"]),
            projections=tuple(projections),
            weights=weights,
            tta_views=tta_views,
            similarity=settings["similarity"],
            scale=scale,
            centre=centre,
            knn_view=str(settings["knn_view"]),
            qe_k=qe_k,
            **about,
        )


def _checked(projection: Projection) -> Projection:
    """The projection, if its layers fit each other."""
    kernel, bias = projection.kernel, projection.bias
    shapes = [array.shape for array in projection.arrays]
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or 0 in kernel.shape:
        raise ValueError(f"its layers do not fit each other: {shapes}")
    if projection.hidden:
        inner, offset, outer = projection.hidden
        fits = inner.ndim == outer.ndim == 2 and offset.shape == inner.shape[1:]
        if not fits or (len(inner), len(outer), outer.shape[1]) != (
            *(len(kernel), len(offset), kernel.shape[1]),
        ):
            raise ValueError(f"its layers do not fit each other: {shapes}")
    return projection
