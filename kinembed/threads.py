"""How many threads the work is shared among."""

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
    """BLAS's own threads, limited while anybody asks for it."""

    lock = Lock()
    asking = 0
    controller: Any = None
    limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps BLAS to the thread that calls it, where each of several threads has work of its own.

    Several threads may ask for it at once; the last to leave gives BLAS its threads back.
    """
    with _Blas.lock:
        if _Blas.asking == 0:
            if _Blas.controller is None:
                from threadpoolctl import ThreadpoolController  # what needs no BLAS does without

                _Blas.controller = ThreadpoolController()
            _Blas.limit = _Blas.controller.limit(limits=1, user_api="blas")
        _Blas.asking += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.asking -= 1
            if _Blas.asking == 0:
                _Blas.limit.restore_original_limits()


def share(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """The results of work on each item, in order, computed by so many threads.

    The first error ends the work and is raised.
    """
    if threads <= 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # little work does without it

    with ThreadPoolExecutor(threads) as pool:
        futures: list[Any] = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
