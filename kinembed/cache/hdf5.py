"""The HDF5 bytes around datasets, made from names, types and shapes, without the HDF5 library.

They are the same for the same description, whatever machine or library is at hand, so a reader
makes them again and compares: see `footer.py`. HDF5 1.8 and later read them.

Format: "HDF5 File Format Specification Version 3.0", https://docs.hdfgroup.org. A superblock of
version 2; object headers of version 2, with links in messages; one attribute, a string of variable
length in the global heap; contiguous datasets without filters.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PAGE = 4096  # bytes; datasets of this size and more start on a page, to be memory-mapped
MOST_DATASETS = 5000
_HEAP = "//"  # no name of a dataset
_UNDEFINED = b"\xff" * 8  # an address
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,7}")
_TEXT = re.compile(r"\|S([1-9][0-9]{0,4})")
# Class, bit field, size, and the properties of each type of numbers.
_NUMBERS = {
    "<f2": bytes([0x11, 0x20, 15, 0]) + struct.pack("<IHHBBBBI", 2, 0, 16, 10, 5, 0, 10, 15),
    "<f4": bytes([0x11, 0x20, 31, 0]) + struct.pack("<IHHBBBBI", 4, 0, 32, 23, 8, 0, 23, 127),
    "<i8": bytes([0x10, 0x08, 0, 0]) + struct.pack("<IHH", 8, 0, 64),
    "|i1": bytes([0x10, 0x08, 0, 0]) + struct.pack("<IHH", 1, 0, 8),
    "|u1": bytes([0x10, 0x00, 0, 0]) + struct.pack("<IHH", 1, 0, 8),
}
# A string of variable length, UTF-8, and the type of its bytes.
_STRING = bytes([0x19, 0x01, 0x01, 0]) + struct.pack("<I", 16) + _NUMBERS["|u1"]


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
class Layout:
    """Where datasets lie in a file, and all other bytes of it.

    Attributes:
        head: the bytes before the first dataset; between datasets and before `end` are zeros.
        extents: by dataset name, in the order of their offsets.
        end: size of the HDF5 part in bytes.
    """

    head: bytes
    extents: dict[str, Extent]
    end: int


def lay_out(
    attribute: str, text: str, datasets: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Layout:
    """Lays out a file with one attribute of text at its root, and some datasets.

    Args:
        attribute: its name.
        text: its value.
        datasets: type (`<f4`) and shape by name (`views/max`), in the order of their places.

    Raises:
        ValueError: a name, type or shape is none of these; in a few words.
    """
    check_datasets(datasets)
    groups = _groups(datasets)
    content = text.encode()
    # Addresses have one length, so messages with any tell the sizes.
    addresses = dict.fromkeys([*groups, *datasets, _HEAP], 0)
    position = 48  # of the superblock
    for name, messages in _messages(attribute, content, groups, datasets, addresses).items():
        addresses[name] = position
        position += 14 + sum(4 + len(message) for _, message in messages)  # as `_header`
    heap = _heap(content, position)
    addresses[_HEAP], position = position + (-position % 8), position + len(heap)
    extents = {}
    for name, (dtype, shape) in datasets.items():
        size = Extent(0, dtype, shape).size
        position += -position % (PAGE if size >= PAGE else 8)
        extents[name] = Extent(position, dtype, shape)
        addresses[f"{name}/"] = position
        position += size
    messages_of = _messages(attribute, content, groups, datasets, addresses)
    headers = [_header(messages) for messages in messages_of.values()]
    superblock = SIGNATURE + bytes([2, 8, 8, 0]) + bytes(8) + _UNDEFINED
    superblock += struct.pack("<QQ", position, addresses[""])
    head = b"".join([_summed(superblock), *headers, heap])
    return Layout(head, extents, position)


def check_datasets(datasets: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuses names, types and shapes that kinembed does not write.

    Raises:
        ValueError: naming the first; in a few words.
    """
    if not 1 <= len(datasets) <= MOST_DATASETS:
        raise ValueError(f"{len(datasets):,} datasets, wanted 1 to {MOST_DATASETS:,}")
    for name, (dtype, shape) in datasets.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"dataset {ascii(name)[:80]} has no plain name")
        if not isinstance(dtype, str) or not (dtype in _NUMBERS or _TEXT.fullmatch(dtype)):
            raise ValueError(f"{name} is of type {str(dtype)[:20]!r}")
        if not 1 <= len(shape) <= 2 or any(type(n) is not int or n < 1 for n in shape):
            raise ValueError(f"{name} has no lengths")
        parts = name.split("/")
        if any("/".join(parts[:depth]) in datasets for depth in range(1, len(parts))):
            raise ValueError(f"{name} lies in another dataset")
    if sum(Extent(0, dtype, shape).size for dtype, shape in datasets.values()) >= 1 << 62:
        raise ValueError("its datasets are larger than a file can be")


