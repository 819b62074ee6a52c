"""VGG16, ResNet-50 and SENet-50: their layers against slow loops, their files, keras-vggface."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from kinembed import hdf5_child
from kinembed.backbones.keras_resnet import (
    Bottleneck,
    ConvBn,
    ResNet50,
    SEBottleneck,
    SENet50,
    pad_same,
)
from kinembed.backbones.keras_vgg import VGG16
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import keras_h5, parameters
from kinembed.backbones.weights.keras_h5 import file_path, read_keras_state
from kinembed.errors import WeightsError

NETWORKS: dict[str, type[Trunk]] = {"vgg16": VGG16, "resnet50": ResNet50, "senet50": SENet50}
PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
# BGR means of keras-vggface's preprocess_input: version 1, and version 2 (VGGFace2)
MEANS = {
    "vgg16": (93.5940, 104.7624, 129.1863),
    "resnet50": (91.4953, 103.8827, 131.0912),
    "senet50": (91.4953, 103.8827, 131.0912),
}


def randomise(network: nn.Module) -> nn.Module:
    """Gives every tensor other than counts its own numbers; variances stay positive."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5 if name.endswith("running_var") else -1, 1, generator=generator)
    return network.eval()


# Layers against loops


@pytest.mark.parametrize(("size", "before", "after"), [(224, 2, 3), (225, 3, 3), (112, 2, 3)])
def test_pad_same_at_known_sizes(size: int, before: int, after: int) -> None:
    padded = pad_same(torch.ones(1, 1, size, 7), kernel=7, stride=2)[0, 0, :, 3]
    assert padded.tolist() == [0.0] * before + [1.0] * size + [0.0] * after


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's rule: the least padding that fits ceil(size / stride) windows."""
    windows = 0
    while windows * stride < size:
        windows += 1
    total = 0
    while len(range(0, size + total - kernel + 1, stride)) < windows:
        total += 1
    return total // 2, total - total // 2


def test_pad_same_at_any_size() -> None:
    for kernel, stride in ((7, 2), (3, 1), (3, 2), (1, 2), (2, 3)):
        for height in range(1, 16):
            top, bottom = same_padding(height, kernel, stride)
            left, right = same_padding(height + 1, kernel, stride)
            wanted = np.zeros((top + height + bottom, left + height + 1 + right))
            wanted[top : top + height, left : left + height + 1] = 1
            padded = pad_same(torch.ones(1, 1, height, height + 1), kernel, stride)
            np.testing.assert_array_equal(padded[0, 0].numpy(), wanted)


Array = np.ndarray
State = dict[str, Array]


def slow_conv(x: Array, kernel: Array, stride: int, bias: Array | None = None) -> Array:
    """Maps (C, H, W) through a kernel (out, C, k, k), padded as TensorFlow's "same"."""
    out, _, size, _ = kernel.shape
    x = np.pad(x, ((0, 0), *(same_padding(n, size, stride) for n in x.shape[1:])))
    rows = range(0, x.shape[1] - size + 1, stride)
    columns = range(0, x.shape[2] - size + 1, stride)
    result = np.zeros((out, len(rows), len(columns)))
    for channel in range(out):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                window = x[:, row : row + size, column : column + size]
                result[channel, i, j] = (window * kernel[channel]).sum()
        if bias is not None:
            result[channel] += bias[channel]
    return result


def slow_conv_bn(x: Array, state: State, name: str, stride: int, eps: float) -> Array:
    x = slow_conv(x, state[f"{name}.conv.weight"], stride)
    for channel in range(len(x)):
        scale = state[f"{name}.bn.weight"][channel]
        scale = scale / (state[f"{name}.bn.running_var"][channel] + eps) ** 0.5
        mean = state[f"{name}.bn.running_mean"][channel]
        x[channel] = (x[channel] - mean) * scale + state[f"{name}.bn.bias"][channel]
    return x


