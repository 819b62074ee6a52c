"""The progress bar that a stage reports to, whoever shows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """The progress of one piece of work of known length."""

    def advance(self, count: int, note: str = "") -> None:
        """Reports `count` more units; `note` replaces the text next to the bar."""


Progress = Callable[[str, int], AbstractContextManager[Bar]]


class _Silent:
    def advance(self, count: int, note: str = "") -> None:
        pass


def silent(label: str, total: int) -> AbstractContextManager[Bar]:
    """A bar that shows nothing."""
    return nullcontext(_Silent())
