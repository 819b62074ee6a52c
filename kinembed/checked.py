"""Values of JSON files, checked: each has one type and one range, and nothing is converted.

The files come from anybody. Where a value is not what it has to be, a `ValueError` says so in a few
words; the reader of the file adds its path and what to run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_JSON = 1 << 24  # bytes
MOST_TEXT = 10_000  # letters of one text
SHOWN = 40  # letters of a value that a message shows


@dataclass(frozen=True)
class Bounds:
    """Which numbers a value may be; `least` and `most` are among them, `above` and `below` not."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number that no float comes near
            return False
        return (
            finite
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.above is not None and self.below is not None:
            return f"between {self.above:g} and {self.below:g}"
        words = (
            (self.least, "{:g} or more"),
            (self.above, "above {:g}"),
            (self.most, "at most {:g}"),
            (self.below, "below {:g}"),
        )
        text = ", ".join(form.format(bound) for bound, form in words if bound is not None)
        return text or "a finite number"


def read_json(content: bytes, most: int = MOST_JSON) -> dict[str, Any]:
    """The object of a JSON text, UTF-8, all of whose numbers are finite and all text Unicode.

    Raises:
        ValueError: it is something else, or larger than `most` bytes.
    """
    if len(content) > most:
        raise ValueError(f"{len(content):,} bytes of JSON, wanted at most {most:,}")
    try:
        value = json.loads(content, parse_constant=_not_finite, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds text that is not Unicode") from None
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"found {shown(value)}, wanted a JSON object")
    return value


class Values:
    """The values of a JSON object, each asked for by its key, type and range.

    Args:
        content: the object.

    Raises:
        ValueError: it is no object.

    Example:
        >>> Values({"scale": 10.0}).number("scale", Bounds(above=0))
        10.0
        >>> Values({"scale": "10"}).number("scale")
        Traceback (most recent call last):
            ...
        ValueError: scale: found '10', wanted a number
    """

    def __init__(self, content: object) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"found {shown(content)}, wanted values by their names")
        self.content: Mapping[str, Any] = content

    def only(self, keys: Sequence[str]) -> None:
        """Refuses keys other than these."""
        more = [key for key in self.content if key not in keys]
        if more:
            raise ValueError(f"found {shown(more[0])}, which is none of its values")

    def get(self, key: str) -> Any:
        """A value of any type."""
        if key not in self.content:
            raise ValueError(f"{key} is missing")
        return self.content[key]

    def number(self, key: str, bounds: Bounds = Bounds()) -> float:
        """A finite number within bounds."""
        return float(number(key, self.get(key), bounds))

    def whole(self, key: str, bounds: Bounds = Bounds()) -> int:
        """A whole number within bounds."""
        return whole(key, self.get(key), bounds)

    def numbers(
        self,
        key: str,
        bounds: Bounds = Bounds(),
        most: int = 1_000_000,
    ) -> tuple[float, ...]:
        """A list of at most so many finite numbers within bounds."""
        return tuple(float(number(key, value, bounds)) for value in self._list(key, most))

    def wholes(
        self,
        key: str,
        bounds: Bounds = Bounds(),
        most: int = 1_000_000,
    ) -> tuple[int, ...]:
        """A list of at most so many whole numbers within bounds."""
        return tuple(whole(key, value, bounds) for value in self._list(key, most))

    def text(self, key: str, most: int = MOST_TEXT) -> str:
        """A text of at most so many letters."""
        return text(key, self.get(key), most)

    def texts(self, key: str, most: int = 1_000_000) -> tuple[str, ...]:
        """A list of at most so many texts."""
        return tuple(text(key, value) for value in self._list(key, most))

    def choice(self, key: str, known: Sequence[str]) -> str:
        """One of some texts."""
        value = self.get(key)
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{key}: found {shown(value)}, wanted {' or '.join(known)}")
        return value

    def object(self, key: str) -> Values:
        """An object."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise ValueError(f"{key}: found {shown(value)}, wanted values by their names")
        return Values(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise ValueError(f"{key}: found {shown(value)}, wanted true or false")
        return value

    def objects(self, key: str, most: int) -> tuple[Values, ...]:
        """A list of at most so many objects."""
        return tuple(Values(value) for value in self._list(key, most))

    def lists(self, key: str, count: int, most: int = 1_000_000) -> tuple[Sequence[Any], ...]:
        """A list of so many lists of at most so many values of any type."""
        lists = self._list(key, count)
        if len(lists) != count:
            raise ValueError(f"{key}: found {len(lists)} lists, wanted {count}")
        return tuple(Values({key: value})._list(key, most) for value in lists)

    def _list(self, key: str, most: int) -> Sequence[Any]:
        value = self.get(key)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key}: found {shown(value)}, wanted a list")
        if len(value) > most:
            raise ValueError(f"{key}: found {len(value):,} values, wanted at most {most:,}")
        return value


def number(key: str, value: object, bounds: Bounds) -> float:
    """A value that is a finite number within bounds, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        wanted = "a number" if bounds == Bounds() else f"a number: {bounds}"
        raise ValueError(f"{key}: found {shown(value)}, wanted {wanted}")
    if not bounds.hold(value):
        raise ValueError(f"{key}: found {shown(value)}, wanted {bounds}")
    return value


def whole(key: str, value: object, bounds: Bounds) -> int:
    """A value that is a whole number within bounds, and neither a bool nor a float."""
    if isinstance(value, bool) or not isinstance(value, int):
        wanted = "a whole number" if bounds == Bounds() else f"a whole number: {bounds}"
        raise ValueError(f"{key}: found {shown(value)}, wanted {wanted}")
    if not bounds.hold(value):
        raise ValueError(f"{key}: found {shown(value)}, wanted {bounds}")
    return value


def text(key: str, value: object, most: int = MOST_TEXT) -> str:
    """A value that is a Unicode text of at most so many letters."""
    if not isinstance(value, str):
        raise ValueError(f"{key}: found {shown(value)}, wanted a text")
    if len(value) > most:
        raise ValueError(f"{key}: found {len(value):,} letters, wanted at most {most:,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key}: found {shown(value)}, wanted Unicode") from None
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"found the number {digits[:SHOWN]}, which is larger than any float")
    return value


def _not_finite(name: str) -> float:
    raise ValueError(f"found {name}, wanted finite numbers")


def shown(value: object) -> str:
    """A value for a message: short, and escaped."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    try:
        text = ascii(value)
    except RecursionError:
        return f"a deep {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
