"""Pair heads, as in the report: features of two vectors, dense layers, one logit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.checked import Bounds, Values
from kinembed.errors import KinembedError
from kinembed.heads.base import Head, People
from kinembed.heads.exact import Double, ExactKernel, row_dots, single, unit
from kinembed.recipes import ONE_NUMBER, check_features, feature_widths

ROWS = 256  # pairs per block
MOST_LAYERS, MOST_WIDTH = 100, 1_000_000  # of a file
ABS = ("abs",)  # the features of the report's heads


def _diff_squares(a: Vectors, b: Vectors, out: Float) -> Float:
    """(a^2 - b^2)^2 as (a - b)^2 (a + b)^2, which loses no digits; `out` may be `a` itself."""
    total = np.add(a, b, dtype=np.float32)
    np.subtract(a, b, out=out, dtype=np.float32)
    return np.square(np.multiply(out, total, out=out), out=out)


# A feature of vectors a and b, written to float32 `out`; symmetric to the bit.
_COMPARISONS: dict[str, Callable[[Vectors, Vectors, Float], Float]] = {
    "abs": lambda a, b, out: np.abs(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "square": lambda a, b, out: np.square(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "diff-squares": _diff_squares,
    "product": lambda a, b, out: np.multiply(a, b, out=out, dtype=np.float32),
    "sum": lambda a, b, out: np.add(a, b, out=out, dtype=np.float32),
}
# A number (N,) of each pair of vectors a and b (N, D); symmetric to the bit, and the same whatever
# other pairs there are.
_NUMBERS: dict[str, Callable[[Vectors, Vectors], Float]] = {
    "l2": lambda a, b: _length(np.subtract(a, b, dtype=np.float32)),
    "cosine": lambda a, b: row_dots(unit(a), unit(b)),
}
SMALLEST_SQUARE = np.float32(1e-7)  # Keras' epsilon: the slope of a square root at 0 is infinite


@dataclass(frozen=True)
class PairHead(Head):
    """Features of a and b, dense ReLU layers, and one output.

    Attributes:
        kernels: (in, out) of each layer; the first `in` is what the features have together, the
            last `out` 1.
        biases: (out,) of each layer.
        features: its features, stacked in this order, as in `recipes.PairRecipe`.
        vector_width: of an input vector, where no feature tells it; else 0.
        others: as for `Head`.
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
    vector_width: int = 0

    @property
    def width(self) -> int:
        """Width of an input vector."""
        numbers = sum(name in ONE_NUMBER for name in self.features)
        if numbers == len(self.features):
            return self.vector_width
        return (len(self.kernels[0]) - numbers) // (len(self.features) - numbers)

    @property
    def representation_width(self) -> int:
        """The width of a vector."""
        return self.width

    def represent(self, vectors: Vectors) -> Vectors:
        """The vectors themselves: its features are of pairs, not of photos."""
        return vectors

    def score_features(self, features: Float) -> NDArray[np.float64]:
        """(K,) logits of (K, len(features) * width) features, as `distances` returns them."""
        first = ExactKernel.of(self.kernels[0])
        logits = np.empty(len(features), np.float64)
        for start in range(0, len(features), ROWS):
            rows = features[start : start + ROWS]
            logits[start : start + ROWS] = self._logits(first.product(rows))
        return logits

    @cached_property
    def _rows(self) -> dict[str, Float]:
        """The rows of the first kernel by the feature that they are of."""
        widths = feature_widths(self.features, self.width)
        parts = np.split(self.kernels[0], np.cumsum(widths)[:-1])
        return dict(zip(self.features, parts, strict=True))

    @cached_property
    def _panels(self) -> list[dict[str, ExactKernel]]:
        """Blocks of columns of the first kernel, by feature."""
        columns = self.width // _count_panels(self.width)
        return [
            {
                name: ExactKernel.of(rows[start : start + columns])
                for name, rows in self._rows.items()
                if name not in ONE_NUMBER
            }
            for start in range(0, self.width, columns)
        ]

    @cached_property
    def _numbers(self) -> dict[str, ExactKernel]:
        """The rows of the first kernel of features that are one number of a pair."""
        rows = self._rows.items()
        return {name: ExactKernel.of(row) for name, row in rows if name in ONE_NUMBER}

    @cached_property
    def _rest(self) -> list[ExactKernel]:
        """The kernels after the first."""
        return [ExactKernel.of(kernel) for kernel in self.kernels[1:]]

    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        """Writes the logits of pairs to `out`, in blocks of 256 pairs and at most 512 columns.

        Such a block stays in the processor's L2 cache.
        """
        # Sorted by first row, a row that several pairs share is still in the cache.
        first, second = np.minimum(*pairs.T), np.maximum(*pairs.T)
        order = np.argsort(first)
        first, second = first[order], second[order]
        scores = np.empty(len(pairs), np.float64)
        panels = self._panels
        columns = self.width // len(panels)
        # (N * panels, columns); mapped rows stay such, which are checked as they are taken
        table = np.asanyarray(representations, order="C").reshape(-1, columns)
        # Buffers are reused: the operating system would zero fresh ones page by page.
        left, right = np.empty((2, ROWS, columns), table.dtype)
        in_place = left.dtype == np.float32 and len(panels[0]) == 1
        feature = left if in_place else np.empty((ROWS, columns), np.float32)
        for start in range(0, len(pairs), ROWS):
            i = first[start : start + ROWS] * len(panels)  # (ROWS,)
            j = second[start : start + ROWS] * len(panels)
            a, b, x = left[: len(i)], right[: len(i)], feature[: len(i)]  # (ROWS, columns)
            hidden: Double | None = None
            for number, kernels in enumerate(panels):
                if not kernels:
                    break
                # The rows are in range; "clip" only spares numpy a buffered copy.
                table.take(i + number, 0, out=a, mode="clip")
                table.take(j + number, 0, out=b, mode="clip")
                for name, kernel in kernels.items():
                    product = kernel.product(_COMPARISONS[name](a, b, x))  # (ROWS, out)
                    hidden = product if hidden is None else np.add(hidden, product, out=hidden)
            for name, kernel in self._numbers.items():
                one, other = (
                    representations[rows[start : start + ROWS]] for rows in (first, second)
                )
                product = kernel.product(_NUMBERS[name](one, other)[:, None])  # (ROWS, out)
                hidden = product if hidden is None else np.add(hidden, product, out=hidden)
            assert hidden is not None
            scores[start : start + ROWS] = self._logits(hidden)
        out[order] = scores

    def _logits(self, hidden: Double) -> Float:
        """(N,) logits of (N, out) products with the first kernel."""
        x = single(hidden + self.biases[0])  # (N, out)
        for kernel, bias in zip(self._rest, self.biases[1:], strict=True):
            x = single(kernel.product(np.maximum(x, 0, out=x)) + bias)  # (N, out)
        return x[:, 0]

    def settings(self) -> dict[str, Any]:
        """View, features and the number of layers."""
        about: dict[str, Any] = {"view": self.view, "features": list(self.features)}
        width = {"width": self.vector_width} if self.vector_width else {}
        return {**about, "layers": len(self.kernels), **width}

    def arrays(self) -> dict[str, Float]:
        """`kernels/0`, `biases/0` and so on."""
        kernels = {f"kernels/{layer}": kernel for layer, kernel in enumerate(self.kernels)}
        return kernels | {f"biases/{layer}": bias for layer, bias in enumerate(self.biases)}

    @classmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> PairHead:
        """The head of settings and arrays, as `Head.from_arrays` says."""
        values = Values(settings)
        values.only(["view", "features", "layers", "width"])
        layers = range(values.whole("layers", Bounds(least=1, most=MOST_LAYERS)))
        if len(arrays) != 2 * len(layers):
            raise ValueError(f"{len(arrays)} arrays for {len(layers)} layers")
        told = Bounds(least=1, most=MOST_WIDTH)
        head = cls(
            view=values.text("view"),
            kernels=tuple(arrays[f"kernels/{layer}"] for layer in layers),
            biases=tuple(arrays[f"biases/{layer}"] for layer in layers),
            features=values.texts("features"),
            vector_width=values.whole("width", told) if "width" in settings else 0,
            **about,
        )
        try:
            check_features(head.features)
        except KinembedError as error:
            raise ValueError(str(error)) from None
        width = None  # of the previous layer; the first takes any
        for kernel, bias in zip(head.kernels, head.biases, strict=True):
            fits = kernel.ndim == 2 and bias.shape == kernel.shape[1:]
            if not fits or width not in (None, len(kernel)):
                raise ValueError("its layers do not fit each other")
            width = len(bias)
        if width != 1:
            raise ValueError(f"{width or 0} outputs, wanted 1")
        if sum(feature_widths(head.features, head.width)) != len(head.kernels[0]):
            raise ValueError(f"{len(head.kernels[0])} numbers in {len(head.features)} features")
        return head


