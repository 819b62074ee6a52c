"""The embedding cache: every photo's vectors in one HDF5 file that knows what made it.

Layout: per view a contiguous, unfiltered (N, D) dataset `views/NAME`, float32 or float16; `names`,
(N,) sorted fixed-width UTF-8; `digests`, (N, 32) uint8, the sha256 of each photo's file; and the
root attribute `provenance`, JSON.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from io import FileIO, RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kinembed.errors import DataError, RunError
from kinembed.families import Rows
from kinembed.files import written_beside

SCHEMA = 1
PART_ROWS = 4096
PAGE = 4096  # bytes

Names = NDArray[np.bytes_]
Digests = NDArray[np.uint8]
Vectors = NDArray[np.floating[Any]]


class EmbeddingCache:
    """A cache opened for reading; `with EmbeddingCache.open(path) as cache` closes it.

    Attributes:
        path: where it lies.
        provenance: what made it.
    """

    def __init__(self, path: Path, file: h5py.File, provenance: dict[str, Any]) -> None:
        self.path = path
        self.provenance = provenance
        self._file = file

    @classmethod
    def open(cls, path: Path) -> "EmbeddingCache":
        """Opens a cache and checks its structure, in a time that does not grow with its size.

        Raises:
            RunError: the file is missing or is not an embedding cache.
        """
        if not path.is_file():
            raise RunError(f"{path}: no such file; run kinembed embed")
        try:
            file = h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            raise RunError(
                f"{path}: not an HDF5 file ({error}); run kinembed embed again"
            ) from None
        try:
            provenance = json.loads(file.attrs["provenance"])
            if provenance["schema"] != SCHEMA:
                raise ValueError(f"schema {provenance['schema']}, this version reads {SCHEMA}")
            if not isinstance(provenance["model"], str):
                raise ValueError("its provenance names no model")
            rows = len(file["names"])
            datasets = [file["digests"], *file["views"].values()]
            if file["names"].dtype.kind != "S" or any(len(d) != rows for d in datasets):
                raise ValueError("names, digests and views do not fit each other")
            if file["digests"].shape[1:] != (32,) or file["digests"].dtype != np.uint8:
                raise ValueError("digests are not 32 bytes each")
            for view in file["views"].values():
                if view.ndim != 2 or view.dtype not in (np.float32, np.float16):
                    raise ValueError(f"view {view.name} is {view.dtype} of {view.ndim} axes")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            file.close()
            raise RunError(
                f"{path}: not an embedding cache ({error}); run kinembed embed again"
            ) from None
        return cls(path, file, provenance)

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["names"])

    @property
    def views(self) -> tuple[str, ...]:
        """The views there are."""
        return tuple(self._file["views"])

    @cached_property
    def names(self) -> Names:
        """(N,) photo names, sorted, as UTF-8 bytes."""
        names: Names = self._file["names"][...]
        if not (names[:-1] < names[1:]).all():
            raise RunError(f"{self.path}: names are not sorted; run kinembed embed again")
        return names

    @property
    def digests(self) -> Digests:
        """(N, 32) sha256 of each photo's file."""
        digests: Digests = self._file["digests"][...]
        return digests

    def vectors(self, view: str) -> Vectors:
        """(N, D) vectors of a view, memory-mapped: only the rows used are read.

        Raises:
            RunError: the cache lacks this view.
        """
        if view not in self.views:
            raise RunError(
                f"{self.path}: has no view {view}, only {', '.join(self.views)}; "
                f"run kinembed embed --views {','.join([*self.views, view])}"
            )
        dataset = self._file[f"views/{view}"]
        offset = dataset.id.get_offset()
        if offset is None:  # empty, chunked, or otherwise not lying in one piece
            return np.asarray(dataset[...])
        return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def find(self, names: Sequence[str]) -> Rows:
        """Rows (K,) of photo names, -1 where there is no such photo.

        A name is looked for as it stands, then below `test/`, as submissions leave that out.
        """
        rows = self._find(names)
        absent = np.flatnonzero(rows < 0)
        if len(absent):
            rows[absent] = self._find([f"test/{names[i]}" for i in absent.tolist()])
        return rows

    def _find(self, names: Sequence[str]) -> Rows:
        if not len(self.names) or not len(names):
            return np.full(len(names), -1, np.intp)
        wanted = np.array([name.encode() for name in names])
        rows = np.searchsorted(self.names, wanted).clip(max=len(self.names) - 1)
        return np.where(self.names[rows] == wanted, rows, -1)

    def unknown(self, name: str) -> str:
        """What to say of a photo name that is not in the cache, with the nearest that is."""
        known = [text.decode() for text in self.names.tolist()]
        near = get_close_matches(name, known + [k.removeprefix("test/") for k in known], 1)
        hint = f" (nearest: {near[0]})" if near else ""
        return f"photo {name!r} is not in {self.path}{hint}; embed it with kinembed embed"


