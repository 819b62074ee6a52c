"""Weights of other people: checkpoints under other names are read, and other files named."""

import logging
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small_networks import Small
from test_keras_networks import randomise
from torch import Tensor, nn

from kinembed.backbones import BACKBONES, FACENET, Backbone, Framing
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import digest, load_trunk, parameters
from kinembed.backbones.weights.foreign_names import adapt, resemblance
from kinembed.errors import WeightsError

State = dict[str, Tensor]
TINY = Backbone(
    name="tiny",
    network="small_networks:Small",
    parameters=1,
    framing=Framing(side=8, inner=8),
    pixels=FACENET,
    views={"max": 8},
    sources={},
)


@pytest.fixture
def trunk() -> Trunk:
    return randomise(Small())  # type: ignore[return-value]


@pytest.fixture
def state(trunk: Trunk) -> State:
    return dict(trunk.state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def problem(path: Path, backbone: Backbone = TINY) -> str:
    with pytest.raises(WeightsError) as caught:
        load_trunk(backbone, str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 800
    return text


CLASSIFIER = {"fc.weight": torch.ones(7, 4), "fc.bias": torch.ones(7)}
NECK = {"neck.weight": torch.ones(4), "neck.num_batches_tracked": torch.tensor(3)}
CHECKPOINTS: dict[str, tuple[Callable[[State], dict[str, Any]], str]] = {
    "module": (lambda s: prefixed(s, "module."), "names without module."),
    "model": (lambda s: prefixed(s, "model."), "names without model."),
    "backbone in module": (
        lambda s: prefixed(s, "module.backbone."),
        "names without module.backbone.",
    ),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, "of its state_dict"),
    "a training's": (
        lambda s: {
            "epoch": 3,
            "arch": "resnet",
            "model_state_dict": prefixed(s, "module."),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
            "best": torch.tensor(0.9),
        },
        "of its model_state_dict; names without module.",
    ),
    "deeply nested": (lambda s: {"a": {"b": {"c": s}}}, "of its a.b.c"),
    "an average beside it": (
        lambda s: {"ema": {n: x + 1 for n, x in s.items()}, "state_dict": s},
        "of its state_dict; not of its ema",
    ),
    "a classifier": (lambda s: {**s, **CLASSIFIER}, "without fc.weight, fc.bias"),
    "a classifier beside the backbone": (
        lambda s: {
            "state_dict": {**prefixed(s, "backbone."), **prefixed({**CLASSIFIER, **NECK}, "head.")}
        },
        "of its state_dict; names without backbone.; "
        "without head.fc.weight, head.fc.bias, head.neck.weight",
    ),
    "a number beside it": (lambda s: {**s, "epoch": 3}, ""),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".ckpt"])
def test_checkpoints_give_the_networks_weights(
    what: str, suffix: str, tmp_path: Path, trunk: Trunk, state: State, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "kinembed")
    made, said = CHECKPOINTS[what]
    path = tmp_path / f"x{suffix}"
    torch.save(made(state), path, _use_new_zipfile_serialization=suffix != ".pth.tar")
    assert digest(load_trunk(TINY, str(path))) == digest(trunk)
    assert caplog.messages == ([f"{path}: weights read {said}"] if said else [])


def test_safetensors_are_read_so_too(tmp_path: Path, trunk: Trunk, state: State) -> None:
    safetensors.torch.save_file(prefixed(state, "model."), tmp_path / "x.safetensors")
    assert digest(load_trunk(TINY, str(tmp_path / "x.safetensors"))) == digest(trunk)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_floats_of_16_bits_become_32(
    dtype: torch.dtype, tmp_path: Path, state: State, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "kinembed")
    small = {n: x.to(dtype) if x.is_floating_point() else x for n, x in state.items()}
    torch.save({"state_dict": small}, tmp_path / "x.pt")
    loaded = parameters(load_trunk(TINY, str(tmp_path / "x.pt")))
    assert all(torch.equal(loaded[n], small[n].float()) for n in loaded)
    assert caplog.messages[0].endswith(f"; {str(dtype).partition('.')[2]} as float32")


# What is another network


