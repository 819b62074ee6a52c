"""The photos below a folder, and what lies there beside them."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

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
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"}


@dataclass(frozen=True)
class Walked:
    """The photos below a folder.

    Attributes:
        names: theirs, sorted.
        left_out: what is no photo.
        folders: the device and number of each folder whose photos are among them.
    """

    names: tuple[str, ...]
    left_out: LeftOut
    folders: frozenset[tuple[int, int]]


def list_photos(folder: Path) -> Walked:
    """Lists all photos below a folder.

    Links to folders are followed when all other folders are listed, each folder once; so there
    are no loops, and no photo is listed twice.

    Raises:
        DataError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with photos in it")
    walk = _Walk()
    walk.below(os.fspath(folder), "")
    while walk.links:
        path, prefix = walk.links.pop(0)
        walk.below(path, prefix)
    return Walked(tuple(sorted(walk.names)), walk.left_out, frozenset(walk.listed))


class _Walk:
    """A walk through folders.

    Attributes:
        names: the photos.
        left_out: what is no photo.
        listed: the device and number of each folder whose photos are taken.
        links: links to folders that are still to be followed: their paths, and names with a slash.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left_out = LeftOut()
        self.listed: set[tuple[int, int]] = set()
        self.links: list[tuple[str, str]] = []
        self._seen: set[tuple[int, int]] = set()

    def below(self, path: str, prefix: str, why: str = "") -> None:
        """Walks through a folder; with a reason, all photos below it are left out for that."""
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            if key in self._seen:
                self.left_out.add("links to folders that are listed already", prefix)
                return
            self._seen.add(key)
            with os.scandir(path) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if not why:
                self.left_out.add(f"folders that cannot be read: {error.strerror}", prefix)
            return
        if not why:
            self.listed.add(key)
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                self.below(entry.path, f"{name}/", why or _why_no_folder(entry.name))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                if not why:
                    self.links.append((entry.path, f"{name}/"))
            else:
                self._file(entry, name, why)

    def _file(self, entry: os.DirEntry[str], name: str, why: str) -> None:
        if why:
            if looks_like_photo(entry.path):
                self.left_out.add(why, name)
            return
        reason = _why_no_file(entry, name)
        if entry.name == FILE and is_aligned(Path(entry.path).parent):
            return
        if reason:
            self.left_out.add(reason, name.encode(errors="backslashreplace").decode())
        else:
            self.names.append(name)


def _why_no_folder(name: str) -> str:
    if name.startswith("."):
        return "in hidden folders"
    return "in folders of the system or of thumbnails" if name.casefold() in SYSTEM_FOLDERS else ""


def _why_no_file(entry: os.DirEntry[str], name: str) -> str:
    """Why a file is no photo to embed; empty if it is one."""
    own = entry.name.casefold()
    if own.startswith(".") or own in SYSTEM_FILES:
        return "hidden files or files of the system"
    try:
        mode = os.stat(entry.path).st_mode if entry.is_symlink() else entry.stat().st_mode
    except OSError:
        return "links that lead nowhere"
    if not stat.S_ISREG(mode):
        return "pipes, sockets or devices"
    if not looks_like_photo(entry.path):
        return "other files"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "whose names are not UTF-8"
    if "\n" in name or UNSAFE_NAME.search(name):
        return "whose names hold a backslash or a control character"
    return ""
