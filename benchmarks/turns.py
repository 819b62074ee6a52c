"""What the scripts share: sides measured in turns, and the ratio of each turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """kinembed beside another side, in the same run.

    Attributes:
        what: was measured.
        other: the other side.
        unit: of both figures: a rate, or `s` or `ms`.
        ours: the median of kinembed's turns.
        theirs: that of the other side's.
        ratio: the median, over the turns, of how many times as fast kinembed is.
        lowest: the least of them.
        highest: the greatest.
        turns: how many there were.
    """

    what: str
    other: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    turns: int

    def __str__(self) -> str:
        return (
            f"{self.what}: kinembed {figure(self.ours)} {self.unit}, {self.other} "
            f"{figure(self.theirs)} {self.unit}; kinembed is {self.ratio:.2f} times as fast "
            f"({self.lowest:.2f} to {self.highest:.2f} in {self.turns} turns)"
        )


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side in each round: all sides once, and again; the first ones warm up."""
    found = [[seconds(work) for work in sides.values()] for _ in range(warm + rounds)][warm:]
    return dict(zip(sides, map(list, zip(*found, strict=True)), strict=True))


def compared(
    what: str,
    other: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    amount: float = 1,
    their_amount: float | None = None,
) -> Comparison:
    """Seconds of both sides, turn by turn, as one comparison.

    Args:
        what: was measured.
        other: the other side.
        unit: `s` or `ms` for times; else the unit of rates.
        ours: seconds of kinembed's turns.
        theirs: seconds of the other side's.
        amount: done in one of kinembed's turns.
        their_amount: done in one of the other side's, where it is another one.
    """
    each, their_each = (
        np.asarray(side, float) / done
        for side, done in ((ours, amount), (theirs, their_amount or amount))
    )
    ratios = their_each / each
    scale = {"s": 1.0, "ms": 1e3}.get(unit)
    figures = [
        float(np.median(1 / side if scale is None else side * scale)) for side in (each, their_each)
    ]
    return Comparison(
        what,
        other,
        unit,
        *figures,
        float(np.median(ratios)),
        float(ratios.min()),
        float(ratios.max()),
        len(ratios),
    )
