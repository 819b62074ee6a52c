"""A cache that stays in shards: `embeddings.json` and a folder of files, read as one cache.

The list says what made the vectors, and of each file how many photos it has and the digest of its
checksums. A file that is gone, damaged, another, or of other views or settings is refused when it
is used, and `kinembed embed` computes its photos again. Files are numbered, and their folder is
named by the digests: no name leads anywhere.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache, Names
from kinembed.cache.footer import Footer
from kinembed.cache.hdf5 import Extent
from kinembed.cache.joined import Joined, join
from kinembed.cache.lazy_rows import ShardedRows
from kinembed.cache.opened import OpenedCaches
from kinembed.cache.own import how_to_make
from kinembed.cache.provenance import check_provenance
from kinembed.checked import Values, read_json
from kinembed.errors import RunError
from kinembed.io import make_folder, write_bytes
from kinembed.printable import counted

SCHEMA = 1  # of the list
AGAIN = "run kinembed embed again, or make the cache again as it was made"


class ListedFileError(RunError):
    """A file of a list that is gone, damaged or another.

    Attributes:
        what: what is wrong with it, without what mends it.
    """

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(f"{what}; {cure}")
        self.what = what


class ShardedCache(EmbeddingCache):
    """A cache in shards, opened for reading; `EmbeddingCache.open` opens one, too.

    Args:
        path: the list.
        provenance: of the vectors.
        shards: how many photos each file has, and its digest.
        seal: of the list.
        files: the numbers of the files that are read; None: all.

    Attributes:
        path: as above.
        shards: as above.
    """

    def __init__(
        self, path: Path, provenance: dict[str, Any], shards: Sequence[tuple[int, str]], seal: str,
        files: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.provenance, self.shards = path, provenance, tuple(shards)
        self._folder = folder_of(path, shards)
        self._files = range(len(shards)) if files is None else tuple(files)
        self._opened = OpenedCaches()
        self._read: dict[str, Any] = {}
        self._counts = [self.shards[number][0] for number in self._files]
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] | None = None
        first = self._first()
        self._kinds = _kinds(first)
        total = sum(self._counts)
        extents = {
            name: Extent(0, each.dtype, (total, *each.shape[1:]))
            for name, each in first.footer.extents.items()
            if not name.startswith("checksums/")
        }
        self.footer = Footer(extents, provenance, seal, None)

    @classmethod
    def open(cls, path: Path) -> ShardedCache:
        """Opens the list, and the first of its files that is sound.

        Raises:
            RunError: the list is malformed or damaged, or all files are.
        """
        try:
            content = path.read_bytes()
            values = Values(read_json(content))
            if values.whole("schema") != SCHEMA:
                raise ValueError(f"schema {values.whole('schema')}, this version reads {SCHEMA}")
            provenance = values.object("provenance").content
            if not isinstance(provenance, dict):
                raise ValueError("its provenance is none")
            check_provenance(provenance)
            counts, digests = values.wholes("photos"), values.texts("digests")
            shards = [*zip(counts, digests, strict=True)]
            if not shards or min(counts) < 1 or values.text("sha256") != _sha(provenance, shards):
                raise ValueError("it is damaged")
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path}: no list of shards ({error}); run kinembed embed again"
            ) from None
        return cls(path, provenance, shards, values.text("sha256"))

    def shard(self, number: int) -> EmbeddingCache:
        """A file of it, checked against the list.

        Raises:
            RunError: it is gone, damaged, or another; says what mends it.
        """
        return self._opened.get(number, self._open)

    def _open(self, number: int) -> EmbeddingCache:
        path = self._at(number)
        if not path.is_file():
            raise self._refused(path, "is gone")
        try:
            cache = EmbeddingCache.open(path)
        except RunError:
            raise self._refused(path, "is damaged") from None
        count, digest = self.shards[number]
        if (
            cache.content != digest
            or len(cache) != count
            or cache.provenance != self.provenance
            or (self._kinds is not None and _kinds(cache) != self._kinds)
        ):
            cache.close()
            raise self._refused(path, "is another than is listed")
        return cache

    def _refused(self, path: Path, what: str) -> ListedFileError:
        how = how_to_make(self.path, "")
        cure = f"run {how}, which computes its photos again" if how else AGAIN
        files = counted(len(self.shards), "file")
        return ListedFileError(f"{path}: {what}, of the {files} of {self.path}", cure)

    def _at(self, number: int) -> Path:
        return self._folder / f"{number:06}.h5"

    def _first(self) -> EmbeddingCache:
        """The first file that can be opened."""
        problem: RunError | None = None
        for number in self._files:
            try:
                return self.shard(number)
            except RunError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def refused(self) -> dict[int, str]:
        """What is wrong with files that are gone, damaged or others, by their numbers."""
        found = {}
        for number in self._files:
            try:
                self.shard(number)
            except ListedFileError as error:
                found[number] = error.what
        return found

    def without(self, numbers: Collection[int]) -> ShardedCache:
        """The cache of the other files; of these, one at least has to be sound."""
        files = [number for number in self._files if number not in numbers]
        return ShardedCache(self.path, self.provenance, self.shards, self.footer.seal, files)

    def close(self) -> None:
        """Closes the files."""
        self._opened.close()

    @property
    def starts(self) -> Rows:
        """(F,) the first row of each file."""
        return np.cumsum([0, *self._counts[:-1]])

    @property
    def digest(self) -> str:
        """The sha256 of the files' digests."""
        digests = [self.shard(number).digest for number in self._files]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @cached_property
    def bytes(self) -> int:
        """The size of list and files."""
        files = [path for path in map(self._at, self._files) if path.is_file()]
        return self.path.stat().st_size + sum(path.stat().st_size for path in files)

    def damaged_rows(self, dataset: str) -> Rows:
        """Rows of a dataset that have changed since writing; of 64 in a file, one makes all."""
        starts = np.cumsum([0, *self._counts])
        return np.concatenate(
            [
                start + self.shard(number).damaged_rows(dataset)
                for number, start in zip(self._files, starts[:-1], strict=True)
            ]
        )

    def stored(self, dataset: str) -> Any:
        """A dataset as it is stored: vectors are read when they are used, all others now."""
        if not dataset.startswith("views/"):
            if dataset not in self._read:
                every = [self.shard(number).stored(dataset) for number in self._files]
                self._read[dataset] = np.concatenate(every)
            return self._read[dataset]
        extent = self.footer.extents[dataset]

        def file(number: int) -> Any:
            return self.shard(self._files[number]).stored(dataset)

        return ShardedRows(self._counts, file, extent.shape[1], extent.dtype)


