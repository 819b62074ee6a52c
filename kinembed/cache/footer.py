"""The footer of an HDF5 file: it seals the file, so that readers need not trust the HDF5 bytes.

HDF5 ignores bytes after its end. There the footer holds the type and shape of each dataset, and a
description of the file. These tell every byte of the file outside the datasets (see `hdf5.py`), and
a reader refuses a file with any other: there are no links, filters or other files in it, for no
program that reads it. The HDF5 library, which a stranger's file can crash or send elsewhere, is not
used; opening takes constant time.
"""

import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct, error
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kinembed.cache.hdf5 import SIGNATURE, Extent, Layout, check_datasets, lay_out
from kinembed.checked import read_json
from kinembed.errors import RunError

_TAIL = Struct("<Q32s16s")  # length of the footer's JSON, its sha256, mark
_MARK = b"kinembed seal 2\n"
_MAX_JSON = 1 << 20  # bytes


@dataclass(frozen=True)
class Footer:
    """The contents of a footer.

    Attributes:
        extents: by dataset name, in the order of their offsets.
        about: the description of the file, as JSON types.
        seal: sha256 of the footer's JSON, as hexadecimal digits.
        data: the same of the datasets' bytes, in their order; None: they have other checksums.
    """

    extents: dict[str, Extent]
    about: dict[str, Any]
    seal: str
    data: str | None