@pytest.mark.parametrize("kind", [Bottleneck, SEBottleneck])
@pytest.mark.parametrize(("inp", "stride"), [(16, 1), (6, 2)])
def test_block_is_as_written_in_keras_vggface(
    kind: type[Bottleneck], inp: int, stride: int
) -> None:
    eps = 0.01
    block = randomise(kind(inp, 4, stride, eps)).double()
    state = {name: tensor.numpy() for name, tensor in block.state_dict().items()}
    x = np.random.default_rng(5).standard_normal((inp, 5, 7))

    y = slow_conv_bn(x, state, "conv1x1_reduce", stride, eps)  # the stride sits here
    y = slow_conv_bn(np.maximum(y, 0), state, "conv3x3", 1, eps)
    y = slow_conv_bn(np.maximum(y, 0), state, "conv1x1_increase", 1, eps)
    if kind is SEBottleneck:
        gate = np.array([[[channel.sum() / channel.size]] for channel in y])
        gate = slow_conv(gate, state["conv1x1_down.weight"], 1, state["conv1x1_down.bias"])
        gate = np.maximum(gate, 0)
        gate = slow_conv(gate, state["conv1x1_up.weight"], 1, state["conv1x1_up.bias"])
        y = y / (1 + np.exp(-gate))
    skip = x if inp == 16 else slow_conv_bn(x, state, "conv1x1_proj", stride, eps)
    wanted = np.maximum(y + skip, 0)

    with torch.inference_mode():
        got = block(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_map_shape_and_views(name: str) -> None:
    with torch.device("meta"):  # shapes alone: no arithmetic
        shape = NETWORKS[name]().feature_map(torch.empty(2, 3, 224, 224)).shape
    width = 512 if name == "vgg16" else 2048
    assert shape == (2, width, 7, 7)

    with torch.device("meta"):
        network = NETWORKS[name]()
    feature_map = torch.rand(2, 5, 7, 7)
    means, maxima = feature_map.flatten(2).mean(2), feature_map.flatten(2).amax(2)
    torch.testing.assert_close(network.view("avg", feature_map), means)
    if name == "vgg16":
        assert torch.equal(network.view("max", feature_map), maxima)
    else:
        torch.testing.assert_close(network.view("max", feature_map), means)
        assert torch.equal(network.view("map-max", feature_map), maxima)
    for unknown in ("nothing", "map_max"):
        with pytest.raises(KeyError):
            network.view(unknown, feature_map)


def test_max_of_a_larger_map_is_the_greatest_mean_of_a_7_x_7_cell() -> None:
    with torch.device("meta"):
        network = ResNet50()
    feature_map = torch.rand(1, 1, 15, 14)  # two rows of cells, and a row left over
    cells = [feature_map[0, 0, i : i + 7, j : j + 7].mean() for i in (0, 7) for j in (0, 7)]
    torch.testing.assert_close(network.view("max", feature_map)[0, 0], max(cells))


# Files


def keras_layers(name: str) -> Iterator[tuple[str, str]]:
    """(Keras layer, torch module) of a network, spelled as keras-vggface's models.py does."""
    if name == "vgg16":
        for stage, convolutions in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
            for number in range(1, convolutions + 1):
                yield f"conv{stage}_{number}", f"conv{stage}_{number}"
        return
    yield "conv1/7x7_s2", "conv1.conv"
    yield "conv1/7x7_s2/bn", "conv1.bn"
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(1, blocks + 1):
            start = "conv" + str(stage) + "_" + str(block)
            parts = ["1x1_reduce", "3x3", "1x1_increase"]
            if block == 1:
                parts.append("1x1_proj")
            for part in parts:
                yield f"{start}_{part}", f"{start}.conv{part}.conv"
                yield f"{start}_{part}/bn", f"{start}.conv{part}.bn"
            if name == "senet50":
                yield f"{start}_1x1_down", f"{start}.conv1x1_down"
                yield f"{start}_1x1_up", f"{start}.conv1x1_up"


def write_keras(path: Path, network: nn.Module, layers: list[tuple[str, str]]) -> None:
    """Writes the weights of a network the way Keras 2 `save_weights` does."""
    state = network.state_dict()
    with h5py.File(path, "w") as file:
        file.create_group("input_1").attrs["weight_names"] = np.zeros(0)  # a layer without weights
        file.attrs["layer_names"] = [b"input_1", *(layer.encode() for layer, _ in layers)]
        for layer, module in layers:
            weights = {}
            if layer.endswith("/bn"):
                weights["gamma:0"] = state[f"{module}.weight"]
                weights["beta:0"] = state[f"{module}.bias"]
                weights["moving_mean:0"] = state[f"{module}.running_mean"]
                weights["moving_variance:0"] = state[f"{module}.running_var"]
            else:
                weights["kernel:0"] = state[f"{module}.weight"].permute(2, 3, 1, 0)  # HWIO
                if f"{module}.bias" in state:
                    weights["bias:0"] = state[f"{module}.bias"]
            group = file.require_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{weight}".encode() for weight in weights]
            for weight, value in weights.items():
                group.create_dataset(f"{layer}/{weight}", data=value.numpy())


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_network_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    network = randomise(NETWORKS[name]())
    path = tmp_path / "weights.h5"
    write_keras(path, network, list(keras_layers(name)))
    with torch.device("meta"):
        empty = NETWORKS[name]()
    state = read_keras_state(path, empty)
    path.unlink()  # up to 104 MB
    empty.load_state_dict(state, strict=True, assign=True)
    wanted = network.state_dict()
    assert list(state) == list(wanted)
    for key, tensor in empty.state_dict().items():
        assert tensor.dtype == wanted[key].dtype
        assert torch.equal(tensor, wanted[key]), key


class Tiny(nn.Module):
    """A first convolution and one block of each kind: every rule of the names in 10 KB."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBn(3, 4, 7, 2, 1e-3)
        self.conv2_1 = SEBottleneck(4, 4, 1, 1e-3)


TINY_LAYERS = [
    (layer, module)
    for layer, module in keras_layers("senet50")
    if module.partition(".")[0] in ("conv1", "conv2_1")
]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A good file and its network."""
    network = randomise(Tiny())
    write_keras(tmp_path / "tiny.h5", network, TINY_LAYERS)
    return tmp_path / "tiny.h5", network


def test_tiny_comes_back_bit_for_bit(tiny: tuple[Path, nn.Module]) -> None:
    path, network = tiny
    state = read_keras_state(path, network)
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())