def test_more_than_a_classifier_makes_it_another_network(tmp_path: Path, state: State) -> None:
    path = tmp_path / "x.pt"
    for extra in (
        {"conv9_1.weight": torch.ones(4, 4, 3, 3)},  # one stage more
        {"conv2.gate.weight": torch.ones(4, 4)},  # another kind of block
        {"fc": torch.ones(3)},
        {**CLASSIFIER, "conv9_1.weight": torch.ones(4, 4, 3, 3)},
    ):
        torch.save({**state, **extra}, path)
        assert "which the network does not have; choose the --backbone" in problem(path)


def test_two_of_the_network_in_one_dict_are_refused(tmp_path: Path, state: State) -> None:
    torch.save({**prefixed(state, "student."), **prefixed(state, "teacher.")}, tmp_path / "x.pt")
    assert "holds 2 such networks, student., teacher.; keep one" in problem(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["mobilefacenet", "sface", "senet50", "mtcnn-onet"])
def test_weights_of_another_backbone_name_it(name: str, tmp_path: Path) -> None:
    weights = BACKBONES[name].build().state_dict()
    torch.save({"state_dict": prefixed(weights, "module.")}, tmp_path / "x.pt")
    text = problem(tmp_path / "x.pt")
    assert text.endswith(f"; 100% of the tensors of --backbone {name} are in it")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["conv1.weight", "layer1.0.conv1.weight", "fc.bias"], "a ResNet of torchvision"),
        (["layer1.0.prelu.weight"], "an iresnet of InsightFace"),
        (["body.0.res_layer.1.weight"], "an IR or IR-SE network"),
        (["blocks.0.attn.qkv.weight"], "a vision transformer"),
    ],
)
def test_networks_of_other_projects_are_named(names: list[str], what: str, tmp_path: Path) -> None:
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "x.pt")
    assert f"it looks like {what}; export that as ONNX" in problem(tmp_path / "x.pt")
    assert resemblance({"nothing": torch.ones(2)}) == ""


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_files_that_are_no_weights_say_what_they_are(tmp_path: Path, state: State) -> None:
    path = tmp_path / "x.pt"
    torch.jit.script(Doubled()).save(str(path))
    assert "is a TorchScript network; wanted a PyTorch file" in problem(path)
    torch.save(Doubled(), path)
    text = problem(path)
    assert "holds code, which is not run (test_foreign_weights.Doubled)" in text
    assert "state_dict()" in text
    safetensors.torch.save_file(state, path)
    assert "is a safetensors file; wanted a PyTorch file" in problem(path)
    for content, what in (
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
            "a git-lfs pointer",
        ),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page; download the file itself"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"\x08\x07\x12\x07pytorch" + bytes(99), "an ONNX network"),
        (b"Not Found", "a text"),
        (b"\x1f\x8b" + bytes(30), "a gzip archive; unpack it"),
    ):
        for suffix in (".pt", ".pth.tar", ".safetensors"):
            other = tmp_path / f"y{suffix}"
            other.write_bytes(content)
            assert f"is {what}" in problem(other)
    for suffix in (".bin", ".zip"):
        torch.save(state, tmp_path / f"z{suffix}")
        text = problem(tmp_path / f"z{suffix}")
        assert "are read from .pt, .pth, .safetensors files" in text
        assert text.endswith("; it is a PyTorch file")
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    (tmp_path / "a.npz").rename(path)
    assert "is a ZIP archive" in problem(path)


# Hostile ones


def test_names_are_shown_without_what_terminals_obey(tmp_path: Path, state: State) -> None:
    for times in (1, 200):
        torch.save({**state, "\x1b[2J\n" * times: torch.ones(3)}, tmp_path / "x.pt")
        assert r"holds \x1b[2J" in problem(tmp_path / "x.pt")


def test_a_file_that_names_its_dicts_over_and_over_takes_no_time(
    tmp_path: Path, state: State
) -> None:
    inner: dict[str, Any] = {"x": torch.ones(1)}
    for _ in range(12):
        inner = {str(number): inner for number in range(100)}
    start = time.perf_counter()
    adapt({"a." * 200_000: torch.ones(1), **inner}, state)
    torch.save({**state, "more": inner}, tmp_path / "x.pt")
    load_trunk(TINY, str(tmp_path / "x.pt"))
    assert time.perf_counter() - start < 5


def test_a_pickle_of_numbers_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": [1, 2]}))
    assert "not a PyTorch file of tensors" in problem(tmp_path / "x.pt")