def plan_file(
    attribute: str, about: Mapping[str, Any], datasets: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Layout:
    """Lays out a sealed file.

    Args:
        attribute: the attribute of the HDF5 root that holds `about`.
        about: the description of the file, as JSON types.
        datasets: type and shape by name, in the order of their places.

    Raises:
        ValueError: a name, type or shape is none that kinembed writes.
    """
    return lay_out(attribute, _text(about), datasets)


def append_footer(
    file: BinaryIO, about: Mapping[str, Any], layout: Layout, data: str | None = None
) -> None:
    """Appends the footer to a file that holds its layout's head and its datasets.

    Args:
        file: the file.
        about: the description of the file.
        layout: as `plan_file` made it.
        data: sha256 of the datasets' bytes, if readers shall check it.
    """
    datasets = [[name, each.dtype, each.shape] for name, each in layout.extents.items()]
    # As the reader gets it: keys of JSON are text, and are sorted as such.
    seal = {"about": json.loads(_text(about)), "data": data, "datasets": datasets}
    content = json.dumps(seal, sort_keys=True).encode()
    if len(content) > _MAX_JSON:
        raise ValueError(f"a description of {len(content):,} bytes, wanted at most {_MAX_JSON:,}")
    file.seek(layout.end)
    file.write(content + _TAIL.pack(len(content), hashlib.sha256(content).digest(), _MARK))


def sealed_bytes(
    attribute: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    """A whole sealed file of arrays, for files that fit into memory."""
    kinds = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    layout = plan_file(attribute, about, kinds)
    file, sha = io.BytesIO(layout.head), hashlib.sha256()
    for name, array in arrays.items():
        content = array.tobytes()
        sha.update(content)
        file.seek(layout.extents[name].offset)
        file.write(content)
    append_footer(file, about, layout, sha.hexdigest())
    return file.getvalue()


def read_sealed(file: BinaryIO, attribute: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The description of a sealed file, and its arrays, read into memory and verified.

    Raises:
        ValueError: the file is malformed or damaged; in a few words.
    """
    footer, sha, arrays = read_footer(file, attribute), hashlib.sha256(), {}
    for name, extent in footer.extents.items():
        content = _bytes_at(file, extent.offset, extent.size)
        sha.update(content)
        arrays[name] = np.frombuffer(bytearray(content), extent.dtype).reshape(extent.shape)
    if sha.hexdigest() != footer.data:
        raise ValueError("its numbers are damaged")
    return footer.about, arrays


def read_footer(file: BinaryIO, attribute: str) -> Footer:
    """Reads a file's footer, and verifies all bytes outside the datasets.

    Args:
        file: the file.
        attribute: as in `plan_file`.

    Raises:
        ValueError: the file has no footer, is damaged, or is none that kinembed could have written;
            in a few words.
    """
    size = file.seek(0, os.SEEK_END)
    if _bytes_at(file, 0, 8) != SIGNATURE:
        raise ValueError("not an HDF5 file")
    try:
        length, sha, mark = _TAIL.unpack(_bytes_at(file, max(0, size - _TAIL.size), _TAIL.size))
    except error:
        mark = b""
    if mark != _MARK and mark.startswith(b"kinembed seal "):
        raise ValueError("its seal is of another version of kinembed")
    if mark != _MARK:
        raise ValueError("it does not end with a seal: cut short, changed, or not by kinembed")
    end = size - _TAIL.size - length
    if length > _MAX_JSON or end < 0:
        raise ValueError(f"a seal of {length} bytes")
    text = _bytes_at(file, end, length)
    if hashlib.sha256(text).digest() != sha:
        raise ValueError("its seal is damaged")
    about, datasets, data = _parsed(text)
    layout = plan_file(attribute, about, datasets)
    if layout.end != end:
        raise ValueError(f"{end:,} bytes of HDF5, wanted {layout.end:,} for its datasets")
    if any(_bytes_at(file, at, len(wanted)) != wanted for at, wanted in _others(layout)):
        raise ValueError("its HDF5 structure is damaged, or was not written by kinembed")
    return Footer(layout.extents, about, sha.hex(), data)


def _text(about: Mapping[str, Any]) -> str:
    """The description as its HDF5 attribute holds it."""
    return json.dumps(json.loads(json.dumps(about)), sort_keys=True)


def _parsed(
    text: bytes,
) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]], str | None]:
    """The description, type and shape by dataset, and the sha256 of the datasets' bytes."""
    content = read_json(text)
    try:
        about, listed, data = content["about"], content["datasets"], content["data"]
        datasets = {name: (dtype, tuple(shape)) for name, dtype, shape in listed}
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"its seal is not understood ({problem})") from None
    if not isinstance(about, dict) or len(datasets) != len(listed):
        raise ValueError("its seal is not understood: nothing of the file, or a dataset twice")
    check_datasets(datasets)
    return about, datasets, data


def _others(layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Offset and value of the bytes outside the datasets."""
    yield 0, layout.head
    position = len(layout.head)
    for extent in layout.extents.values():
        yield position, bytes(extent.offset - position)
        position = extent.offset + extent.size


def _bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def read_dataset(file: BinaryIO, extent: Extent) -> Any:
    """Memory-maps a dataset of such a file, or reads it if the file cannot be mapped.

    Raises:
        RunError: the file has become shorter since it was opened.
    """
    end = extent.offset + extent.size
    if not file.closed and file.seek(0, os.SEEK_END) < end:
        raise _cut_short(file.name)
    try:
        rows = MappedRows(file, extent.dtype, "r", extent.offset, extent.shape)
    except (OSError, ValueError):
        if file.closed:
            raise
        flat = np.fromfile(file.name, np.uint8, extent.size, offset=extent.offset)
        return flat.view(extent.dtype).reshape(extent.shape)
    rows.end = end
    return rows


class MappedRows(np.memmap[Any, Any]):
    """Rows of a mapped file; the size of the file is checked whenever they are used.

    To read a page that the file has lost would end the process with SIGBUS.

    Attributes:
        end: the size that the file must have.
    """

    end = 0

    def __array_finalize__(self, whole: Any) -> None:
        super().__array_finalize__(whole)
        self.end = getattr(whole, "end", 0)

    def check(self) -> None:
        """Checks that the file still holds the rows.

        Raises:
            RunError: it has become shorter.
        """
        mapped = getattr(self, "_mmap", None)  # None: a copy in memory
        if mapped is not None and mapped.size() < self.end:
            raise _cut_short(self.filename)

    def __getitem__(self, key: Any) -> Any:
        self.check()
        return super().__getitem__(key)

    def take(self, *arguments: Any, **options: Any) -> Any:
        """As numpy's."""
        self.check()
        return super().take(*arguments, **options)

    def astype(self, *arguments: Any, **options: Any) -> Any:
        """As numpy's."""
        self.check()
        return super().astype(*arguments, **options)

    def copy(self, *arguments: Any, **options: Any) -> Any:
        """As numpy's."""
        self.check()
        return super().copy(*arguments, **options)

    def tobytes(self, *arguments: Any, **options: Any) -> bytes:
        """As numpy's."""
        self.check()
        return super().tobytes(*arguments, **options)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        outputs = {"out": tuple(map(_plain, options.pop("out")))} if "out" in options else {}
        return getattr(ufunc, method)(*map(_plain, inputs), **outputs, **options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        self.check()
        return super().__array_function__(function, types, arguments, options)


def release(array: NDArray[Any]) -> None:
    """Lets go of the pages of a mapped array that were read; they are read again when asked for.

    Pages of files count as memory of a process until the system needs them for others.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _plain(array: Any) -> Any:
    """An array without its class, checked; anything else as it is."""
    if not isinstance(array, MappedRows):
        return array
    array.check()
    return array.view(np.ndarray)


def _cut_short(path: object) -> RunError:
    return RunError(
        f"{path}: was cut short while it was in use; run the command again, which names the cure"
    )
