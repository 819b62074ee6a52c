"""Other people's ONNX networks: which output, which side, which type, and what fails says why."""

import logging
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinembed.backbones.onnx import OnnxEmbedder
from kinembed.cache.own import network_settings
from kinembed.cache.stacked import open_caches
from kinembed.cli import run as command
from kinembed.errors import KinembedError, RunError, WeightsError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, kinds = onnx.helper, onnx.TensorProto
node, info = helper.make_node, helper.make_tensor_value_info
CPU = torch.device("cpu")
SIDE = 6
WEIGHTS = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)


def network(
    path: Path,
    nodes: list[Any],
    outputs: list[Any],
    *,
    shape: tuple[object, ...] = ("n", 3, SIDE, SIDE),
    kind: int = kinds.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    first: bool = True,
) -> Path:
    """A network of `nodes` behind means (N, 3), `m`, of the channels of its input, `x`."""
    means = [node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)] if first else []
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    inputs = [info("x", kind, shape)]
    graph = helper.make_graph([*means, *nodes], "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def gemm(
    path: Path,
    *more: Any,
    outputs: list[Any] | None = None,
    kind: int = kinds.FLOAT,
    **options: Any,
) -> Path:
    """Means of the channels times WEIGHTS: vectors `y` (N, 4)."""
    dtype = np.float16 if kind == kinds.FLOAT16 else np.float32
    nodes = [node("Gemm", ["m", "w"], ["y"], transB=1), *more]
    constants = {"w": WEIGHTS.astype(dtype), **options.pop("constants", {})}
    outputs = outputs or [info("y", kind, ("n", 4))]
    return network(path, nodes, outputs, kind=kind, constants=constants, **options)


def opened(path: Path, **settings: Any) -> OnnxEmbedder:
    usual: dict[str, Any] = {"side": None, "mean": None, "scale": None, "order": "rgb"}
    return OnnxEmbedder(path, **{**usual, "device": CPU, **settings})


def photos(count: int = 5, side: int = SIDE) -> torch.Tensor:
    rng = np.random.default_rng(count)
    return torch.from_numpy(rng.integers(256, size=(count, side, side, 3), dtype=np.uint8))


def wanted(batch: torch.Tensor, mean: float = 127.5, scale: float = 128.0) -> np.ndarray:
    """The vectors of `gemm`, by numpy."""
    return ((batch.numpy().astype(np.float64) - mean) / scale).mean((1, 2)) @ WEIGHTS.T


def vectors(network: OnnxEmbedder, batch: torch.Tensor) -> np.ndarray:
    return network(batch)["native"].numpy()


# Outputs

NORM = (node("ReduceL2", ["y"], ["norm"], axes=[1], keepdims=1), info("norm", 1, ("n", 1)))
MAP = (node("Relu", ["x"], ["map"]), info("map", 1, ("n", 3, SIDE, SIDE)))
DOUBLED = (node("Add", ["y", "y"], ["twice"]), info("twice", 1, ("n", 4)))
Y = info("y", 1, ("n", 4))


def test_the_one_output_of_vectors_is_taken_wherever_it_stands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kinembed")
    for others in ([NORM], [MAP], [NORM, MAP]):
        more, infos = zip(*others, strict=True)
        path = gemm(tmp_path / "x.onnx", *more, outputs=[*infos, Y])
        embedder = opened(path)
        assert embedder.backbone.views == {"native": 4}
        assert np.allclose(vectors(embedder, photos()), wanted(photos()), atol=1e-5)
        assert caplog.messages[-1] == f"{path}: takes its output y"


def test_of_several_outputs_of_vectors_one_is_to_be_named(tmp_path: Path) -> None:
    path = gemm(tmp_path / "x.onnx", DOUBLED[0], outputs=[Y, DOUBLED[1]])
    with pytest.raises(WeightsError, match=r"y \(1, 4\), twice \(1, 4\); choose one with --output"):
        opened(path)
    one, other = (opened(path, output=name) for name in ("y", "twice"))
    assert np.allclose(2 * vectors(one, photos()), vectors(other, photos()))
    assert one.digest != other.digest  # heads of one do not fit the other
    with pytest.raises(KinembedError, match=r"output 'twise' is unknown; .* did you mean twice\?"):
        opened(path, output="twise")


@pytest.mark.parametrize(("other", "shape"), [(NORM, r"\(1, 1\)"), (MAP, r"\(1, 3, 6, 6\)")])
def test_an_output_that_is_no_vector_is_refused(other: Any, shape: str, tmp_path: Path) -> None:
    name = other[1].name
    path = gemm(tmp_path / "x.onnx", other[0], outputs=[other[1]])
    with pytest.raises(WeightsError, match=rf"no output is a vector, \(1, D\).*: {name} {shape}"):
        opened(path)
    path = gemm(tmp_path / "x.onnx", other[0], outputs=[other[1], Y])
    with pytest.raises(WeightsError, match=rf"of a photo, output {name} {shape} is no vector"):
        opened(path, output=name)


