"""One photograph under two people, or in `test/` as well as elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows
from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.likeness import nearest_of_others
from kinembed.backbones import Framing
from kinembed.cache import Embeddings
from kinembed.errors import DataError
from kinembed.heads.exact import row_dots, unit
from kinembed.heads.query_expansion import gallery_of
from kinembed.threads import one_blas_thread, parallel_map, processors

NEAR = 0.55  # cosine from which on two photos may be of one photograph
EQUAL = 0.9  # where the photos are not at hand: from which on they are likely of one
SIDE, GRID, COARSE = 64, 32, 16  # pixels of a picture, and of what two are compared by
UNCUT = [(0.0, 0.0)]
UNLIKE = 0.45  # correlation below which cuts do not help
EDGES = (0.0, 0.06, 0.12)  # shares that may be cut off each side
FINE = (-0.03, 0.0, 0.03)  # about the best of these
PROMISING = 0.85  # correlation from which on the finer cuts are tried
# Log odds of a copy by correlation and cosine, fitted on copies of RFIW's photos (re-encoded, half
# as large, mirrored, up to 12 % of each side cut off) beside its own pairs: benchmarks/audit.py.
BY_PICTURE = (100.0, 0.955, 6.0, 0.75)
BY_COSINE = (40.0, 0.96)
UNSURE = 0.01  # below which a pair is not told of

Pair = tuple[int, int]


def copies(
    cache: Embeddings, view: str, data: Path, own: Callable[[int], float] = lambda row: 0.0,
    changed: Collection[int] = (),
) -> list[Finding]:  # fmt: skip
    """Photographs under two people, or in `test/` and elsewhere.

    By the bytes of their files; else, of photos whose vectors are alike, by their pictures, where
    these are at hand: the largest correlation with the other or its mirror image, whatever is cut
    off the sides. Where they are not, only nearly equal vectors count.

    Args:
        cache: of the photos.
        view: by whose cosine photos are alike.
        data: the folder of the photos.
        own: how like each photo of the cache is to the others of its person.
        changed: rows of photos whose pictures are no longer those that were embedded.
    """
    people = [person.decode() for person in cache.people.tolist()]
    sides = gallery_of(cache)
    same = _of_equal_bytes(cache, people, sides)
    alike = _alike(cache, view, people, sides)
    paths = [data / name.decode() for name in cache.names.tolist()]
    gone = {*changed, *(row for row, path in enumerate(paths) if not path.is_file())}
    at_hand = [pair for pair in alike if pair not in same and not gone & set(pair)]
    correlations = correlate(paths, at_hand)
    found = []
    for pair in sorted({*same, *alike}):
        if pair in same:
            sure, reason = 1.0, "the same file, byte for byte"
        elif pair in correlations:
            steep, middle, by_cosine, usual = BY_PICTURE
            log_odds = steep * (correlations[pair] - middle) + by_cosine * (alike[pair] - usual)
            sure = 1 / (1 + math.exp(-log_odds))
            reason = (
                f"the same picture, perhaps resized, cut or mirrored: correlation "
                f"{correlations[pair]:.2f}, cosine of the vectors {alike[pair]:.2f}"
            )
        elif alike[pair] > EQUAL:
            sure = 1 / (1 + math.exp(-BY_COSINE[0] * (alike[pair] - BY_COSINE[1])))
            reason = f"nearly equal vectors: cosine {alike[pair]:.2f}; no pictures to compare"
        else:
            continue
        if sure < UNSURE:
            continue
        if sides[pair[0]] != sides[pair[1]]:
            reason += "; one lies in test/, so it both trains and judges a head"
        found.append(_finding(cache, pair, people, sides, sure, reason, own))
    return found


def _finding(
    cache: Embeddings, pair: Pair, people: Sequence[str], sides: Rows, sure: float, reason: str,
    own: Callable[[int], float],
) -> Finding:  # fmt: skip
    """The finding of two photos; the one that fits its person less is to be left out."""
    names = tuple(cache.names[row].decode() for row in pair)
    if sides[pair[0]] != sides[pair[1]]:
        left_out = [name for name, row in zip(names, pair, strict=True) if not sides[row]]
        cure = "leave it out of training, or out of test/"
    else:
        fits = [own(row) for row in pair]
        left_out = [name for name, fit in zip(names, fits, strict=True) if fit == min(fits)]
        cure = f"keep it under {people[pair[int(np.argmax(fits))]]} alone" if len(
            left_out) == 1 else "see whom it shows; keep it there alone"  # fmt: skip
    return Finding(
        "copy", sure, reason, cure, LeaveOut(photos=tuple(left_out)),
        tuple(people[row] for row in pair), names,
    )  # fmt: skip


def _of_equal_bytes(cache: Embeddings, people: Sequence[str], sides: Rows) -> set[Pair]:
    """Pairs of photos of the same bytes that do not belong together."""
    digests = np.ascontiguousarray(cache.digests)
    known = np.flatnonzero(digests.any(1))  # imported ones are 0
    if not len(known):
        return set()
    keys = digests[known].view("V32").ravel()
    numbers = np.unique(keys, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    groups = [group for group in np.split(known[order], starts[1:]) if len(group) > 1]
    return {
        pair
        for group in groups
        for pair in pairwise(sorted(group.tolist(), key=lambda row: (people[row], sides[row], row)))
        if people[pair[0]] != people[pair[1]] or sides[pair[0]] != sides[pair[1]]
    }


def _alike(cache: Embeddings, view: str, people: Sequence[str], sides: Rows) -> dict[Pair, float]:
    """Pairs of photos of two people, or in `test/` and elsewhere, with a cosine of `NEAR` or more.

    Each photo with those that are most like it, which a copy is before all others.
    """
    directions = unit(cache.vectors(view)[:])
    names = [f"{person}/{side}" for person, side in zip(people, sides.tolist(), strict=True)]
    owner = np.unique(names, return_inverse=True)[1]
    order = np.argsort(owner, kind="stable")
    nearest = nearest_of_others(directions[order], np.zeros(len(order), np.float32), owner[order])
    lefts, nths = np.nonzero(nearest.likeness >= NEAR)
    left, right = order[lefts], order[nearest.rows[lefts, nths]]
    cosines = row_dots(directions[left], directions[right])
    found = zip(left.tolist(), right.tolist(), cosines.tolist(), strict=True)
    return {(min(a, b), max(a, b)): cosine for a, b, cosine in found}


def correlate(paths: Sequence[Path], pairs: Sequence[Pair]) -> dict[Pair, float]:
    """How like one picture photos are, -1 to 1, of each pair whose photos can be read.

    Args:
        paths: of all photos.
        pairs: rows of them.
    """
    rows = sorted({row for pair in pairs for row in pair})
    threads = min(processors(), max(1, len(rows)))
    greys = dict(zip(rows, parallel_map(lambda row: _grey(paths[row]), rows, threads), strict=True))
    readable = [pair for pair in pairs if all(greys[row] is not None for row in pair)]

    def of_pair(pair: Pair) -> float:
        one, other = (greys[row].astype(np.float32) for row in pair)  # type: ignore[union-attr]
        return correlation(one, other)

    with one_blas_thread():
        return dict(zip(readable, parallel_map(of_pair, readable, threads), strict=True))


def _grey(path: Path) -> NDArray[np.uint8] | None:
    """(SIDE, SIDE) grey values of the centre square of a photo; None if it cannot be read."""
    from kinembed.data.photos import read_photo  # Pillow takes long to import

    try:
        pixels = read_photo(path, Framing(SIDE, SIDE))[1]
    except DataError:
        return None
    grey: NDArray[np.uint8] = np.rint(pixels.mean(2)).astype(np.uint8)
    return grey


def correlation(one: Float, other: Float) -> float:
    """The largest correlation of two (SIDE, SIDE) pictures, as they are, cut, and mirrored.

    Symmetric: what may be cut is the first, then the second. Pictures that are nothing like each
    other as they are, nor mirrored, are not cut.
    """
    wholes = [_centred(_parts(each, UNCUT, UNCUT)) for each in (one, other, other[:, ::-1])]
    as_is = float(max((wholes[0] @ each[0]).item() for each in wholes[1:]))
    if as_is < UNLIKE:
        return as_is
    return max(as_is, _best_cut(one, other), _best_cut(other, one))


def _best_cut(cut: Float, whole: Float) -> float:
    """The largest correlation of a picture with some of its sides cut off with a whole one.

    Looks at the cuts of `EDGES` coarsely, then about the best one in detail.
    """
    spans = [(above, below) for above in EDGES for below in EDGES]
    sides = [whole, whole[:, ::-1]]
    parts = _centred(_parts(cut, spans, spans, COARSE))
    coarse = [parts @ _centred(_parts(each, UNCUT, UNCUT, COARSE))[0] for each in sides]
    mirrored = int(coarse[1].max() > coarse[0].max())
    if coarse[mirrored].max() < PROMISING:
        return -1.0
    rows, columns = (
        [(max(0.0, spans[at][0] + a), max(0.0, spans[at][1] + b)) for a in FINE for b in FINE]
        for at in divmod(int(coarse[mirrored].argmax()), len(spans))
    )
    detailed = _centred(_parts(cut, rows, columns))
    fine = detailed @ _centred(_parts(sides[mirrored], UNCUT, UNCUT))[0]
    return float(fine.max())


def _parts(
    picture: Float,
    rows: Sequence[tuple[float, float]],
    columns: Sequence[tuple[float, float]],
    grid: int = GRID,
) -> Float:
    """(R * C, grid * grid) parts of a picture, each brought to one size.

    Args:
        picture: (SIDE, SIDE).
        rows: R shares that are cut off above and below.
        columns: C shares that are cut off left and right.
        grid: pixels along a side of the result.
    """
    down, across = (
        np.concatenate([_sampling(*span, grid) for span in spans]) for spans in (rows, columns)
    )
    parts = (down @ picture @ across.T).reshape(len(rows), grid, len(columns), grid)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3)).reshape(-1, grid * grid)


@lru_cache(1024)
def _sampling(before: float, after: float, grid: int) -> Float:
    """(grid, SIDE) weights of pixels in what is left of a side, by linear filtering."""
    width = SIDE * (1 - before - after) / grid
    centres = before * SIDE + (np.arange(grid) + 0.5) * width
    distance = np.abs(np.arange(SIDE) + 0.5 - centres[:, None]) / max(1.0, width)
    weights: Float = np.maximum(0, 1 - distance).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    return weights


def _centred(pictures: Float) -> Float:
    """(N, K) pictures with mean 0 and length 1; flat ones are 0."""
    result = pictures - pictures.mean(1, keepdims=True)
    lengths = np.sqrt((result * result).sum(1, keepdims=True))
    return np.where(lengths > 1e-3, result / np.maximum(lengths, 1e-3), 0).astype(np.float32)
