"""The contract of heads.

A head represents each photo once, independent of other photos; a score is a function of two
representations. So a cache is represented once, the photos of a person can be pooled, and query
expansion is a separate step.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.heads.same_person import SamePerson
from kinembed.threads import one_blas_thread, parallel_map, processors

# Classes, each in the module of its kind.
KINDS = {
    "pair": "PairHead",
    "ensemble": "EnsembleHead",
    "metric": "MetricHead",
    "fused": "FusedHead",
}
LOWEST, HIGHEST = -600.0, 12.0  # logits between which `sigmoid` is the logistic function
PAIRS_PER_THREAD = 16_384  # fewer are not worth another thread

People = tuple[str, ...]


class Head(ABC):
    """Compares two photos; a higher score means more likely kin.

    Subclasses are frozen dataclasses with these fields and their own.

    Attributes:
        kind: the name of the class in the registry and in files.
        is_identity: `represent` returns the vectors themselves, so there is nothing to store.
        view: the view of its input vectors; several joined by `+`.
        model: digest of the network that made those vectors.
        held_out: held-out people (`F0002/MID1`, sorted): neither head nor network trained on them.
        trained: people that head or network trained on.
        folds: the held-out people of each member, if the members hold out folds; else empty.
        same_person: tells which photos of a gallery are likely of one person, for query expansion;
            None: every photo is scored alone.
        knn_view: the view by whose cosines it tells.
    """

    kind: ClassVar[str]
    is_identity: ClassVar[bool] = False

    view: str
    model: str
    held_out: People
    trained: People
    folds: tuple[People, ...]
    same_person: SamePerson | None = None
    knn_view: str = ""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of an input vector."""

    @property
    @abstractmethod
    def representation_width(self) -> int:
        """Width of a representation."""

    @property
    def expansion_slope(self) -> float:
        """What is subtracted from a logit for each unit of expansion that its pair has.

        The more photos of a person are expanded by, the higher its kin score, and strangers do not.
        """
        return 0.0

    @abstractmethod
    def represent(self, vectors: Vectors) -> Vectors:
        """(N, W) representations of (N, width) vectors.

        The result of a row depends on that row alone, to the bit.
        """

    def normalise(self, means: Float) -> Float:
        """Turns (N, W) weighted means of representations into representations."""
        return means

    def products(self, representations: Float) -> tuple[Float, Float] | None:
        """Rows (N, D) and numbers (N,) by which logits are plain products.

        The logit of two photos is the dot product of their rows less both of their numbers, to
        float32's precision. A search rules people out by that, and scores the others exactly.

        Args:
            representations: (N, W).

        Returns:
            None where the head has no such form.
        """
        return None

    @abstractmethod
    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        """Writes the logits of (K, 2) pairs of rows, which are in range, to `out` (K,)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All fields but model, people and arrays, as JSON types."""

    @abstractmethod
    def arrays(self) -> dict[str, Float]:
        """All arrays, by their names in the head's file (`kernels/0`)."""

    @classmethod
    @abstractmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> Head:
        """The head with these settings and arrays.

        Args:
            settings: as `settings()` returns them.
            arrays: as `arrays()` returns them.
            about: model and people.

        Raises:
            KeyError, TypeError, ValueError: in a few words, what is wrong.
        """

    def members(self) -> list[Head]:
        """The members of the ensemble, each as a separate head."""
        return [self]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the kind, all fields and all arrays."""
        about = [self.kind, self.model, self.settings(), self.held_out, self.trained, self.folds]
        sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name, array in self.arrays().items():
            sha.update(f"{name}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def score(
        self, representations: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """(K,) logits of (K, 2) pairs of rows of (N, W) representations.

        A logit is symmetric and independent of the other pairs, to the bit.

        Args:
            representations: made by `represent` or by query expansion.
            pairs: rows of `representations`.
            threads: how many; None: one per processor.

        Raises:
            IndexError: a row is out of range.
        """
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < len(representations)):
            raise IndexError(f"rows {pairs.min()} to {pairs.max()} of {len(representations)}")
        logits = np.empty(len(pairs), np.float64)
        count = min(threads or processors(), -(-len(pairs) // PAIRS_PER_THREAD))
        bounds = np.linspace(0, len(pairs), max(1, count) + 1).astype(int).tolist()

        def score_block(block: tuple[int, int]) -> None:
            start, stop = block
            self._score(representations, pairs[start:stop], logits[start:stop])

        # Also for one block: its products are too small for several threads. Set here, because BLAS
        # takes its number of threads from the main thread alone.
        with one_blas_thread():
            parallel_map(score_block, pairwise(bounds), count)
        return logits

    def probabilities(
        self, representations: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """(K,) kinship probabilities of (K, 2) pairs of rows of (N, W) representations."""
        return sigmoid(self.score(representations, pairs, threads))

    def pool(self, representations: Vectors, rows: Rows, starts: Rows) -> Float:
        """(P, W) one representation per person, pooled over the person's photos.

        Args:
            representations: (N, W).
            rows: (R,) the photos of the first person, then of the second, and so on.
            starts: (P,) index of each person's first photo in `rows`; everybody has photos.
        """
        counts = np.diff(np.append(starts, len(rows)))
        sums = np.add.reduceat(representations[rows], starts, dtype=np.float32)  # (P, W)
        return self.normalise((sums / counts[:, None]).astype(np.float32))

    def out_of_fold(self) -> list[tuple[People, Head]]:
        """Held-out people, fold by fold, each with a head that did not train on them."""
        if self.folds:
            return list(zip(self.folds, self.members(), strict=True))
        return [(self.held_out, self)] if self.held_out else []

    def held_out_people(self) -> People:
        """All people that the head, or one of its members, held out; sorted."""
        return tuple(sorted({person for people, _ in self.out_of_fold() for person in people}))


def head_class(kind: str) -> type[Head]:
    """The class of heads of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind[:40]!r} is unknown; known are {', '.join(KINDS)}")
    result: type[Head] = getattr(import_module(f"kinembed.heads.{kind}"), KINDS[kind])
    return result


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits to probabilities, whose order is that of the logits, as a ranking contest wants it.

    The logistic function between the logits `LOWEST` and `HIGHEST`. Above and below, that comes
    nearer to 1 and 0 than float64 can tell numbers apart, so that pairs would tie: from logit 37
    on all of them. There the distance from 1 or 0 falls with 1 / (1 + d) in place of exp(-d), d
    being the logit's distance from that bound: the same value and slope where they meet, at most
    6e-6 apart above, and float32 logits up to 2,000 stay apart.
    """
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is right
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    high, low = logits > HIGHEST, logits < LOWEST
    if high.any():
        probabilities[high] = 1 - 1 / (1 + math.exp(HIGHEST)) / (1 + (logits[high] - HIGHEST))
    if low.any():
        probabilities[low] = 1 / (1 + math.exp(-LOWEST)) / (1 + (LOWEST - logits[low]))
    return probabilities
