"""Writes a cache, all or nothing: its rows in blocks, and the footer at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Vectors
from kinembed.cache import ATTRIBUTE, Digests, Names, Stats, block_checksums
from kinembed.cache.footer import append_footer, plan_file
from kinembed.cache.schema import BLOCK
from kinembed.data.layouts import kaggle_person
from kinembed.io import written_beside

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
    datasets = {}
    for name, blocks in contents.items():
        datasets[name] = blocks[0].dtype.str, (len(names), *blocks[0].shape[1:])
        datasets[f"checksums/{name}"] = "|u1", (-(-len(names) // BLOCK), 32)
    layout = plan_file(ATTRIBUTE, provenance, datasets)
    with written_beside(path) as file:
        file.write(layout.head)
        for name, blocks in contents.items():
            file.seek(layout.extents[name].offset)
            sums = list(block_checksums(_write_blocks(blocks, file)))
            file.seek(layout.extents[f"checksums/{name}"].offset)
            file.write(np.stack(sums).tobytes())
        append_footer(file, provenance, layout)
    return path


def _write_blocks(blocks: Sequence[NDArray[Any]], file: BinaryIO) -> Iterator[NDArray[Any]]:
    """Writes each block, then yields it."""
    for block in blocks:
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        yield block
