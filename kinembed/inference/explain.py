"""Which regions of faces an answer rests on: what changes when each is hidden.

Occlusion, as in Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014),
https://arxiv.org/abs/1311.2901. A hidden region shows a blur of itself, not grey: a blur keeps
brightness and colour, and makes no edge that the network would see instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float
from kinembed.data.photos import Pixels

GRID = 7  # regions in a row and in a column
BLUR = 0.6  # standard deviation of the blur, in sides of a region
CASES = 2 * GRID * GRID  # regions hidden, one after the other
SOFT = 0.12  # width of a region's edge, in its sides

LogOdds = Callable[[Sequence[tuple[Pixels, Pixels]]], NDArray[np.float64]]


@dataclass(frozen=True)
class Regions:
    """What hiding each region of two people's faces changes.

    Attributes:
        log_odds: of kin, of the faces as they are.
        falls: (2, GRID, GRID) how far these fall when a region is hidden; negative where they rise.
    """

    log_odds: float
    falls: Float

    @property
    def largest(self) -> float:
        """The largest change, up or down."""
        return float(np.abs(self.falls).max())


def regions(
    people: Sequence[Pixels],
    log_odds: LogOdds,
    advance: Callable[[int], object] = lambda count: None,
) -> Regions:
    """Hides each region of one person's faces, then of the other's.

    Args:
        people: two people's crops, (P, side, side, 3) uint8 each; a region is hidden in all crops
            of a person at once, or the others would show it.
        log_odds: of kin, for pairs of people, (K,).
        advance: reports so many pairs more.
    """
    one, other = people
    cases: list[tuple[Pixels, Pixels]] = [(one, other)]
    for side, crops in enumerate(people):
        blurred = _blurred(crops)
        for row in range(GRID):
            for column in range(GRID):
                hidden = _hidden(crops, blurred, row, column)
                cases.append((one, hidden) if side else (hidden, other))
    found = [float(log_odds(cases[:1])[0])]
    for start in range(1, len(cases), GRID):
        found += log_odds(cases[start : start + GRID]).tolist()
        advance(GRID)
    falls = (found[0] - np.array(found[1:])).reshape(2, GRID, GRID).astype(np.float32)
    return Regions(found[0], falls)


def _hidden(crops: Pixels, blurred: Pixels, row: int, column: int) -> Pixels:
    """Crops (P, side, side, 3) with one region blurred, softly towards its edges."""
    height, width = crops.shape[1:3]
    down, right = _within(height, row), _within(width, column)
    share = (down[:, None] * right)[:, :, None]  # (side, side, 1)
    result: Pixels = np.rint(crops * (1 - share) + blurred * share).astype(np.uint8)
    return result


def _within(side: int, number: int) -> Float:
    """(side,) 1 within a row of regions, 0 outside, and between at its edges."""
    length = side / GRID
    centre = (number + 0.5) * length
    distance = np.abs(np.arange(side) + 0.5 - centre) / length  # 0.5 at the edge
    result: Float = np.clip((0.5 - distance) / SOFT + 0.5, 0, 1).astype(np.float32)
    return result


def _blurred(crops: Pixels) -> Pixels:
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(BLUR * crops.shape[1] / GRID)
    return np.stack([np.asarray(Image.fromarray(crop).filter(blur)) for crop in crops])
