"""The settings of an embedding: those of its shards, and what is said of its views."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kinembed.cache.provenance import Finetuned
from kinembed.config import EmbedConfig
from kinembed.embedding.settings import as_earlier, keep_settings, warn_of_views
from kinembed.errors import RunError
from kinembed.inference.network import Network
from kinembed.recipes import RECIPES

SETTINGS = {"views": ["max"], "batch_size": 8, "shard_photos": 16, "provenance": {"model": "a"}}


@pytest.mark.parametrize(
    ("before", "different"),
    [
        (b"[1]", r"settings\.json"),
        (b"{", r"settings\.json"),
        (b'{"a": 1}', r"settings\.json"),
        (json.dumps({**SETTINGS, "framings": {}}).encode(), "framings"),
        (json.dumps({**SETTINGS, "batch_size": 4}).encode(), "batch_size"),
    ],
)
def test_settings_that_are_gone_are_other_settings(
    tmp_path: Path, before: bytes, different: str
) -> None:
    (tmp_path / "settings.json").write_bytes(before)
    with pytest.raises(RunError, match=f"another {different}; go on"):
        keep_settings(tmp_path, SETTINGS)


def test_the_first_process_says_what_made_all_shards(tmp_path: Path) -> None:
    keep_settings(tmp_path, SETTINGS)
    later = {**SETTINGS, "provenance": {"model": "a", "versions": {"numpy": "9"}}}
    assert keep_settings(tmp_path, later) == SETTINGS["provenance"]


@pytest.mark.parametrize(
    ("settings", "asked", "dtype"),
    [
        ({}, {}, "int8"),
        ({}, {"dtype": "float16"}, "float16"),
        ({}, {"restart": True}, "float32"),
        ({"model": "another"}, {}, "float32"),
        ({"dtype": "int4"}, {}, "float32"),
        ({"views": 1}, {}, "float32"),
    ],
)
def test_an_interrupted_embedding_goes_on_in_its_number_format(
    settings: dict[str, Any], asked: dict[str, Any], dtype: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    ready: Any = SimpleNamespace(names=("max",))
    network = Network(ready, "a", ready)
    begun = {**SETTINGS, "model": "a", "dtype": "int8", **settings}
    (tmp_path / "settings.json").write_text(json.dumps(begun))
    config = as_earlier(EmbedConfig(**asked), tmp_path / "none.h5", tmp_path, network)
    assert (config.dtype, config.flip, config.views) == (dtype, False, None)
    told = f"{tmp_path}: goes on with numbers of int8; --restart and --dtype begin with others"
    assert (told in caplog.text) == (dtype == "int8")


def test_a_view_that_the_fine_tuned_head_compares_and_that_is_not_made_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nothing: Any = None
    network = Network(nothing, "", nothing, finetuned=Finetuned(RECIPES["dense"], "max+avg"))
    warn_of_views(EmbedConfig(views=("native", "max", "avg")), network, Path("a b"))
    assert caplog.text == ""
    warn_of_views(EmbedConfig(views=("native", "max")), network, Path("a b"))
    assert (
        "views native,max: the head of kinembed finetune compares max+avg; run kinembed head "
        "--run 'a b' before score"
    ) in caplog.text
