"""Files written whole or not at all, alone and together: rights, links, devices, sweeping, locks."""

import csv
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed import io
from kinembed.errors import RunError, WriteError
from kinembed.io import (
    check_writable,
    lock,
    locked,
    make_folder,
    moved_together,
    read_csv,
    remove,
    replaced_files,
    share_files,
    write_bytes,
    write_csv,
    written_beside,
)

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
WAIT = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from kinembed.io import written_beside
with written_beside(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""
ADD = """
import sys
from contextlib import contextmanager
from pathlib import Path
from kinembed.io import moved_together, write_bytes
path = Path(sys.argv[1])
for _ in range(25):
    with moved_together(path.parent):
        write_bytes(path, path.read_bytes() + b"x")
"""


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    share_files(False)  # whatever a command before was told
    yield
    os.umask(before)
    share_files(False)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Rights


def test_new_files_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "runs" / "default" / "head.h5", b"1")
    assert [mode(each) for each in (path, *path.parents[:2])] == [0o600, 0o700, 0o700]


def test_shared_ones_are_as_the_umask_says(tmp_path: Path) -> None:
    share_files(True)
    path = write_bytes(tmp_path / "runs" / "head.h5", b"1")
    assert (mode(path), mode(path.parent)) == (0o644, 0o755)
    os.umask(0o077)
    assert mode(write_bytes(tmp_path / "own.h5", b"1")) == 0o600


@pytest.mark.parametrize("standing", [0o600, 0o640, 0o644, 0o664, 0o400])
@pytest.mark.parametrize("shared", [False, True])
def test_what_stands_keeps_its_rights(tmp_path: Path, standing: int, shared: bool) -> None:
    share_files(shared)
    path, folder = tmp_path / "run" / "head.h5", tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o750)
    path.write_bytes(b"1")
    path.chmod(standing)
    write_bytes(path, b"2")
    assert (path.read_bytes(), mode(path), mode(folder)) == (b"2", standing, 0o750)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
def test_what_stands_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "head.h5"
    path.write_bytes(b"1")
    os.chown(path, 1234, 1235)
    write_bytes(path, b"2")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def test_rights_of_a_group_that_cannot_be_given_are_not_given_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head.h5"
    path.write_bytes(b"1")
    path.chmod(0o664)
    own = os.fstat

    class Other:
        def __init__(self, number: int) -> None:
            self.about = own(number)
            self.st_uid, self.st_gid = self.about.st_uid + 1, self.about.st_gid + 1

        def __getattr__(self, name: str) -> object:
            return getattr(self.about, name)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fstat", Other)
    monkeypatch.setattr(os, "fchown", refuse)
    write_bytes(path, b"2")
    assert mode(path) == 0o604


def test_while_it_is_written_nobody_else_can_read_it(tmp_path: Path) -> None:
    with written_beside(tmp_path / "head.h5"):
        (beside,) = tmp_path.iterdir()
        assert mode(beside) == 0o600


# Links


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    run.mkdir()
    (disk / "big.h5").write_bytes(b"1")
    (disk / "big.h5").chmod(0o640)
    (run / "second").symlink_to("../disk/big.h5")
    (run / "embeddings.h5").symlink_to("second")
    with written_beside(run / "embeddings.h5") as file:
        file.write(b"2")
        assert names(run) == ["embeddings.h5", "second"]  # beside what it leads to
    assert (run / "embeddings.h5").is_symlink() and (run / "second").is_symlink()
    assert ((disk / "big.h5").read_bytes(), mode(disk / "big.h5")) == (b"2", 0o640)
    assert names(disk) == ["big.h5"]