def _count_panels(width: int) -> int:
    """How many equal panels the columns are cut into, with at most 512 columns each."""
    panels = next(
        count for count in range(1, width + 1) if width % count == 0 and width // count <= 512
    )
    return panels if width // panels >= 64 else 1


def distances(vectors: Vectors, pairs: Rows, features: Sequence[str] = ABS) -> Float:
    """The input of pair heads: |a - b|, or other features of pairs.

    Args:
        vectors: (N, D) float32 or float16.
        pairs: (K, 2) rows of `vectors`, which must be in range.
        features: one or more of `abs` |a - b|, `square` (a - b)^2, `diff-squares` (a^2 - b^2)^2,
            `product` a * b, `sum` a + b, `l2` the length of a - b, `cosine` that of a and b.

    Returns:
        (K, F) float32, the features stacked in their order: D numbers of each, of `l2` and
        `cosine` one.

    Raises:
        KinembedError: a feature is unknown or repeated, or there is none.
    """
    check_features(features)
    # The rows are in range; "clip" only spares numpy a buffered copy.
    a = vectors.take(pairs[:, 0], 0, mode="clip")  # (K, D)
    b = vectors.take(pairs[:, 1], 0, mode="clip")  # (K, D)
    if len(features) == 1 and a.dtype == np.float32 and features[0] in _COMPARISONS:
        return _COMPARISONS[features[0]](a, b, a)
    ends = np.cumsum(feature_widths(features, a.shape[1])).tolist()
    out = np.empty((len(a), ends[-1]), np.float32)
    for name, start, end in zip(features, [0, *ends], ends, strict=False):
        if name in ONE_NUMBER:
            out[:, start] = _NUMBERS[name](a, b)
        else:
            _COMPARISONS[name](a, b, out[:, start:end])
    return out


def untold_width(features: Sequence[str], width: int) -> int:
    """`PairHead.vector_width` of these features of vectors of `width` numbers."""
    return width if ONE_NUMBER.issuperset(features) else 0


def _length(x: Float) -> Float:
    """The length (N,) of each row of x (N, D)."""
    return np.sqrt(np.maximum(row_dots(x, x), SMALLEST_SQUARE))
