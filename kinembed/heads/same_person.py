"""How likely two photos are of the same person: a probability of their likeness, and a gallery's.

Some photos are like many others: babies, blurred ones, or all of one collection. So a cosine counts
from a photo's ambient similarity on: how near its nearest strangers are. Strangers are those of a
fixed cohort, so that the likeness of two photos does not depend on the gallery; in a large gallery
its own photos may only raise the ambient. This is the adaptive symmetric normalisation of speaker
verification (Matějka et al., "Analysis of score normalization in multilingual speaker recognition",
2017), of a rank instead of a mean.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows, Vectors
from kinembed.checked import Bounds, Values
from kinembed.heads.cells import Candidates, Cells
from kinembed.heads.exact import ExactKernel, row_dots, unit
from kinembed.heads.tail import DOUBT, SURE, Tail, log_odds
from kinembed.threads import one_blas_thread, parallel_map, processors

Counts = NDArray[np.intp]

log = logging.getLogger(__name__)

TAIL = 0.01  # share of strangers nearer to a photo than its ambient similarity
LARGE = 100  # photos of a gallery that tell how alike its strangers are
SAMPLE = 1000  # of a gallery's photos by which that is told
BLOCK = 1024  # photos compared with all others at a time, at most
CELLS = 1 << 24  # cosines of a block, at most: 64 MiB for each thread
PAIRS = 4096  # found pairs compared again at a time
ROUNDING = 1e-4  # by which a product of a block may be off
INDEXED = 50_000  # photos of a gallery from which on not all pairs are compared
ASKED = 500  # photos of it that are compared with all others, to tell how many pairs are found
CELLS_NEAR = (8, 16, 32, 64, 128, 256)  # looked into for a photo: the fewest that do
WORTH = 4  # so many times the cells looked into, at most all cells: else all pairs are sooner done
RECALL = 0.99  # of the pairs of those photos

RANGES = {
    "spread": Bounds(above=0, most=1e7),
    "slope": Bounds(least=1e-6, most=1e6),
    "offset": Bounds(least=-1e6, most=1e6),
    "prior": Bounds(above=0, below=1),
    "found": Bounds(above=0, most=1),
    "mistaken": Bounds(above=0, most=1),
}


@dataclass(frozen=True)
class Likeness:
    """A pair of photos of a gallery and its likeness, for many pairs.

    Attributes:
        left, right: (E,) numbers of photos in the gallery; left < right.
        likeness: (E,) cosine above the ambient similarity of both.
    """

    left: Rows
    right: Rows
    likeness: Float

    def above(self, cut: float) -> Likeness:
        """The pairs whose likeness is above a cut."""
        chosen = self.likeness > cut
        return Likeness(self.left[chosen], self.right[chosen], self.likeness[chosen])

    def counts(self, levels: Sequence[float]) -> Counts:
        """(L,) how many pairs are above each of some levels."""
        return np.array([np.count_nonzero(self.likeness > level) for level in levels])


@dataclass(frozen=True)
class Asked:
    """Some photos of a large gallery, compared with all others.

    Attributes:
        photos: of the gallery.
        rows: (S,) some of them.
        alike: the pairs of these and all others; `left` is the photo of the sample.
    """

    photos: int
    rows: Rows
    alike: Likeness

    def most(self, cut: float) -> float:
        """How many pairs of the whole gallery are above a likeness at most, by this sample."""
        counts = self._counts(cut)
        error = counts.std() / math.sqrt(len(counts))
        return self.photos / 2 * float(counts.mean() + SURE * error)

    def share(self, cut: float) -> float:
        """The share of the gallery's pairs that are above a likeness, by this sample."""
        return float(self._counts(cut).mean()) / max(1, self.photos - 1)

    def _counts(self, cut: float) -> Rows:
        """(S,) how many others each photo of the sample is like."""
        left = self.alike.above(cut).left
        return np.bincount(np.searchsorted(self.rows, left), minlength=len(self.rows))

    def describe(self, candidates: Candidates, least: float) -> str:
        """How many of its pairs above a likeness are found, in words."""
        alike = self.alike.above(least)
        if not len(alike.left):
            return f"none of {len(self.rows):,} sampled photos has any"
        found = candidates.have(alike.left, alike.right)
        return (
            f"of the {len(found):,} of {len(self.rows):,} sampled photos "
            f"{math.floor(found.mean() * 1000) / 1000:.3f} were found"
        )


