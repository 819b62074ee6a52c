"""Provenance: settings to provenance, and back to the same settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinembed.backbones import BACKBONES, Backbone, Framing, PixelRecipe
from kinembed.cache.provenance import Finetuned, Provenance, imported, vector_settings
from kinembed.config import EmbedConfig
from kinembed.errors import RunError
from kinembed.recipes import KIN, RECIPES
from kinembed.views import with_tta

PATH = Path("runs/x/embeddings.h5")
ONNX = EmbedConfig(
    onnx=Path("nets/face.onnx"),
    output="embedding",
    side=96,
    mean=(1.5, 2.5, 3.5),
    scale=(4.0, 5.0, 6.0),
    order="bgr",
    views=("native",),
    photos=("test",),
)


def record(config: EmbedConfig) -> Backbone:
    """As `OnnxEmbedder` makes it of the same settings."""
    assert config.onnx and config.side and config.mean and config.scale
    pixels = PixelRecipe(config.order, config.mean, config.scale)
    framing = Framing(config.side, config.side)
    return Backbone(config.onnx.stem, "", 0, framing, pixels, {"native": 3}, {})


SPLIT = {"by": "families", "seed": 3}
CASES: list[tuple[EmbedConfig, Backbone, dict[str, Any]]] = [
    (
        EmbedConfig(backbone="sface", weights="some.pt", views=("max", "native"), flip=True),
        BACKBONES["sface"],
        {},
    ),
    (
        EmbedConfig(views=("avg",), photos=("test", "/album"), dtype="int8"),
        BACKBONES["mtcnn-onet"],
        {"split": SPLIT, "finetuned": Finetuned(KIN, "avg")},
    ),
    (
        EmbedConfig(views=("max",)),
        BACKBONES["mtcnn-onet"],
        {"split": SPLIT, "finetuned": Finetuned(RECIPES["regularized"], "max")},
    ),
    (ONNX, record(ONNX), {}),
    (replace(ONNX, flip=True), record(ONNX), {}),
]


@pytest.mark.parametrize("framing", ["auto", "whole"])
@pytest.mark.parametrize(("config", "backbone", "more"), CASES)
def test_settings_come_back_from_a_cache(
    config: EmbedConfig, backbone: Backbone, more: dict[str, Any], framing: str
) -> None:
    config = replace(config, device="cpu", precision="bf16", framing=framing)
    framings = dict.fromkeys(config.photos, backbone.framing)
    if len(framings) > 1:
        framings[config.photos[-1]] = Framing(backbone.framing.side, 7, -3, 2)
    written = Provenance.of(
        config,
        backbone,
        "0123",
        framings=framings,
        precision="bf16",
        device="cpu",
        torch="2.0",
        **more,
    )
    content = json.loads(json.dumps(written.as_json()))
    read = Provenance.read(content, PATH)
    assert read.as_json() == content
    assert config.views is not None
    views = with_tta(config.views) if config.flip else config.views
    told = replace(config, flip=bool(config.flip), dtype=config.dtype or "float32")
    assert read.settings(views) == told
    assert read.framings() == framings
    assert ("framings" in content["input"]) == (len(framings) > 1)
    assert ("split" in content) == ("split" in more)
    assert Finetuned.of(content) == more.get("finetuned")
    assert Provenance.of(
        read.settings(views),
        backbone,
        "0123",
        framings=read.framings(),
        precision="bf16",
        device="cpu",
        torch="2.0",
        **more,
    ) == replace(written, versions=read.versions)


def content_of(config: EmbedConfig, backbone: Backbone) -> dict[str, Any]:
    framings = dict.fromkeys(config.photos, backbone.framing)
    return Provenance.of(
        config,
        backbone,
        "0123",
        framings=framings,
        precision="fp32",
        device="cpu",
        torch="2.0",
    ).as_json()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("device"),
        lambda content: content.pop("command"),
        lambda content: content["command"].pop("photos"),
        lambda content: content.update(command=7),
        lambda content: content.update(photos={"framing": 1}),
        lambda content: content["input"]["framing"].pop("inner") and None,
        lambda content: content["input"]["framing"].update(turned=1),
        lambda content: content["command"].pop("framing"),
        lambda content: content["command"].update(onnx="x.onnx") or content.update(input={}),
    ],
)
def test_what_embed_did_not_make_is_refused(change: Any) -> None:
    config, backbone, _ = CASES[0]
    content = content_of(config, backbone)
    change(content)
    with pytest.raises(RunError, match=r"embeddings\.h5: was not made by kinembed embed"):
        Provenance.read(content, PATH)


def test_imported_vectors_cannot_be_made_again() -> None:
    content = imported("arcface", "float32", Path("v.npy"), "00")
    assert content["imported"] == {"vectors": "v.npy", "sha256": "00"}
    with pytest.raises(RunError, match="was not made by kinembed embed"):
        Provenance.read(content, PATH)


def test_vectors_depend_on_all_but_the_command_and_most_versions() -> None:
    config, backbone, _ = CASES[0]
    content = content_of(config, backbone)
    wanted = vector_settings(content)
    versions = content["versions"]
    same = [
        {"command": {}},
        {"versions": {**versions, "python": "2.7", "numpy": "1"}},
        {"imported": {}},
    ]
    other = [
        {"versions": {**versions, "torch": "1"}},
        {"device": "cuda"},
        {"model": "4567"},
        {"input": {}},
        {"split": SPLIT},
    ]
    assert all(vector_settings(content | change) == wanted for change in same)
    assert all(vector_settings(content | change) != wanted for change in other)
