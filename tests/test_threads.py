"""Processors and stopwatches."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kinembed import threads
from kinembed.threads import Stopwatch, processors


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of `/`, with eight processors, without control groups."""
    monkeypatch.setattr(threads, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    threads.cpu_quota.cache_clear()
    yield tmp_path
    threads.cpu_quota.cache_clear()


def build(container: Path, groups: str, mounts: str, files: dict[str, str]) -> int:
    """Writes control groups; returns the processors that are counted."""
    for name, text in {"proc/cgroup": groups, "proc/mountinfo": mounts, **files}.items():
        (container / name).parent.mkdir(parents=True, exist_ok=True)
        (container / name).write_text(text.replace("HERE", str(container)))
    threads.cpu_quota.cache_clear()
    return processors()


SECOND = "30 1 0:26 / HERE/cg rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
FIRST = (
    "29 1 0:25 / HERE/cg rw - tmpfs tmpfs rw,mode=755\n"
    "31 1 0:27 /docker/a1 HERE/cg/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "32 1 0:28 / HERE/cg/memory ro - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("maximum", "count"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1),
     ("6400000 100000", 8), ("", 8), ("two", 8), ("-1 100000", 8), ("100000 0", 8)],
)  # fmt: skip
def test_the_quota_of_a_container_counts(container: Path, maximum: str, count: int) -> None:
    assert build(container, "0::/\n", SECOND, {"cg/cpu.max": f"{maximum}\n"}) == count


def test_the_quota_of_each_group_above_counts(container: Path) -> None:
    files = {"cg/a/b/cpu.max": "max 100000\n", "cg/a/cpu.max": "300000 100000\n",
             "cg/a/b/c/cpu.max": "500000 100000\n", "cg/d/cpu.max": "100000 100000\n"}  # fmt: skip
    assert build(container, "0::/a/b/c\n", SECOND, files) == 3


def test_the_quota_of_the_first_version_counts(container: Path) -> None:
    groups = "5:memory:/docker/a1\n4:cpu,cpuacct:/docker/a1/inner\n0::/docker/a1\n"
    cpu = "cg/cpu,cpuacct"
    files = {f"{cpu}/cpu.cfs_quota_us": "250000\n", f"{cpu}/cpu.cfs_period_us": "50000\n"}
    assert build(container, groups, FIRST, files) == 5
    inner = {f"{cpu}/inner/cpu.cfs_quota_us": "-1", f"{cpu}/inner/cpu.cfs_period_us": "50000"}
    assert build(container, groups, FIRST, inner) == 5
    inner[f"{cpu}/inner/cpu.cfs_quota_us"] = "100000"
    assert build(container, groups, FIRST, inner) == 2


@pytest.mark.parametrize(
    "text", ["", "\n\n", "0::\n:", "a b c - d e f\n" * 9, "\x00:\xff:/../..\n"]
)
def test_what_is_not_understood_is_no_quota(container: Path, text: str) -> None:
    assert processors() == 8  # there is nothing
    assert build(container, text, text, {}) == 8
    assert build(container, "0::/../../x\n", SECOND, {"cpu.max": "100000 100000\n"}) == 8


def test_libraries_are_told_of_a_quota_unless_the_environment_says_otherwise(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP", "MKL", "OPENBLAS"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "")
        monkeypatch.delenv(f"{name}_NUM_THREADS")
    threads.limit_libraries()
    assert "OMP_NUM_THREADS" not in os.environ
    build(container, "0::/\n", SECOND, {"cg/cpu.max": "200000 100000\n"})
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    threads.limit_libraries()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("2", "7")


def test_only_the_processors_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


def test_a_stopwatch_sums_what_threads_take_even_where_they_fail() -> None:
    watch = Stopwatch()

    def work(number: int) -> None:
        with watch.running():
            time.sleep(0.02)
            if number == 2:
                raise ValueError

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
    assert [future.exception() is not None for future in futures] == [False, False, True, False]
    assert 0.08 <= watch.seconds < 4