def test_a_link_that_leads_nowhere_yet_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new.h5")
    write_bytes(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink() and mode(tmp_path / "new.h5") == 0o600


def test_links_that_cannot_be_written_through_are_named(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("not/mounted/x.h5")
    with pytest.raises(WriteError, match=r"gone: .*link to .*x\.h5, whose folder does not exist"):
        write_bytes(tmp_path / "gone", b"1")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(WriteError, match="loop: .*symbolic links"):
        write_bytes(tmp_path / "loop", b"1")
    assert names(tmp_path) == ["gone", "loop"]


# Devices


def test_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    write_bytes(Path("/dev/null"), b"1")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "link").symlink_to("/dev/null")
    write_bytes(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(WriteError, match=r"/dev/full: cannot be written \(No space left"):
        write_bytes(Path("/dev/full"), b"1")


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"scores")
    reader.join(30)
    assert received == [b"scores"] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_that_is_a_file_is_written_to_where_it_stands(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    out = tmp_path / "out"
    with out.open("wb") as file:
        file.write(b"before ")
        file.flush()
        write = "import sys; from pathlib import Path; from kinembed.io import write_bytes; "
        write += f"write_bytes(Path({name!r}), b'scores '); print('after', end='')"
        subprocess.run([sys.executable, "-c", write], stdout=file, cwd=tmp_path, check=True)
    assert out.read_bytes() == b"before scores after"


# Temporary files


def test_temporary_names_cannot_be_foreseen_nor_opened_by_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for _ in range(8):
        with written_beside(tmp_path / "head.h5"):
            (beside,) = (path.name for path in tmp_path.glob(".*"))
            seen.add(beside)
    assert len(seen) == 8
    other = tmp_path / "other"
    other.write_bytes(b"another's")
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)
    (tmp_path / f".head.h5.{io._kernel()}-{'0' * 16}.tmp").symlink_to(other)
    with pytest.raises(WriteError, match="File exists"):
        write_bytes(tmp_path / "head.h5", b"mine")
    assert other.read_bytes() == b"another's"


def test_a_long_name_of_letters_of_several_bytes_can_be_written(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / ("ü" * 127), b"1")
    assert path.read_bytes() == b"1"


@pytest.mark.skipif(not io._kernel(), reason="sweeps nothing where a system has no name")
def test_only_what_a_killed_process_of_this_system_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "head.h5"
    kept = [
        f".head.h5.{'0' * 12}-{'1' * 16}.tmp",  # of another system, or before a restart
        f".head.h5.{io._kernel()}-{'1' * 15}.tmp",  # no name of ours
        f".head.h5.{io._kernel()}-{'2' * 16}.tmp",  # a link
        ".head.h5.host.123.tmp",
    ]
    for name in kept:
        (tmp_path / name).write_bytes(b"another's")
    (tmp_path / kept[2]).unlink()
    (tmp_path / kept[2]).symlink_to(path)
    with writing(path) as alive, writing(path) as killed:
        temporary = set(names(tmp_path)) - set(kept)
        assert len(temporary) == 2
        killed.kill()
        killed.wait()
        write_bytes(path, b"1")
        assert len(temporary & set(names(tmp_path))) == 1
        alive.kill()
    write_bytes(tmp_path / "another", b"1")  # whatever is written
    assert names(tmp_path) == sorted([*kept, "another", path.name])


def test_a_file_system_without_locks_is_never_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / f".head.h5.{io._kernel()}-{'1' * 16}.tmp"
    stale.write_bytes(b"perhaps another's")
    without_locks(monkeypatch)
    write_bytes(tmp_path / "head.h5", b"1")
    assert names(tmp_path) == sorted([stale.name, "head.h5"])


# Several files together


def test_files_move_together_in_order_when_all_are_written(tmp_path: Path) -> None:
    run, before = tmp_path / "run", len(replaced_files())
    for name in ("a", "head.h5", "old"):
        write_bytes(run / name, b"1")
    with moved_together(run):
        write_bytes(run / "a", b"2")
        remove(run / "old")
        remove(run / "missing")
        with moved_together(run):
            write_bytes(run / "head.h5", b"2")
        assert {(run / name).read_bytes() for name in ("a", "head.h5", "old")} == {b"1"}
    assert [(run / name).read_bytes() for name in ("a", "head.h5")] == [b"2", b"2"]
    assert names(run) == ["a", "head.h5"]
    moved = [path.name for path in replaced_files()[before + 3 :]]
    assert moved == ["a", "old", "head.h5"]


@pytest.mark.parametrize("failure", [OSError(28, "x"), KeyboardInterrupt(), RunError("x")])
def test_if_one_fails_none_is_moved(tmp_path: Path, failure: BaseException) -> None:
    for name in ("a", "b"):
        write_bytes(tmp_path / name, b"1")
    with pytest.raises((WriteError, type(failure))), moved_together(tmp_path):
        write_bytes(tmp_path / "a", b"2")
        remove(tmp_path / "b")
        with written_beside(tmp_path / "c"):
            raise failure
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "a").read_bytes() == b"1"


