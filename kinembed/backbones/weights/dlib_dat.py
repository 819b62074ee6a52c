"""Reads the face network of dlib from its `.dat` file.

dlib writes a network as one stream: the versions of all layers from the last to the first, then
each layer from the first to the last, its settings and its tensor. For a network of known shape all
but the tensors' values is known, so this module composes what must be there and compares bytes
(dlib/serialize.h, dlib/dnn/core.h and dlib/dnn/layers.h of https://github.com/davisking/dlib, as
they were in February 2017):

- an integer: one byte, how many follow, plus 128 if it is negative; then its absolute value in as
  few bytes as it takes, at least one, little-endian;
- a float: the integers m and e of m * 2^e, without zero bytes at the end of m;
- a text: its length as an integer, and its characters; a flag: `0` or `1`;
- a tensor: 2 as its version, its four sizes as integers, and float32 in little-endian order.
"""

import math
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.backbones.dlib_resnet import Block, DlibResNet
from kinembed.errors import WeightsError

PIXEL_MEANS = (122.782, 117.001, 104.298)  # kinembed applies them, and / 256, before the network
MARGIN, DISTANCE = 0.04, 0.6  # of the loss, which the file holds as well
ADD_LAYER, FIRST_LAYER, TAG, SKIP, LOSS = 2, 3, 1, 1, 1  # versions


