"""The memory that this process may still take, and how it keeps what it frees."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kinembed.threads import control_groups

MEMINFO = Path("/proc/meminfo")
# Parameters of glibc's `mallopt`: https://man7.org/linux/man-pages/man3/mallopt.3.html
# With the values that a process ends up with whose memory glibc adjusts by itself, which it no
# longer does after any call of `mallopt`.
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 64 << 20
M_MMAP_THRESHOLD, MMAP_THRESHOLD = -3, 32 << 20
M_MMAP_MAX, MMAP_MAX = -4, 65_536
M_ARENA_MAX = -8
# Of a server: feature maps of a photo are smaller, and photos decoded or on their way are larger.
LARGEST_KEPT = 4 << 20
TRIM_SECONDS = 10.0


def total_memory() -> int | None:
    """Bytes of memory of the machine, or of the container if that is less; None if unknown."""
    sizes = [limit for limit, _ in _limits()]
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=None)


def free_memory() -> int | None:
    """Bytes that are free, or can be freed without swapping; None if the system does not say it."""
    sizes = [max(0, limit - used) for limit, used in _limits()]
    with suppress(ValueError, OSError, IndexError):
        lines = MEMINFO.read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(1024 * int(available.split()[1]), *sizes, 1 << 62)
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=None)


_uses = 0  # of `reused_memory` at present
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child would wait for a thread that it does not have
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@contextmanager
def reused_memory(largest: int | None = None) -> Iterator[None]:
    """Within it, what this process frees stays its own until the end, where glibc has its memory.

    Else every layer of a network asks the system for the memory of its feature maps, and gets it
    page by page, as zeros. All threads take from one arena: those that glibc makes for further
    threads hold blocks of less than 64 MiB only. This limit of arenas is not undone in the end, as
    glibc reads it once, and does not move threads that have taken memory before.

    Of several at a time, one within another or in several threads, the first decides what is kept
    and the last ends it.

    Args:
        largest: bytes of a block, 32 MiB at most, above which it is given back at once; None: none
            is.
    """
    _use(1, largest)
    try:
        yield
    finally:
        _use(-1)


def _use(change: int, largest: int | None = None) -> None:
    global _uses
    with _lock:
        before, _uses = _uses, _uses + change
        libc = _glibc()
        if (before > 0) == (_uses > 0) or libc is None:
            return
        if not _uses:
            libc.mallopt(M_MMAP_MAX, MMAP_MAX)
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
            libc.malloc_trim(0)
            return
        if largest is None:
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)
        else:
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
            libc.mallopt(M_MMAP_THRESHOLD, largest)
        libc.mallopt(M_ARENA_MAX, 1)


@contextmanager
def lasting_memory() -> Iterator[None]:
    """As `reused_memory`, for a process that has no end: it gives back what is free now and then.

    Large blocks are given back at once. Small ones lie between those in use, and more and more of
    them would be kept.
    """
    libc, ended = _glibc(), threading.Event()

    def trim(libc: ctypes.CDLL) -> None:
        while not ended.wait(TRIM_SECONDS):
            libc.malloc_trim(0)

    with reused_memory(LARGEST_KEPT):
        if libc is not None:
            threading.Thread(target=trim, args=(libc,), name="memory", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None


def _limits() -> list[tuple[int, int]]:
    """The limits of control groups, and what of each is used, without the files' cache."""
    found = []
    for group in control_groups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # `max` is no number: there is no limit
                most = int((group / limit).read_text())
                used = int((group / usage).read_text())
                for line in (group / "memory.stat").read_text().splitlines():
                    if line.startswith(f"{cache} "):
                        used -= int(line.split()[1])
                if most < 1 << 60:
                    found.append((most, max(0, used)))
    return found
