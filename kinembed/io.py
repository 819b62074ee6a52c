"""Files that are written whole or not at all, alone or several together, and locks.

A new file is for its owner alone, and so is a new folder: vectors of faces are biometric data.
After `share_files(True)` the umask decides. A file that stands keeps its rights, and a link stays
a link: what it leads to is written.
"""

import io
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from kinembed.errors import KinembedError, WriteError

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|(\d+)))/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MOST_LETTERS = 40  # of a file's name in that of its temporary file
_ACCESS_LIST = "system.posix_acl_access"  # the extended attribute of Linux


class _Process:
    """What all writes of this process share: the rights of new files, and what was replaced."""

    shared = False
    replaced: list[Path] = []  # noqa: RUF012 - one list, of the process


def share_files(shared: bool) -> None:
    """From now on the umask decides who may read new files; or, if not shared, the owner alone."""
    _Process.shared = shared


def replaced_files() -> list[Path]:
    """The files that this process has put in their place so far, or has removed."""
    return list(_Process.replaced)


def make_folder(path: Path, *, public: bool = False) -> None:
    """Makes a folder, if it is missing, and those above it.

    Args:
        path: the folder.
        public: the umask decides who may look into it.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folder(path.parent, public=public)
    path.mkdir(0o777 if public or _Process.shared else 0o700, exist_ok=True)


@contextmanager
def written_beside(path: Path, buffering: int = -1, *, public: bool = False) -> Iterator[BinaryIO]:
    """A temporary file next to `path`; moved to `path` at the end, deleted on any exception.

    In `moved_together` it is moved at the end of that. A device or a pipe is written to at once.

    Args:
        path: what is written.
        buffering: as of `open`; without, by 0, the file can be read, too.
        public: a new file holds nothing of faces: the umask decides who may read it.

    Raises:
        WriteError: it cannot be written: a full disk, a missing right.
    """
    device = _opened_device(path, buffering)
    if device is not None:
        try:
            with device:
                yield device
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({_reason(error)})") from None
        return
    draft = None
    try:
        draft = _Draft.at(path, buffering, public=public)
        yield draft.file
        draft.file.flush()
        os.fsync(draft.file.fileno())
        together = _together.get()
        if together is not None:
            together.append(draft)
        else:
            _move([draft])
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        if draft is not None and draft not in (_together.get() or ()):
            draft.discard()


@contextmanager
def moved_together(folder: Path) -> Iterator[None]:
    """Moves the files written in its block to their places at its end, or none of them.

    In the order of writing: last comes the one that others believe. The folder is locked meanwhile,
    so that two processes cannot mix theirs, and an interruption waits until all are moved. A
    process that is killed at the end may have moved the first ones alone.

    Args:
        folder: the run folder.

    Raises:
        WriteError: a file cannot be written or moved.
    """
    if _together.get() is not None:  # they move with those around them
        yield
        return
    with _queue(folder):
        drafts: list[_Draft | _Removal] = []
        token = _together.set(drafts)
        try:
            yield
            _move(drafts)
        finally:
            _together.reset(token)
            for draft in drafts:
                draft.discard()


def remove(path: Path) -> None:
    """Removes a file, if there is one; in `moved_together` at the end of that."""
    together = _together.get()
    if together is not None:
        together.append(_Removal(path))
    else:
        _move([_Removal(path)])


def check_writable(*paths: Path) -> None:
    """Refuses places that cannot be written to, before the work whose results they are for.

    Raises:
        WriteError: naming the first: a folder stands there, or a right is missing.
    """
    for path in paths:
        try:
            if not is_device(path):
                _check_place(_linked_to(path))
        except OSError as error:
            raise _not_written(path, error) from None


def _check_place(target: Path) -> None:
    if target.is_dir():
        raise IsADirectoryError(21, "Is a directory")
    folder = next(each for each in target.absolute().parents if each.exists())
    if not folder.is_dir():
        raise NotADirectoryError(20, "Not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied")


def _not_written(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be written ({_reason(error)}); what was there is untouched; make room, or "
        "name another folder with --run"
    )


def _reason(error: OSError) -> object:
    return os.strerror(error.errno) if error.errno else error


# Temporary files


@dataclass(eq=False)
class _Draft:
    """A temporary file, open and locked, and the place that it is for."""

    file: BinaryIO
    beside: Path
    path: Path  # as it was named
    target: Path  # without links

    @classmethod
    def at(cls, path: Path, buffering: int = -1, *, public: bool = False) -> "_Draft":
        """Creates it; nothing that has its name, be it a link, is opened.

        Raises:
            OSError: it cannot be created, or a folder stands in its place.
        """
        target = _linked_to(path)
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        make_folder(target.parent, public=public)
        _sweep(target.parent)
        while True:
            beside = target.with_name(
                f".{target.name[:_MOST_LETTERS]}.{_kernel()}-{os.urandom(8).hex()}.tmp"
            )
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS | getattr(os, "O_BINARY", 0)
            descriptor = os.open(beside, flags, 0o666 if public or _Process.shared else 0o600)
            try:
                _take_rights(descriptor, target)
                is_ours = _lock(descriptor) is not False and os.fstat(descriptor).st_nlink > 0
            except BaseException:
                os.close(descriptor)
                beside.unlink(missing_ok=True)
                raise
            if is_ours:
                mode = "r+b" if buffering == 0 else "wb"
                file = cast(BinaryIO, os.fdopen(descriptor, mode, buffering))
                return cls(file, beside, path, target)
            os.close(descriptor)  # another process took it for a stale one as it was made

    def move(self) -> None:
        """Puts it in its place."""
        if os.name == "nt":  # where an open file cannot be moved
            self.file.close()
        os.replace(self.beside, self.target)
        _Process.replaced.append(self.path)

    def discard(self) -> None:
        """Deletes it, unless it was moved."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.beside.unlink(missing_ok=True)


