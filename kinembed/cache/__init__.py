"""The embedding cache: the vectors of all photos in one HDF5 file, with their provenance.

The network names the views; `VIEW-flip` is of photos mirrored left-right. `vectors("max+native")`
concatenates several.

Layout: per view a contiguous, unfiltered (N, D) dataset `views/NAME`, float32, float16, or int8
with `scales/NAME`, (N,) float32; `names`, (N,) sorted fixed-width UTF-8; `people`, (N,) fixed-width
UTF-8, who is on each photo (see `data/layouts.py`); `digests`, (N, 32) uint8, the sha256 of each
photo's file; `stats`, (N, 2) int64, the file's size in bytes and modification time in nanoseconds,
-1 if unknown; for each of these `checksums/NAME`, (ceil(N / 64), 32) uint8, the sha256 of 64 rows
each; and the root attribute `provenance`, JSON. The footer follows the HDF5 bytes and seals them:
see `footer.py`, `hdf5.py`, `schema.py` and `provenance.py`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Array, Rows, Vectors, rows_not_finite
from kinembed.backbones import BACKBONES
from kinembed.cache.footer import Footer, read_dataset, read_footer, release
from kinembed.cache.lookup import NameLookup
from kinembed.cache.provenance import check_provenance
from kinembed.cache.schema import BLOCK, SCHEMA, check_schema, views_of
from kinembed.data.folders import UNSAFE_NAME
from kinembed.data.layouts import is_person
from kinembed.errors import DataError, RunError
from kinembed.views import JOIN, TTA, without_tta

__all__ = [
    "SCHEMA",
    "EmbeddingCache",
    "Embeddings",
    "block_checksums",
    "cache_at",
    "check_names",
    "check_people",
]

ATTRIBUTE = "provenance"  # of the HDF5 root
_MANY = 1 << 16  # names that are checked at once

Names = NDArray[np.bytes_]
Digests = NDArray[np.uint8]
Stats = NDArray[np.int64]

Opened = TypeVar("Opened", bound="Embeddings")


class Embeddings(ABC):
    """Photo names and their vectors, by view: one cache, or several stacked caches.

    Attributes:
        path: the cache's file; for several caches the first one's.
        provenance: what made the vectors.
    """

    path: Path
    provenance: dict[str, Any]

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def close(self) -> None:
        """Closes open files; memory-mapped vectors stay readable."""

    @property
    @abstractmethod
    def views(self) -> tuple[str, ...]:
        """Names of the views."""

    @property
    @abstractmethod
    def names(self) -> Names:
        """(N,) photo names, sorted, as UTF-8 bytes."""

    @property
    @abstractmethod
    def people(self) -> Names:
        """(N,) who is on each photo, as UTF-8 bytes.

        `FAMILY/PERSON`; `PERSON` where the family is not known; empty where nobody is known.
        """

    @property
    def starts(self) -> Rows:
        """(F,) the first row of each file that its vectors lie in, sorted."""
        return np.zeros(1, np.intp)

    @property
    @abstractmethod
    def digest(self) -> str:
        """The sha256 of the model, names, photos and vectors, without people and photos' times."""

    @property
    @abstractmethod
    def digests(self) -> Digests:
        """(N, 32) sha256 of each photo's file."""

    @property
    @abstractmethod
    def stats(self) -> Stats:
        """(N, 2) size in bytes and modification time in nanoseconds of each photo's file."""

    @abstractmethod
    def _vectors(self, view: str) -> Vectors:
        """(N, D) vectors of one view."""

    def vectors(self, view: str) -> Vectors:
        """(N, D) memory-mapped vectors of a view; only the rows in use are read.

        The vectors of a composite view, such as `max+native`, are concatenated in memory:
        (N, sum of widths) float32.

        Raises:
            RunError: there is no such view; names the first that is missing.
        """
        names = view.split(JOIN)
        if not all(names):
            raise RunError(
                f"{self.path}: found view {view!r}, wanted a name, or several joined by {JOIN}; "
                f"there are {', '.join(self.views)}"
            )
        views = [self._vectors(name) for name in names]
        return views[0] if len(views) == 1 else np.concatenate(views, 1, dtype=np.float32)

    def choose_view(self, view: str | None, start: str = "") -> str:
        """The given view; if None, `max` if the cache has it, else the only view.

        Views of mirrored photos (`VIEW-flip`) count only if there are no others.

        Args:
            view: its name.
            start: of the names of the views that count: the number and dot of a stacked cache.

        Raises:
            RunError: there are several views, and none is `max`.
        """
        if view is not None:
            return view
        views = [name for name in self.views if name.startswith(start)]
        if f"{start}max" in views:
            return f"{start}max"
        plain = [name for name in views if not name.endswith(TTA)] or views
        if len(plain) > 1:
            raise RunError(f"{self.path}: has views {', '.join(views)}; name one with --view")
        return plain[0]

    def rows(self, names: Sequence[str]) -> Rows:
        """(K,) rows of photo names.

        Raises:
            DataError: names the photos that the cache lacks, and the closest match of the first.
        """
        rows = self.find(names)
        absent = np.flatnonzero(rows < 0).tolist()
        if absent:
            more = ", ".join(repr(names[i]) for i in absent[1:6])
            rest = f"; nor are {more}" if more else ""
            others = f" and {len(absent) - 6} more" if len(absent) > 6 else ""
            raise DataError(f"{self.unknown(names[absent[0]])}{rest}{others}")
        return rows

    def find(self, names: Sequence[str]) -> Rows:
        """(K,) rows of photo names; -1 for a photo that the cache lacks, -2 for an ambiguous name.

        A name may lack its leading `test/` or the folder of families, may stand below other
        folders, and may be written for another system; see `lookup.py`.
        """
        return self._lookup.find(names)

    @cached_property
    def _lookup(self) -> NameLookup:
        return NameLookup(self.names, str(self.path))

    def finite(self, scores: Array, view: str) -> Array:
        """Returns (K, ...) scores of its vectors if all are finite.

        Args:
            scores: a head's.
            view: what the head compares.

        Raises:
            RunError: some are not; says whether the vectors or the head are to blame.
        """
        if np.isfinite(scores).all():
            return scores
        self.check_finite(view)
        raise RunError(
            f"the head's scores of {self.path} are not finite, and the vectors are: its weights "
            "are out of range, or representations.h5 is damaged; delete that, or train another "
            "with kinembed head"
        )

    def check_finite(self, view: str) -> None:
        """Refuses vectors that are not finite.

        Raises:
            RunError: naming cache, view and photo.
        """
        for name in view.split(JOIN):
            rows = rows_not_finite(self._vectors(name))
            if len(rows):
                raise RunError(
                    f"{self.path_of(name)}: view {name} of {self.names[rows[0]].decode()!r} is not "
                    "finite; run kinembed embed again"
                )

    def path_of(self, view: str) -> Path:
        """The file that holds a view."""
        return self.path

    def unknown(self, name: str) -> str:
        """The error message for a name that is of no photo, or of several."""
        return self._lookup.explain(name)


