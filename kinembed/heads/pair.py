"""What compares two embeddings: the numpy forward that every command uses, and its file."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.cache import Embeddings
from kinembed.errors import RunError
from kinembed.heads.metric import Company, MetricHead
from kinembed.recipes import check_features
from kinembed.threads import processors

CHUNK = 384  # pairs scored at a time
MOST_OF_ONE = 16_384  # pairs for which another thread is not worth its start
ABS = ("abs",)  # what the report's heads compare by, and all that do not say it

# A feature of vectors a and b, written to float32 `out`. The same to the bit for b and a.
_COMPARISONS: dict[str, Callable[[Vectors, Vectors, Float], Float]] = {
    "abs": lambda a, b, out: np.abs(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "square": lambda a, b, out: np.square(np.subtract(a, b, out=out, dtype=np.float32), out=out),
    "product": lambda a, b, out: np.multiply(a, b, out=out, dtype=np.float32),
    "sum": lambda a, b, out: np.add(a, b, out=out, dtype=np.float32),
}


@dataclass(frozen=True)
class Head:
    """Features of a and b, dense relu layers, and one output: higher means more kin.

    Attributes:
        view: the view whose vectors it compares.
        model: digest of the trunk that made those vectors.
        kernels: (in, out) of each layer; the first `in` is the view's width times the number of
            features, the last `out` 1.
        biases: (out,) of each layer.
        held_out: the people (`F0002/MID1`, sorted) on whom neither head nor trunk was trained.
        trained: the people on whom they were.
        features: what it compares by, side by side in this order, as in `recipes.PairRecipe`.
    """

    view: str
    model: str
    kernels: tuple[Float, ...]
    biases: tuple[Float, ...]
    held_out: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    features: tuple[str, ...] = ABS

    @property
    def width(self) -> int:
        """Numbers in each vector it compares."""
        return len(self.kernels[0]) // len(self.features)

    @property
    def digest(self) -> str:
        """The sha256 of all that it is."""
        about: list[object] = [self.view, self.model, self.held_out, self.trained]
        if self.features != ABS:  # heads from before there were others keep their digest
            about.append(self.features)
        sha = hashlib.sha256(json.dumps(about).encode())
        for array in (*self.kernels, *self.biases):
            sha.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def logits(self, a: Float, b: Float) -> Float:
        """Scores (N,) of vectors a and b, (N, width) each; the same to the bit for b and a."""
        return self.logits_of(_compared(a, b, self.features))

    def logits_of(self, x: Float) -> Float:
        """Scores (N,) of features (N, len(features) * width), as `distances` gives them."""
        return self._rest(x @ self.kernels[0])

    def scores(
        self, vectors: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Logits (K,) of pairs (K, 2) of rows of vectors (N, width).

        Args:
            vectors: (N, width) float32 or float16, such as a view of a cache.
            pairs: (K, 2) rows of them.
            threads: how many compute at a time; None: as many as there are processors.

        Raises:
            IndexError: a row is not one of the vectors.
        """
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < len(vectors)):
            raise IndexError(f"rows {pairs.min()} to {pairs.max()} of {len(vectors)} vectors")
        logits = np.empty(len(pairs), np.float64)
        parts = min(threads or processors(), -(-len(pairs) // MOST_OF_ONE))
        if parts <= 1:
            self._score(vectors, pairs, logits)
            return logits
        from concurrent.futures import ThreadPoolExecutor  # few pairs do without them

        from threadpoolctl import threadpool_limits

        cuts = np.linspace(0, len(pairs), parts + 1).astype(int).tolist()
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(parts) as pool:
            for part in [
                pool.submit(self._score, vectors, pairs[start:stop], logits[start:stop])
                for start, stop in pairwise(cuts)
            ]:
                part.result()
        return logits

    def _score(self, vectors: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        """Writes the logits of pairs to `out`, some pairs and some columns at a time.

        What is at hand then stays in the processor's second cache: 384 pairs of 512 columns.
        """
        # Either side may come first: the same to the bit. In the order of the first rows, one that
        # comes again is still in the cache.
        first, second = np.minimum(*pairs.T), np.maximum(*pairs.T)
        order = np.argsort(first)
        first, second = first[order], second[order]
        scores = np.empty(len(pairs), np.float32)
        panels = _panels(self.width)
        columns = self.width // panels
        table = np.ascontiguousarray(vectors).reshape(-1, columns)  # a view of what is mapped
        # Buffers used again and again: fresh ones would be zeroed page by page by the kernel.
        left, right = np.empty((2, CHUNK, columns), table.dtype)
        in_place = left.dtype == np.float32 and len(self.features) == 1
        feature = left if in_place else np.empty((CHUNK, columns), np.float32)
        product, total = np.empty((2, CHUNK, self.kernels[0].shape[1]), np.float32)
        for start in range(0, len(pairs), CHUNK):
            i = first[start : start + CHUNK] * panels
            j = second[start : start + CHUNK] * panels
            a, b, x = left[: len(i)], right[: len(i)], feature[: len(i)]
            y, hidden = product[: len(i)], total[: len(i)]
            for panel in range(panels):
                # The rows are in range; "clip" only spares numpy a buffered copy.
                table.take(i + panel, 0, out=a, mode="clip")
                table.take(j + panel, 0, out=b, mode="clip")
                for place, name in enumerate(self.features):
                    _COMPARISONS[name](a, b, x)
                    at = place * self.width + panel * columns
                    kernel = self.kernels[0][at : at + columns]
                    if panel or place:
                        hidden += np.matmul(x, kernel, out=y)
                    else:
                        np.matmul(x, kernel, out=hidden)
            scores[start : start + CHUNK] = self._rest(hidden)
        out[order] = scores

    def _rest(self, x: Float) -> Float:
        """Products with the first kernel, (N, out), to logits (N,); x is written to."""
        x += self.biases[0]
        for kernel, bias in zip(self.kernels[1:], self.biases[1:], strict=True):
            x = np.maximum(x, 0, out=x) @ kernel
            x += bias
        return x[:, 0]

    def probabilities(
        self, vectors: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Kinship probabilities (K,) of pairs (K, 2) of rows of vectors (N, width)."""
        return sigmoid(self.scores(vectors, pairs, threads))


AnyHead = Head | MetricHead


def _panels(width: int) -> int:
    """Into how many equal parts the columns of vectors are cut, for at most 512 in each."""
    panels = next(
        parts for parts in range(1, width + 1) if width % parts == 0 and width // parts <= 512
    )
    return panels if width // panels >= 64 else 1


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits to probabilities."""
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is right
        return 1 / (1 + np.exp(-logits))


def score_pairs(
    head: AnyHead,
    vectors: Embeddings | Vectors,
    pairs: Rows | Sequence[tuple[str, str]],
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Kinship probabilities (K,) of pairs.

    Args:
        head: what compares them.
        vectors: a cache, of which the head's view is taken, or vectors (N, width) of that view.
        pairs: (K, 2) rows, or, of a cache, K pairs of photo names.
        threads: how many compute at a time; None: as many as there are processors.

    Raises:
        RunError: the cache and the head are of different models.
        DataError: a photo is not in the cache.
        IndexError: a row is not one of the vectors.
    """
    if isinstance(vectors, Embeddings):
        cache, vectors = vectors, matching_vectors(vectors, head)
        if len(pairs) and isinstance(pairs[0][0], str):
            names = [str(name) for pair in pairs for name in pair]
            pairs = cache.rows(names).reshape(-1, 2)
    elif isinstance(head, MetricHead):
        vectors = head.project(vectors)
    return head.probabilities(vectors, np.asarray(pairs, np.intp).reshape(-1, 2), threads)


def distances(vectors: Vectors, pairs: Rows, features: Sequence[str] = ABS) -> Float:
    """What heads learn from: |a - b| of pairs, or other features of them.

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
    return _compared(a, b, features)


def _compared(a: Vectors, b: Vectors, features: Sequence[str]) -> Float:
    """Features (N, len(features) * D) of vectors a and b, (N, D) each."""
    count, width = a.shape
    out = np.empty((count, len(features) * width), np.float32)
    for place, name in enumerate(features):
        _COMPARISONS[name](a, b, out[:, place * width : (place + 1) * width])
    return out


def matching_vectors(
    cache: Embeddings,
    head: AnyHead,
    member: int | None = None,
    company: Company | None = None,
) -> Vectors:
    """What a head compares: the vectors of its view, or what a metric head makes of them.

    Args:
        cache: of the head's model.
        head: what compares them.
        member: of a metric head, that one alone.
        company: `company_of` the same cache and head, where it is at hand.

    Raises:
        RunError: the head was trained on another network's vectors, or on another view.
    """
    model = cache.provenance["model"]
    if head.model != model:
        raise RunError(
            f"{cache.path} holds embeddings of model {model[:12]}, the head is of model "
            f"{head.model[:12]}; run kinembed embed, or kinembed finetune, so that they match"
        )
    vectors = cache.vectors(head.view)
    if vectors.shape[1] != head.width:
        raise RunError(
            f"{cache.path}: view {head.view} has {vectors.shape[1]} numbers, the head wants "
            f"{head.width}; run kinembed embed"
        )
    if not isinstance(head, MetricHead):
        return vectors
    projected = head.project(vectors, member)
    if head.neighbours < 2:
        return projected
    return head.in_company(projected, company or company_of(cache, head), member)


def company_of(cache: Embeddings, head: MetricHead) -> Company:
    """The neighbours of each photo of a cache.

    Photos of `test/` are looked for among themselves, as are all others: nobody is in both.
    """
    apart = np.char.startswith(np.asarray(cache.names), b"test/").astype(np.intp)
    return Company(cache.vectors(head.near), head.neighbours, apart)
