"""Atomic writes: a reader sees the old file or the new one, never a partial one."""

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
    """A temporary path next to `path`; moved to `path` at the end, deleted on any exception.

    Raises:
        WriteError: it cannot be written: a full disk, a missing right.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path  # a device or a pipe is written to, never replaced
        return
    start = f".{path.name}.{platform.node()}."  # process numbers are unique on one machine
    beside = path.with_name(f"{start}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_stale(path.parent, start)
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
    """Locks an open file for this process until it is closed, if the system can.

    Args:
        file: the file.
        taken: the exception to raise if another process has locked it.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        except OSError:  # a file system without locks
            pass


def _delete_stale(folder: Path, start: str) -> None:
    """Deletes temporary files of killed processes."""
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
    """Makes a move survive a power cut, if the system can."""
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
    """Writes a table; fractions get six digits.

    Args:
        path: the CSV.
        rows: cells by column.
        columns: of the table; None: those of the first row.

    Raises:
        ValueError: a row has another column.
    """
    import csv  # imported only where tables are written

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
