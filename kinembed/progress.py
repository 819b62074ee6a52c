"""How a stage tells its caller how far it is, without knowing who listens."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """One piece of work whose length is known."""

    def advance(self, count: int, note: str = "") -> None:
        """Tells that `count` more units are done; `note` replaces the text beside the bar."""


Progress = Callable[[str, int], AbstractContextManager[Bar]]


class _Silent:
    def advance(self, count: int, note: str = "") -> None:
        pass


def silent(label: str, total: int) -> AbstractContextManager[Bar]:
    """A bar that shows nothing."""
    return nullcontext(_Silent())
