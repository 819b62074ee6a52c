"""What a reader leaves out: counted by reason, each with its first example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows

COMPARED = 1000  # names that are compared as texts
LONGEST = 400  # letters of a name that is compared
# How the reasons that are in the plural begin, and how of a single one.
SINGLE = {
    "other files": "other file",
    "copies": "copy",
    "rows": "row",
    "answers name": "answer names",
    "name": "names",
    "answers set aside": "answer set aside",
    "answers moved": "answer moved",
}
_ROWS = 16_384  # names per block
_LETTERS = 32  # kinds of letters that are counted


@dataclass
class LeftOut:
    """What a reader leaves out.

    Attributes:
        counts: how many, for each reason; a reason completes "3 …": `name people without photos`.
        examples: the first of each reason.

    Example:
        >>> left_out = LeftOut()
        >>> left_out.add("of hidden folders", ".cache/a.jpg")
        >>> str(left_out)
        '1 of hidden folders (.cache/a.jpg)'
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def lines(self) -> list[str]:
        """For each reason how many, and the first."""
        return [
            f"{count:,} {_one(reason) if count == 1 else reason} ({self.examples[reason]})"
            for reason, count in self.counts.items()
        ]

    def add(self, reason: str, example: str) -> None:
        """Counts one; the first example of a reason is kept."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, example)

    def explain(self, reason: str, hint: str) -> None:
        """Appends a hint to the example of a reason, if that has one."""
        if reason in self.examples:
            self.examples[reason] += hint

    def update(self, other: LeftOut, prefix: str = "") -> None:
        """Adds what another reader left out; a prefix goes before its examples."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples.setdefault(reason, prefix + other.examples[reason])


def _one(reason: str) -> str:
    """A reason of a single one: `other files` to `other file`."""
    for many, one in SINGLE.items():
        if reason == many or reason.startswith(f"{many} "):
            return one + reason[len(many) :]
    return reason


def nearest(name: str, known: Sequence[bytes] | NDArray[np.bytes_]) -> str:
    """The name most like another one, empty if none is: a hint for a message.

    Only the names that share the most letters with it are compared as texts, so that it takes a
    fraction of a second whatever their number.

    Args:
        name: the name that is not known.
        known: (N,) known names, UTF-8.
    """
    if not len(known) or len(name) > LONGEST:
        return ""
    array = np.asarray(known, np.bytes_)
    rows = np.arange(len(array))
    if len(array) > COMPARED:
        wanted = _letters(np.array([name.encode()]))[0]
        distance = np.concatenate(
            [
                np.abs(_letters(array[start : start + _ROWS]) - wanted).sum(1)
                for start in range(0, len(array), _ROWS)
            ]
        )
        at = int(np.searchsorted(array, name.encode()))  # those that begin alike, if sorted
        alike = np.arange(max(0, at - COMPARED // 4), min(len(array), at + COMPARED // 4))
        rows = np.union1d(np.argpartition(distance, COMPARED)[:COMPARED], alike)
    texts: list[str] = [text.decode(errors="replace")[:LONGEST] for text in array[rows].tolist()]
    short = [text.removeprefix("test/") for text in texts]
    folded = name.casefold()
    same = next((text for text in texts if text.casefold() == folded), None)
    if same is not None:  # two that differ by case alone
        return same
    return next(iter(get_close_matches(name, [*texts, *short], 1)), "")


def _letters(names: NDArray[np.bytes_]) -> Rows:
    """(N, 32) how often each kind of letter occurs in each name; upper and lower case are one."""
    width = min(names.dtype.itemsize, LONGEST)
    letters = names.view(np.uint8).reshape(len(names), -1)[:, :width]  # (N, W)
    kinds = np.where(letters == 0, 0, (letters & 31) % (_LETTERS - 1) + 1).astype(np.intp)
    kinds += np.arange(len(names))[:, None] * _LETTERS
    counts = np.bincount(kinds.reshape(-1), minlength=len(names) * _LETTERS)
    return counts.reshape(-1, _LETTERS)[:, 1:]