KERNEL = "conv2_1_3x3/conv2_1_3x3/kernel:0"
Spoil = Callable[[h5py.File], None]


def replace(**how: object) -> Spoil:
    """The kernel of a layer is written again in another way."""

    def spoil(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, **how)

    return spoil


def delete(name: str) -> Spoil:
    return lambda file: file.pop(name)


def link(name: str, target: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = target

    return spoil


def cycle(file: h5py.File) -> None:
    file["conv2_1_3x3/again"] = file["conv2_1_3x3"]


def virtual(file: h5py.File) -> None:
    del file[KERNEL]
    layout = h5py.VirtualLayout((3, 3, 4, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "kernel", (3, 3, 4, 4))
    file.create_virtual_dataset(KERNEL, layout)


def not_finite(file: h5py.File) -> None:
    file[KERNEL][0, 0, 0, 0] = np.nan


NUMBERS = np.zeros((3, 3, 4, 4), "f4")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.attrs.pop("layer_names"), "found no attribute layer_names"),
        (delete("conv2_1_3x3"), "kernel:0: found no such weight, wanted float32 (3, 3, 4, 4)"),
        (delete("conv2_1_1x1_up/conv2_1_1x1_up/bias:0"), "bias:0: found no such weight"),
        (link("fc6/fc6/bias:0", np.zeros(7, "f4")), "found float32 (7,), wanted no such weight"),
        (link("conv2_1_3x3/bias:0", np.zeros(4)), "found float64 (4,), wanted no such weight"),
        (replace(data=NUMBERS[..., :2]), "found float32 (3, 3, 4, 2), wanted float32 (3, 3, 4, 4)"),
        (replace(data=NUMBERS.astype("f8")), "found float64 (3, 3, 4, 4), wanted float32"),
        (replace(data=NUMBERS.astype("i4")), "found int32 (3, 3, 4, 4), wanted float32"),
        (replace(data=h5py.Empty("f4")), "found float32 None, wanted float32"),
        (replace(data=NUMBERS, compression="gzip"), "found chunked, virtual or external storage"),
        (replace(data=NUMBERS, chunks=(3, 3, 4, 4)), "found chunked, virtual or external storage"),
        (
            replace(shape=(3, 3, 4, 4), dtype="f4", external=[("/dev/zero", 0, 576)]),
            "found chunked, virtual or external storage",
        ),
        (virtual, "found chunked, virtual or external storage"),
        # a huge shape that holds nothing yet must not be read
        (replace(shape=(3, 3, 4, 10**12), dtype="f4"), "found float32 (3, 3, 4, 1000000000000)"),
        (replace(shape=(3, 3, 4, 4), dtype="f4"), "found 0 bytes, wanted float32 (3, 3, 4, 4)"),
        (not_finite, "found NaN or infinity"),
        (link(KERNEL, h5py.SoftLink("/conv1")), "found a soft or external link"),
        (link("other", h5py.SoftLink("/nowhere")), "other: found a soft or external link"),
        (link("conv2_1_3x3", h5py.ExternalLink("other.h5", "/")), "found a soft or external link"),
        (link(KERNEL, np.dtype("f4")), "found a named datatype, wanted a weight"),
        (cycle, "conv2_1_3x3/again: found a second link to one object"),
    ],
)
def test_malformed_file_is_one_clear_line(
    tiny: tuple[Path, nn.Module], spoil: Spoil, message: str
) -> None:
    path, network = tiny
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(WeightsError) as caught:
        read_keras_state(path, network)
    text = str(caught.value)
    assert message in text and text.startswith(f"{path}: ") and "\n" not in text


