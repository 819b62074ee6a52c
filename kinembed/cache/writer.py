"""Writes a cache, all or nothing: its rows in blocks, and the footer at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import ATTRIBUTE, Digests, Names, Stats, block_checksums
from kinembed.cache.footer import append_footer, plan_file
from kinembed.cache.schema import BLOCK
from kinembed.data.layouts import kaggle_person
from kinembed.io import written_beside

CHUNK = 4096  # rows per block


class Blocks(Sequence[NDArray[Any]]):
    """The rows of a dataset, in blocks made on demand.

    Args:
        rows: how many.
        make: returns the rows from a start to a stop.
    """

    ROWS = CHUNK

    def __init__(self, rows: int, make: Callable[[int, int], NDArray[Any]]) -> None:
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
    names: Names | Blocks,
    digests: Digests | Blocks,
    views: Mapping[str, Sequence[NDArray[Any]]],
    stats: Stats | Blocks | None = None,
    people: Names | Blocks | None = None,
    scales: Mapping[str, Sequence[NDArray[Any]]] | None = None,
) -> Path:
    """Writes a cache, all or nothing.

    Args:
        path: the cache.
        provenance: what made the vectors, as JSON types.
        names: (N,) photo names, sorted; as all others at once or in blocks.
        digests: (N, 32) sha256 of the photos' files.
        views: for each view N rows in blocks of (n, D), in the order of names.
        stats: (N, 2) size in bytes and modification time in nanoseconds of the photos' files.
        people: (N,) who is on each photo, `FAMILY/PERSON`, empty where nobody is known; None: as
            Kaggle's layout says, `[FOLDER/]FAMILY/PERSON/FILE`.
        scales: (N,) what the bytes of a view are multiplied by, for each view of bytes.
    """
    rows = names.rows if isinstance(names, Blocks) else len(names)
    if people is None:
        assert not isinstance(names, Blocks)
        people = np.array(
            [kaggle_person(n.decode(errors="replace")).encode() for n in names.tolist()]
        )
    if stats is None:
        stats = np.full((rows, 2), -1, np.int64)
    whole = {"names": names, "people": people, "digests": digests, "stats": stats}
    contents: dict[str, Sequence[NDArray[Any]]] = {
        **{name: each if isinstance(each, Blocks) else [each] for name, each in whole.items()},
        **{f"views/{view}": blocks for view, blocks in views.items()},
        **{f"scales/{view}": blocks for view, blocks in (scales or {}).items()},
    }
    datasets = {}
    for name, blocks in contents.items():
        datasets[name] = blocks[0].dtype.str, (rows, *blocks[0].shape[1:])
        datasets[f"checksums/{name}"] = "|u1", (-(-rows // BLOCK), 32)
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
