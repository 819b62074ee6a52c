"""How many threads share the work, and how long they take."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopwatch:
    """Seconds that a piece of work takes, summed over the threads that do it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the seconds until it ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - start
