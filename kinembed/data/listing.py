"""Photos by name, in arrays: some 100 bytes a photo, so that ten million fit into any memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.errors import DataError

BLOCK = 1 << 16  # photos whose names share an array, which the longest of them makes wide
Names = NDArray[np.bytes_]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Photo:
    """The present state of a photo's file.

    Attributes:
        name: its name in the cache.
        digest: sha256 of its bytes; empty before it is read.
        size: bytes; -1 if unknown.
        mtime: its modification time in nanoseconds; -1 if unknown.
        person: who is on it, `FAMILY/PERSON`; empty if nobody is known.
    """

    name: str
    digest: bytes
    size: int
    mtime: int
    person: str = ""


def photo_at(path: Path, name: str) -> Photo:
    """A photo's size and modification time; a missing file raises later, when it is read."""
    try:
        status = path.stat()
    except OSError:
        return Photo(name, b"", -1, -1)
    return Photo(name, b"", status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Folder:
    """Where photos lie.

    Attributes:
        name: as it was asked for.
        root: its path.
        prefix: what the names of its photos begin with, besides their place below it.
    """

    name: str
    root: Path
    prefix: str

    def path(self, name: str) -> Path:
        """The file of a photo."""
        return self.root / name[len(self.prefix) :]


@dataclass(frozen=True)
class Block:
    """Some photos, in the order of their names.

    Attributes:
        names: (n,) UTF-8.
        stats: (n, 2) sizes in bytes and modification times in nanoseconds.
        people: (n,) who is on each, as a number of `Listing.persons`.
        folders: (n,) which of `Listing.folders` it lies in.
    """

    names: Names
    stats: NDArray[np.int64]
    people: NDArray[np.int32]
    folders: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice | Rows) -> Block:
        return Block(self.names[rows], self.stats[rows], self.people[rows], self.folders[rows])


