"""Hands the numbers of shards out to a pool of actors, again where one fails."""

from __future__ import annotations

import logging
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kinembed import __version__
from kinembed.cluster.worker import Done, Opened, Problem
from kinembed.errors import RunError
from kinembed.printable import counted
from kinembed.progress import Bar, Progress

log = logging.getLogger(__name__)

TRIES = 3  # of a shard, and of an actor that does not open
PATIENCE = 30.0  # seconds without any actor until that is said


@dataclass(frozen=True)
class Task:
    """What the shards are, in words.

    Attributes:
        doing: what goes on.
        items: what a shard is of.
        command: the command.
    """

    doing: str
    items: str
    command: str


EMBEDDING = Task("embedding", "photos", "kinembed embed")
SCORING = Task("scoring", "pairs", "kinembed score")


@dataclass(frozen=True)
class Lost:
    """An actor that was killed, or whose machine is gone; the pool starts it again."""

    text: str


@dataclass(frozen=True)
class Answer:
    """What became of a call of an actor."""

    actor: int
    value: Opened | Done | Problem | Lost


class Pool(Protocol):
    """Actors by number, each with a call at most."""

    def __len__(self) -> int:
        """How many actors there are."""

    def __str__(self) -> str:
        """What they need, and what there is."""

    def call(self, actor: int, method: Literal["open", "compute"], *arguments: int) -> None:
        """Calls a method of a `Worker`; of an actor that was lost, once it is there again."""

    def answer(self, seconds: float) -> Answer | None:
        """The next answer of any actor; None if there is none in this time."""


def compute_shards(pool: Pool, folder: Path, task: Task, progress: Progress) -> bool:
    """Lets actors compute all shards; those that are there, they verify.

    An actor has one shard at a time, and none before it has opened the work. A shard of an actor
    that fails or is lost goes to the next free one.

    Args:
        pool: the actors.
        folder: of the shards, for messages.
        task: what the shards are.
        progress: shows the progress.

    Returns:
        Whether the shards are there to be joined; if not, another process has joined them.

    Raises:
        RunError: an actor cannot open the work, sees another, or a shard failed three times.
    """
    with ExitStack() as stack:
        return _HandOut(pool, folder, task, progress, stack).run()


class _HandOut:
    def __init__(
        self, pool: Pool, folder: Path, task: Task, progress: Progress, stack: ExitStack
    ) -> None:
        self._pool, self._folder, self._progress, self._stack = pool, folder, progress, stack
        self._task = task
        self._first: Opened | None = None
        self._hosts: dict[int, str] = {}  # of actors that have opened the work
        self._running: dict[int, int] = {}  # numbers by actor
        self._waiting: deque[int] = deque()
        self._idle: deque[int] = deque()
        self._failures: Counter[int] = Counter()
        self._not_opened: Counter[int] = Counter()  # by actor, in a row
        self._done: set[int] = set()
        self._bar: Bar | None = None

    def run(self) -> bool:
        for actor in range(len(self._pool)):
            self._pool.call(actor, "open")
        was_there = 0
        is_told = False
        while self._first is None or len(self._done) < len(self._first.firsts):
            answer = self._pool.answer(PATIENCE)
            if answer is None:
                if not self._hosts and not is_told:
                    log.warning("no actor has started yet: %s", self._pool)
                    is_told = True
                continue
            actor, value = answer.actor, answer.value
            if isinstance(value, Done):
                if value.size is None:
                    log.info("%s: another process has joined the shards", self._folder)
                    return False
                number = self._running.pop(actor)
                how = "was there" if value.was_there else "is computed"
                log.debug("shard %d %s, says %s", number, how, self._hosts[actor])
                was_there += value.was_there
                self._done.add(number)
                assert self._bar is not None
                self._bar.advance(value.size)
                self._idle.append(actor)
            elif isinstance(value, Opened):
                self._open(actor, value)
            else:
                self._fail(actor, value)
            while self._idle and self._waiting:
                self._give(self._idle.popleft(), self._waiting.popleft())
        log.info(
            "%s: %s by %s, %d of them were there", self._folder,
            counted(len(self._done), "shard"), counted(len(self._pool), "actor"), was_there,
        )  # fmt: skip
        return True

    def _give(self, actor: int, number: int) -> None:
        self._running[actor] = number
        log.debug("shard %d goes to actor %d on %s", number, actor, self._hosts[actor])
        self._pool.call(actor, "compute", number)

    def _open(self, actor: int, value: Opened) -> None:
        first = self._first
        if value.version != __version__:
            raise RunError(
                f"{value.host} has kinembed {value.version}, and this is {__version__}; install "
                "the same on each machine of the cluster"
            )
        if first is None:
            first = self._first = value
            for note in value.notes:
                log.info("%s: %s", value.host, note)
            self._waiting.extend(range(len(first.firsts)))
            self._bar = self._stack.enter_context(self._progress(self._task.doing, value.total))
        elif (value.total, value.key) != (first.total, first.key):
            raise RunError(
                f"{value.host} sees other {self._task.items} than {first.host} ({value.total:,} "
                f"and {first.total:,}, or other sizes and times); each machine of the cluster "
                "needs the same ones, from a file system that all share"
            )
        log.debug("actor %d is ready on %s", actor, value.host)
        self._hosts[actor] = value.host
        self._not_opened.pop(actor, None)
        self._idle.append(actor)

    def _fail(self, actor: int, value: Problem | Lost) -> None:
        """Notes a failure; an actor that is lost has to open the work again."""
        if isinstance(value, Problem):
            host = value.host
            if value.trace:
                log.debug("%s", value.trace)
        else:
            host = self._hosts.pop(actor, "a machine")
        number = self._running.pop(actor, None)
        if number is None:
            self._not_opened[actor] += 1
            if isinstance(value, Problem) or self._not_opened[actor] == TRIES:
                raise RunError(f"actor {actor} on {host} cannot begin: {value.text}")
            self._pool.call(actor, "open")
            return
        self._failures[number] += 1
        assert self._first is not None
        where = f"shard {number:06}.h5 (from {self._first.firsts[number]} on)"
        if self._failures[number] == TRIES:
            raise RunError(
                f"{self._folder}: {where} failed {TRIES} times, now in actor {actor} on {host}: "
                f"{value.text}; the finished shards stay, and {self._task.command} goes on from "
                "them"
            )
        log.warning("%s failed in actor %d on %s: %s", where, actor, host, value.text)
        self._waiting.appendleft(number)
        if isinstance(value, Lost):
            self._pool.call(actor, "open")
        else:
            self._idle.append(actor)  # behind those that have not failed