def read_dlib_state(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Reads the weights of `dlib_face_recognition_resnet_model_v1.dat`, or of a file like it.

    Args:
        path: the file.
        network: a `kinembed.backbones.dlib_resnet.DlibResNet`; tells what to read and is not
            changed.

    Returns:
        float32 tensors by torch name, for `network.load_state_dict(...)`.

    Raises:
        WeightsError: the file is missing, or holds something else than this network; names the
            first difference.
    """
    shape = cast(DlibResNet, network)
    try:
        with path.open("rb") as file:
            return _read(file, shape)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _read(file: BufferedReader, network: DlibResNet) -> dict[str, Tensor]:
    """The state dict from an open file; ValueError where it differs."""
    state: dict[str, Tensor] = {}
    _expect(file, _opening(network), "the beginning of dlib's face network")
    _expect(file, b"".join(_integer(number) for number in _versions(network)), "its layers")
    pixels = b"".join(_number(mean, 24) for mean in PIXEL_MEANS)
    side = _integer(network.side) * 2
    _expect(file, _text("input_rgb_image_sized") + pixels + side, "its pixels and their means")
    state |= _convolution(file, network.conv, "conv", "111", behind=_integer(1))
    _layer(file, "relu_", "relu")
    _layer(file, "max_pool_2", "pool", (3, 3, 2, 2, 0, 0))
    for number, block in enumerate(cast("Iterator[Block]", network.blocks)):
        name = f"blocks.{number}"
        state |= _convolution(file, block.conv1, f"{name}.conv1", "111")
        _layer(file, "relu_", name)
        state |= _convolution(file, block.conv2, f"{name}.conv2", "110")
        if block.halves:
            _layer(file, "avg_pool_2", name, (2, 2, 2, 2, 0, 0))
        _layer(file, "add_prev_", name, flags="111")
        _layer(file, "relu_", name)
    _layer(file, "avg_pool_2", "avg_pool_everything", (0, 0, 1, 1, 0, 0))
    state["fc.weight"] = _linear(file, network.fc)
    if file.read(1):
        raise ValueError(f"goes on after byte {file.tell() - 1:,}, where dlib's face network ends")
    return state


def _convolution(
    file: BufferedReader, conv: nn.Conv2d, name: str, flags: str, behind: bytes = b""
) -> dict[str, Tensor]:
    """Weight and bias of a convolution, with the affine layer behind it multiplied in.

    The affine layer's last flag is 1 where a relu overwrites its output.
    """
    out, inp, rows, columns = conv.weight.shape
    count = out * inp * rows * columns
    _expect(file, _text("con_4"), f"the convolution {name}")
    values = _tensor(file, (count + out, 1, 1, 1), name)
    stride, padding = conv.stride[0], cast(int, conv.padding[0])
    settings = (out, rows, columns, stride, stride, padding, padding)
    alias = _alias(out, inp, rows, columns) + _alias(1, out, 1, 1)
    content = b"".join(map(_integer, settings)) + alias + _rates() + _ending("110")
    _expect(file, content + behind, f"the settings of {name}")
    _expect(file, _text("affine_"), f"the affine layer of {name}")
    affine = _tensor(file, (2 * out, 1, 1, 1), f"the affine layer of {name}")
    content = _alias(1, out, 1, 1) * 2 + _integer(0) + _ending(flags)
    _expect(file, content, f"the settings of the affine layer of {name}")
    factor, offset = affine.astype(np.float64).reshape(2, out)
    weight = values[:count].reshape(out, -1) * factor[:, None]
    bias = values[count:] * factor + offset
    return {
        f"{name}.weight": torch.from_numpy(weight.astype("f4")).view(conv.weight.shape),
        f"{name}.bias": torch.from_numpy(bias.astype("f4")),
    }


def _linear(file: BufferedReader, fc: nn.Linear) -> Tensor:
    """The weight (out, in) of the last layer, which has no bias."""
    out, inp = fc.weight.shape
    _expect(file, _text("fc_2") + _integer(out) + _integer(inp), "the linear layer fc")
    values = _tensor(file, (inp, out, 1, 1), "fc")
    content = _alias(inp, out, 1, 1) + _alias(0, 0, 0, 0) + _integer(1) + _rates()
    _expect(file, content + _ending("110"), "the settings of fc")
    return torch.from_numpy(values.reshape(inp, out).T.copy())


def _layer(
    file: BufferedReader, kind: str, name: str, settings: tuple[int, ...] = (), flags: str = "110"
) -> None:
    """Takes a layer without weights from the file."""
    content = _text(kind) + b"".join(map(_integer, settings)) + _ending(flags)
    _expect(file, content, f"the layer {kind} of {name}")


def _expect(file: BufferedReader, wanted: bytes, what: str) -> None:
    """Takes the bytes of something from the file and compares them."""
    start = file.tell()
    found = file.read(len(wanted))
    if found == wanted:
        return
    at = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]),
              len(found))  # fmt: skip
    if at == len(found):
        raise ValueError(f"ends at byte {start + at:,}, in {what}")
    raise ValueError(
        f"byte {start + at:,} is {found[at]:#04x}, wanted {wanted[at]:#04x}, of {what}"
    )


def _tensor(file: BufferedReader, shape: tuple[int, int, int, int], name: str) -> np.ndarray:
    """Takes a tensor from the file: float32, flat."""
    _expect(file, _integer(2) + b"".join(map(_integer, shape)), f"the shape of {name}")
    start, size = file.tell(), 4 * math.prod(shape)
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"ends at byte {start + len(content):,}, in the weights of {name}")
    values = np.frombuffer(content, "<f4")
    if not np.isfinite(values).all():
        raise ValueError(f"the weights of {name} hold NaN or infinity")
    return values.astype("f4")


def _opening(network: DlibResNet) -> bytes:
    return _integer(LOSS) + _text("loss_metric_2") + _number(MARGIN, 24) + _number(DISTANCE, 24)


def _versions(network: DlibResNet) -> Iterator[int]:
    """The versions of all layers, from the last to the first."""
    yield from [ADD_LAYER] * 2  # fc, avg_pool_everything
    for block in reversed(cast("list[Block]", list(network.blocks))):
        yield from [ADD_LAYER] * 2  # relu, add_prev
        if block.halves:
            yield from (ADD_LAYER, SKIP, TAG)  # avg_pool, of the tagged input; the sum's tag
        yield from [ADD_LAYER] * 5  # affine, con, relu, affine, con
        yield TAG
    yield from [ADD_LAYER] * 3  # max_pool, relu, affine
    yield FIRST_LAYER  # con


def _ending(flags: str) -> bytes:
    """What ends each layer: its state as flags, and three tensors that dlib has emptied."""
    return flags.encode() + (_integer(2) + _integer(0) * 4) * 3


def _alias(*sizes: int) -> bytes:
    """The shape of a part of a tensor, with its version."""
    return _integer(1) + b"".join(map(_integer, sizes))


def _rates() -> bytes:
    """How fast the weights and the bias learn and decay."""
    return b"".join(_number(rate, 53) for rate in (1.0, 1.0, 1.0, 0.0))


def _text(text: str) -> bytes:
    return _integer(len(text)) + text.encode()


def _integer(number: int) -> bytes:
    size = max(1, -(-abs(number).bit_length() // 8))
    return bytes([size | 0x80 * (number < 0)]) + abs(number).to_bytes(size, "little")


def _number(number: float, digits: int) -> bytes:
    """A float of so many binary digits, 24 or 53."""
    fraction, exponent = math.frexp(np.float32(number) if digits == 24 else number)
    mantissa, exponent = int(fraction * 2**digits), exponent - digits
    for _ in range(8):
        if mantissa & 0xFF:
            break
        mantissa, exponent = mantissa >> 8, exponent + 8
    return _integer(mantissa) + _integer(exponent)
