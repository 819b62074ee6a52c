"""The look-up of photo names: as they stand, then below a folder, then by their last parts."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.left_out import nearest
from kinembed.data.tables import clean_name

log = logging.getLogger(__name__)

FOLDERS = ("train", "train-faces", "test")
UNKNOWN, AMBIGUOUS = -1, -2
LEAST_PARTS = 3  # family, person and photo, whatever folders they lie in
LIKELY = 64  # photos that share their last parts: of so many, two at least are right


class NameLookup:
    """Rows of photo names in a cache, whoever wrote the names.

    A name is looked for as it stands; below `train/`, `train-faces/` and `test/`, as submissions
    and lists leave these out; then cleaned (`clean_name`) by its last parts, in any case: where the
    photo's name ends in it, or both share family, person and photo, or it ends in the photo's whole
    name below nothing but `train/` and the like, or where it is absolute. A folder that the photo
    lacks makes another photo of it otherwise.

    Args:
        names: (N,) sorted UTF-8 bytes.
        where: what holds them, for messages.
        any_folders: whether a name may have any folders that the photo lacks, as the caller knows
            where photos lie.
    """

    def __init__(self, names: NDArray[np.bytes_], where: str, *, any_folders: bool = False) -> None:
        self.names, self.where, self._any_folders = names, where, any_folders
        self._asked = 0
        self._known: dict[str, int] = {}  # found by their last parts
        self._is_said = False

    def find(self, names: Sequence[str]) -> Rows:
        """(K,) rows; -1 for a photo that is not there, -2 for a name of several photos."""
        rows = self._find(names)
        for folder in FOLDERS[::-1]:
            absent = np.flatnonzero(rows < 0)
            if not len(absent):
                return self._without_ambiguous(names, rows)
            rows[absent] = self._find([f"{folder}/{names[i]}" for i in absent.tolist()])
        left: list[int] = np.flatnonzero(rows < 0).tolist()
        if left:
            rows[left] = [self._by_last_parts(names[i]) for i in left]
            self._say(names, rows, left)
        return self._without_ambiguous(names, rows)

    def explain(self, name: str) -> str:
        """Why a name has no row: what it may be, or what is nearest to it."""
        several = self._several(name)
        if several:
            listed = " or ".join(several[:3]) + (" …" if len(several) > 3 else "")
            return f"photo {name!r} may be {listed} of {self.where}; write more of its path"
        match = nearest(name, self.names)
        hint = f" (nearest: {match})" if match else ""
        return f"photo {name!r} is not in {self.where}{hint}; embed it with kinembed embed"

    def _find(self, names: Sequence[str]) -> Rows:
        if not len(names) or not len(self.names):
            return np.full(len(names), UNKNOWN, np.intp)
        self._asked += len(names)
        if self._asked > len(self.names):  # from now on, a dict of all names is faster
            row_of = self._row_of
            return np.fromiter((row_of.get(n.encode(), -1) for n in names), np.intp, len(names))
        wanted = np.array([name.encode() for name in names])
        rows = np.searchsorted(self.names, wanted).clip(max=len(self.names) - 1)
        return np.where(self.names[rows] == wanted, rows, UNKNOWN)

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {name: row for row, name in enumerate(self.names.tolist())}

    # Names below several folders

    def _without_ambiguous(self, names: Sequence[str], rows: Rows) -> Rows:
        if self._in_several:
            for i, name in enumerate(names):
                if name.encode() in self._in_several and rows[i] >= 0:
                    is_whole = self.names[rows[i]].decode() == name
                    rows[i] = rows[i] if is_whole else AMBIGUOUS
        return rows

    @cached_property
    def _in_several(self) -> frozenset[bytes]:
        """Names that lie below two of the folders, without these; mostly there are none."""
        below = [names for folder in FOLDERS if len(names := self._below(folder.encode() + b"/"))]
        several: set[bytes] = set()
        for i, some in enumerate(below):
            for others in below[:i]:
                few, many = sorted((some, others), key=len)
                at = np.searchsorted(many, few).clip(max=len(many) - 1)
                several |= set(few[many[at] == few].tolist())
        return frozenset(several)

    def _below(self, prefix: bytes) -> NDArray[np.bytes_]:
        """The names below a folder, sorted, without it."""
        start, stop = np.searchsorted(self.names, [prefix, prefix[:-1] + b"0"])  # "0" follows "/"
        names = np.ascontiguousarray(self.names[start:stop])
        width = names.dtype.itemsize
        if not len(names) or width <= len(prefix):
            return names[:0]
        letters = names.view(np.uint8).reshape(-1, width)[:, len(prefix) :]
        return np.ascontiguousarray(letters).view(f"S{width - len(prefix)}").ravel()

    # Last parts

    @cached_property
    def _backwards(self) -> list[tuple[str, int]]:
        """Cleaned names in lower case, their parts from the last to the first, and their rows."""
        return sorted(
            (_backwards(_parts(name.decode())), row) for row, name in enumerate(self.names.tolist())
        )

    def _by_last_parts(self, name: str) -> int:
        if name not in self._known:
            rows = self._candidates(name)
            self._known[name] = rows[0] if len(rows) == 1 else AMBIGUOUS if rows else UNKNOWN
        return self._known[name]

    def _candidates(self, name: str) -> list[int]:
        """The rows that share most of a name's last parts, and enough of them."""
        parts = _parts(name)
        if not parts or parts[0].startswith("#"):  # a row that somebody has commented out
            return []
        key = _backwards(parts)
        at = bisect_left(self._backwards, (key, 0))
        near = [self._backwards[i][0] for i in (at - 1, at) if 0 <= i < len(self._backwards)]
        shared = max((_shared(key, each) for each in near), default=0)
        if not shared:
            return []
        prefix = "/".join(key.split("/")[:shared]) + "/"
        start = bisect_left(self._backwards, (prefix, 0))
        is_absolute = clean_name(name).startswith("/") or parts[0].endswith(":")
        rows = []
        for text, row in self._backwards[start : start + LIKELY]:
            if not text.startswith(prefix):
                break
            whole = _parts(self.names[row].decode())
            own = len(whole) - (len(whole) > 1 and whole[0] in FOLDERS)
            is_whole = shared == len(whole) and (
                is_absolute
                or (shared > 1 and whole[0] in FOLDERS)
                or all(folder in FOLDERS for folder in parts[:-shared])
            )
            least = min(len(parts), LEAST_PARTS, own if self._any_folders else LEAST_PARTS)
            if is_whole or shared >= least:
                rows.append((row, whole[-shared:] == parts[-shared:]))
        exact = [row for row, is_exact in rows if is_exact]
        return exact or [row for row, _ in rows]

    def _several(self, name: str) -> list[str]:
        if name.encode() in self._in_several:
            wanted = [f"{folder}/{name}" for folder in FOLDERS]
            return [text for text, row in zip(wanted, self._find(wanted), strict=True) if row >= 0]
        rows = self._candidates(name)
        return [self.names[row].decode() for row in rows] if len(rows) > 1 else []

    def _say(self, names: Sequence[str], rows: Rows, asked: Sequence[int]) -> None:
        found = [i for i in asked if rows[i] >= 0]
        if not found or self._is_said:
            return
        self._is_said = True
        i = found[0]
        log.info(
            "%s: %s names are found by their last parts: %r is %s",
            self.where, f"{len(found):,}", names[i], self.names[rows[i]].decode(),
        )  # fmt: skip


def _parts(name: str) -> list[str]:
    return [part for part in clean_name(name).split("/") if part]


def _backwards(parts: Sequence[str]) -> str:
    return "/".join(part.casefold() for part in reversed(parts)) + "/"


def _shared(one: str, other: str) -> int:
    """How many parts two names have in common from their start."""
    count = 0
    for a, b in zip(one.split("/")[:-1], other.split("/")[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def rows_of(names: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> Rows:
    """(K,) rows of sorted names among other sorted names; -1 where there is none."""
    width = names.itemsize
    at = np.searchsorted(names, wanted.astype(names.dtype)).clip(max=len(names) - 1)
    same = names[at] == wanted.astype(names.dtype)
    if wanted.itemsize > width:
        same &= np.char.str_len(wanted) <= width
    return np.where(same, at, -1)
