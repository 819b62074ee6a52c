"""Writes a cache, all or nothing: HDF5 first, then the footer."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Vectors
from kinembed.cache import Digests, Names, Stats, block_checksums
from kinembed.cache.footer import append_footer, extent_of
from kinembed.data.layouts import kaggle_person
from kinembed.io import written_beside

PAGE = 4096  # bytes
CHUNK = 4096  # rows per block


class Blocks(Sequence[Vectors]):
    """The rows of a view, in blocks made on demand.

    Args:
        rows: how many.
        make: returns the rows from a start to a stop.
    """

    def __init__(self, rows: int, make: Callable[[int, int], Vectors]) -> None:
        self.rows = rows
        self.make = make

    def __len__(self) -> int:
        return -(-self.rows // CHUNK)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.make(number * CHUNK, min(self.rows, (number + 1) * CHUNK))


def write_cache(
    path: Path,
    provenance: Mapping[str, Any],
    names: Names,
    digests: Digests,
    views: Mapping[str, Sequence[Vectors]],
    stats: Stats | None = None,
    people: Names | None = None,
) -> Path:
    """Writes a cache, all or nothing.

    Args:
        path: the cache.
        provenance: what made the vectors, as JSON types.
        names: (N,) photo names, sorted.
        digests: (N, 32) sha256 of the photos' files.
        views: for each view N rows in blocks of (n, D), in the order of names.
        stats: (N, 2) size in bytes and modification time in nanoseconds of the photos' files.
        people: (N,) who is on each photo, `FAMILY/PERSON`, empty where nobody is known; None: as
            Kaggle's layout says, `[FOLDER/]FAMILY/PERSON/FILE`.
    """
    if people is None:
        people = np.array(
            [kaggle_person(n.decode(errors="replace")).encode() for n in names.tolist()]
        )
    if stats is None:
        stats = np.full((len(names), 2), -1, np.int64)
    contents: dict[str, Sequence[NDArray[Any]]] = {
        "names": [names],
        "people": [people],
        "digests": [digests],
        "stats": [stats],
        **{f"views/{view}": blocks for view, blocks in views.items()},
    }
    # Datasets aligned to pages can be memory-mapped and gathered without copying the rest.
    pages = {"alignment_threshold": PAGE, "alignment_interval": PAGE}
    extents = {}
    with written_beside(path, buffering=0) as raw:
        disk = _Disk(cast(FileIO, raw))
        with h5py.File(disk, "w", **pages) as file:
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
            for name, blocks in contents.items():
                shape = (len(names), *blocks[0].shape[1:])
                dataset = file.create_dataset(name, shape, blocks[0].dtype)
                sums = list(block_checksums(_write_blocks(blocks, dataset, disk)))
                extents[name] = extent_of(dataset)
                checksums = file.create_dataset(f"checksums/{name}", data=np.stack(sums))
                extents[f"checksums/{name}"] = extent_of(checksums)
        disk.check()
        append_footer(cast(Any, disk), extents, provenance)
        disk.check()
    return path


def _write_blocks(
    blocks: Sequence[NDArray[Any]], dataset: h5py.Dataset, disk: "_Disk"
) -> Iterator[NDArray[Any]]:
    """Writes each block, then yields it."""
    start = 0
    for block in blocks:
        dataset[start : start + len(block)] = block
        start += len(block)
        disk.check()
        yield block


class _Disk(RawIOBase):
    """A file for HDF5 to write to; it holds the first error back until `check`.

    HDF5 crashes the process when it closes a file after a failed write.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises the first error, if any."""
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

    def readable(self) -> bool:
        return True

    def readinto(self, content: Any) -> int:
        return self._raw.readinto(content) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        pass