@dataclass(frozen=True)
class SamePerson:
    """The probability that two photos are of the same person, fitted on people with several.

    In the log odds of `slope * likeness + offset`, the offset holds for galleries in which as large
    a share of all pairs is of one person as in training: `prior`.

    Attributes:
        cohort: (C, D) float32 unit vectors of strangers, one photo each.
        spread: from the median of a photo's cosines to its ambient similarity, in units from the
            median to the upper quartile.
        slope: of the log odds.
        offset: of the log odds.
        prior: share of the pairs of photos in training that were of one person.
        found: share of these that are likely so, by a probability of one half.
        mistaken: the same share of all other pairs.
        tail: how often both kinds of pairs are more alike than that, for large galleries; None in a
            head of before, or where training had too few pairs to tell.
    """

    cohort: Float
    spread: float
    slope: float
    offset: float
    prior: float
    found: float
    mistaken: float
    tail: Tail | None = None

    def settings(self) -> dict[str, Any]:
        """All fields but the cohort; `tail` only where there is one."""
        numbers: dict[str, Any] = {name: getattr(self, name) for name in RANGES}
        return numbers if self.tail is None else {**numbers, "tail": self.tail.settings()}

    @classmethod
    def of(cls, settings: object, cohort: Float) -> SamePerson:
        """What a head's file holds.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        values = Values(settings)
        values.only([*RANGES, "tail"])
        numbers = {name: values.number(name, bounds) for name, bounds in RANGES.items()}
        with np.errstate(over="ignore"):
            if cohort.ndim != 2 or not np.allclose(row_dots(cohort, cohort), 1, atol=1e-3):
                raise ValueError("its cohort is no table of unit vectors")
        model = cls(cohort=cohort, tail=None, **numbers)
        if "tail" not in values.content:
            return model
        return replace(model, tail=Tail.of(values.object("tail").content, model.cut))

    @property
    def cut(self) -> float:
        """The likeness of a probability of one half, in a gallery as in training."""
        return max(0.0, -self.offset / self.slope)

    @cached_property
    def _kernel(self) -> ExactKernel:
        return ExactKernel.of(np.ascontiguousarray(self.cohort.T))

    def ambient(
        self, directions: Float, *, in_gallery: bool = True, known: NDArray[np.bool_] | None = None
    ) -> Float:
        """(P,) ambient similarities of photos, (P, D) unit vectors.

        Args:
            directions: the photos.
            in_gallery: they are a gallery, whose own photos count if it is large. Otherwise each
                depends on its photo alone.
            known: (P, C) True where a photo's person, or kin, is in the cohort: no stranger. None
                where that is not known.
        """
        count = len(self.cohort)
        rank = min(count, max(1, round(TAIL * count)) + 1)  # one may be of the photo's own person
        result = np.empty(len(directions), np.float32)
        among = spread_sample(directions) if in_gallery and len(directions) >= LARGE else None
        kernel = self._kernel

        def find_block(start: int) -> None:
            photos = directions[start : start + BLOCK]  # (B, D)
            cosines = kernel.product(photos)  # (B, C)
            if known is not None:
                cosines[known[start : start + BLOCK]] = -1
            nearest = np.partition(cosines, -rank, axis=1)[:, -rank]  # (B,)
            if among is not None and among.size:
                median, to_upper = bulk(photos @ among)
                nearest = np.maximum(nearest, median + self.spread * to_upper)
            result[start : start + BLOCK] = nearest

        starts = range(0, len(directions), BLOCK)
        with one_blas_thread():
            parallel_map(find_block, starts, min(processors(), len(starts)))
        return result

    def likenesses(self, directions: Float, ambient: Float, least: float) -> Likeness:
        """The pairs of a gallery that are more alike than `least`.

        Compares all pairs: the time grows with the square of the photos, the memory with them and
        with the pairs that are found.

        Args:
            directions: (P, D) unit vectors of its photos.
            ambient: (P,) their ambient similarities.
            least: the likeness.
        """
        half = (ambient / 2).astype(np.float32)  # (P,)
        size = max(1, min(BLOCK, CELLS // max(1, len(directions))))

        def find_block(start: int) -> Likeness:
            stop = min(start + size, len(directions))
            near = directions[start:stop] @ directions[start:].T  # (B, P - start) cosines
            near -= half[start:stop, None]
            near -= half[start:]
            left, right = np.nonzero(near > least - ROUNDING)
            upper = right > left
            left, right = left[upper] + start, right[upper] + start
            return _computed_again(directions, ambient, left, right, least)

        starts = range(0, len(directions), size)
        with one_blas_thread():
            parts = parallel_map(find_block, starts, min(processors(), len(starts)))
        return _concatenated(parts)

    def found_likenesses(self, directions: Float, ambient: Float, least: float) -> Likeness:
        """As `likenesses`, but that in a large gallery some pairs are missed; logs how many.

        The pairs that are found have the same likeness, to the bit. The same gallery gives the
        same pairs. The time grows with the power 1.5 of the photos.
        """
        if len(directions) <= INDEXED:
            return self.likenesses(directions, ambient, least)
        asked = self._ask(directions, ambient, least)
        candidates = _candidates(directions, asked.alike)
        if candidates is None:
            return self.likenesses(directions, ambient, least)
        _, alike = self._compared(directions, ambient, candidates, [least], least)
        log.info(
            "%s photos, too many to compare all pairs: pairs that look alike: %s",
            f"{len(directions):,}", asked.describe(candidates, least),
        )  # fmt: skip
        return alike

    def _ask(self, directions: Float, ambient: Float, least: float) -> Asked:
        """Compares some photos of a gallery, evenly spread, with all others."""
        count = len(directions)
        rows = np.linspace(0, count - 1, min(ASKED, count)).astype(np.intp)
        half = (ambient / 2).astype(np.float32)

        def find_block(start: int) -> Likeness:
            near = directions[rows] @ directions[start : start + BLOCK].T  # (S, B)
            near -= half[rows, None]
            near -= half[start : start + BLOCK]
            which, right = np.nonzero(near > least - ROUNDING)
            left, right = rows[which], right + start
            other = left != right
            return _computed_again(directions, ambient, left[other], right[other], least)

        starts = range(0, count, BLOCK)
        with one_blas_thread():
            alike = _concatenated(parallel_map(find_block, starts, processors()))
        return Asked(count, rows, alike)

    def _compared(
        self,
        directions: Float,
        ambient: Float,
        candidates: Candidates,
        levels: Sequence[float],
        kept: float,
    ) -> tuple[Counts, Likeness]:
        """How many candidates are above each level, rising, and those more alike than `kept`."""
        least = levels[0]
        half = (ambient / 2).astype(np.float32)  # (P,)

        def find_block(block: tuple[Rows, Rows]) -> tuple[Counts, Likeness]:
            photos, others = block
            near = directions[photos] @ directions[others].T
            near -= half[photos, None]
            near -= half[others]
            left, right = np.nonzero(near > least - ROUNDING)
            left, right = photos[left], others[right]
            first = candidates.are_first(left, right)
            left, right = left[first], right[first]
            alike = _computed_again(
                directions, ambient, np.minimum(left, right), np.maximum(left, right), least
            )
            return alike.counts(levels), alike.above(kept)

        with one_blas_thread():
            parts = parallel_map(find_block, candidates.blocks(), processors())
        alike = _concatenated([part for _, part in parts])
        order = np.lexsort((alike.right, alike.left))
        alike = Likeness(alike.left[order], alike.right[order], alike.likeness[order])
        return sum((counts for counts, _ in parts), np.zeros(len(levels), np.intp)), alike

    def neighbours(self, vectors: Vectors, *, exact: bool = False) -> Likeness:
        """The pairs of a gallery's photos that are likely of one person.

        How likely depends on the share of such pairs in the gallery. That is estimated by how many
        more pairs look like it than strangers explain, and is at most that of training. So in a
        gallery of strangers, however large, there are none. Photos of the very same vector are of
        one person, whatever the others are.

        In a large gallery some pairs are missed, and none is found that would not be by comparing
        all; logs how many.

        Args:
            vectors: (P, D) of the gallery's photos.
            exact: compare all pairs of a large gallery, too.
        """
        directions = unit(vectors)
        ambient = self.ambient(directions)
        same = _equal_photos(directions, ambient)
        if not exact and len(vectors) > INDEXED:
            return _joined(self._found_neighbours(directions, ambient), same, len(vectors))
        return _joined(self._all_neighbours(directions, ambient), same, len(vectors))

    def _all_neighbours(self, directions: Float, ambient: Float) -> Likeness:
        """Those pairs that are likely of one person, by comparing all."""
        alike = self.likenesses(directions, ambient, self.cut)
        photos = len(directions)
        cut = self._cut_by_all(len(alike.left), photos)
        is_told = photos <= INDEXED and cut < math.inf
        if self.tail is not None and len(alike.left) and not is_told:
            asked = self._ask(directions, ambient, self.tail.body)
            cut = self._cut_in_gallery(alike.counts(self._levels), asked)
        return alike.above(cut)

    def _found_neighbours(self, directions: Float, ambient: Float) -> Likeness:
        """Those pairs of a large gallery that are likely of one person and found."""
        asked = self._ask(directions, ambient, self.cut if self.tail is None else self.tail.body)
        lowest = self._cut_in_gallery([asked.most(level) for level in self._levels], asked)
        photos = f"{len(directions):,} photos, too many to compare all pairs: "
        if lowest == math.inf:
            log.info(
                "%sby %s sampled ones, strangers explain all pairs that look alike; only equal "
                "photos are neighbours%s", photos, f"{len(asked.rows):,}",
                "" if self.tail is not None else "; kinembed head, run again on 150 photos or "
                "more, learns to find more",
            )  # fmt: skip
            return asked.alike.above(math.inf)
        candidates = _candidates(directions, asked.alike.above(lowest))
        if candidates is None:
            return self._all_neighbours(directions, ambient)
        counts, alike = self._compared(directions, ambient, candidates, self._levels, lowest)
        cut = max(lowest, self._cut_in_gallery(counts, asked))
        log.info("%sneighbours: %s", photos, asked.describe(candidates, cut))
        return alike.above(cut)

    @property
    def _levels(self) -> tuple[float, ...]:
        """The likenesses above which a gallery's pairs are counted."""
        return (self.cut,) if self.tail is None else self.tail.levels[1:]

    def _cut_in_gallery(self, counts: Sequence[float] | Counts, asked: Asked) -> float:
        """The likeness of a probability of one half in a gallery; infinite where none reaches it.

        Args:
            counts: pairs of the gallery above each of `_levels`.
            asked: some of its photos.
        """
        if self.tail is None:
            return self._cut_by_all(counts[0], asked.photos)
        body = asked.share(self.tail.body)
        by_all = self._cut_by_all(counts[0], asked.photos, self.tail.power(body))
        pairs = asked.photos * (asked.photos - 1) / 2
        return min(by_all, self.tail.cut(counts, pairs, body, self.prior))

    def _cut_by_all(self, count: float, photos: int, power: float = 1.0) -> float:
        """The same likeness, by the pairs above `cut` alone.

        All other people count as strangers, kin too: in a small gallery they are many.

        Args:
            count: pairs of the gallery above `cut`.
            photos: of the gallery.
            power: of the share of strangers, where they are more alike than in training.
        """
        pairs = photos * (photos - 1) / 2
        # One pair of strangers in a small gallery, or chance in a large one, explains the root.
        surplus = count - DOUBT * pairs * self.mistaken**power - math.sqrt(count)
        if surplus <= 0:
            return math.inf
        prior = min(self.prior, surplus / self.found / pairs)
        return self.cut + (log_odds(self.prior) - log_odds(prior)) / self.slope