def _groups(names: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """The members of each group, the root "" first: full names by name, in order."""
    groups: dict[str, dict[str, str]] = {"": {}}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            group, member = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            groups.setdefault(group, {})[part] = member
    return groups


Messages = list[tuple[int, bytes]]  # of an object header: type and content


def _messages(
    attribute: str,
    content: bytes,
    groups: Mapping[str, Mapping[str, str]],
    datasets: Mapping[str, tuple[str, tuple[int, ...]]],
    addresses: Mapping[str, int],
) -> dict[str, Messages]:
    """What the object headers of groups and datasets hold, by name.

    Args:
        attribute: name of the root's attribute.
        content: its value.
        groups: as `_groups` returns them.
        datasets: as in `lay_out`.
        addresses: of headers by name, of data by the name and `/`, of the heap by `_HEAP`.
    """
    result = {}
    for name, members in groups.items():
        messages = [(0x02, bytes(2) + 2 * _UNDEFINED), (0x0A, bytes(2))]  # link and group info
        messages += [(0x06, _link(part, addresses[full])) for part, full in members.items()]
        if not name:
            value = struct.pack("<IQI", len(content), addresses[_HEAP], 1)
            messages.append((0x0C, _attribute(attribute, value)))
        result[name] = messages
    for name, (dtype, shape) in datasets.items():
        space = bytes([2, len(shape), 0, 1]) + struct.pack(f"<{len(shape)}Q", *shape)
        place = addresses.get(f"{name}/", 0), Extent(0, dtype, shape).size
        # Space is allocated late, and filled only where a fill value is set, which there is not.
        fill, contiguous = bytes([3, 0x0A]), bytes([3, 1]) + struct.pack("<QQ", *place)
        result[name] = [
            (0x01, space), (0x03, _datatype(dtype)), (0x05, fill), (0x08, contiguous)
        ]  # fmt: skip
    return result


def _datatype(dtype: str) -> bytes:
    text = _TEXT.fullmatch(dtype)
    if text:  # padded with zeros, of bytes
        return bytes([0x13, 0x01, 0, 0]) + struct.pack("<I", int(text[1]))
    return _NUMBERS[dtype]


def _link(name: str, address: int) -> bytes:
    return bytes([1, 0, len(name)]) + name.encode("ascii") + struct.pack("<Q", address)


def _attribute(name: str, value: bytes) -> bytes:
    named, scalar = name.encode("ascii") + b"\0", bytes([2, 0, 0, 0])
    sizes = struct.pack("<HHH", len(named), len(_STRING), len(scalar))
    return bytes([3, 0]) + sizes + bytes(1) + named + _STRING + scalar + value


def _header(messages: Messages) -> bytes:
    """An object header, version 2, with four bytes for its length."""
    parts = [struct.pack("<BHB", kind, len(content), 0) + content for kind, content in messages]
    body = b"".join(parts)
    return _summed(b"OHDR" + bytes([2, 2]) + struct.pack("<I", len(body)) + body)


def _heap(content: bytes, position: int) -> bytes:
    """A global heap with one object, at the next multiple of 8 bytes."""
    one = struct.pack("<HHIQ", 1, 0, 0, len(content)) + content + bytes(-len(content) % 8)
    size = max(PAGE, 16 + len(one))
    free = size - 16 - len(one)
    rest = (struct.pack("<HHIQ", 0, 0, 0, free) if free >= 16 else b"").ljust(free, b"\0")
    return bytes(-position % 8) + b"GCOL\1\0\0\0" + struct.pack("<Q", size) + one + rest


def _summed(content: bytes) -> bytes:
    return content + struct.pack("<I", checksum(content))


def checksum(content: bytes) -> int:
    """Bob Jenkins' lookup3, `hashlittle` from 0, as HDF5 sums up its structures.

    Source: http://burtleburtle.net/bob/c/lookup3.c.
    """
    mask = 0xFFFFFFFF
    a: int
    b: int
    c: int
    a = b = c = (0xDEADBEEF + len(content)) & mask
    last = (len(content) - 1) // 12 * 12 if content else 0
    for x, y, z in struct.iter_unpack("<III", content[:last]):
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = (a - c) & mask ^ (c << 4 | c >> 28) & mask
        c = (c + b) & mask
        b = (b - a) & mask ^ (a << 6 | a >> 26) & mask
        a = (a + c) & mask
        c = (c - b) & mask ^ (b << 8 | b >> 24) & mask
        b = (b + a) & mask
        a = (a - c) & mask ^ (c << 16 | c >> 16) & mask
        c = (c + b) & mask
        b = (b - a) & mask ^ (a << 19 | a >> 13) & mask
        a = (a + c) & mask
        c = (c - b) & mask ^ (b << 4 | b >> 28) & mask
        b = (b + a) & mask
    if not content:
        return c
    x, y, z = struct.unpack("<III", content[last:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - (b << turn | b >> 32 - turn)) & mask
        a, b, c = b, c, a
    return b