def test_a_folder_in_the_place_of_one_of_them_is_found_before_any_is_moved(tmp_path: Path) -> None:
    (tmp_path / "head.h5").mkdir()
    with pytest.raises(WriteError, match="Is a directory"), moved_together(tmp_path):
        write_bytes(tmp_path / "a", b"2")
        write_bytes(tmp_path / "head.h5", b"2")
    assert names(tmp_path) == ["head.h5"]


def test_an_interruption_waits_until_all_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.replace

    def replace(*paths: Path) -> None:
        own(*paths)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), moved_together(tmp_path):
        write_bytes(tmp_path / "a", b"2")
        write_bytes(tmp_path / "b", b"2")
    assert names(tmp_path) == ["a", "b"]


def test_of_processes_that_read_and_write_together_none_loses_what_another_wrote(
    tmp_path: Path,
) -> None:
    path = write_bytes(tmp_path / "log", b"")
    workers = [subprocess.Popen([sys.executable, "-c", ADD, str(path)]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert path.read_bytes() == b"x" * 100 and names(tmp_path) == ["log"]


def test_places_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "run" / "a", Path("/dev/null"))
    assert names(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="Is a directory"):
        check_writable(tmp_path / "b", tmp_path / "folder")
    with pytest.raises(WriteError, match="folder/a: cannot be written"), monkeypatch.context() as m:
        m.setattr(os, "access", lambda *_: False)
        check_writable(tmp_path / "folder" / "a")
    with pytest.raises(WriteError, match="file/a: cannot be written"):
        check_writable(tmp_path / "file" / "a")


# Locks


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_locked_file_is_refused_to_others_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = [sys.executable, "-c", TRY, str(path)]
    with path.open("w") as file:
        lock(file, RunError("not taken"))
        refused = subprocess.run(other, capture_output=True, text=True)
        assert (refused.returncode, refused.stderr) == (1, "taken\n")
    with locked(path, RunError("not taken")):
        assert subprocess.run(other, capture_output=True).returncode == 1
        with pytest.raises(RunError, match="taken"), locked(path, RunError("taken")):
            pass
    assert subprocess.run(other).returncode == 0


def test_a_lock_is_never_opened_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("other")
    with pytest.raises(WriteError, match="lock: "), locked(tmp_path / "lock", RunError("taken")):
        pass
    (tmp_path / ".lock").symlink_to("other")
    with pytest.raises(WriteError, match="lock: "), moved_together(tmp_path):
        pass
    assert not (tmp_path / "other").exists()


def test_a_file_system_without_locks_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    with (tmp_path / "lock").open("w") as file:
        lock(file, RunError("taken"))
    with moved_together(tmp_path):
        write_bytes(tmp_path / "a", b"1")
    assert names(tmp_path) == ["a", "lock"]


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in the middle of writing a file."""
    command = [sys.executable, "-c", WAIT, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield process
        finally:
            process.kill()


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


# Tables


cells = st.text("=+-@'\t\rx1.,\"\né", max_size=6) | st.sampled_from(["-0.5", "+1", "1e5", "=1+1"])


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_no_cell_of_a_table_is_a_formula_and_all_are_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    write_csv(path, [{"a": a, "b": b} for a, b in rows])
    with path.open(newline="", encoding="utf-8") as file:
        _, *written = csv.reader(file)
    for text in (text for row in written for text in row):
        if text[:1] in ("=", "+", "-", "@", "\t", "\r"):
            float(text)  # a number
    wanted = [{"a": a.replace("\r", "\n"), "b": b.replace("\r", "\n")} for a, b in rows]
    assert read_csv(path) == (["a", "b"], wanted)