@dataclass(eq=False)
class _Removal:
    """A file that goes when others come."""

    path: Path

    def move(self) -> None:
        """Removes the file."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            _Process.replaced.append(self.path)

    def discard(self) -> None:
        """Nothing was made."""


_together: ContextVar[list[_Draft | _Removal] | None] = ContextVar("together", default=None)


def _move(drafts: Sequence[_Draft | _Removal]) -> None:
    """Puts files in their places, in order; an interruption waits until all are."""
    with uninterrupted():
        for draft in drafts:
            try:
                draft.move()
            except OSError as error:
                raise _not_written(draft.path, error) from None
        for folder in {draft.target.parent for draft in drafts if isinstance(draft, _Draft)}:
            _sync_folder(folder)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back until its end."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main one's
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    mine = [number for number, handler in before.items() if callable(handler)]
    for number in mine:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        for late in came:
            signal.raise_signal(late)


def _linked_to(path: Path) -> Path:
    """The file that a link leads to; another path as it is.

    Raises:
        OSError: the link leads to no folder, or to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(40, "Too many levels of symbolic links")
    if not target.parent.is_dir():
        raise OSError(f"it is a link to {target}, whose folder does not exist")
    return target


def _take_rights(descriptor: int, target: Path) -> None:
    """Gives a new file the owner, group and rights of the one that it replaces."""
    try:
        old, new = target.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return
    if not hasattr(os, "fchmod"):
        return
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:
            try:
                os.fchown(descriptor, -1, old.st_gid)
            except OSError:
                mode &= ~0o070  # they would be another group's
    os.fchmod(descriptor, mode)
    if hasattr(os, "getxattr"):
        try:
            access = os.getxattr(target, _ACCESS_LIST)
        except OSError:  # it has none
            return
        try:
            os.setxattr(descriptor, _ACCESS_LIST, access)
        except OSError:  # without it the group's rights would be the list's widest
            os.fchmod(descriptor, mode & ~0o070)


def _sync_folder(folder: Path) -> None:
    """Makes a move survive a power cut, if the system can."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def _kernel() -> str:
    """A name of the running system, the same in all of its containers; empty where it has none.

    Locks hold between the processes of one running system. Over a network they may not.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return ""
    import hashlib  # slow to import, as is shutil below

    return hashlib.sha256(boot).hexdigest()[:12]


def _sweep(folder: Path) -> None:
    """Deletes temporary files of killed processes: those of this system that nobody has locked."""
    if not _kernel():
        return
    ours = re.compile(rf"\..+\.{_kernel()}-[0-9a-f]{{16}}\.tmp", re.DOTALL)
    for name in filter(ours.fullmatch, os.listdir(folder)):
        with suppress(OSError):
            stale = folder / name
            descriptor = os.open(stale, os.O_RDWR | _NO_LINKS | os.O_NONBLOCK)
            try:
                about = os.fstat(descriptor)
                is_ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()
                if is_ours and _lock(descriptor):
                    stale.unlink()
            finally:
                os.close(descriptor)


# Devices


