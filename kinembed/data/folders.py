"""The photos below a folder, and what lies there beside them."""

from __future__ import annotations

import os
import re
import stat
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.data.faces_table import FILE, is_aligned
from kinembed.data.left_out import LeftOut
from kinembed.data.photo_formats import looks_like_photo
from kinembed.errors import DataError


def unsafe_names(system: str) -> re.Pattern[str]:
    """What no name of a photo below a folder holds, in lines of names, for an `os.name`.

    Such a name leads elsewhere, or tables and terminals take it for something else. Windows has
    drives and streams behind a colon.
    """
    drive = r"|:" if system == "nt" else ""
    return re.compile(
        r"^/|(^|/)\.\.?(/|$)|[\x00-\x09\x0b-\x1f\x7f-\x9f\\]|//|/$" + drive, re.MULTILINE
    )


UNSAFE_NAME = unsafe_names(os.name)
# Folders that programs and systems make, besides hidden ones.
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@sharebin"),
    *("__macosx", "lost+found", "$recycle.bin", "system volume information", "recycler"),
    *("thumbnails", "_thumbnails", "thumbs", "_thumbs", "thumbnail", "__pycache__"),
}
_LATEST = (1 << 63) - 1  # nanoseconds; file systems know later times
PIECE = 1 << 16  # names that are put into one array
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"}


@dataclass(frozen=True)
class Walked:
    """The photos below a folder.

    Attributes:
        names: theirs, sorted.
        left_out: what is no photo.
        folders: the number of each folder whose photos are among them.
    """

    names: tuple[str, ...]
    left_out: LeftOut
    folders: frozenset[int]


def list_photos(folder: Path) -> Walked:
    """Lists all photos below a folder.

    Links to folders are followed when all other folders are listed, each folder once; so there
    are no loops, and no photo is listed twice.

    Raises:
        DataError: `folder` is not a folder.
    """
    walk = walk_photos(folder)
    names = [name.decode() for piece, _ in walk.pieces for name in piece.tolist()]
    return Walked(tuple(sorted(names)), walk.left_out, frozenset(walk.listed))


def number_of(status: os.stat_result) -> int:
    """A number that one folder or file of this machine has: a third of the memory of a pair."""
    return status.st_dev << 64 | status.st_ino


def walk_photos(folder: Path) -> Walk:
    """Walks through a folder as `list_photos` does; a photo takes as much memory as its name.

    Raises:
        DataError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with photos in it")
    walk = Walk()
    walk.below(os.fspath(folder), "")
    while walk.links:
        path, prefix = walk.links.pop(0)
        walk.below(path, prefix)
    walk.flush()
    walk._seen = set()
    by_example = sorted(walk.left_out.examples.items(), key=lambda item: item[1])
    walk.left_out.counts = {reason: walk.left_out.counts[reason] for reason, _ in by_example}
    return walk


class Walk:
    """A walk through folders.

    Attributes:
        pieces: the photos: (n,) UTF-8 names, and (n, 2) sizes in bytes and modification times in
            nanoseconds; sorted by name, but for those below links.
        left_out: what is no photo.
        listed: the number of each folder whose photos are taken.
        links: links to folders that are still to be followed: their paths, and names with a slash.
        people: who is on each photo of the pieces, where the file of photos says so; else empty.
        places: the folders whose entries were read, or the file of photos: (n,) names with a slash
            and (n, 2) sizes in bytes, 0 of folders, and modification times in nanoseconds.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[NDArray[np.bytes_], NDArray[np.int64]]] = []
        self.left_out = LeftOut()
        self.listed: set[int] = set()
        self.links: list[tuple[str, str]] = []
        self.people: list[str] = []
        self.places: list[tuple[NDArray[np.bytes_], NDArray[np.int64]]] = []
        self._folders: list[bytes] = []  # of places, and their numbers
        self._times = array("q")
        self._seen: set[int] = set()
        self._names: list[bytes] = []  # that are in no piece yet, and their numbers
        self._stats = array("q")

    def below(self, path: str, prefix: str, why: str = "") -> None:
        """Walks through a folder; with a reason, all photos below it are left out for that."""
        files, folders, links = _Files(), [], []
        try:
            status = os.stat(path)
            key = number_of(status)
            if key in self._seen:
                self.left_out.add("links to folders that are listed already", prefix)
                return
            self._seen.add(key)
            with os.scandir(path) as listed:
                for entry in listed:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        links.append((entry.path, f"{prefix}{entry.name}/"))
                    else:
                        files.add(entry, prefix, why)
        except OSError as error:
            if not why:
                self.left_out.add(f"folders that cannot be read: {error.strerror}", prefix)
            return
        files.say(self.left_out)
        if not why:
            self.listed.add(key)
            self.links += sorted(links)
            self.add_place(prefix, 0, status.st_mtime_ns)
        names, stats = files.sorted()
        start = 0
        for folder in sorted(folders, key=lambda name: os.fsencode(f"{name}/")):
            own = f"{prefix}{folder}/"
            stop = bisect_left(names, own.encode(errors="surrogateescape"), start)
            self._add(names[start:stop], stats[start:stop])
            start = stop
            self.below(os.path.join(path, folder), own, why or _why_no_folder(folder))
        self._add(names[start:], stats[start:])

    def _add(self, names: list[bytes] | NDArray[np.bytes_], stats: NDArray[np.int64]) -> None:
        if isinstance(names, list):
            self._names += names
            self._stats.frombytes(stats.tobytes())
            if len(self._names) >= PIECE:
                self.flush()
        elif len(names):
            self.flush()
            self.pieces.append((names, stats))

    def add_place(self, name: str, size: int, mtime: int) -> None:
        """Notes a folder, before its entries were read, or the file of photos."""
        self._folders.append(os.fsencode(name))
        self._times.extend((size, max(-_LATEST, min(_LATEST, mtime))))
        if len(self._folders) >= PIECE:
            self._flush_places()

    def _flush_places(self) -> None:
        if self._folders:
            numbers = np.frombuffer(self._times.tobytes(), np.int64).reshape(-1, 2)
            self.places.append((np.array(self._folders), numbers))
            self._folders, self._times = [], array("q")

    def flush(self) -> None:
        """Makes pieces of the names and places that are in none yet."""
        self._flush_places()
        if self._names:
            stats = np.frombuffer(self._stats.tobytes(), np.int64).reshape(-1, 2)
            self.pieces.append((np.array(self._names), stats))
            self._names, self._stats = [], array("q")


