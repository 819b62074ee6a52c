"""A cache that stays in shards: `embeddings.json` and a folder of files, read as one cache.

The list says what made the vectors, and of each file how many photos it has and the digest of its
checksums. A file that is missing, or another, or of other views or settings is refused when it is
used. Files are numbered, and their folder is named by the digests: no name leads anywhere.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache, Names
from kinembed.cache.footer import Footer
from kinembed.cache.hdf5 import Extent
from kinembed.cache.joined import Joined, join
from kinembed.cache.lazy_rows import ShardedRows
from kinembed.cache.provenance import check_provenance
from kinembed.checked import Values, read_json
from kinembed.errors import RunError
from kinembed.io import make_folder, write_bytes

SCHEMA = 1  # of the list
OPENED = 64  # files at once


class ShardedCache(EmbeddingCache):
    """A cache in shards, opened for reading; `EmbeddingCache.open` opens one, too.

    Attributes:
        path: the list.
        shards: how many photos each file has, and its digest.
    """

    def __init__(self, path: Path, provenance: dict[str, Any], shards: Sequence[tuple[int, str]],
                 seal: str) -> None:  # fmt: skip
        self.path, self.provenance, self.shards = path, provenance, tuple(shards)
        self._opened: OrderedDict[int, EmbeddingCache] = OrderedDict()
        self._lock = RLock()
        self._read: dict[str, Any] = {}
        self._counts = [count for count, _ in self.shards]
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] | None = None
        first = self.shard(0)
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
        """Opens the list, and its first file.

        Raises:
            RunError: the list is malformed or damaged, or the file is.
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
            RunError: it is missing, or another.
        """
        with self._lock:
            if number not in self._opened:
                path = folder_of(self.path, self.shards) / f"{number:06}.h5"
                cache = EmbeddingCache.open(path)
                count, digest = self.shards[number]
                if (
                    cache.content != digest
                    or len(cache) != count
                    or cache.provenance != self.provenance
                    or (self._kinds is not None and _kinds(cache) != self._kinds)
                ):
                    cache.close()
                    raise RunError(
                        f"{path}: is not the file that {self.path} lists; run kinembed embed again"
                    )
                self._opened[number] = cache
                if len(self._opened) > OPENED:
                    self._opened.popitem(last=False)[1].close()
            self._opened.move_to_end(number)
            return self._opened[number]

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            while self._opened:
                self._opened.popitem()[1].close()

    @property
    def starts(self) -> Rows:
        """(F,) the first row of each file."""
        return np.cumsum([0, *self._counts[:-1]])

    @property
    def digest(self) -> str:
        """The sha256 of the files' digests."""
        digests = [self.shard(number).digest for number in range(len(self.shards))]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @cached_property
    def bytes(self) -> int:
        """The size of list and files."""
        folder = folder_of(self.path, self.shards)
        files = (folder / f"{number:06}.h5" for number in range(len(self.shards)))
        return self.path.stat().st_size + sum(path.stat().st_size for path in files)

    def damaged_rows(self, dataset: str) -> Rows:
        """Rows of a dataset that have changed since writing; of 64 in a file, one makes all."""
        starts = np.cumsum([0, *self._counts])
        return np.concatenate(
            [start + self.shard(n).damaged_rows(dataset) for n, start in enumerate(starts[:-1])]
        )

    def stored(self, dataset: str) -> Any:
        """A dataset as it is stored: vectors are read when they are used, all others now."""
        parts = range(len(self.shards))
        if not dataset.startswith("views/"):
            if dataset not in self._read:
                every = [self.shard(number).stored(dataset) for number in parts]
                self._read[dataset] = np.concatenate(every)
            return self._read[dataset]
        extent = self.footer.extents[dataset]
        return ShardedRows(
            self._counts, lambda n: self.shard(n).stored(dataset), extent.shape[1], extent.dtype
        )


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
