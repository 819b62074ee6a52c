"""Processors and stopwatches."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kinembed.threads import Stopwatch, processors


def test_only_the_processors_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


def test_a_stopwatch_sums_what_threads_take_even_where_they_fail() -> None:
    watch = Stopwatch()

    def work(number: int) -> None:
        with watch.running():
            time.sleep(0.02)
            if number == 2:
                raise ValueError

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
    assert [future.exception() is not None for future in futures] == [False, False, True, False]
    assert 0.08 <= watch.seconds < 4