class Listing(Sequence[Photo]):
    """Photos, sorted by name as bytes.

    Args:
        blocks: the photos, sorted within each block.
        persons: the people.
        folders: the folders.

    Raises:
        DataError: two photos share a name.
    """

    def __init__(
        self, blocks: Iterable[Block], persons: Sequence[str], folders: Sequence[Folder]
    ) -> None:
        self.persons, self.folders = list(persons), tuple(folders)
        self._blocks = list(_in_order(blocks, self.folders))
        self._firsts = [block.names[0] for block in self._blocks]

    @classmethod
    def of_sorted(
        cls, blocks: Iterable[Block], persons: Sequence[str], folders: Sequence[Folder]
    ) -> Listing:
        """A listing of what `whole_blocks` of another gave."""
        listing = cls([], persons, folders)
        listing._blocks = list(blocks)
        listing._firsts = [block.names[0] for block in listing._blocks]
        return listing

    def whole_blocks(self) -> Sequence[Block]:
        """The photos, sorted; all blocks but the last have `BLOCK` photos."""
        return self._blocks

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    @overload
    def __getitem__(self, row: int) -> Photo: ...

    @overload
    def __getitem__(self, row: slice) -> list[Photo]: ...

    def __getitem__(self, row: int | slice) -> Photo | list[Photo]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        block, at = self._at(row)
        size, mtime = block.stats[at].tolist()
        person = self.persons[block.people[at]]
        return Photo(block.names[at].decode(), b"", size, mtime, person)

    def __iter__(self) -> Iterator[Photo]:
        return map(self.__getitem__, range(len(self)))

    def names(self) -> Iterator[str]:
        """The names, sorted."""
        for block in self._blocks:
            yield from (name.decode() for name in block.names.tolist())

    def blocks(self) -> Iterator[tuple[int, Names, NDArray[np.int64]]]:
        """The first row, names and numbers of each block of photos."""
        for number, block in enumerate(self._blocks):
            yield number * BLOCK, block.names, block.stats

    def rows(self, names: Names) -> Rows:
        """(K,) rows of sorted names that all are there."""
        rows = np.empty(len(names), np.intp)
        number = max(0, bisect_right(self._firsts, names[0]) - 1) if len(names) else 0
        start = 0
        while start < len(names):
            own, following = self._blocks[number].names, [*self._firsts[number + 1 : number + 2]]
            stop = int(np.searchsorted(names, following[0])) if following else len(names)
            rows[start:stop] = number * BLOCK + np.searchsorted(
                own, names[start:stop].astype(own.dtype)
            )
            number, start = number + 1, stop
        return rows

    def row(self, name: str) -> int:
        """The row of a photo.

        Raises:
            KeyError: there is none of this name.
        """
        own = name.encode(errors="surrogatepass")
        number = bisect_right(self._firsts, own) - 1
        if number >= 0 and len(own) <= self._blocks[number].names.itemsize:
            names = self._blocks[number].names
            at = int(np.searchsorted(names, own))
            if at < len(names) and names[at] == own:
                return number * BLOCK + at
        raise KeyError(name)

    def path(self, row: int) -> Path:
        """The file of a photo."""
        block, at = self._at(row)
        return self.folders[int(block.folders[at])].path(block.names[at].decode())

    def folder(self, row: int) -> str:
        """The folder that a photo lies in, as it was asked for."""
        block, at = self._at(row)
        return self.folders[int(block.folders[at])].name

    def people(self, rows: Rows) -> Names:
        """(K,) who is on photos, as UTF-8."""
        codes = np.empty(len(rows), np.int32)
        for number in np.unique(rows // BLOCK).tolist():
            here = rows // BLOCK == number
            codes[here] = self._blocks[number].people[rows[here] % BLOCK]
        used, at = np.unique(codes, return_inverse=True)
        return np.array([self.persons[code].encode() for code in used.tolist()] or [b""])[at]

    def counts(self) -> dict[str, int]:
        """How many photos there are of each person."""
        counts = np.zeros(len(self.persons), np.int64)
        for block in self._blocks:
            counts += np.bincount(block.people, minlength=len(counts))
        return {person: n for person, n in zip(self.persons, counts.tolist(), strict=True) if n}

    def with_people(self, people: Mapping[str, str]) -> Listing:
        """The same photos, with somebody else on some of them."""
        codes = {person: code for code, person in enumerate(self.persons)}
        chosen = [block.people.copy() for block in self._blocks]
        for name, person in people.items():
            row = self.row(name)
            chosen[row // BLOCK][row % BLOCK] = codes.setdefault(person, len(codes))
        blocks = [
            Block(block.names, block.stats, own, block.folders)
            for block, own in zip(self._blocks, chosen, strict=True)
        ]
        return Listing(blocks, list(codes), self.folders)

    @cached_property
    def by_folder(self) -> dict[str, Rows]:
        """The rows of the photos of each folder that has some."""
        parts: dict[str, list[Rows]] = {folder.name: [] for folder in self.folders}
        for number, block in enumerate(self._blocks):
            for code in np.unique(block.folders).tolist():
                own = number * BLOCK + np.flatnonzero(block.folders == code)
                parts[self.folders[code].name].append(own)
        return {name: np.sort(np.concatenate(rows)) for name, rows in parts.items() if rows}

    def _at(self, row: int) -> tuple[Block, int]:
        return self._blocks[row // BLOCK], row % BLOCK


class ByName(Mapping[str, Value]):
    """What each photo of a listing has, by its name.

    Args:
        listing: the photos.
        value: of a row.
    """

    def __init__(self, listing: Listing, value: Callable[[int], Value]) -> None:
        self._listing, self._value = listing, value

    def __getitem__(self, name: str) -> Value:
        return self._value(self._listing.row(name))

    def __iter__(self) -> Iterator[str]:
        return self._listing.names()

    def __len__(self) -> int:
        return len(self._listing)


class PathsOf(Sequence[Path]):
    """The files of some photos of a listing, by their rows."""

    def __init__(self, listing: Listing, rows: Rows) -> None:
        self._listing, self._rows = listing, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        return self._listing.path(int(self._rows[at]))


def _in_order(blocks: Iterable[Block], folders: Sequence[Folder]) -> Iterator[Block]:
    """The photos of blocks in whole blocks, sorted.

    Raises:
        DataError: two share a name.
    """
    parts = sorted((block for block in blocks if len(block)), key=lambda block: block.names[0])
    last = b""
    for number, part in enumerate(parts):
        rises = bool((part.names[:-1] < part.names[1:]).all())
        if not rises or (number and part.names[0] <= last):
            parts = [_sorted(parts)]
            break
        last = part.names[-1]
    if parts and len(again := np.flatnonzero(parts[0].names[1:] == parts[0].names[:-1])):
        name = parts[0].names[again[0]].decode()
        one, other = (folders[int(parts[0].folders[again[0] + i])] for i in range(2))
        if one is other:
            raise DataError(
                f"{name}: is in {one.root} twice, as if one was added later; pack the file again"
            )
        raise DataError(f"{name}: both below {one.path(name).parent} and {other.root}")
    waiting: list[Block] = []
    while parts:
        waiting.append(parts.pop(0))
        while sum(map(len, waiting)) >= BLOCK or (waiting and not parts):
            whole = _joined(waiting)
            yield whole[:BLOCK]
            waiting = [whole[BLOCK:]] if len(whole) > BLOCK else []


def _joined(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    columns = zip(*((b.names, b.stats, b.people, b.folders) for b in blocks), strict=True)
    return Block(*map(np.concatenate, columns))


def _sorted(blocks: Sequence[Block]) -> Block:
    """All photos in one block; of one name, those of an earlier folder come first."""
    whole = _joined(sorted(blocks, key=lambda block: int(block.folders[0])))
    return whole[np.argsort(whole.names, kind="stable")]


def numbered(people: Iterable[str], codes: dict[str, int]) -> NDArray[np.int32]:
    """(N,) a number for each person; `codes` holds those that have one, and is added to."""
    return np.fromiter((codes.setdefault(person, len(codes)) for person in people), np.int32)


def with_prefix(names: Names, prefix: str) -> Names:
    """(n,) names with the same letters before each."""
    if not prefix:
        return names
    own = prefix.encode()
    width = names.itemsize + len(own)
    letters = np.zeros((len(names), width), np.uint8)
    letters[:, : len(own)] = np.frombuffer(own, np.uint8)
    letters[:, len(own) :] = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), -1)
    return letters.view(f"S{width}").ravel()


class Texts(Sequence[str]):
    """Names in pieces of arrays, as texts."""

    def __init__(self, pieces: Sequence[Names]) -> None:
        self._pieces = pieces
        self._starts = [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: Any) -> Any:
        number = bisect_right(self._starts, row) - 1
        return self._pieces[number][row - self._starts[number]].decode()

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            yield from (name.decode() for name in piece.tolist())
