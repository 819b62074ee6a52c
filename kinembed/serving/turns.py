"""Work that one request after the other does, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK = 0.1  # seconds after which who waits looks whether anybody still waits for them


class Turns:
    """Lets one thread in at a time, who came first before the others."""

    def __init__(self) -> None:
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def mine(self, check: Callable[[], object]) -> Iterator[None]:
        """One's turn.

        Args:
            check: raises where one need wait no longer.
        """
        ticket = object()
        with self._changed:
            self._line.append(ticket)
        try:
            with self._changed:
                while self._line[0] is not ticket:
                    self._changed.wait(LOOK)
                    check()
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()
