"""Writing files so that a reader sees the old one or the new one, never a half."""

import hashlib
import io
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kinembed.errors import KinembedError, WriteError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved to `path` at the end, removed on any exception.

    Raises:
        WriteError: it cannot be written: a full disk, a missing right.
    """
    here = f".{path.name}.{platform.node()}."  # process numbers count on one machine
    beside = path.with_name(f"{here}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent, here)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise WriteError(
            f"{path}: cannot be written ({reason}); what was there is untouched; make room, or "
            "name another folder with --run"
        ) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def lock(file: IO[Any], taken: KinembedError) -> None:
    """Keeps an open file for this process until it is closed, where the system can.

    Args:
        file: what to lock.
        taken: raised where another process has it.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        except OSError:  # a file system without locks
            pass


def _sweep(folder: Path, start: str) -> None:
    """Removes what killed processes were writing."""
    for stale in list(folder.iterdir()):
        if stale.name.startswith(start) and stale.name.endswith(".tmp"):
            number = stale.name[len(start) : -len(".tmp")]
            if number.isdigit() and not _is_running(int(number)):
                stale.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Makes sure that a move outlives a power cut, where the system can."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes `content` to `path`, all or nothing."""
    with written_beside(path) as beside:
        beside.write_bytes(content)
    return path


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None
) -> Path:
    """Writes a table, its fractions with six digits.

    Args:
        path: the CSV.
        rows: cells by column.
        columns: of the table; None: those of the first row.

    Raises:
        ValueError: a row has another column.
    """
    import csv  # only trainings write tables

    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return write_bytes(path, text.getvalue().encode())


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
