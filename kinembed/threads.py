"""Threads: how many processors there are, a parallel map, and BLAS limited to one thread."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


PROC = Path("/proc/self")


class _Share:
    """How many processors others leave this process; None: all."""

    processors: int | None = None


def use_at_most(count: int) -> None:
    """Limits `processors`, for a process that shares its machine."""
    _Share.processors = count


def processors() -> int:
    """How many processors this process may use: affinity, container's quota, `use_at_most`."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    if _Share.processors is not None:
        allowed = min(allowed, _Share.processors)
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


@cache
def cpu_quota() -> float | None:
    """The processors' time that control groups of Linux grant, in processors; None: all of it.

    Version 2 says it in `cpu.max`, version 1 in `cpu.cfs_quota_us`
    (https://docs.kernel.org/admin-guide/cgroup-v2.html,
    https://docs.kernel.org/scheduler/sched-bwc.html).
    """
    quotas = []
    for group in control_groups("cpu"):
        for read in (_quota_2, _quota_1):
            with suppress(OSError, ValueError):
                time_, period = read(group)
                if time_ > 0 and period > 0:
                    quotas.append(time_ / period)
    return min(quotas, default=None)


def control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, and of those above them, whose limits hold too.

    Args:
        controller: `cpu` or `memory`.
    """
    try:
        groups = [line.split(":", 2) for line in (PROC / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (PROC / "mountinfo").read_text().splitlines()]
    except (OSError, ValueError):
        return
    for fields in mounts:  # … root, mount point, options, …, -, type, source, options of the type
        if len(fields) < 10 or "-" not in fields:
            continue
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        is_second = kind == "cgroup2"
        if not is_second and (kind != "cgroup" or controller not in options):
            continue
        for number, controllers, path in (group for group in groups if len(group) == 3):
            if number == "0" if is_second else controller in controllers.split(","):
                yield from _folders(Path(fields[4]), fields[3], path)


def _folders(mount: Path, root: str, path: str) -> Iterator[Path]:
    """A group and those above it, where `mount` shows the groups below `root`."""
    below = path.removeprefix(root.rstrip("/")).lstrip("/")
    folder = mount / below if ".." not in below.split("/") else mount
    for group in (folder, *folder.parents):
        yield group
        if group == mount:
            return


def _quota_2(group: Path) -> tuple[int, int]:
    time_, period = (group / "cpu.max").read_text().split()
    return (0 if time_ == "max" else int(time_)), int(period)


def _quota_1(group: Path) -> tuple[int, int]:
    time_, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(time_), int(period)


def limit_libraries() -> None:
    """Tells OpenMP and BLAS of the container's quota, before they are imported.

    They count the processors of the machine. What the environment says goes before.
    """
    if cpu_quota() is not None:
        for library in ("OMP", "MKL", "OPENBLAS"):
            os.environ.setdefault(f"{library}_NUM_THREADS", str(processors()))


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
