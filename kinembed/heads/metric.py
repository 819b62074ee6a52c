"""Heads that learn a metric: vectors are projected, and pairs compared by one number each.

The projection of a photo does not depend on its pair, so a cache is projected once, and a pair
costs a dot product. What a photo's nearest neighbours in the cache say of it is taken in on the
way: most of them are other photos of the same person, and all are nearer to its kin than strangers
are. That is query expansion (Chum et al., "Total Recall", 2007), and needs no labels.
"""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors

Similarity = Literal["cosine", "l2", "dot"]

SIMILARITIES = ("cosine", "l2", "dot")
BLOCK = 2048  # photos projected, or held against all others, at a time
CHUNK = 4096  # pairs scored at a time
SMALLEST = 1e-12  # a length below is taken for it: a vector of zeros has no direction


@dataclass(frozen=True)
class Projection:
    """One member of a metric head: a linear map, and beside it a relu layer where there is one.

    Attributes:
        kernel: (D, d) float32.
        bias: (d,) float32.
        hidden: kernel (D, h), bias (h,) and kernel (h, d) of the layer beside it, or nothing.
    """

    kernel: Float
    bias: Float
    hidden: tuple[Float, ...] = ()

    def __call__(self, x: Float) -> Float:
        """Vectors (N, D) to projections (N, d)."""
        y = x @ self.kernel
        y += self.bias
        if self.hidden:
            inner, offset, outer = self.hidden
            beside = x @ inner
            beside += offset
            y += np.maximum(beside, 0, out=beside) @ outer
        return y

    @property
    def width(self) -> int:
        """Numbers in a projection."""
        return int(self.kernel.shape[1])

    @property
    def arrays(self) -> tuple[Float, ...]:
        """All that it holds, in order."""
        return (self.kernel, self.bias, *self.hidden)


