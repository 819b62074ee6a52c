"""Locks: one process at a time, for as long as the file is open."""

import subprocess
import sys
from pathlib import Path

import pytest

from kinembed.errors import RunError
from kinembed.io import lock

TRY = """
import sys
from kinembed.errors import RunError
from kinembed.io import lock
with open(sys.argv[1], "a") as file:
    try:
        lock(file, RunError("taken"))
    except RunError as error:
        sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_locked_file_is_refused_to_others_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = [sys.executable, "-c", TRY, str(path)]
    with path.open("w") as file:
        lock(file, RunError("not taken"))
        refused = subprocess.run(other, capture_output=True, text=True)
        assert (refused.returncode, refused.stderr) == (1, "taken\n")
    assert subprocess.run(other).returncode == 0


def test_a_file_system_without_locks_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("w") as file:
        lock(file, RunError("taken"))
    assert (tmp_path / "lock").is_file()


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    import os
    import stat
    import threading

    from kinembed.io import write_bytes

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"scores")
    reader.join(30)
    assert received == [b"scores"] and stat.S_ISFIFO(pipe.stat().st_mode)