def bulk(cosines: Float) -> tuple[Float, Float]:
    """(B,) medians of (B, G) cosines, and (B,) how far above them the upper quartiles are.

    A photo's neighbours, if they are less than a quarter of the gallery, hardly move them.
    """
    median, upper = np.quantile(cosines, [0.5, 0.75], axis=1)
    return median, upper - median


def spread_sample(directions: Float) -> Float:
    """(D, G) at most `SAMPLE` photos, evenly spread over (P, D) of a gallery.

    Without vectors that are not finite, by which no photo's quartiles could be told.
    """
    count = min(SAMPLE, len(directions))
    sample = directions[np.linspace(0, len(directions) - 1, count).astype(np.intp)]
    return np.ascontiguousarray(sample[np.isfinite(sample).all(1)].T)


def _computed_again(
    directions: Float, ambient: Float, left: Rows, right: Rows, least: float
) -> Likeness:
    """Of pairs of photos those above a likeness.

    The last bits of a block's product depend on the block's size; those of these products do not.
    """
    likeness = np.empty(len(left), np.float32)
    for pair in range(0, len(left), PAIRS):
        pairs = slice(pair, pair + PAIRS)
        likeness[pairs] = row_dots(directions[left[pairs]], directions[right[pairs]])
    likeness -= (ambient[left] + ambient[right]) / 2
    return Likeness(left, right, likeness).above(least)


