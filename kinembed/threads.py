"""Threads: how many processors there are, a parallel map, and BLAS limited to one thread."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Blas:
    """The state of `one_blas_thread`: how many callers limit BLAS now."""

    lock = Lock()
    callers = 0
    controller: Any = None
    limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limits BLAS to the calling thread, so that it does not compete with our own threads.

    Several threads may ask for this at once; the last one to finish restores BLAS's threads.
    """
    with _Blas.lock:
        if _Blas.callers == 0:
            if _Blas.controller is None:
                from threadpoolctl import ThreadpoolController  # imported only where BLAS is used

                _Blas.controller = ThreadpoolController()
            _Blas.limit = _Blas.controller.limit(limits=1, user_api="blas")
        _Blas.callers += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.callers -= 1
            if _Blas.callers == 0:
                _Blas.limit.restore_original_limits()


def parallel_map(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> list[Result]:
    """The results of `work` for each item, in order, computed by several threads.

    The first error stops the work and is raised.
    """
    if threads <= 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # imported only where threads are used

    with ThreadPoolExecutor(threads) as pool:
        futures: list[Any] = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Stopwatch:
    """Seconds of work, summed over threads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the seconds of its `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - start
