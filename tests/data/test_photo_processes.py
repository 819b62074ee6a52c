"""Photos read by processes: what threads would find, and no process that outlives the command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.backbones import Framing
from kinembed.data import photo_processes
from kinembed.data.photo_processes import Found, Job, PhotoProcesses, read_photos
from kinembed.errors import DataError, KinembedError

FRAMINGS = (Framing(side=8, inner=8), Framing(side=12, inner=10, top=-1, left=2))


@pytest.fixture
def processes() -> Iterator[PhotoProcesses]:
    each = PhotoProcesses()
    yield each
    each.close()


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Photos in two frames, among them one that is none, one that is missing and an odd name."""
    rng = np.random.default_rng(0)
    jobs = []
    for number, name in enumerate(("a.png", "no photo.jpg", "missing.png", "\udcff é\n.png")):
        path = tmp_path / name
        if number == 1:
            path.write_text("no photo")
        elif number != 2:
            Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(path, "PNG")
        jobs.append((path, FRAMINGS[number % 2]))
    return jobs


def test_processes_find_what_threads_find(processes: PhotoProcesses, jobs: list[Job]) -> None:
    for _ in range(2):  # a process is asked again
        found = processes.read(jobs)
        wanted = list(read_photos(jobs, lambda digest: False))
        assert len(found) == len(wanted) == 4
        for ours, theirs in zip(found, wanted, strict=True):
            if isinstance(theirs, DataError):
                assert isinstance(ours, DataError) and str(ours) == str(theirs)
            else:
                assert not isinstance(ours, DataError) and ours[0] == theirs[0]
                assert np.array_equal(ours[1], theirs[1])
    assert [isinstance(each, DataError) for each in found] == [False, True, True, False]
    assert np.shares_memory(found[0][1].base, found[3][1])  # type: ignore[index,union-attr]
    assert len(processes._all) == 1


def test_what_nobody_waits_for_is_taken_for_no_other_photo(
    processes: PhotoProcesses, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Found:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(photo_processes, "_answer", interrupted)
        processes.read(jobs)
    assert not processes._all
    (found,) = processes.read(jobs[3:])
    assert not isinstance(found, DataError) and found[1] is not None
    assert found[1].shape == (12, 12, 3)


def test_threads_that_come_later_ask_the_same_processes(
    processes: PhotoProcesses, jobs: list[Job]
) -> None:
    for _ in range(3):  # an actor makes new threads for each of its shards
        with ThreadPoolExecutor(1) as thread:
            assert len(thread.submit(lambda: processes.read(jobs)).result()) == 4
    assert len(processes._all) == 1


def test_pixels_of_known_files_are_not_decoded(jobs: list[Job]) -> None:
    digest, _ = next(read_photos(jobs[:1], lambda digest: False))  # type: ignore[misc]
    assert list(read_photos(jobs[:1], {digest}.__contains__)) == [(digest, None)]


def test_a_process_that_was_killed_is_one_line(processes: PhotoProcesses, jobs: list[Job]) -> None:
    processes.read(jobs[:1])
    processes._all[0].kill()
    processes._all[0].wait()
    with pytest.raises(KinembedError, match=r"a\.png: the process that reads .* ended with -9"):
        processes.read(jobs[:1])


def test_no_process_is_left_after_closing(jobs: list[Job]) -> None:
    processes = PhotoProcesses()
    processes.read(jobs[:1])
    child = processes._all[0]
    processes.close()
    assert child.returncode is not None


PARENT = """
import sys, time
from pathlib import Path
from kinembed.backbones import Framing
from kinembed.data.photo_processes import PhotoProcesses
processes = PhotoProcesses()
processes.read([(Path(sys.argv[1]), Framing(side=8, inner=8))])
print(processes._all[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_no_process_is_left_when_the_command_is_killed(jobs: list[Job]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(jobs[0][0])], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} still runs")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