@dataclass(frozen=True)
class MetricHead:
    """Compares two photos by the similarity of their projected vectors; higher means more kin.

    The members are an ensemble: a photo's projection is theirs side by side, so that the
    similarity of two photos is the members' mean.

    Attributes:
        view: whose vectors it takes: views joined by `+`, all looks one after the other.
        model: digest of the trunk that made those vectors.
        members: the projections.
        weights: of the members in the mean; empty: all alike.
        looks: how many looks at a photo a vector holds side by side, such as its mirror image.
        similarity: of projections a and b: `cosine`, `l2` (minus the squared distance), or `dot`
            (a product of both, the low-rank bilinear form).
        scale: a logit is `scale * (similarity - centre)`.
        centre: the similarity at which kin and not are as likely, as far as training could tell.
        near: the view by whose cosine neighbours are found.
        neighbours: how many photos, itself among them, speak for a photo; 1 or less: it alone.
        held_out: the people (`F0002/MID1`, sorted) on whom neither head nor trunk was trained.
        trained: the people on whom they were.
        folds: for each member the people on whom that member was not trained, though others were;
            empty where all members were trained on the same.
    """

    view: str
    model: str
    members: tuple[Projection, ...]
    weights: tuple[float, ...] = ()
    looks: int = 1
    similarity: Similarity = "cosine"
    scale: float = 10.0
    centre: float = 0.0
    near: str = ""
    neighbours: int = 0
    held_out: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()

    @property
    def width(self) -> int:
        """Numbers in each vector it takes, all looks together."""
        return len(self.members[0].kernel) * self.looks

    @property
    def digest(self) -> str:
        """The sha256 of all that it is."""
        sha = hashlib.sha256(json.dumps([self.about, self.held_out, self.trained]).encode())
        sha.update(json.dumps(self.folds).encode())
        for member in self.members:
            for array in member.arrays:
                sha.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """All of it but arrays and people, as JSON types."""
        return {
            "view": self.view,
            "model": self.model,
            "layers": [len(member.arrays) for member in self.members],
            "weights": list(self.weights),
            "looks": self.looks,
            "similarity": self.similarity,
            "scale": self.scale,
            "centre": self.centre,
            "near": self.near,
            "neighbours": self.neighbours,
        }

    def project(self, vectors: Vectors, member: int | None = None) -> Float:
        """What it compares: projections (N, members * d), float32, of vectors (N, width).

        Args:
            vectors: a view of a cache, or any array, float32 or float16.
            member: that one alone.
        """
        chosen = self.members if member is None else (self.members[member],)
        found = np.empty((len(vectors), sum(each.width for each in chosen)), np.float32)
        for start in range(0, len(vectors), BLOCK):
            block = np.asarray(vectors[start : start + BLOCK], np.float32)
            sides = block.reshape(len(block), self.looks, -1)
            parts = [self._looked(each, sides) for each in chosen]
            found[start : start + BLOCK] = np.concatenate(parts, 1)
        found *= self._factors(member)
        return found

    def _factors(self, member: int | None) -> Float:
        """What the members' parts are multiplied with, so that products are weighted means."""
        if member is not None:
            return np.ones(self.members[member].width, np.float32)
        weights = np.array(self.weights or [1.0] * len(self.members))
        shares = np.sqrt(weights / weights.sum())
        return np.repeat(shares, [each.width for each in self.members]).astype(np.float32)

    def _looked(self, member: Projection, sides: Float) -> Float:
        """A member's projection (N, d) of all looks (N, looks, D) at once."""
        looks = [member(np.ascontiguousarray(sides[:, look])) for look in range(self.looks)]
        if self.similarity == "cosine":
            looks = [unit(look) for look in looks]
        y = looks[0]
        for look in looks[1:]:
            y = y + look
        return unit(y) if self.similarity == "cosine" else y / np.float32(self.looks)

    def in_company(self, projected: Float, company: Company, member: int | None = None) -> Float:
        """Projections (N, W) with those of each photo's neighbours taken in.

        Args:
            projected: as `project` gives them.
            company: who speaks for whom.
            member: that of which the projections are, where they are of one.
        """
        found = company.means(projected)
        if self.similarity != "cosine":
            return found
        chosen = self.members if member is None else (self.members[member],)
        cuts = np.cumsum([each.width for each in chosen])[:-1]
        parts = [unit(part) for part in np.split(found, cuts, axis=1)]
        return np.concatenate(parts, 1) * self._factors(member)

    def scores(
        self, projected: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Logits (K,) of pairs (K, 2) of rows of projections (N, W); the same for (b, a).

        Args:
            projected: as `project`, or `heads.matching_vectors` of a cache, gives them.
            pairs: rows of them.
            threads: not used: a pair is one dot product.

        Raises:
            IndexError: a row is not one of the vectors.
        """
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < len(projected)):
            raise IndexError(f"rows {pairs.min()} to {pairs.max()} of {len(projected)} vectors")
        found = np.empty(len(pairs), np.float64)
        for start in range(0, len(pairs), CHUNK):
            left, right = pairs[start : start + CHUNK].T
            found[start : start + CHUNK] = self.logits(projected[left], projected[right])
        return found

    def logits(self, a: Float, b: Float) -> NDArray[np.float64]:
        """Scores (N,) of projections a and b, (N, W) each; the same to the bit for b and a."""
        if self.similarity == "l2":
            difference = np.subtract(a, b)
            alike = -np.einsum("ij,ij->i", difference, difference)
        else:
            alike = np.einsum("ij,ij->i", a, b)
        logits: NDArray[np.float64] = self.scale * (alike.astype(np.float64) - self.centre)
        return logits

    def probabilities(
        self, projected: Vectors, pairs: Rows, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Kinship probabilities (K,) of pairs (K, 2) of rows of projections (N, W)."""
        from kinembed.heads.pair import sigmoid

        return sigmoid(self.scores(projected, pairs, threads))


def unit(x: Float) -> Float:
    """Vectors (N, D) at length 1; those of zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    scaled: Float = x / np.maximum(lengths, SMALLEST)
    return scaled


class Company:
    """Each photo's nearest neighbours among photos.

    Photo j speaks for photo i where j is one of the nearest of i, and where i is one of j's: once
    for each, by their cosine.

    Args:
        near: (N, D) vectors by whose cosine neighbours are found.
        count: how many speak for a photo, itself among them, before those it is a neighbour of.
        groups: (N,) whose neighbours are looked for among themselves only; None: all.
    """

    def __init__(self, near: Vectors, count: int, groups: Rows | None = None) -> None:
        size = len(near)
        groups = np.zeros(size, np.intp) if groups is None else groups
        ends: list[Rows] = []
        cosines: list[Float] = []
        for group in np.unique(groups):
            own = np.flatnonzero(groups == group)
            rows, found = nearest(unit(np.asarray(near[own], np.float32)), min(count, len(own)))
            ends.append(np.stack([np.repeat(own, rows.shape[1]), own[rows.ravel()]]))
            cosines.append(found.ravel())
        of, by = np.concatenate([part for pair in ends for part in (pair, pair[::-1])], 1)
        share = np.concatenate([part for part in cosines for _ in range(2)])
        order = np.argsort(of, kind="stable")
        self.by, self.share = by[order], share[order, None]
        self.first = np.searchsorted(of[order], np.arange(size + 1))

    def means(self, values: Float) -> Float:
        """Weighted means (N, W) of the values (N, W) of those who speak for each photo."""
        found = np.empty_like(values)
        for start in range(0, len(values), BLOCK):
            stop = min(start + BLOCK, len(values))
            edges = slice(self.first[start], self.first[stop])
            starts = self.first[start:stop] - self.first[start]
            share = self.share[edges]
            found[start:stop] = np.add.reduceat(values[self.by[edges]] * share, starts)
            found[start:stop] /= np.add.reduceat(share, starts)
        return found


def nearest(directions: Float, count: int) -> tuple[Rows, Float]:
    """The rows nearest to each row by cosine, itself among them.

    Args:
        directions: (N, D) vectors of length 1, or 0.
        count: how many; at most N.

    Returns:
        Rows (N, count) in no order, and their cosines, at least 0; a row's own is 1.
    """
    rows = np.empty((len(directions), count), np.intp)
    cosines = np.empty(rows.shape, np.float32)
    for start in range(0, len(directions), BLOCK):
        block = directions[start : start + BLOCK] @ directions.T
        at = np.arange(len(block))
        block[at, start + at] = 2  # before all others, even those equal to it
        found = np.argpartition(block, -count, axis=1)[:, -count:]
        rows[start : start + BLOCK] = found
        cosines[start : start + BLOCK] = np.take_along_axis(block, found, 1)
    return rows, np.where(cosines == 2, 1, np.maximum(cosines, 0)).astype(np.float32)


def arrays_of(head: MetricHead) -> dict[str, Float]:
    """A head's arrays by the names they have in its file: `members/0/1`."""
    return {
        f"members/{number}/{place}": array
        for number, member in enumerate(head.members)
        for place, array in enumerate(member.arrays)
    }


def head_from(
    about: Mapping[str, Any], arrays: dict[str, Any], people: Mapping[str, tuple[str, ...]]
) -> MetricHead:
    """The head that a file holds.

    Args:
        about: what the file says of it.
        arrays: by name; those of its members are taken out.
        people: `held_out`, `trained` and `folds/0`, …

    Raises:
        KeyError, TypeError, ValueError: in a few words, what is wrong.
    """
    members = []
    for number, count in enumerate(about["layers"]):
        if count not in (2, 5):
            raise ValueError(f"member {number} has {count} arrays")
        kernel, bias, *hidden = (arrays[f"members/{number}/{place}"] for place in range(count))
        members.append(Projection(kernel, bias, tuple(hidden)))
    if len(arrays) != sum(about["layers"]) or not members:
        raise ValueError(f"{len(arrays)} arrays for {len(members)} members")
    for member in members:
        _check(member)
    if len({len(member.kernel) for member in members}) != 1:
        raise ValueError("its members take vectors of different widths")
    weights = tuple(float(weight) for weight in about["weights"])
    if len(weights) not in (0, len(members)) or not all(0 < w < np.inf for w in weights):
        raise ValueError(f"{len(weights)} weights for {len(members)} members, or not above 0")
    if about["similarity"] not in SIMILARITIES:
        raise ValueError(f"similarity {str(about['similarity'])[:20]!r} is unknown")
    looks, neighbours = int(about["looks"]), int(about["neighbours"])
    scale, centre = float(about["scale"]), float(about["centre"])
    if looks < 1 or not (np.isfinite([scale, centre]).all() and scale > 0):
        raise ValueError("its looks, scale or centre are out of range")
    folds = [people[f"folds/{number}"] for number in range(int(about["folds"]))]
    if len(folds) not in (0, len(members)):
        raise ValueError(f"{len(folds)} folds for {len(members)} members")
    return MetricHead(
        view=str(about["view"]),
        model=str(about["model"]),
        members=tuple(members),
        weights=weights,
        looks=looks,
        similarity=about["similarity"],
        scale=scale,
        centre=centre,
        near=str(about["near"]),
        neighbours=neighbours,
        held_out=people["held_out"],
        trained=people["trained"],
        folds=tuple(folds),
    )


def _check(member: Projection) -> None:
    kernel, bias = member.kernel, member.bias
    shapes = [array.shape for array in member.arrays]
    if any(array.dtype != np.float32 for array in member.arrays):
        raise ValueError("its layers are not float32")
    if not all(np.isfinite(array).all() for array in member.arrays):
        raise ValueError("its numbers are not all finite")
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or 0 in kernel.shape:
        raise ValueError(f"its layers do not fit each other: {shapes}")
    if member.hidden:
        inner, offset, outer = member.hidden
        fits = inner.ndim == outer.ndim == 2 and offset.shape == inner.shape[1:]
        if not fits or (len(inner), len(outer), outer.shape[1]) != (
            *(len(kernel), len(offset), kernel.shape[1]),
        ):
            raise ValueError(f"its layers do not fit each other: {shapes}")
