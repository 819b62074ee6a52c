"""Heads that compare pairs, as the report's do: features of two vectors, layers, one logit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.errors import KinembedError
from kinembed.heads.base import Head, People
from kinembed.heads.exact import Double, ExactKernel
from kinembed.recipes import check_features

ROWS = 256  # pairs scored at a time
ABS = ("abs",)  # what the report's heads compare by

# A feature of vectors a and b, written to float32 `out`. The same to the bit for b and a.
_COMPARISONS: dict[str, Callable[[Vectors, Vectors, Float], Float]] = {
    "abs": lambda a, b, out: np.abs(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "square": lambda a, b, out: np.square(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "product": lambda a, b, out: np.multiply(a, b, out=out, dtype=np.float32),
    "sum": lambda a, b, out: np.add(a, b, out=out, dtype=np.float32),
}


@dataclass(frozen=True)
class PairHead(Head):
    """Features of a and b, dense relu layers, and one output.

    Attributes:
        kernels: (in, out) of each layer; the first `in` is the view's width times the number of
            features, the last `out` 1.
        biases: (out,) of each layer.
        features: what it compares by, side by side in this order, as in `recipes.PairRecipe`.
        others: as of `Head`.
    """

    kind: ClassVar[str] = "pair"
    is_identity: ClassVar[bool] = True

    view: str
    model: str
    kernels: tuple[Float, ...]
    biases: tuple[Float, ...]
    held_out: People = ()
    trained: People = ()
    folds: tuple[People, ...] = ()
    features: tuple[str, ...] = ABS

    @property
    def width(self) -> int:
        """Numbers in each vector it compares."""
        return len(self.kernels[0]) // len(self.features)

    @property
    def representation_width(self) -> int:
        """As many as in a vector."""
        return self.width

    def represent(self, vectors: Vectors) -> Vectors:
        """The vectors themselves: what it compares is of a pair."""
        return vectors

    def score_features(self, features: Float) -> NDArray[np.float64]:
        """Logits (K,) of features (K, len(features) * width), as `distances` gives them."""
        first = ExactKernel.of(self.kernels[0])
        logits = np.empty(len(features), np.float64)
        for start in range(0, len(features), ROWS):
            rows = features[start : start + ROWS]
            logits[start : start + ROWS] = self._logits(first.product(rows))
        return logits

    @cached_property
    def _panels(self) -> list[list[ExactKernel]]:
        """The first kernel's, of each panel of columns and each feature."""
        columns = self.width // _count_panels(self.width)
        return [
            [
                ExactKernel.of(self.kernels[0][place * self.width + start :][:columns])
                for place in range(len(self.features))
            ]
            for start in range(0, self.width, columns)
        ]

    @cached_property
    def _rest(self) -> list[ExactKernel]:
        """Those of the layers behind the first."""
        return [ExactKernel.of(kernel) for kernel in self.kernels[1:]]

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        """Writes the logits of pairs to `out`, some pairs and some columns at a time.

        What is at hand then stays in the processor's second cache: 256 pairs of 512 columns.
        """
        # In the order of the first rows, a row that comes again is still in the cache.
        first, second = np.minimum(*pairs.T), np.maximum(*pairs.T)
        order = np.argsort(first)
        first, second = first[order], second[order]
        scores = np.empty(len(pairs), np.float64)
        panels = self._panels
        columns = self.width // len(panels)
        table = np.ascontiguousarray(representations).reshape(-1, columns)  # of what is mapped
        # Buffers used again and again: fresh ones would be zeroed page by page by the kernel.
        left, right = np.empty((2, ROWS, columns), table.dtype)
        in_place = left.dtype == np.float32 and len(self.features) == 1
        feature = left if in_place else np.empty((ROWS, columns), np.float32)
        for start in range(0, len(pairs), ROWS):
            i = first[start : start + ROWS] * len(panels)
            j = second[start : start + ROWS] * len(panels)
            a, b, x = left[: len(i)], right[: len(i)], feature[: len(i)]
            hidden: Double | None = None
            for number, kernels in enumerate(panels):
                # The rows are in range; "clip" only spares numpy a buffered copy.
                table.take(i + number, 0, out=a, mode="clip")
                table.take(j + number, 0, out=b, mode="clip")
                for name, kernel in zip(self.features, kernels, strict=True):
                    product = kernel.product(_COMPARISONS[name](a, b, x))  # (ROWS, out)
                    hidden = product if hidden is None else np.add(hidden, product, out=hidden)
            assert hidden is not None
            scores[start : start + ROWS] = self._logits(hidden)
        out[order] = scores

    def _logits(self, hidden: Double) -> Float:
        """Products (N, out) with the first kernel to logits (N,)."""
        x = (hidden + self.biases[0]).astype(np.float32)
        for kernel, bias in zip(self._rest, self.biases[1:], strict=True):
            x = (kernel.product(np.maximum(x, 0, out=x)) + bias).astype(np.float32)
        return x[:, 0]

    def settings(self) -> dict[str, Any]:
        """View, features and the number of layers."""
        return {"view": self.view, "features": list(self.features), "layers": len(self.kernels)}

    def arrays(self) -> dict[str, Float]:
        """`kernels/0`, `biases/0` and so on."""
        kernels = {f"kernels/{layer}": kernel for layer, kernel in enumerate(self.kernels)}
        return kernels | {f"biases/{layer}": bias for layer, bias in enumerate(self.biases)}

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> PairHead:
        """The head of settings and arrays, as `Head.from_arrays` says."""
        layers = range(int(settings["layers"]))
        if len(arrays) != 2 * len(layers):
            raise ValueError(f"{len(arrays)} arrays for {len(layers)} layers")
        head = cls(
            view=str(settings["view"]),
            kernels=tuple(arrays[f"kernels/{layer}"] for layer in layers),
            biases=tuple(arrays[f"biases/{layer}"] for layer in layers),
            features=tuple(settings["features"]),
            **about,
        )
        try:
            check_features(head.features)
        except KinembedError as error:
            raise ValueError(str(error)) from None
        width = None  # of the layer before; any will do for the first
        for kernel, bias in zip(head.kernels, head.biases, strict=True):
            fits = kernel.ndim == 2 and bias.shape == kernel.shape[1:]
            if not fits or width not in (None, len(kernel)):
                raise ValueError("its layers do not fit each other")
            width = len(bias)
        if width != 1:
            raise ValueError(f"{width or 0} outputs, wanted 1")
        if len(head.kernels[0]) % len(head.features):
            raise ValueError(f"{len(head.kernels[0])} numbers in {len(head.features)} features")
        return head


