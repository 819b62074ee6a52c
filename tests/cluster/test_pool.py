"""Shards by number: each is handed out until it is done, and a failure says what and where."""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed import __version__
from kinembed.cluster.pool import EMBEDDING, Answer, Lost, compute_shards
from kinembed.cluster.worker import Done, Opened, Problem
from kinembed.errors import RunError
from kinembed.progress import silent

FOLDER = Path("runs/x/embed.partial")


class Scripted:
    """A pool whose answers a test makes, in the order that it draws.

    Args:
        actors: how many.
        shards: how many.
        answers: what a call of an actor answers; None: all goes well.
        draw: which of the calls under way answers next.
    """

    def __init__(
        self,
        actors: int,
        shards: int,
        answers: Callable[..., Any] = lambda *_: None,
        draw: Callable[[int], int] = lambda count: 0,
    ) -> None:
        self.actors, self.shards, self.answers, self.draw = actors, shards, answers, draw
        self.under_way: list[tuple[Any, ...]] = []
        self.begun: Counter[int] = Counter()
        self.is_open = [False] * actors
        self.sealed: set[int] = set()

    def __len__(self) -> int:
        return self.actors

    def __str__(self) -> str:
        return "2 actors of 9 CPUs"

    def call(self, actor: int, method: str, *arguments: int) -> None:
        assert actor not in {call[0] for call in self.under_way}  # one call at a time
        assert self.is_open[actor] or method == "open"
        self.under_way.append((actor, method, *arguments))
        if method == "compute":
            self.begun[arguments[0]] += 1

    def answer(self, seconds: float) -> Answer | None:
        actor, method, *arguments = call = self.under_way.pop(self.draw(len(self.under_way)))
        value = self.answers(*call)
        if value is None:
            value = self.opened(actor) if method == "open" else self.done(*arguments)
        self.is_open[actor] = not isinstance(value, Lost)
        return None if value == "nothing" else Answer(actor, value)

    def opened(self, actor: int, **changes: Any) -> Opened:
        firsts = tuple(f"train/{number}.jpg" for number in range(self.shards))
        about = {"version": __version__, "total": 3 * self.shards, "key": "k", "notes": ()}
        return Opened(host=f"host{actor}", firsts=firsts, **{**about, **changes})

    def done(self, number: int) -> Done:
        was_there = number in self.sealed
        self.sealed.add(number)
        return Done(3, was_there)


@given(st.data())
def test_every_shard_is_done_whoever_answers_first_and_whatever_dies(data: st.DataObject) -> None:
    shards = data.draw(st.integers(0, 12))
    failures: Counter[int] = Counter()

    def answers(actor: int, method: str, *arguments: int) -> object:
        if method == "open" or failures[arguments[0]] == 2:
            return None
        kind = data.draw(st.sampled_from([None, None, Lost("killed"), Problem("h", "broken")]))
        failures[arguments[0]] += kind is not None
        return kind

    pool = Scripted(
        data.draw(st.integers(1, 4)), shards, answers, lambda n: data.draw(st.integers(0, n - 1))
    )
    told: list[int] = []

    @contextmanager
    def progress(label: str, total: int) -> Any:
        assert total == 3 * shards

        class Bar:
            def advance(self, count: int, note: str = "") -> None:
                told.append(count)

        yield Bar()

    assert compute_shards(pool, FOLDER, EMBEDDING, progress)
    assert pool.sealed == set(range(shards))
    assert told == [3] * shards
    assert pool.begun == {number: 1 + failures[number] for number in range(shards)}


def test_a_shard_that_fails_three_times_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    def answers(actor: int, method: str, *arguments: int) -> object:
        return Problem(f"host{actor}", "train/4.jpg: no photo") if arguments == (4,) else None

    pool = Scripted(2, 9, answers)
    message = (
        r"embed.partial: shard 000004.h5 \(from train/4.jpg on\) failed 3 times, now in actor \d on "
        r"host\d: train/4.jpg: no photo; the finished shards stay"
    )
    with pytest.raises(RunError, match=message):
        compute_shards(pool, FOLDER, EMBEDDING, silent)
    assert pool.begun[4] == 3
    assert caplog.text.count("shard 000004.h5 (from train/4.jpg on) failed in actor") == 2


def test_a_lost_actor_opens_the_work_again_before_it_gets_a_number() -> None:
    lost = iter([True])

    def answers(actor: int, method: str, *arguments: int) -> object:
        return Lost("killed") if method == "compute" and next(lost, False) else None

    pool = Scripted(1, 3, answers)  # whose `call` holds it to that
    assert compute_shards(pool, FOLDER, EMBEDDING, silent)
    assert pool.begun == {0: 2, 1: 1, 2: 1}


@pytest.mark.parametrize(
    ("value", "message", "times"),
    [
        (Problem("host1", "it does not see runs/x"), "actor 1 on host1 cannot begin: it does", 1),
        (Lost("no such module"), "actor 1 on a machine cannot begin: no such module", 3),
        ({"version": "0.0"}, "host1 has kinembed 0.0, and this is", 1),
        ({"key": "other"}, "host1 sees other photos than host0", 1),
        ({"total": 5}, r"host1 sees other photos than host0 \(5 and 9, or", 1),
    ],
)
def test_an_actor_that_cannot_begin_or_sees_other_photos_ends_it(
    value: Any, message: str, times: int
) -> None:
    opened = 0

    def answers(actor: int, method: str, *arguments: int) -> object:
        nonlocal opened
        if (actor, method) != (1, "open"):
            return None if method == "open" else Problem("host0", "waits")
        opened += 1
        return pool.opened(1, **value) if isinstance(value, dict) else value

    pool = Scripted(2, 3, answers)
    with pytest.raises(RunError, match=message):
        compute_shards(pool, FOLDER, EMBEDDING, silent)
    assert opened == times


def test_a_pool_without_room_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    silence = 3

    def answers(actor: int, method: str, *arguments: int) -> object:
        nonlocal silence
        silence -= 1
        if silence < 0:
            return None
        pool.under_way.append((actor, method, *arguments))
        return "nothing"

    pool = Scripted(1, 2, answers)
    assert compute_shards(pool, FOLDER, EMBEDDING, silent)
    assert caplog.messages.count("no actor has started yet: 2 actors of 9 CPUs") == 1


def test_another_process_may_have_joined_the_shards() -> None:
    pool = Scripted(1, 2, lambda _, method, *__: Done(None, False) if method == "compute" else None)
    assert not compute_shards(pool, FOLDER, EMBEDDING, silent)