def _candidates(directions: Float, asked: Likeness) -> Candidates | None:
    """Pairs of photos that may be alike, by the fewest cells that hold enough of some known ones.

    None where that is so many cells that comparing all pairs takes no longer; logs it.

    Args:
        directions: (P, D) unit vectors of all photos.
        asked: pairs that are to be among them.
    """
    cells = Cells.of(directions)
    rows, numbers = np.unique(np.stack([asked.left, asked.right]), return_inverse=True)
    left, right = numbers.reshape(2, -1)
    near = cells.nearest(directions[rows], CELLS_NEAR[-1])
    count = CELLS_NEAR[0]
    if len(rows):
        shares = {each: Candidates(near[:, :each]).have(left, right).mean() for each in CELLS_NEAR}
        count = next((each for each, share in shares.items() if share >= RECALL), CELLS_NEAR[-1])
    if WORTH * count > len(cells):
        log.info(
            "%s photos: too scattered for an index, so all pairs are compared",
            f"{len(directions):,}",
        )
        return None
    return Candidates(cells.nearest(directions, count))


def _concatenated(parts: Sequence[Likeness]) -> Likeness:
    none = Likeness(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))
    joined = (np.concatenate(each) for each in zip(*map(_columns, [none, *parts]), strict=True))
    return Likeness(*joined)