def test_the_digest_is_the_files_where_it_has_one_output(tmp_path: Path) -> None:
    from kinembed.io import sha256_file

    path = gemm(tmp_path / "x.onnx")
    assert opened(path).digest == sha256_file(path)


def test_axes_of_length_1_behind_a_vector_are_dropped(tmp_path: Path) -> None:
    more = node("Unsqueeze", ["y", "axes"], ["deep"])
    axes = {"axes": np.array([2, 3])}
    out = [info("deep", 1, ("n", 4, 1, 1))]
    embedder = opened(gemm(tmp_path / "x.onnx", more, outputs=out, constants=axes))
    assert np.allclose(vectors(embedder, photos()), wanted(photos()), atol=1e-5)


# Sides


def test_the_files_own_side_is_taken(tmp_path: Path) -> None:
    assert opened(gemm(tmp_path / "x.onnx")).backbone.framing.side == SIDE
    assert opened(gemm(tmp_path / "x.onnx"), side=SIDE).backbone.framing.side == SIDE
    with pytest.raises(WeightsError, match=r"--side 7: .*x.onnx takes photos of 6 x 6 px; leave"):
        opened(gemm(tmp_path / "x.onnx"), side=7)
    path = network(
        tmp_path / "last.onnx",
        [node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        [info("y", 1, ("n", 3))],
        shape=("n", 9, 9, 3),
        first=False,
    )
    assert opened(path).backbone.framing.side == 9
    half = gemm(tmp_path / "half.onnx", shape=("n", 3, None, 10))
    assert opened(half).backbone.framing.side == 10


def test_where_it_is_free_it_is_the_callers_or_112(tmp_path: Path) -> None:
    path = gemm(tmp_path / "x.onnx", shape=("n", 3, "h", "w"))
    assert opened(path).backbone.framing.side == 112
    assert opened(path, side=20).backbone.framing.side == 20
    stuck = [
        node("Reshape", ["x", "shape"], ["flat"]),
        node("Slice", ["flat", "from", "to"], ["y"]),
    ]
    constants = {"shape": np.array([-1, 3 * SIDE * SIDE]), "from": np.array([0, 0])}
    constants["to"] = np.array([99, 4])
    path = network(
        tmp_path / "y.onnx",
        [*stuck, node("Mul", ["y", "one"], ["z"])],
        [info("z", 1, ("n", 4))],
        shape=("n", 3, "h", "w"),
        constants={**constants, "one": np.ones(1, np.float32)},
        first=False,
    )
    opened(path, side=SIDE)
    with pytest.raises(WeightsError, match=r"does not take photos of 7 x 7 px \(Reshape: .*--side"):
        opened(path, side=7)


# Batches


@pytest.mark.parametrize(
    "shape", [[1, 4], [1, -1]], ids=["fails on several", "gives one row for several"]
)
def test_a_network_that_fails_on_a_batch_gets_one_photo_at_a_time(
    shape: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = node("Reshape", ["y", "shape"], ["z"])
    out = [info("z", 1, (1, 4))]
    path = gemm(tmp_path / "x.onnx", more, outputs=out, constants={"shape": np.array(shape)})
    embedder = opened(path)
    assert np.allclose(vectors(embedder, photos()), wanted(photos()), atol=1e-5)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: goes one photo at a time, which is slower: fails on")
    assert ".h:" not in message  # no place in onnxruntime's source


def test_a_network_whose_photos_change_each_other_gets_one_at_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [node("ReduceMax", ["y"], ["top"], axes=[0]), node("Sub", ["y", "top"], ["z"])]
    more += [node("Add", ["z", "y"], ["v"])]
    embedder = opened(gemm(tmp_path / "x.onnx", *more, outputs=[info("v", 1, ("n", 4))]))
    assert np.allclose(vectors(embedder, photos()), wanted(photos()), atol=1e-5)
    assert "several photos change each other's vectors" in caplog.text


def test_a_network_that_fails_on_a_larger_batch_goes_on_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = gemm(tmp_path / "x.onnx")
    embedder = opened(path)
    run = embedder._session

    class Small:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> Any:
            if len(feed["x"]) > 3:
                raise RuntimeError("out of memory")
            return run.run(names, feed)

    embedder._session = Small()
    assert np.allclose(vectors(embedder, photos()), wanted(photos()), atol=1e-5)
    assert caplog.messages == [f"{path}: goes one photo at a time, which is slower: out of memory"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_that_the_file_fixes_is_filled_up(count: int, tmp_path: Path) -> None:
    shape = (3, 3, SIDE, SIDE)
    embedder = opened(gemm(tmp_path / "x.onnx", shape=shape, outputs=[info("y", 1, (3, 4))]))
    assert np.allclose(vectors(embedder, photos(count)), wanted(photos(count)), atol=1e-5)


# Types


@pytest.mark.parametrize("kind", [kinds.FLOAT16, kinds.DOUBLE])
def test_inputs_of_other_floats_are_cast(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    if kind == kinds.DOUBLE:
        nodes = [node("Cast", ["x"], ["f"], to=kinds.FLOAT)]
        nodes += [node("ReduceMean", ["f"], ["m"], axes=[2, 3], keepdims=0)]
        nodes += [node("Gemm", ["m", "w"], ["y"], transB=1)]
        network(path, nodes, [Y], kind=kind, constants={"w": WEIGHTS}, first=False)
    else:
        gemm(path, kind=kind)
    assert np.allclose(vectors(opened(path), photos()), wanted(photos()), atol=2e-2)
    assert vectors(opened(path), photos()).dtype == np.float32


def test_bytes_go_in_as_they_are(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=kinds.FLOAT)]
    nodes += [node("ReduceMean", ["f"], ["m"], axes=[2, 3], keepdims=0)]
    nodes += [node("Gemm", ["m", "w"], ["y"], transB=1)]
    path = tmp_path / "x.onnx"
    network(path, nodes, [Y], kind=kinds.UINT8, constants={"w": WEIGHTS}, first=False)
    for settings in ({}, {"mean": (0.0, 0.0, 0.0), "scale": (1.0, 1.0, 1.0)}):
        embedder = opened(path, **settings)
        assert np.allclose(vectors(embedder, photos()), wanted(photos(), 0, 1), rtol=1e-4)
        assert embedder.backbone.pixels.scale == (1.0, 1.0, 1.0)
    with pytest.raises(WeightsError, match="takes pixels as they are, 0 to 255; leave out --scale"):
        opened(path, scale=(128.0, 128.0, 128.0))


# What fails says why


def test_each_input_that_does_not_fit_names_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for shape, kind, problem in (
        (("n", 1, 6, 6), kinds.FLOAT, "takes photos of 1 channels, wanted 3"),
        (("n", 3, 6, 8), kinds.FLOAT, "takes photos of 6 x 8 px; wanted a square"),
        (("n", 3, 6, 6), kinds.INT32, r"its input is a tensor\(int32\); wanted tensor\(float\)"),
        (("n", 12), kinds.FLOAT, r"found inputs x \['n', 12\]; wanted one of photos"),
    ):
        nodes = [node("Cast", ["x"], ["y"], to=kinds.FLOAT)]
        network(path, nodes, [info("y", 1, shape)], shape=shape, kind=kind, first=False)
        with pytest.raises(WeightsError, match=problem):
            opened(path)


def test_each_file_that_is_no_network_says_what_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.onnx"
    whole = gemm(tmp_path / "whole.onnx").read_bytes()
    pickled = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(2)}, pickled)
    for content, problem in (
        (b"", "is an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a git-lfs pointer; run"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (pickled.read_bytes(), "is a PyTorch file"),
        (whole[:-20], "not a whole ONNX file"),
        (whole.replace(b"Gemm", b"Gema"), "onnxruntime .* does not load it .*Gema"),
        (whole.replace(b"Gemm", b"Ge\xfbm"), "does not load it|not a whole ONNX file"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=problem) as error:
            opened(path)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # onnxruntime says nothing of its own


def test_a_network_that_fails_on_any_photo_says_why(tmp_path: Path) -> None:
    more = node("Reshape", ["y", "shape"], ["z"])
    constants = {"shape": np.array([5, 5])}
    path = gemm(tmp_path / "x.onnx", more, outputs=[info("z", 1, (5, 5))], constants=constants)
    with pytest.raises(WeightsError, match=r"x.onnx: fails on a photo \(Reshape: .*reshaped"):
        opened(path)


def test_a_cache_says_what_it_was_made_of_where_that_has_moved(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = gemm(tmp_path / "x.onnx"), tmp_path / "run"
    there = ["--data", str(faces), "--run", str(run), "--photos", "test", "--framing", "whole"]
    described = ["--mean", "100,110,120.5", "--scale", "64", "--order", "bgr", "--device", "cpu"]
    assert command(["embed", *there, "--onnx", str(path), *described]) == 0
    cache, moved = run / "embeddings.h5", tmp_path / "moved.onnx"
    path.rename(moved)
    with pytest.raises(RunError) as error:
        network_settings(cache)
    said = str(error.value)
    assert f"{cache}: names its network {path}, where there is no such file now" in said
    again = said.rpartition(": ")[2].replace("FILE", str(moved))
    options = "--mean 100,110,120.5 --scale 64 --order bgr --no-flip --precision fp32"
    assert again.endswith(options) and f"--side {SIDE}" in again
    capsys.readouterr()
    assert command([*shlex.split(again)[1:], "--data", str(faces)]) == 0
    assert "0 computed, 24 kept" in capsys.readouterr().err
    assert network_settings(cache)[0].onnx == moved
    content = cache.read_bytes()
    cache.unlink()
    with pytest.raises(RunError) as error:
        open_caches([cache])
    told = str(error.value).partition("; run ")[2].partition(", or name a cache")[0]
    assert command([*shlex.split(told)[1:], "--data", str(faces)]) == 0
    assert cache.read_bytes() == content
