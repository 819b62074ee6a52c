"""The footer of an HDF5 file: it seals the file, so that readers need not trust the HDF5 bytes.

HDF5 ignores bytes after its end. There the footer holds the offset, type and shape of each dataset,
a description of the file, and the sha256 of all bytes outside the datasets. kinembed reads caches
and heads by their footers, without the HDF5 library, which a stranger's file can crash or send to
other files; opening takes constant time.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from struct import Struct, error
from typing import Any, BinaryIO

import numpy as np

_TAIL = Struct("<Q32s16s")  # length of the footer's JSON, its sha256, mark
_MARK = b"kinembed seal 1\n"
_MAX_JSON = 1 << 20  # bytes
_MAX_SKELETON = 1 << 24  # bytes; HDF5 needs a few thousand
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,2}")
_DTYPE = re.compile(r"<f[24]|<i8|\|u1|\|S[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class Extent:
    """Offset, type and shape of a dataset in the file."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Footer:
    """The contents of a footer.

    Attributes:
        extents: by dataset name.
        about: the description of the file, as JSON types.
        skeleton: sha256 of all bytes before the footer and outside the datasets.
    """

    extents: dict[str, Extent]
    about: dict[str, Any]
    skeleton: str


def extent_of(dataset: Any) -> Extent:
    """The extent of an h5py dataset that has been written."""
    return Extent(dataset.id.get_offset(), dataset.dtype.str, dataset.shape)


def append_footer(file: BinaryIO, extents: Mapping[str, Extent], about: Mapping[str, Any]) -> None:
    """Appends the footer to a file of HDF5 bytes, opened for reading and writing."""
    end = file.seek(0, os.SEEK_END)
    skeleton = _skeleton(file, dict(extents), end)
    footer = Footer(dict(extents), dict(about), skeleton)
    text = json.dumps(asdict(footer), sort_keys=True).encode()
    file.seek(end)
    file.write(text + _TAIL.pack(len(text), hashlib.sha256(text).digest(), _MARK))


def read_footer(file: BinaryIO) -> Footer:
    """Reads a file's footer, and verifies all bytes outside the datasets.

    Raises:
        ValueError: the file has no footer or is damaged; in a few words.
    """
    size = file.seek(0, os.SEEK_END)
    if _bytes_at(file, 0, 8) != b"\x89HDF\r\n\x1a\n":
        raise ValueError("not an HDF5 file")
    try:
        length, sha, mark = _TAIL.unpack(_bytes_at(file, max(0, size - _TAIL.size), _TAIL.size))
    except error:
        mark = b""
    if mark != _MARK:
        raise ValueError("it does not end with a seal: cut short, changed, or not by kinembed")
    end = size - _TAIL.size - length
    if length > _MAX_JSON or end < 0:
        raise ValueError(f"a seal of {length} bytes")
    text = _bytes_at(file, end, length)
    if hashlib.sha256(text).digest() != sha:
        raise ValueError("its seal is damaged")
    footer = _parsed(text)
    _check_extents(footer.extents, end)
    if _skeleton(file, footer.extents, end) != footer.skeleton:
        raise ValueError("its HDF5 structure is damaged")
    return footer


def _parsed(text: bytes) -> Footer:
    try:
        content = json.loads(text)
        extents = {
            name: Extent(extent["offset"], extent["dtype"], tuple(extent["shape"]))
            for name, extent in content["extents"].items()
        }
        if not isinstance(content["about"], dict):
            raise TypeError("it says nothing of the file")
        return Footer(extents, content["about"], content["skeleton"])
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"its seal is not understood ({problem})") from None


def _check_extents(extents: Mapping[str, Extent], end: int) -> None:
    """Refuses extents that are malformed, overlap, or leave the file."""
    for name, extent in extents.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"dataset {name[:80]!r} has no plain name")
        if not isinstance(extent.dtype, str) or not _DTYPE.fullmatch(extent.dtype):
            raise ValueError(f"{name} is of type {str(extent.dtype)[:20]!r}")
        if any(type(n) is not int or n < 1 for n in extent.shape) or type(extent.offset) is not int:
            raise ValueError(f"{name} has no lengths")
    position = 0
    for name, extent in _by_offset(extents):
        if extent.offset < position or extent.offset + extent.size > end:
            raise ValueError(f"{name} is not in the file, or overlaps another dataset")
        position = extent.offset + extent.size


def _by_offset(extents: Mapping[str, Extent]) -> list[tuple[str, Extent]]:
    return sorted(extents.items(), key=lambda item: item[1].offset)


def _skeleton(file: BinaryIO, extents: Mapping[str, Extent], end: int) -> str:
    gaps = list(_gaps(extents, end))
    if sum(stop - start for start, stop in gaps) > _MAX_SKELETON:
        raise ValueError("it has far more bytes than its datasets need")
    sha = hashlib.sha256()
    for start, stop in gaps:
        sha.update(_bytes_at(file, start, stop - start))
    return sha.hexdigest()


def _gaps(extents: Mapping[str, Extent], end: int) -> Iterator[tuple[int, int]]:
    position = 0
    for _, extent in _by_offset(extents):
        yield position, extent.offset
        position = extent.offset + extent.size
    yield position, end


def _bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def read_dataset(file: BinaryIO, extent: Extent) -> Any:
    """Memory-maps a dataset of such a file, or reads it if the file cannot be mapped."""
    try:
        return np.memmap(file, extent.dtype, "r", extent.offset, extent.shape)
    except (OSError, ValueError):
        if file.closed:
            raise
        flat = np.fromfile(file.name, np.uint8, extent.size, offset=extent.offset)
        return flat.view(extent.dtype).reshape(extent.shape)
