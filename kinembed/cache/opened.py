"""Caches that are opened when they are asked for, some at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock

from kinembed.cache import EmbeddingCache

MOST = 64  # at once: a process may open some hundred files


class OpenedCaches:
    """Caches by number; those that were asked for last are open. Threads may share them."""

    def __init__(self) -> None:
        self._opened: OrderedDict[int, EmbeddingCache] = OrderedDict()
        self._lock = RLock()

    def get(self, number: int, open_one: Callable[[int], EmbeddingCache]) -> EmbeddingCache:
        """The cache of a number, opened by it if it is not open."""
        with self._lock:
            if number not in self._opened:
                self._opened[number] = open_one(number)
                if len(self._opened) > MOST:
                    self._opened.popitem(last=False)[1].close()
            self._opened.move_to_end(number)
            return self._opened[number]

    def close(self) -> None:
        """Closes those that are open."""
        with self._lock:
            while self._opened:
                self._opened.popitem()[1].close()
