"""The contract of heads: what each of them offers, whatever it compares photos by.

A head represents a photo by itself, once; a score is a function of two representations. So a cache
is represented once, photos of a person can be pooled, and query expansion is a step of its own.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.threads import one_blas_thread, processors, share

KINDS = {"pair": "PairHead", "metric": "MetricHead"}  # the class of each, in the module of its name
PAIRS_PER_THREAD = 16_384  # fewer are not worth the start of another thread

People = tuple[str, ...]


class Head(ABC):
    """What compares two photos; higher scores mean more kin.

    Subclasses are frozen dataclasses with these fields, and their own.

    Attributes:
        kind: names the class, in the registry and in files.
        is_identity: `represent` returns the vectors themselves, so nothing is gained by keeping
            representations.
        view: whose vectors it takes; several joined by `+`.
        model: digest of the network that made those vectors.
        held_out: the people (`F0002/MID1`, sorted) on whom neither head nor network was trained.
        trained: the people on whom they were.
        folds: for each member the people on whom that member was not trained, though others were;
            empty where all were trained on the same.
        qe_k: neighbours that query expansion asks for each photo, itself among them; 1 or less: it
            does without.
        knn_view: the view by whose cosine neighbours are found.
    """

    kind: ClassVar[str]
    is_identity: ClassVar[bool] = False

    view: str
    model: str
    held_out: People
    trained: People
    folds: tuple[People, ...]
    qe_k: int = 0
    knn_view: str = ""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers in each vector it takes."""

    @property
    @abstractmethod
    def representation_width(self) -> int:
        """Numbers in each representation."""

    @abstractmethod
    def represent(self, vectors: Vectors) -> Vectors:
        """What it compares: representations (N, W) of vectors (N, width), a row each.

        A row's depends on that row alone, to the bit.
        """

    def normalise(self, means: Float) -> Float:
        """Weighted means (N, W) of representations as representations again."""
        return means

    @abstractmethod
    def _score(self, representations: Vectors, pairs: Rows, out: NDArray[np.float64]) -> None:
        """Writes the logits of pairs (K, 2) of rows, which are in range, to `out` (K,)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All of it but model, people and arrays, as JSON types."""

    @abstractmethod
    def arrays(self) -> dict[str, Float]:
        """All arrays, by the names they have in its file (`kernels/0`)."""

    @classmethod
    @abstractmethod
    def from_arrays(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Float], **about: Any
    ) -> Head:
        """The head of `settings` and `arrays`.

        Args:
            settings: as of `settings()`.
            arrays: as of `arrays()`.
            about: model and people.

        Raises:
            KeyError, TypeError, ValueError: in a few words, what is wrong.
        """

    def members(self) -> list[Head]:
        """Its members, each as a head of its own."""
        return [self]

    @property
    def digest(self) -> str:
        """The sha256 of all that it is."""
        about = [self.kind, self.model, self.settings(), self.held_out, self.trained, self.folds]
        sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name, array in self.arrays().items():
            sha.update(f"{name}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def score(
        self, representations: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Logits (K,) of pairs (K, 2) of rows of representations (N, W).

        The same to the bit for (b, a), and whatever other pairs are scored with it.

        Args:
            representations: as `represent`, or query expansion, makes them.
            pairs: rows of them.
            threads: how many compute at a time; None: as many as there are processors.

        Raises:
            IndexError: a row is not one of theirs.
        """
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < len(representations)):
            raise IndexError(f"rows {pairs.min()} to {pairs.max()} of {len(representations)}")
        logits = np.empty(len(pairs), np.float64)
        parts = min(threads or processors(), -(-len(pairs) // PAIRS_PER_THREAD))
        cuts = np.linspace(0, len(pairs), max(1, parts) + 1).astype(int).tolist()

        def score_part(part: tuple[int, int]) -> None:
            start, stop = part
            self._score(representations, pairs[start:stop], logits[start:stop])

        if parts <= 1:
            self._score(representations, pairs, logits)
            return logits
        with one_blas_thread():
            share(score_part, pairwise(cuts), parts)
        return logits

    def probabilities(
        self, representations: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Kinship probabilities (K,) of pairs (K, 2) of rows of representations (N, W)."""
        return sigmoid(self.score(representations, pairs, threads))

    def pool(self, representations: Vectors, rows: Rows, starts: Rows) -> Float:
        """One representation (P, W) of several photos of each person.

        Args:
            representations: (N, W).
            rows: (R,) the photos of the first person, then those of the second, and so on.
            starts: (P,) where those of each person begin; nobody has none.
        """
        counts = np.diff(np.append(starts, len(rows)))
        sums = np.add.reduceat(representations[rows], starts, dtype=np.float32)  # (P, W)
        return self.normalise((sums / counts[:, None]).astype(np.float32))

    def out_of_fold(self) -> list[tuple[People, Head]]:
        """People held out, each part with a head that has seen none of them."""
        if self.folds:
            return list(zip(self.folds, self.members(), strict=True))
        return [(self.held_out, self)] if self.held_out else []

    def held_out_people(self) -> People:
        """Everybody on whom the head, or one of its members, was not trained, sorted."""
        return tuple(sorted({person for people, _ in self.out_of_fold() for person in people}))


def head_class(kind: str) -> type[Head]:
    """The class of heads of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind[:40]!r} is unknown; known are {', '.join(KINDS)}")
    found: type[Head] = getattr(import_module(f"kinembed.heads.{kind}"), KINDS[kind])
    return found


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits to probabilities."""
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is right
        return 1 / (1 + np.exp(-logits))