def _count_panels(width: int) -> int:
    """Into how many equal parts the columns of vectors are cut, for at most 512 in each."""
    panels = next(
        parts for parts in range(1, width + 1) if width % parts == 0 and width // parts <= 512
    )
    return panels if width // panels >= 64 else 1


def distances(vectors: Vectors, pairs: Rows, features: Sequence[str] = ABS) -> Float:
    """What pair heads learn from: |a - b| of pairs, or other features of them.

    Args:
        vectors: (N, D) float32 or float16.
        pairs: (K, 2) rows of them, which must be in range.
        features: one or more of `abs` |a - b|, `square` (a - b)^2, `product` a * b, `sum` a + b.

    Returns:
        (K, len(features) * D) float32, the features side by side in their order.

    Raises:
        KinembedError: a feature is unknown or comes twice, or there is none.
    """
    check_features(features)
    # The rows are in range; "clip" only spares numpy a buffered copy.
    a = vectors.take(pairs[:, 0], 0, mode="clip")
    b = vectors.take(pairs[:, 1], 0, mode="clip")
    if len(features) == 1 and a.dtype == np.float32:
        return _COMPARISONS[features[0]](a, b, a)
    count, width = a.shape
    out = np.empty((count, len(features) * width), np.float32)
    for place, name in enumerate(features):
        _COMPARISONS[name](a, b, out[:, place * width : (place + 1) * width])
    return out