class _Files:
    """The files of one folder, in whatever order the system lists them."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._stats = array("q")
        self._pieces: list[NDArray[np.bytes_]] = []
        self._reasons: dict[str, tuple[int, str]] = {}  # how many, and the first by name

    def add(self, entry: os.DirEntry[str], prefix: str, why: str) -> None:
        name = prefix + entry.name
        if why:
            if looks_like_photo(entry.path):
                self._leave_out(why, name)
            return
        reason, status = _looked_at(entry, name)
        if entry.name == FILE and is_aligned(Path(entry.path).parent):
            return
        if status is None:
            self._leave_out(reason, name.encode(errors="backslashreplace").decode())
            return
        self._names.append(name.encode())
        self._stats.extend((status.st_size, status.st_mtime_ns))
        if len(self._names) == PIECE:
            self._pieces.append(np.array(self._names))
            self._names = []

    def _leave_out(self, reason: str, name: str) -> None:
        count, first = self._reasons.get(reason, (0, name))
        self._reasons[reason] = count + 1, min(first, name)

    def say(self, left_out: LeftOut) -> None:
        """Adds what is no photo."""
        for reason, (count, first) in self._reasons.items():
            left_out.counts[reason] = left_out.counts.get(reason, 0) + count
            left_out.examples.setdefault(reason, first)

    def sorted(self) -> tuple[list[bytes] | NDArray[np.bytes_], NDArray[np.int64]]:
        """(n,) names, sorted, and (n, 2) numbers; few names as a list."""
        stats = np.frombuffer(self._stats.tobytes(), np.int64).reshape(-1, 2)
        if not self._pieces:
            order = sorted(range(len(self._names)), key=self._names.__getitem__)
            return [self._names[row] for row in order], stats[order]
        names = np.concatenate([*self._pieces, np.array(self._names or [b""])])[: len(stats)]
        self._pieces = []
        rows = np.argsort(names, kind="stable")
        return names[rows], stats[rows]


def _why_no_folder(name: str) -> str:
    if name.startswith("."):
        return "in hidden folders"
    return "in folders of the system or of thumbnails" if name.casefold() in SYSTEM_FOLDERS else ""


def _looked_at(entry: os.DirEntry[str], name: str) -> tuple[str, os.stat_result | None]:
    """Size and times of a photo to embed; else why a file is none."""
    own = entry.name.casefold()
    if own.startswith(".") or own in SYSTEM_FILES:
        return "hidden files or files of the system", None
    try:
        status = os.stat(entry.path) if entry.is_symlink() else entry.stat()
    except OSError:
        return "links that lead nowhere", None
    if not stat.S_ISREG(status.st_mode):
        return "pipes, sockets or devices", None
    if not looks_like_photo(entry.path):
        return "other files", None
    try:
        name.encode()
    except UnicodeEncodeError:
        return "whose names are not UTF-8", None
    if "\n" in name or UNSAFE_NAME.search(name):
        return "whose names hold a backslash or a control character", None
    return "", status