def test_weights_of_another_network(tiny: tuple[Path, nn.Module]) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = ConvBn(3, 4, 7, 2, 1e-3)
            self.conv2_1 = Bottleneck(4, 4, 1, 1e-3)

    with pytest.raises(WeightsError, match=r"conv2_1_1x1_down/\S+: found .* wanted no such weight"):
        read_keras_state(tiny[0], Plain())


def test_not_hdf5_missing_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "page.h5").write_text("<html>404</html>")
    (tmp_path / "empty.h5").touch()
    for name, message in (
        ("page.h5", "not a whole HDF5 file"),
        ("empty.h5", "not a whole HDF5 file"),
        ("missing.h5", "no such file"),
        ("", "not a whole HDF5 file"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            read_keras_state(tmp_path / name, Tiny())
        assert "\n" not in str(caught.value)


def test_truncated_at_any_length(tiny: tuple[Path, nn.Module]) -> None:
    path, network = tiny
    whole = path.read_bytes()
    wanted = {file_path(network, name): () for name in parameters(network)}
    for length in range(0, len(whole), 509):
        path.write_bytes(whole[:length])
        with pytest.raises(hdf5_child.MalformedError):  # as the child finds it
            hdf5_child.read_datasets(str(path), wanted)
    with pytest.raises(WeightsError, match="not a whole HDF5 file"):
        read_keras_state(path, network)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts other code in the child's place."""

    def put(code: str) -> None:
        monkeypatch.setattr(keras_h5, "_CHILD", code)

    return put


REAL = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from kinembed import hdf5_child
"""
CHILDREN = {
    "loops in a library": REAL + "hdf5_child.read_datasets = lambda *_: (10 ** 10 ** 9)\n"
    "hdf5_child.answer_parent()",
    "takes all memory": REAL + "hdf5_child.read_datasets = lambda *_: bytearray(1 << 30)\n"
    "hdf5_child.answer_parent()",
    "crashes": "import os; os.abort()",
    "answers nonsense": "print('nonsense')",
    "answers for ever": "import sys\nwhile True: sys.stdout.write('x' * 10**6)",
    "answers too little": "print('{\"problem\": null}'); print('abc')",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits")
@pytest.mark.parametrize("what", CHILDREN)
def test_a_library_that_loops_crashes_or_swells_is_one_clear_line(
    tiny: tuple[Path, nn.Module],
    child: Callable[[str], None],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child(CHILDREN[what])
    monkeypatch.setattr(keras_h5, "SECONDS", 1)
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="the HDF5 library crashed on it, or took more than 1 s"):
        read_keras_state(*tiny)
    assert time.perf_counter() - start < 6


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise")
def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    slow = REAL + (
        "import os\n"
        f"def read(*_): open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); 10**10**9\n"
        "hdf5_child.read_datasets = read\nhdf5_child.answer_parent()"
    )
    code = (
        "import json, os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdin=subprocess.PIPE)\n"
        "asked = {'path': '', 'wanted': [], 'seconds': 60, 'parent': os.getpid()}\n"
        "child.stdin.write(json.dumps(asked).encode() + b'\\n')\n"
        "child.stdin.flush()\n"
        "time.sleep(60)"
    )
    words = [sys.executable, "-c", code, slow, json.dumps(sys.path)]
    with subprocess.Popen(words) as parent:
        for _ in range(600):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.05)
        number = int((tmp_path / "pid").read_text())
        parent.terminate()
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(number, 9)
    pytest.fail("the child lives on")


# Parity with keras-vggface itself


@pytest.mark.shared
@pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity fixtures at {PARITY}")
@pytest.mark.parametrize("name", NETWORKS)
def test_max_view_is_that_of_keras_vggface(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PARITY))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import keras_fixture

    path = tmp_path / "weights.h5"
    keras_fixture.write_h5(name, str(path))
    with torch.device("meta"):
        network = NETWORKS[name]()
    network.load_state_dict(read_keras_state(path, network), assign=True)
    path.unlink()
    pixels = keras_fixture.images(7)[..., ::-1] - np.array(MEANS[name], "f4")
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        got = network.eval().views(x, ("max",))["max"].numpy()
    wanted = np.load(PARITY / f"expected_{name}.npz")["embeddings"]
    # float32 sums in another order: values reach 200 to 450, differences 0.0002 to 0.002
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
