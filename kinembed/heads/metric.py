"""Metric heads: the similarity of two projected vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.checked import Bounds, Values
from kinembed.heads.base import Head, People
from kinembed.heads.exact import ExactKernel, row_dots, row_sums, single, unit
from kinembed.heads.same_person import SamePerson
from kinembed.heads.score_norm import ScoreNorm
from kinembed.threads import one_blas_thread, parallel_map, processors

Similarity = Literal["cosine", "l2", "dot"]

MOST_MEMBERS, MOST_TTA = 1000, 16  # of a file
SIMILARITIES = ("cosine", "l2", "dot")
ROWS = 512  # photos per block of projection
PAIRS = 256  # pairs per block of comparison, so that it stays in the processor's L2 cache


@dataclass(frozen=True)
class Projection:
    """One member of a metric head: a linear map, plus an optional ReLU layer in parallel.

    Attributes:
        kernel: (D, d) float32.
        bias: (d,) float32.
        hidden: kernel (D, h), bias (h,) and kernel (h, d) of the ReLU layer, or nothing.
    """

    kernel: Float
    bias: Float
    hidden: tuple[Float, ...] = ()

    def __call__(self, x: Vectors) -> Float:
        """(N, d) projections of (N, D) vectors; each row depends on that row alone, to the bit."""
        linear, *units = self._kernels
        y = linear.product(x) + self.bias  # (N, d) float64
        if units:
            inner, outer = units
            hidden = single(inner.product(x) + self.hidden[1])  # (N, h)
            y += outer.product(np.maximum(hidden, 0, out=hidden))
        return single(y)

    @cached_property
    def _kernels(self) -> tuple[ExactKernel, ...]:
        return tuple(ExactKernel.of(kernel) for kernel in (self.kernel, *self.hidden[::2]))

    @property
    def width(self) -> int:
        """Width d of a projection."""
        return int(self.kernel.shape[1])

    @property
    def arrays(self) -> tuple[Float, ...]:
        """Kernel, bias and hidden layer, in this order."""
        return (self.kernel, self.bias, *self.hidden)


@dataclass(frozen=True)
class MetricHead(Head):
    """Compares two photos by the similarity of their projected vectors.

    The members are an ensemble: a representation stacks their projections, so that the similarity
    of two photos is the weighted mean of the members'.

    Attributes:
        projections: the members.
        weights: of the members in the mean; empty: equal weights.
        tta_views: test-time augmentation: how many versions of a photo, such as the photo and its
            mirror image, are concatenated in a vector; their projections are averaged.
        similarity: of two projections: `cosine`, `l2` (minus the squared distance), or `dot`
            (the dot product, a low-rank bilinear form).
        scale: a logit is `scale * (similarity - centre)`.
        centre: the similarity at which training kin and strangers are equally likely.
        expansion_slopes: the `expansion_slope` of each member; empty: 0.
        norms: what each member makes of strangers, for cosines; empty: scores are not normalised.
        others: as for `Head`.
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
    same_person: SamePerson | None = None
    expansion_slopes: tuple[float, ...] = ()
    norms: tuple[ScoreNorm, ...] = ()
    held_out: People = ()
    trained: People = ()
    folds: tuple[People, ...] = ()

    @property
    def width(self) -> int:
        """Width of an input vector, all versions of the photo included."""
        return len(self.projections[0].kernel) * self.tta_views

    @property
    def expansion_slope(self) -> float:
        """The weighted mean of the members'."""
        if not self.expansion_slopes:
            return 0.0
        weights = np.array(self.weights or [1.0] * len(self.projections))
        return float(weights @ np.array(self.expansion_slopes) / weights.sum())

    @property
    def representation_width(self) -> int:
        """The sum of the members' widths, and one more for how near strangers are."""
        return sum(projection.width for projection in self.projections) + bool(self.norms)

    def represent(self, vectors: Vectors) -> Float:
        """(N, W) float32 stacked projections of (N, width) vectors."""
        result = np.empty((len(vectors), self.representation_width), np.float32)

        def represent_block(start: int) -> None:
            rows = vectors[start : start + ROWS]
            versions = np.reshape(rows, (len(rows), self.tta_views, -1))  # (n, T, D)
            members = [
                self._mean_version([projection(versions[:, t]) for t in range(self.tta_views)])
                for projection in self.projections
            ]  # (n, d) each
            result[start : start + ROWS] = self._stacked(members)  # (n, W)

        starts = range(0, len(vectors), ROWS)
        for projection in self.projections:
            _ = projection._kernels  # cached here, before several threads compute them
        for norm in self.norms:
            _ = norm._kernels
        with one_blas_thread():
            parallel_map(represent_block, starts, min(processors(), len(starts)))
        return result

    def _mean_version(self, versions: list[Float]) -> Float:
        """(n, d) mean of one member's (n, d) projections of each version of the photos."""
        if self.similarity == "cosine":
            versions = [unit(version) for version in versions]
        total = versions[0]
        for version in versions[1:]:
            total = total + version
        return unit(total) if self.similarity == "cosine" else total / np.float32(len(versions))

    def _stacked(self, members: list[Float]) -> Float:
        """(n, W) representations of each member's (n, d) projections."""
        stacked = np.concatenate(members, 1) * self._factors()
        if not self.norms:
            return stacked
        nearest = [norm.nearest(member) for norm, member in zip(self.norms, members, strict=True)]
        mean = np.zeros(len(stacked), np.float32)
        for share, each in zip(self._shares().tolist(), nearest, strict=True):
            mean += np.float32(share) * each
        return np.concatenate([stacked, mean[:, None]], 1)

    def _shares(self) -> NDArray[np.float64]:
        """(members,) shares in the mean."""
        weights = np.array(self.weights or [1.0] * len(self.projections))
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def _factors(self) -> Float:
        """(W,) factors of the stacked projections by which dot products become weighted means."""
        factors = np.sqrt(self._shares())  # (members,)
        return np.repeat(factors, [each.width for each in self.projections]).astype(np.float32)

    def normalise(self, means: Float) -> Float:
        """Scales each member's columns of (N, W) means to unit length, for cosines."""
        if self.similarity != "cosine":
            return means
        bounds = np.cumsum([each.width for each in self.projections])
        parts = np.split(means, bounds, axis=1)[: len(bounds)]  # without that of strangers
        return self._stacked([unit(member) for member in parts])  # (N, d) each

    def products(self, representations: Float) -> tuple[Float, Float]:
        """As `Head.products`."""
        rows = np.asarray(representations, np.float32)
        numbers = np.full(len(rows), self.centre / 2, np.float32)
        if self.norms:
            rows, nearest = rows[:, :-1], rows[:, -1]
            numbers += nearest / np.float32(2)
        if self.similarity == "l2":  # minus the squared distance
            numbers += row_dots(rows, rows)
            rows = rows * np.float32(np.sqrt(2))
        return rows * np.float32(np.sqrt(self.scale)), numbers * np.float32(self.scale)

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        for start in range(0, len(pairs), PAIRS):
            left, right = pairs[start : start + PAIRS].T
            a, b = representations[left], representations[right]  # (PAIRS, W)
            nearest = np.float32(0)
            if self.norms:
                nearest = (a[:, -1] + b[:, -1]) / np.float32(2)  # (PAIRS,)
                a[:, -1] = 0
            if self.similarity == "l2":
                similarity = -row_sums(np.square(np.subtract(a, b, out=a), out=a))  # (PAIRS,)
            else:
                similarity = row_dots(a, b) - nearest
            out[start : start + PAIRS] = self.scale * (similarity.astype(np.float64) - self.centre)

    def members(self) -> list[Head]:
        """The members, each as a separate head."""
        slopes: list[tuple[float, ...]] = [(slope,) for slope in self.expansion_slopes]
        slopes = slopes or [()] * len(self.projections)
        norms: list[tuple[ScoreNorm, ...]] = [(norm,) for norm in self.norms]
        norms = norms or [()] * len(self.projections)
        return [
            replace(
                self, projections=(projection,), expansion_slopes=slope, norms=norm, weights=(),
                folds=(),
            )
            for projection, slope, norm in zip(self.projections, slopes, norms, strict=True)
        ]  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """All fields but model, people and arrays."""
        return {
            "view": self.view,
            "layers": [len(projection.arrays) for projection in self.projections],
            "weights": list(self.weights),
            "tta_views": self.tta_views,
            "similarity": self.similarity,
            "scale": self.scale,
            "centre": self.centre,
            "knn_view": self.knn_view,
            "same_person": self.same_person.settings() if self.same_person else None,
            "expansion_slopes": list(self.expansion_slopes),
            **({"norm_levels": [norm.level for norm in self.norms]} if self.norms else {}),
        }

    def arrays(self) -> dict[str, Float]:
        """`members/0/0` and so on: each member's arrays in the order of `Projection.arrays`.

        And `same_person/cohort`, if the head expands; `norms/0/mean`, `norms/0/root` and so on, if
        its scores are normalised.
        """
        arrays = {
            f"members/{member}/{number}": array
            for member, projection in enumerate(self.projections)
            for number, array in enumerate(projection.arrays)
        }
        if self.same_person is not None:
            arrays["same_person/cohort"] = self.same_person.cohort
        for member, norm in enumerate(self.norms):
            arrays |= {f"norms/{member}/mean": norm.mean, f"norms/{member}/root": norm.root}
        return arrays

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> MetricHead:
        """As `Head.from_arrays`."""
        values = Values(settings)
        values.only(
            [
                *("view", "layers", "weights", "tta_views", "similarity", "scale", "centre"),
                *("knn_view", "same_person", "expansion_slopes", "norm_levels"),
            ]
        )
        arrays = dict(arrays)
        same_person = None
        if values.get("same_person") is not None:
            cohort = arrays.pop("same_person/cohort")
            same_person = SamePerson.of(values.object("same_person").content, cohort)
        projections = []
        layers = values.wholes("layers", most=MOST_MEMBERS)
        for member, count in enumerate(layers):
            if count not in (2, 5):
                raise ValueError(f"member {member} has {count} arrays")
            kernel, bias, *hidden = (arrays[f"members/{member}/{i}"] for i in range(count))
            projection = Projection(kernel, bias, tuple(hidden))
            _check_shapes(projection)
            projections.append(projection)
        levels: tuple[float, ...] = ()
        if "norm_levels" in settings:
            levels = values.numbers("norm_levels", Bounds(least=-1e6, most=1e6), MOST_MEMBERS)
        norms = tuple(
            ScoreNorm(arrays.pop(f"norms/{at}/mean"), arrays.pop(f"norms/{at}/root"), level)
            for at, level in enumerate(levels)
        )
        for norm, projection in zip(norms, projections, strict=False):
            width = projection.width
            if (norm.mean.shape, norm.root.shape) != ((width, 1), (width, width)):
                raise ValueError("its normalisation does not fit its projections")
        if len(arrays) != sum(layers) or not projections:
            raise ValueError(f"{len(arrays)} arrays for {len(projections)} members")
        if len({len(projection.kernel) for projection in projections}) != 1:
            raise ValueError("its members take vectors of different widths")
        weights = values.numbers("weights", Bounds(least=1e-6, most=1e6), MOST_MEMBERS)
        slopes = values.numbers("expansion_slopes", Bounds(least=-1e6, most=1e6), MOST_MEMBERS)
        similarity = cast(Similarity, values.choice("similarity", SIMILARITIES))
        if norms and similarity != "cosine":
            raise ValueError(f"scores of similarity {similarity} are not normalised")
        each_of = {"weights": weights, "expansion_slopes": slopes, "norm_levels": levels}
        for name, each in each_of.items():
            if len(each) not in (0, len(projections)):
                raise ValueError(f"{len(each)} {name} for {len(projections)} members")
        return cls(
            view=values.text("view"),
            projections=tuple(projections),
            weights=weights,
            tta_views=values.whole("tta_views", Bounds(least=1, most=MOST_TTA)),
            similarity=similarity,
            scale=values.number("scale", Bounds(above=0, most=1e6)),
            centre=values.number("centre", Bounds(least=-1e9, most=1e9)),
            knn_view=values.text("knn_view"),
            same_person=same_person,
            expansion_slopes=slopes,
            norms=norms,
            **about,
        )


def _check_shapes(projection: Projection) -> None:
    """Refuses a projection whose layers do not fit each other."""
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