class EmbeddingCache(Embeddings):
    """A cache opened for reading; `with EmbeddingCache.open(path) as cache` closes it.

    Several processes may read it at once, also after a fork, because it never changes.

    Attributes:
        path: its file.
        provenance: what made the vectors.
        footer: offset, type and shape of each dataset.
    """

    def __init__(self, path: Path, file: BinaryIO, footer: Footer) -> None:
        self.path = path
        self.provenance = footer.about
        self._file = file
        self.footer = footer

    @classmethod
    def open(cls, path: Path) -> "EmbeddingCache":
        """Opens a cache and checks its schema, in constant time.

        Where there is no file of this name, it opens the cache in shards that is listed beside it.

        Raises:
            RunError: the file is missing or is not an embedding cache.
        """
        path = cache_at(path)
        if path.suffix == ".json" and path.is_file():
            from kinembed.cache.sharded import ShardedCache  # which this is the base of

            return ShardedCache.open(path)
        if not path.is_file():
            from kinembed.cache.own import UNKNOWN, how_to_make  # which reads caches

            raise RunError(f"{path}: no such file; run {how_to_make(path, UNKNOWN)}")
        file = path.open("rb", buffering=0)
        try:
            footer = read_footer(file, ATTRIBUTE)
            check_schema(footer)
            check_provenance(footer.about)
        except ValueError as error:
            file.close()
            raise RunError(
                f"{path}: not an embedding cache ({error}); run kinembed embed again"
            ) from None
        return cls(path, file, footer)

    def close(self) -> None:
        """Closes the file; memory-mapped vectors stay readable."""
        self._file.close()

    def __len__(self) -> int:
        return self.footer.extents["names"].shape[0]

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return views_of(self.footer)

    @cached_property
    def names(self) -> Names:
        """(N,) photo names, sorted, as UTF-8 bytes.

        Raises:
            RunError: they are damaged, out of order, or lead out of the data folder.
        """
        names: Names = _copied(self.stored("names"))
        if len(self.damaged_rows("names")):
            raise RunError(f"{self.path}: its names are damaged; run kinembed cache verify")
        check_names(names, self.path)
        return names

    @cached_property
    def people(self) -> Names:
        """(N,) who is on each photo, as UTF-8 bytes.

        Raises:
            RunError: they are damaged, or one is no name of a person.
        """
        people: Names = _copied(self.stored("people"))
        if len(self.damaged_rows("people")):
            raise RunError(f"{self.path}: its people are damaged; run kinembed cache verify")
        check_people(people, self.path)
        return people

    @property
    def digest(self) -> str:
        """The sha256 of the model, names, photos and vectors, without people and photos' times."""
        sha = hashlib.sha256(self.provenance["model"].encode())
        views = [name for name in self.footer.extents if name.startswith(("views/", "scales/"))]
        for name in ("names", "digests", *sorted(views)):
            sha.update(name.encode() + self.stored(f"checksums/{name}").tobytes())
        return sha.hexdigest()

    @property
    def content(self) -> str:
        """The sha256 of all that the file holds, by its checksums."""
        sha = hashlib.sha256(self.footer.seal.encode())
        for name in self.footer.extents:
            if name.startswith("checksums/"):
                sha.update(self.stored(name).tobytes())
        return sha.hexdigest()

    @property
    def digests(self) -> Digests:
        """(N, 32) sha256 of each photo's file."""
        digests: Digests = self.stored("digests")
        return digests

    @property
    def stats(self) -> Stats:
        """(N, 2) size in bytes and modification time in nanoseconds of each photo's file."""
        stats: Stats = self.stored("stats")
        return stats

    def _vectors(self, view: str) -> Vectors:
        if view not in self.views:
            raise RunError(
                f"{self.path}: has no view {view}, only {', '.join(self.views)}"
                f"{self._how_to_get(view)}"
            )
        vectors: Vectors = self.stored(f"views/{view}")
        if vectors.dtype == np.int8:
            from kinembed.cache.lazy_rows import ScaledRows

            scaled: Any = ScaledRows(vectors, self.stored(f"scales/{view}"))
            vectors = scaled
        return vectors

    def _how_to_get(self, view: str) -> str:
        """How to get a view that the cache lacks: by its network, or by spelling it right."""
        backbone = BACKBONES.get(self.provenance.get("backbone", ""))
        if backbone is not None and view.removesuffix(TTA) in backbone.views:
            wanted = ",".join(without_tta([*self.views, view]))
            named = self.provenance.get("command", {}).get("backbone")  # None: a fine-tuned one
            which = f"--backbone {named} " if named else ""
            return f"; run kinembed embed {which}--views {wanted}{' --flip' * view.endswith(TTA)}"
        closest = get_close_matches(view, self.views, 1)
        return f"; did you mean {closest[0]}?" if closest else ""

    def dtype_of(self, view: str) -> str:
        """The number format of a view, as it is stored: `float32`, `float16` or `int8`."""
        return str(np.dtype(self.footer.extents[f"views/{view}"].dtype))

    def damaged_rows(self, dataset: str) -> Rows:
        """Rows of a dataset, such as `names` or `views/max`, that have changed since writing.

        Reads the whole dataset. One damaged byte makes its whole block of 64 rows count.
        """
        wanted = self.stored(f"checksums/{dataset}")
        actual = np.stack([*block_checksums(_released(self.stored(dataset)))])
        blocks = np.flatnonzero((actual != wanted).any(1))
        rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        return rows[rows < len(self)]

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size

    def stored(self, dataset: str) -> Any:
        """A dataset as it is stored, memory-mapped."""
        return read_dataset(self._file, self.footer.extents[dataset])