def _equal_photos(directions: Float, ambient: Float) -> Likeness:
    """The pairs of photos of a gallery whose vectors are equal, to the bit.

    Where more than a quarter of a large gallery has one vector, this is no sign: it may be what the
    network makes of any photo without a face. Nor is a vector of zeros, or without numbers.

    Args:
        directions: (P, D) unit vectors.
        ambient: (P,) ambient similarities.
    """
    numbers: dict[bytes, list[int]] = {}
    for number, direction in enumerate(np.ascontiguousarray(directions)):
        numbers.setdefault(hashlib.blake2b(direction, digest_size=16).digest(), []).append(number)
    most = len(directions) // 4 if len(directions) >= LARGE else len(directions)
    lefts, rights = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    for group in numbers.values():
        if 1 < len(group) <= most and 0 < row_dots(*2 * [directions[group[:1]]])[0] < math.inf:
            left, right = np.triu_indices(len(group), 1)
            lefts.append(np.array(group)[left])
            rights.append(np.array(group)[right])
    left, right = np.concatenate(lefts), np.concatenate(rights)
    return Likeness(left, right, (1 - (ambient[left] + ambient[right]) / 2).astype(np.float32))


def _joined(one: Likeness, other: Likeness, photos: int) -> Likeness:
    """The pairs of both, each once, of a gallery of so many photos."""
    if not len(other.left):
        return one
    is_new = ~np.isin(other.left * photos + other.right, one.left * photos + one.right)
    return Likeness(
        np.concatenate([one.left, other.left[is_new]]),
        np.concatenate([one.right, other.right[is_new]]),
        np.concatenate([one.likeness, other.likeness[is_new]]),
    )


def _columns(likeness: Likeness) -> tuple[Rows, Rows, Float]:
    return likeness.left, likeness.right, likeness.likeness
