"""Limits on what reading a file may cost."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_memory(most: int) -> Iterator[None]:
    """Within it, this process gets at most so many more bytes of memory, where Linux can say so.

    Beyond, allocations fail (`MemoryError`, and what libraries make of it), for all threads. So it
    is for files that are read before threads work.

    Args:
        most: bytes.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * resource.getpagesize() + most
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def end_after(seconds: int) -> None:
    """Has the kernel end this process after some time; 0: no more. Not on Windows."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)


def end_with(parent: int, most: int) -> None:
    """Has the kernel end this process with its parent, and limits its memory, where Linux can.

    Args:
        parent: process number.
        most: bytes beyond what it has.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import resource

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:  # it ended before it could take this process with it
        os._exit(1)