def write_cache(
    path: Path,
    provenance: Mapping[str, Any],
    names: Names,
    digests: Digests,
    views: Mapping[str, Sequence[Vectors]],
) -> Path:
    """Writes a cache, all or nothing.

    Args:
        path: where to.
        provenance: what made the vectors, as JSON types.
        names: (N,) photo names, sorted.
        digests: (N, 32) sha256 of the photos' files.
        views: for each view blocks of rows, (n, D) each and N together, in the order of names.
    """
    # Rows that start on a page can be memory-mapped and gathered without copying the rest.
    pages = {"alignment_threshold": PAGE, "alignment_interval": PAGE}
    with written_beside(path) as beside, beside.open("w+b", buffering=0) as raw:
        disk = _Disk(raw)
        with h5py.File(disk, "w", **pages) as file:
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
            file["names"] = names
            file["digests"] = digests
            for view, blocks in views.items():
                shape = (len(names), blocks[0].shape[1])
                dataset = file.create_dataset(f"views/{view}", shape, blocks[0].dtype)
                start = 0
                for block in blocks:
                    dataset[start : start + len(block)] = block
                    start += len(block)
                    disk.check()
        disk.check()
    return path


class _Disk(RawIOBase):
    """A file for HDF5 to write to, which keeps the first error to itself until it is asked.

    HDF5 cannot close a file that it could not write, and brings the process down with it.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises the first error there was."""
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        while len(rest) and self._error is None:
            try:
                rest = rest[self._raw.write(rest) :]
            except OSError as error:
                self._error = error
        return len(memoryview(content).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, content: Any) -> int:
        return self._raw.readinto(content) or 0

    def seek(self, place: int, whence: int = 0) -> int:
        return self._raw.seek(place, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        pass


class CacheWriter:
    """Collects rows in part files and joins them into one cache at the end.

    Memory is bounded by one part. The cache that was there before stays until `finish`.

    Args:
        folder: where part files go meanwhile; removed at the end.
        provenance: what makes the vectors.
        part_rows: rows per part file.
    """

    def __init__(
        self, folder: Path, provenance: Mapping[str, Any], part_rows: int = PART_ROWS
    ) -> None:
        self.folder = folder
        self.provenance = provenance
        self.part_rows = part_rows
        self._blocks: list[tuple[list[str], list[bytes], dict[str, Vectors]]] = []
        self._parts: list[Path] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, names: list[str], digests: list[bytes], views: dict[str, Vectors]) -> None:
        """Adds rows; names go on in sorted order, views are (n, D) each."""
        self._blocks.append((names, digests, views))
        if sum(len(block[0]) for block in self._blocks) >= self.part_rows:
            self._flush()

    def _flush(self) -> None:
        if not self._blocks:
            return
        path = self.folder / f"{len(self._parts):06}.h5"
        names, digests, views = zip(*self._blocks, strict=True)
        write_cache(
            path,
            self.provenance,
            np.array([name.encode() for block in names for name in block]),
            _digest_rows([digest for block in digests for digest in block]),
            {view: [block[view] for block in views] for view in views[0]},
        )
        self._parts.append(path)
        self._blocks.clear()

    def finish(self, path: Path) -> Path:
        """Joins the parts into the cache at `path`.

        Raises:
            DataError: no row was added.
        """
        self._flush()
        if not self._parts:
            raise DataError("no photo could be embedded; there is nothing to write")
        parts = [EmbeddingCache.open(part) for part in self._parts]
        try:
            return write_cache(
                path,
                self.provenance,
                np.concatenate([part.names for part in parts]),
                np.concatenate([part.digests for part in parts]),
                {view: [part.vectors(view) for part in parts] for view in parts[0].views},
            )
        finally:
            for part in parts:
                part.__exit__(None, None, None)


def _digest_rows(digests: list[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
