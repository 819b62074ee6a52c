"""Caches that are opened when they are asked for."""

from typing import Any

import pytest

from kinembed.cache import opened
from kinembed.cache.opened import OpenedCaches


class Cache:
    def __init__(self, number: int) -> None:
        self.number, self.is_open = number, True

    def close(self) -> None:
        self.is_open = False


def test_those_that_were_asked_for_last_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MOST", 2)
    made: list[Cache] = []

    def open_one(number: int) -> Any:
        made.append(Cache(number))
        return made[-1]

    caches = OpenedCaches()
    for number in (0, 1, 0, 2, 0, 1):
        assert caches.get(number, open_one).number == number
    assert [each.number for each in made] == [0, 1, 2, 1]
    assert [each.is_open for each in made] == [True, False, False, True]
    caches.close()
    assert not any(each.is_open for each in made)
    assert caches.get(0, open_one).is_open and len(made) == 5
