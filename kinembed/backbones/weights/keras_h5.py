"""Reads the `.h5` weight files of keras-vggface, strictly, without Keras.

The layout is that of Keras 2 `save_weights`: the attribute `layer_names`, one group per layer, and
in it one dataset per weight, whose name repeats the layer's: `conv1_1/conv1_1/kernel:0`.

The torch name of a tensor gives its path in the file by this rule:

- the module's path is the layer's name, with `_` for `.conv`, `/bn` for `.bn`, and no `.conv` at
  the end: `conv2_1.conv1x1_reduce.conv` is `conv2_1_1x1_reduce`, and its `.bn` is
  `conv2_1_1x1_reduce/bn`; only the first convolution of the ResNets, `conv1`, is `conv1/7x7_s2`;
- `TENSOR_NAMES` gives the weight's name: a convolution's `weight` is `kernel:0`.

Kernels are stored as HWIO and come back as torch's OIHW.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from kinembed.errors import WeightsError

TENSOR_NAMES: dict[type[nn.Module], dict[str, str]] = {
    nn.Conv2d: {"weight": "kernel:0", "bias": "bias:0"},
    nn.BatchNorm2d: {
        "weight": "gamma:0",
        "bias": "beta:0",
        "running_mean": "moving_mean:0",
        "running_var": "moving_variance:0",
    },
}


def layer_name(module: str) -> str:
    """The path of a torch module to the name of its Keras layer."""
    first, dot, rest = module.removesuffix(".conv").partition(".")
    if first == "conv1":
        first = "conv1/7x7_s2"
    return (first + dot + rest).replace(".conv", "_").replace(".bn", "/bn")


def file_path(network: nn.Module, name: str) -> str:
    """The torch name of a parameter or buffer of `network` to its dataset's path in the file."""
    module_path, _, tensor = name.rpartition(".")
    module = network.get_submodule(module_path)
    kind = nn.BatchNorm2d if isinstance(module, nn.BatchNorm2d) else nn.Conv2d
    layer = layer_name(module_path)
    return f"{layer}/{layer}/{TENSOR_NAMES[kind][tensor]}"


def read_keras_state(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Reads the weights of `network` from a Keras `.h5` file.

    Every tensor of the network must be in the file with its shape, and every tensor of the file
    must belong to the network.

    Args:
        path: the file, e.g. `rcmalli_vggface_tf_notop_resnet50.h5`.
        network: tells which tensors of which shapes to read; it is not changed.

    Returns:
        float32 tensors by torch name, for `network.load_state_dict(...)`. Counts of batches
        (`num_batches_tracked`), which Keras does not keep, are 0.

    Raises:
        WeightsError: names the file and the first thing in it that is not as it has to be.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return _read(file, path, network)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    # what h5py raises on a damaged file, by the part that is damaged
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())  # HDF5's own messages may hold line ends
        raise WeightsError(f"{path}: not a whole HDF5 file: {reason}") from error


def _read(file: h5py.File, path: Path, network: nn.Module) -> dict[str, Tensor]:
    if "layer_names" not in file.attrs:
        raise WeightsError(f"{path}: found no attribute layer_names, wanted Keras weights")
    datasets = dict(_datasets(file, path, "", set()))
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=tensor.dtype)
            continue
        shape = tuple(tensor.shape)
        if len(shape) == 4:
            out, inp, height, width = shape
            shape = (height, width, inp, out)
        key = file_path(network, name)
        dataset = datasets.pop(key, None)
        _refuse_other_shape(dataset, shape, f"{path}: weight {key}")
        value = cast("np.ndarray[tuple[int, ...], np.dtype[np.float32]]", dataset[()])
        if not np.isfinite(value).all():
            raise WeightsError(f"{path}: weight {key}: found NaN or infinity")
        if len(shape) == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO to OIHW
        state[name] = torch.from_numpy(np.ascontiguousarray(value))
    for extra, dataset in datasets.items():
        form = f"{dataset.dtype} {dataset.shape}"
        raise WeightsError(f"{path}: weight {extra}: found {form}, wanted no such weight")
    return state


def _datasets(
    group: h5py.Group, path: Path, prefix: str, seen: set[int]
) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset below a group with its path. Layers without weights are empty groups.

    Files come from strangers: a soft or external link may lead to other files of this machine,
    and a group linked twice may hold itself.
    """
    for name in group:
        key = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path}: {key}: found a soft or external link, wanted the object")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise WeightsError(f"{path}: {key}: found a second link to one object")
        seen.add(address)
        if isinstance(item, h5py.Group):
            yield from _datasets(item, path, f"{key}/", seen)
        elif isinstance(item, h5py.Dataset):
            yield key, item
        else:
            raise WeightsError(f"{path}: {key}: found a named datatype, wanted a weight")


def _refuse_other_shape(dataset: h5py.Dataset | None, shape: tuple[int, ...], where: str) -> None:
    """Checks a dataset before it is read: present, of this shape, float32, within this file.

    Keras writes contiguous datasets. Any other layout could read other files (virtual, external),
    run a filter, or inflate; all are refused.
    """
    wanted = f"float32 {shape}"
    if dataset is None:
        raise WeightsError(f"{where}: found no such weight, wanted {wanted}")
    if dataset.shape != shape or dataset.dtype != np.float32:
        form = f"{dataset.dtype} {dataset.shape}"
        raise WeightsError(f"{where}: found {form}, wanted {wanted}")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
        raise WeightsError(
            f"{where}: found chunked, virtual or external storage, wanted contiguous"
        )
    if dataset.id.get_storage_size() != 4 * int(np.prod(shape)):
        raise WeightsError(f"{where}: found {dataset.id.get_storage_size()} bytes, wanted {wanted}")
