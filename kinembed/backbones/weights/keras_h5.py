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

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.children import program, start
from kinembed.errors import WeightsError

SECONDS = 60  # for a file, and one more for every 10 MB
_CHILD = program("kinembed.hdf5_child")

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
    if not path.exists():
        raise WeightsError(f"{path}: no such file")
    if not path.is_file():
        raise WeightsError(f"{path}: not a whole HDF5 file: found a folder, pipe or device")
    wanted: dict[str, tuple[int, ...]] = {}
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensor.shape)
            if len(shape) == 4:
                out, inp, height, width = shape
                shape = (height, width, inp, out)
            wanted[file_path(network, name)] = shape
    arrays = _read_in_child(path, wanted)
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=tensor.dtype)
            continue
        value = arrays[file_path(network, name)]
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO to OIHW
        state[name] = torch.from_numpy(np.ascontiguousarray(value))
    return state


def _read_in_child(
    path: Path, wanted: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Float32 arrays by their paths in a file, read by `hdf5_child.py` within limits.

    Raises:
        WeightsError: the child found a problem, or did not come to an end.
    """
    sizes = {key: 4 * int(np.prod(shape)) for key, shape in wanted.items()}
    seconds = SECONDS + sum(sizes.values()) // 10_000_000
    question = {
        "path": os.path.abspath(path), "wanted": list(wanted.items()), "seconds": seconds,
        "parent": os.getpid(),
    }  # fmt: skip
    with start(_CHILD) as child:
        assert child.stdin is not None and child.stdout is not None
        clock = threading.Timer(seconds + 5, child.kill)  # where no kernel ends it
        clock.daemon = True
        clock.start()
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.close()
            answer = child.stdout.readline(1 << 20)
            if not answer.endswith(b"\n"):
                raise EOFError
            problem = json.loads(answer)["problem"]
            if problem is not None:
                raise WeightsError(f"{path}: {problem}")
            arrays = {}
            for key, shape in wanted.items():
                content = child.stdout.read(sizes[key])
                arrays[key] = np.frombuffer(bytearray(content), np.float32).reshape(shape)
            return arrays
        except (EOFError, OSError, ValueError):
            raise WeightsError(
                f"{path}: not a whole HDF5 file: the HDF5 library crashed on it, or took more than "
                f"{seconds} s or its memory"
            ) from None
        finally:
            clock.cancel()
            child.kill()
