"""What an actor does: it opens the work once, and computes the shards whose numbers it gets.

It raises nothing: what went wrong goes back as a text, which any version of Python can read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kinembed import __version__
from kinembed.errors import KinembedError
from kinembed.threads import use_at_most


class Numbered(Protocol):
    """Shards by number, of photos or of pairs."""

    def __len__(self) -> int:
        """How many there are."""

    def size(self, number: int) -> int:
        """Photos or pairs of a shard."""

    def first(self, number: int) -> str:
        """Where a shard begins, in words."""

    def key(self, number: int) -> str:
        """What a shard is of: the sha256 of all that tells."""

    def is_done(self, number: int) -> bool:
        """Whether a shard is finished."""


class Work(Protocol):
    """An embedding or a scoring, ready to be computed shard by shard."""

    @property
    def shards(self) -> Numbered:
        """The shards."""

    def compute(self, numbers: Sequence[int]) -> Sequence[object]:
        """Computes shards that are not there; returns one for each, fewer if others joined all."""


@dataclass(frozen=True)
class Opened:
    """The work as an actor sees it.

    Attributes:
        host: the actor's machine.
        version: of its kinembed.
        total: photos, or pairs, of all shards.
        firsts: where each shard begins.
        key: of what the first and the last shard are of.
        notes: what was said as it was opened.
    """

    host: str
    version: str
    total: int
    firsts: tuple[str, ...]
    key: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """A finished shard.

    Attributes:
        size: its photos or pairs; None: another process has joined all shards.
        was_there: nothing was computed.
    """

    size: int | None
    was_there: bool


@dataclass(frozen=True)
class Problem:
    """What went wrong in an actor, in one line; `trace` says where, if nobody expected it."""

    host: str
    text: str
    trace: str = ""


class Worker:
    """An actor.

    Args:
        opening: opens the work.
        token: a file that the driver has put into the folder of the shards.
        home: the driver's current folder, from which relative paths start.
        processors: as many threads compute.
    """

    def __init__(
        self,
        opening: Callable[[], AbstractContextManager[Work]],
        token: Path,
        home: Path,
        processors: int,
    ) -> None:
        self._opening, self._token, self._home = opening, token, home
        self._processors = processors
        self._stack = ExitStack()
        self._work: Work | None = None

    def open(self) -> Opened | Problem:
        """Opens the work, if it is not open."""
        host = socket.gethostname()
        try:
            use_at_most(self._processors)
            with suppress(OSError):  # absolute paths need no home, and the token tells the rest
                os.chdir(self._home)
            if not self._token.is_file():
                return Problem(
                    host,
                    f"it does not see {self._token.parents[1]}; each machine of the cluster needs "
                    "the run folder and what the command reads on a file system that all share, at "
                    "the same paths",
                )
            with _noted() as notes:
                if self._work is None:
                    self._work = self._stack.enter_context(self._opening())
            shards = self._work.shards
            count = len(shards)
            ends = [shards.key(number) for number in sorted({0, count - 1} if count else ())]
            return Opened(
                host, __version__, sum(map(shards.size, range(count))),
                tuple(map(shards.first, range(count))),
                hashlib.sha256("".join(ends).encode()).hexdigest(), tuple(notes),
            )  # fmt: skip
        except Exception as error:
            return _problem(host, error)

    def compute(self, number: int) -> Done | Problem:
        """Computes a shard, if it is not there; to compute it again does nothing."""
        try:
            assert self._work is not None
            was_there = self._work.shards.is_done(number)
            found = self._work.compute([number])
            return Done(self._work.shards.size(number) if found else None, was_there)
        except Exception as error:
            return _problem(socket.gethostname(), error)


def _problem(host: str, error: Exception) -> Problem:
    if isinstance(error, KinembedError | OSError | MemoryError):
        return Problem(host, str(error) or "out of memory; a smaller --batch-size needs less")
    return Problem(host, f"{type(error).__name__}: {error}", traceback.format_exc())


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collects what the package logs, for the driver to say."""
    notes: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    logger, handler = logging.getLogger("kinembed"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
