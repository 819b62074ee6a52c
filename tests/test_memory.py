"""Free memory, by the machine and by its container."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kinembed import memory, threads
from kinembed.memory import (
    LARGEST_KEPT,
    free_memory,
    lasting_memory,
    reused_memory,
    total_memory,
)

FIRST = "5:memory:/docker/a1\n0::/\n"
SECOND = "0::/a\n"
MOUNTS = (
    "30 1 0:26 / HERE/two rw shared:9 - cgroup2 cgroup2 rw\n"
    "32 1 0:28 /docker HERE/one ro - cgroup cgroup rw,memory\n"
)


def container(folder: Path, monkeypatch: pytest.MonkeyPatch, groups: str, **files: str) -> None:
    for name, text in {"cgroup": groups, "mountinfo": MOUNTS, **files}.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("HERE", str(folder)))
    monkeypatch.setattr(threads, "PROC", folder)
    monkeypatch.setattr(memory, "MEMINFO", folder / "meminfo")


def test_the_machines_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container(tmp_path, monkeypatch, "", meminfo="MemFree: 1 kB\nMemAvailable: 4000 kB\n")
    assert free_memory() == 4000 << 10
    total = total_memory()
    assert total is not None and total > 1 << 20


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (SECOND, {"two__a__memory-max": "max", "two__memory-max": "5000",
                  "two__memory-current": "3000", "two__memory-stat": "inactive_file 500\n"}),
        (FIRST, {"one__a1__memory-limit_in_bytes": "5000", "one__a1__memory-usage_in_bytes": "3000",
                 "one__a1__memory-stat": "cache 9\ntotal_inactive_file 500\n"}),
    ],
)  # fmt: skip
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str]
) -> None:
    container(tmp_path, monkeypatch, groups, meminfo="MemAvailable: 4000 kB\n", **files)
    assert (free_memory(), total_memory()) == (2500, 5000)


def test_what_is_not_understood_is_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"two__a__memory-max": "two", "two__memory-max": "1", "meminfo": "MemAvailable: kB\n"}
    container(tmp_path, monkeypatch, SECOND, **files)
    free, total = free_memory(), total_memory()
    assert free is not None and total is not None and free > 1 << 20


@pytest.fixture(autouse=True)
def nobody_is_inside() -> Iterator[None]:
    """Other tests of this process may keep an embedding open, and with it the memory."""
    uses = memory._uses
    memory._use(-uses)
    yield
    memory._use(uses)


needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc"
)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody of this process, such as another test's server, is within `reused_memory`."""
    monkeypatch.setattr(memory, "_uses", 0)


@needs_glibc
@pytest.mark.usefixtures("unused")
def test_what_is_freed_is_reused_and_given_back_at_the_end() -> None:
    import resource

    def pages_of_another(size: int = 64 << 20) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(size, np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert pages_of_another() > 20  # at least: a page may have two megabytes
    with reused_memory():
        with reused_memory():  # whose end changes nothing
            pages_of_another()
        assert pages_of_another() < 20
        held = resident()
    assert resident() < held - (32 << 20)
    pages_of_another()
    assert pages_of_another() > 20


@needs_glibc
@pytest.mark.usefixtures("unused")
def test_who_is_inside_keeps_the_memory_that_another_one_leaves() -> None:
    import resource

    def pages_of_others(size: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.ones(size, np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with reused_memory(1 << 20):
        with reused_memory():
            pages_of_others(1 << 19)
        assert pages_of_others(1 << 19) < 8  # it was not trimmed
        assert pages_of_others(64 << 20) >= 4 * 32  # what is larger is given back at once
        assert memory._uses == 1
    assert memory._uses == 0


@needs_glibc
@pytest.mark.usefixtures("unused")
def test_a_process_without_an_end_gives_back_what_lies_between_blocks_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scattered() -> int:
        """Bytes that stay with this process when every second block is freed."""
        before = resident()
        blocks = [np.ones(1 << 20, np.uint8) for _ in range(64)]
        del blocks[::2]
        deadline = time.monotonic() + 0.2
        while resident() > before + (40 << 20) and time.monotonic() < deadline:
            time.sleep(0.01)
        return resident() - before

    with reused_memory(LARGEST_KEPT):
        assert scattered() > 48 << 20
    monkeypatch.setattr(memory, "TRIM_SECONDS", 0.01)
    with lasting_memory():
        assert scattered() < 48 << 20


THREAD = """
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from kinembed.memory import reused_memory

def pages():
    counts = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        np.ones(100 << 20, np.uint8)
        counts.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    return counts[1]

with {context}(), ThreadPoolExecutor(1) as pool:
    print(pool.submit(pages).result())
"""


@needs_glibc
@pytest.mark.parametrize("context", ["reused_memory", "nullcontext"])
def test_a_thread_reuses_what_is_larger_than_an_arena_of_its_own(context: str) -> None:
    code = THREAD.format(context=context)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages = int(done.stdout)
    assert (pages < 40) == (context == "reused_memory")


FORKED = """
import os, signal, threading, time

from kinembed import memory

held = threading.Event()

def hold():
    with memory._lock:
        held.set()
        time.sleep(0.1)

threading.Thread(target=hold).start()
held.wait()
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(5)
    with memory.reused_memory():
        os._exit(0)
"""


@needs_glibc
def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
