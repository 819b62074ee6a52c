"""The settings of an embedding: those of its shards, and what is said of its views."""

import json
from pathlib import Path
from typing import Any

import pytest

from kinembed.cache.provenance import Finetuned
from kinembed.config import EmbedConfig
from kinembed.embedding.settings import keep_settings, warn_of_views
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
