"""Reads datasets of an HDF5 file of another program, in a process of its own.

A malformed file can make the HDF5 library loop, crash or take all memory. So this module runs in a
process with limits on both: `keras_h5.py` asks it on standard input, as a line of JSON, for paths
and shapes, and gets a line of JSON and then the numbers on standard output, never a pickle. It lies
outside `backbones.weights`, because whoever imports that package waits for torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from kinembed.limits import end_after, end_with

MEMORY = 256 << 20  # bytes beyond what the interpreter and the numbers take
MOST_OBJECTS = 10_000  # in a file


class MalformedError(Exception):
    """What is wrong with a file, in a few words."""


def read_datasets(path: str, wanted: dict[str, tuple[int, ...]]) -> list[np.ndarray[Any, Any]]:
    """Float32 arrays of a Keras file, in the order of `wanted`.

    Args:
        path: the file.
        wanted: shape by dataset.

    Raises:
        MalformedError: one is missing or another, or there are more.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if "layer_names" not in file.attrs:
                raise MalformedError("found no attribute layer_names, wanted Keras weights")
            datasets = dict(_datasets(file, "", set()))
            arrays = []
            for key, shape in wanted.items():
                dataset = datasets.pop(key, None)
                _refuse_other_shape(dataset, shape, f"weight {key}")
                arrays.append(np.ascontiguousarray(dataset[()]))
                if not np.isfinite(arrays[-1]).all():
                    raise MalformedError(f"weight {key}: found NaN or infinity")
            for extra, dataset in datasets.items():
                form = f"{dataset.dtype} {dataset.shape}"
                raise MalformedError(f"weight {extra}: found {form}, wanted no such weight")
            return arrays
    # what h5py raises on a damaged file, by the part that is damaged
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())  # HDF5's own messages may hold line ends
        raise MalformedError(f"not a whole HDF5 file: {reason}") from None


def _datasets(group: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Every dataset below a group with its path. Layers without weights are empty groups.

    Files come from strangers: a soft or external link may lead to other files of this machine,
    and a group linked twice may hold itself.
    """
    for name in group:
        key = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise MalformedError(f"{key}: found a soft or external link, wanted the object")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise MalformedError(f"{key}: found a second link to one object")
        seen.add(address)
        if len(seen) > MOST_OBJECTS:
            raise MalformedError(f"found more than {MOST_OBJECTS:,} objects")
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{key}/", seen)
        elif isinstance(item, h5py.Dataset):
            yield key, item
        else:
            raise MalformedError(f"{key}: found a named datatype, wanted a weight")


def _refuse_other_shape(dataset: Any, shape: tuple[int, ...], where: str) -> None:
    """Checks a dataset before it is read: present, of this shape, float32, within this file.

    Keras writes contiguous datasets. Any other layout could read other files (virtual, external),
    run a filter, or inflate; all are refused.
    """
    wanted = f"float32 {shape}"
    if dataset is None:
        raise MalformedError(f"{where}: found no such weight, wanted {wanted}")
    if dataset.shape != shape or dataset.dtype != np.float32:
        form = f"{dataset.dtype} {dataset.shape}"
        raise MalformedError(f"{where}: found {form}, wanted {wanted}")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
        raise MalformedError(
            f"{where}: found chunked, virtual or external storage, wanted contiguous"
        )
    if dataset.id.get_storage_size() != 4 * int(np.prod(shape)):
        raise MalformedError(
            f"{where}: found {dataset.id.get_storage_size()} bytes, wanted {wanted}"
        )


def answer_parent() -> None:
    """Reads the file that standard input names, and writes its numbers to standard output."""
    question = json.loads(sys.stdin.buffer.readline())
    wanted = {key: tuple(shape) for key, shape in question["wanted"]}
    numbers = sum(4 * int(np.prod(shape)) for shape in wanted.values())
    # The kernel ends this process: the HDF5 library may never come back to Python.
    end_after(question["seconds"])
    end_with(question["parent"], 2 * numbers + MEMORY)
    try:
        arrays, problem = read_datasets(question["path"], wanted), None
    except MalformedError as error:
        arrays, problem = [], str(error)
    answer = json.dumps({"problem": problem})
    sys.stdout.buffer.write(answer.encode() + b"\n")
    for array in arrays:
        sys.stdout.buffer.write(array.data)
    sys.stdout.buffer.flush()