def _kinds(cache: EmbeddingCache) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and width of a cache's views."""
    return {
        name: (each.dtype, tuple(each.shape[1:]))
        for name, each in cache.footer.extents.items()
        if name.startswith(("views/", "scales/"))
    }


def _sha(provenance: Mapping[str, Any], shards: Sequence[tuple[int, str]]) -> str:
    text = json.dumps([provenance, [list(each) for each in shards]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_of(path: Path, shards: Sequence[tuple[int, str]]) -> Path:
    """The folder of the files of a list, named by their digests."""
    own = hashlib.sha256("".join(digest for _, digest in shards).encode()).hexdigest()
    return path.with_name(f"{path.stem}-{own[:16]}")


def write_sharded(
    path: Path,
    provenance: Mapping[str, Any],
    views: Sequence[str],
    rows: Joined,
    people: Callable[[Names], Names],
    photos: int,
    ready: Sequence[Path] = (),
    dtype: str | None = None,
) -> Path:
    """Writes a cache in shards; the list is written last, and what it replaces is then removed.

    Args:
        path: the list.
        provenance: of the vectors.
        views: the wanted views.
        rows: the rows.
        people: who is on photos, by their names in order.
        photos: rows per file.
        ready: files that hold the rows already, in order; linked instead of written.
        dtype: of the vectors; None: as they are stored.
    """
    making = path.with_name(f"{path.stem}-making")
    shutil.rmtree(making, ignore_errors=True)
    make_folder(making)
    shards = []
    count = len(ready) or -(-len(rows) // photos)
    for number in range(count):
        file = making / f"{number:06}.h5"
        if ready:
            _link(ready[number], file)
        else:
            part = rows.part(number * photos, (number + 1) * photos)
            join(file, provenance, views, part, people, dtype)
        with EmbeddingCache.open(file) as cache:
            shards.append((len(cache), cache.content))
    folder = folder_of(path, shards)
    if folder.exists():  # its files may be damaged since, or some of them gone
        for number in range(count):
            file, there = making / f"{number:06}.h5", folder / f"{number:06}.h5"
            if not there.is_file() or not filecmp.cmp(file, there, shallow=False):
                os.replace(file, there)
        shutil.rmtree(making)
    else:
        os.replace(making, folder)
    content = {
        "schema": SCHEMA,
        "provenance": provenance,
        "photos": [count for count, _ in shards],
        "digests": [digest for _, digest in shards],
        "sha256": _sha(provenance, shards),
    }
    write_bytes(path, json.dumps(content).encode() + b"\n")
    remove_other(path)
    return path


def remove_other(path: Path) -> None:
    """Removes what a new cache of a run folder replaces: the file or the shards of before."""
    own: Path | None = None
    if path.suffix == ".json":
        with ShardedCache.open(path) as cache:
            own = folder_of(path, cache.shards)
        path.with_suffix(".h5").unlink(missing_ok=True)
    else:
        path.with_suffix(".json").unlink(missing_ok=True)
    for folder in _folders(path):
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(path: Path) -> Iterator[Path]:
    for folder in path.parent.glob(f"{path.stem}-*"):
        name = folder.name.removeprefix(f"{path.stem}-")
        is_own = len(name) == 16 and all(letter in "0123456789abcdef" for letter in name)
        if folder.is_dir() and not folder.is_symlink() and (is_own or name == "making"):
            yield folder


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name; copies it where the system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
