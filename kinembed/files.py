"""Writing files so that a reader sees the old one or the new one, never a half."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kinembed.errors import WriteError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved to `path` at the end, removed on any exception.

    Raises:
        WriteError: it cannot be written: a full disk, a missing right.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise WriteError(
            f"{path}: cannot be written ({reason}); what was there is untouched; make room, or "
            "name another folder with --run"
        ) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes `content` to `path`, all or nothing."""
    with written_beside(path) as beside:
        beside.write_bytes(content)
    return path


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