def _released(stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows of a mapped dataset in blocks, whose pages are let go again."""
    for start in range(0, len(stored), _MANY):
        yield stored[start : start + _MANY]
        release(stored)


def _copied(stored: NDArray[Any]) -> NDArray[Any]:
    """A mapped dataset in memory, once."""
    copy = np.empty(stored.shape, stored.dtype)
    start = 0
    for block in _released(stored):
        copy[start : start + len(block)] = block
        start += len(block)
    return copy


def cache_at(path: Path) -> Path:
    """The cache of a path: that itself or, where it is not there, the list of one in shards."""
    listed = path.with_suffix(".json")
    return listed if not path.is_file() and listed.is_file() else path


def check_names(names: Names, path: Path) -> None:
    """Refuses names that are unsorted, or not paths below a folder.

    Raises:
        RunError: names the first such name.
    """
    if not (names[:-1] < names[1:]).all():
        raise RunError(f"{path}: names are not sorted; run kinembed embed again")
    for first in range(0, len(names), _MANY):
        some = names[first : first + _MANY]
        try:
            text = b"\n".join(some.tolist()).decode()
        except UnicodeDecodeError:
            raise RunError(f"{path}: names are not UTF-8; run kinembed embed again") from None
        unsafe = UNSAFE_NAME.search(text)
        if unsafe or text.count("\n") != len(some) - 1 or not some[0]:
            start = text.rfind("\n", 0, unsafe.start() + 1) + 1 if unsafe else 0
            name = text[start:].partition("\n")[0]
            raise RunError(
                f"{path}: {name[:120]!r} is no name of a photo below a folder; run kinembed embed "
                "again"
            )


def check_people(people: Names, path: Path) -> None:
    """Refuses what is no person: `FAMILY/PERSON`, `PERSON`, or nobody.

    Raises:
        RunError: names the first such person.
    """
    blocks = range(0, len(people), _MANY)
    known = {name for start in blocks for name in set(people[start : start + _MANY].tolist())}
    for name in sorted(known):
        text = name.decode(errors="replace")
        if text and (text.encode() != name or not is_person(text)):
            raise RunError(
                f"{path}: {text[:120]!r} is no name of a person, wanted FAMILY/PERSON; run "
                "kinembed embed again"
            )


def block_checksums(blocks: Sequence[NDArray[Any]] | Iterator[NDArray[Any]]) -> Iterator[Digests]:
    """Yields the sha256, (32,) uint8, of every 64 rows of a dataset given in blocks."""
    sha, hashed = hashlib.sha256(), 0  # rows in `sha`
    for block in blocks:
        start = 0
        while start < len(block):
            rows = block[start : start + BLOCK - hashed]
            sha.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
            hashed, start = hashed + len(rows), start + len(rows)
            if hashed == BLOCK:
                yield np.frombuffer(sha.digest(), np.uint8)
                sha, hashed = hashlib.sha256(), 0
    if hashed:
        yield np.frombuffer(sha.digest(), np.uint8)
