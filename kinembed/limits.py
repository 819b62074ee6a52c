"""Limits on what reading a file may cost."""

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