def is_device(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open file of this process: it is not replaced."""
    return _descriptor(path) is not None or (
        path.exists() and not path.is_file() and not path.is_dir()
    )


def _opened_device(path: Path, buffering: int) -> BinaryIO | None:
    """A device, a pipe or an open file of this process, to write to; None for any other path.

    `/dev/stdout` may be a file: it is written to where it stands, not replaced.

    Raises:
        WriteError: it cannot be opened.
    """
    if not is_device(path):
        return None
    number = _descriptor(path)
    try:
        flags = os.O_RDWR if buffering == 0 else os.O_WRONLY
        descriptor = os.open(path, flags) if number is None else os.dup(number)
        return os.fdopen(descriptor, "r+b" if buffering == 0 else "wb", buffering)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({_reason(error)})") from None


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a path names, as `/dev/stdout` and links to it do."""
    text = os.path.abspath(path)
    for _ in range(8):
        if text in _STANDARD:
            return _STANDARD[text]
        if match := _DESCRIPTOR.fullmatch(text):
            is_own = match[1] in (None, str(os.getpid()))
            return int(match[2]) if is_own else None
        try:
            text = os.path.normpath(os.path.join(os.path.dirname(text), os.readlink(text)))
        except OSError:
            return None
    return None


# Locks


def lock(file: IO[Any], taken: KinembedError) -> None:
    """Locks an open file for this process until it is closed, if the system can.

    Args:
        file: the file.
        taken: the exception to raise if another process has locked it.
    """
    if _lock(file.fileno()) is False:
        raise taken


@contextmanager
def locked(path: Path, taken: KinembedError | None) -> Iterator[None]:
    """Locks by a file of its own, which is made where it is missing and never opened by a link.

    Args:
        path: the file.
        taken: the exception to raise if another process has locked it; None: wait for that.

    Raises:
        WriteError: the file cannot be made.
    """
    descriptor = _lock_at(path, wait=taken is None)
    if descriptor is None:
        assert taken is not None
        raise taken
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(
    folder: Path, taken: KinembedError, is_needed: Callable[[], bool]
) -> Iterator[None]:
    """Locks a folder of unfinished work, and removes it at the end if it is not needed.

    Args:
        folder: the folder; it is made where it is missing.
        taken: the exception to raise if another process has locked it.
        is_needed: whether it is needed at the end.

    Raises:
        WriteError: the folder cannot be made.
    """
    try:
        with locked(folder / "lock", taken):
            yield
    finally:  # locked again: an interruption may come before the lock is taken
        with suppress(KinembedError), locked(folder / "lock", taken):
            if not is_needed():
                import shutil

                shutil.rmtree(folder, ignore_errors=True)


def is_locked(path: Path) -> bool:
    """Whether another process has locked a file; of a missing one, or where nobody can say, no."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINKS)
    except OSError:
        return False
    try:
        return _lock(descriptor) is False
    finally:
        os.close(descriptor)


@contextmanager
def _queue(folder: Path) -> Iterator[None]:
    """Waits until no other process is in this block with the folder, and keeps others waiting."""
    path = folder / ".lock"
    descriptor = _lock_at(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # whoever waits for it sees that, and makes another
        os.close(descriptor)


def _lock_at(path: Path, wait: bool) -> int | None:
    """The descriptor of a lock file, locked if the system can; None: another process has it.

    Raises:
        WriteError: it is missing and cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | _NO_LINKS
    while True:
        try:
            make_folder(path.parent)
            descriptor = os.open(path, flags, 0o666 if _Process.shared else 0o600)
        except OSError as error:
            raise _not_written(path, error) from None
        is_locked, is_there = None, True
        try:
            is_locked = _lock(descriptor, wait)
            if is_locked:  # it may have been removed meanwhile, and another made
                is_there = os.path.samestat(os.fstat(descriptor), path.lstat())
        except FileNotFoundError:
            is_there = False
        except BaseException:
            os.close(descriptor)
            raise
        if is_locked is not False and is_there:
            return descriptor
        os.close(descriptor)
        if is_locked is False:
            return None


def _lock(descriptor: int, wait: bool = False) -> bool | None:
    """Locks a file for this process until it is closed: whether it could; None without locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


# Contents


def write_bytes(path: Path, content: bytes, *, public: bool = False) -> Path:
    """Writes `content` to `path`, all or nothing; arguments as of `written_beside`."""
    with written_beside(path, public=public) as file:
        file.write(content)
    return path


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None
) -> Path:
    """Writes a table; fractions get six digits.

    A text that a spreadsheet would take for a formula has an apostrophe before it; `read_csv` takes
    it off.

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
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow({k: _escaped(v) if isinstance(v, str) else v for k, v in cells.items()})
    return write_bytes(path, text.getvalue().encode())


def read_csv(path: Path, strict: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a table of `write_csv`.

    Args:
        path: the CSV.
        strict: a quote that is not closed is an error.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: the file is no such table.
    """
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=strict)
        rows = [
            {k: _unescaped(v) if isinstance(v, str) else v for k, v in row.items()}
            for row in reader
        ]
        return list(reader.fieldnames or ()), rows


def _escaped(text: str) -> str:
    """A cell that no spreadsheet calculates (https://owasp.org/www-community/attacks/CSV_Injection)."""
    text = text.replace("\r", "\n")  # which the csv module does not quote
    return f"'{text}" if _is_formula(text) else text


def _unescaped(text: str) -> str:
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether a text, but for apostrophes, begins as a formula does, and is no number."""
    if not text.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\n")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits."""
    import hashlib

    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
