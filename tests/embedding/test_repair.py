"""`cache verify --repair`: the damaged rows of a cache are computed again, as they were made."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_caches import computed, content, damage, names_in

from kinembed.backbones import BACKBONES
from kinembed.backbones.weights import load_trunk
from kinembed.cache.verify import verify
from kinembed.config import EmbedConfig
from kinembed.embed import embed
from kinembed.embedding.repair import repair
from kinembed.errors import RunError
from kinembed.training.siamese import load_model, save_model


@pytest.fixture
def fresh(on_cpu: EmbedConfig) -> EmbedConfig:
    """Embeds with a backbone's own weights: a run folder needs no model."""
    return replace(on_cpu, backbone="mtcnn-onet", batch_size=8, views=("max", "avg"))


@pytest.mark.parametrize(
    "dataset", ["views/max", "people", "digests", "stats", "checksums/views/avg"]
)
def test_repair_computes_just_the_damaged_rows(
    dataset: str,
    data: Path,
    tmp_path: Path,
    fresh: EmbedConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed(fresh, data, tmp_path)
    before, total = content(tmp_path), len(names_in(tmp_path))
    damage(tmp_path, dataset, 70)
    result = verify(tmp_path / "embeddings.h5")
    assert len(result.damaged) == (64 if dataset != "checksums/views/avg" else min(64, total - 128))
    assert result.problems == ()
    assert result.blocks == ((result.damaged[0], len(result.damaged)),)
    cure = f"run kinembed cache verify --repair --run {tmp_path}, which computes these photos again"
    assert result.cure == cure
    with computed(monkeypatch) as counts:
        repair(tmp_path, data)
    assert 0 < sum(counts) <= 64  # of the same bytes as a sound row, some need not be
    assert verify(tmp_path / "embeddings.h5").is_sound
    after = content(tmp_path)
    assert (after["names"], after["digests"]) == (before["names"], before["digests"])
    for view in ("max", "avg"):
        a, b = (np.frombuffer(c[view], np.float32) for c in (before, after))
        assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_repair_keeps_mirrored_views(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(replace(fresh, flip=True), data, tmp_path)
    before = content(tmp_path)
    damage(tmp_path, "views/avg-flip", 70)
    with computed(monkeypatch) as counts:
        repair(tmp_path, data)
    assert 0 < sum(counts) <= 2 * 64
    assert verify(tmp_path / "embeddings.h5").is_sound
    after = content(tmp_path)
    assert list(after) == list(before) and after["names"] == before["names"]
    for view in ("max", "max-flip", "avg", "avg-flip"):
        a, b = (np.frombuffer(c[view], np.float32) for c in (before, after))
        assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_a_cache_that_another_run_wrote_is_not_repaired(
    data: Path, tmp_path: Path, fresh: EmbedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    embed(fresh, data, tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    whole = (tmp_path / "theirs" / "embeddings.h5").read_bytes()
    (tmp_path / "mine" / "embeddings.h5").write_bytes(whole)
    for run, record in ((tmp_path / "mine", None), (tmp_path / "theirs", b'{"seal": "00"}')):
        if record:
            (run / "embed.json").write_bytes(record)
        damage(run, "views/max", 70)
        with pytest.raises(RunError, match="did not write it into this folder"):
            repair(run, data)
        assert "--repair" not in verify(run / "embeddings.h5").cure
    embed(fresh, data, tmp_path / "theirs")  # computes the damaged rows, and knows its own again
    damage(tmp_path / "theirs", "views/max", 70)
    caplog.set_level(logging.INFO)
    repair(tmp_path / "theirs", data)
    assert f"photos of train, test below {data}" in caplog.text


def test_repair_reads_no_place_that_only_the_cache_names(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    album, weights = data / "test", tmp_path / "weights.pt"
    backbone = BACKBONES["mtcnn-onet"]
    torch.save(load_trunk(backbone, "auto").state_dict(), weights)
    embed(
        replace(fresh, backbone="mtcnn-onet", weights=str(weights), photos=(str(album),)),
        data,
        tmp_path,
    )
    damage(tmp_path, "views/max", 70)
    assert (
        f"--repair --run {tmp_path} with --photos, --weights as"
        in verify(tmp_path / "embeddings.h5").cure
    )
    places = {"photos": (str(album),), "weights": str(weights)}
    for left_out in places:
        given = {key: value for key, value in places.items() if key != left_out}
        with monkeypatch.context() as patch:
            patch.setattr("kinembed.backbones.opened.load_trunk", None)
            with pytest.raises(
                RunError, match=f"was made with --{left_out} '.*', found none; name"
            ):
                repair(tmp_path, data, **given)
    with pytest.raises(RunError, match="was made with --onnx '', found 'x.onnx'"):
        repair(tmp_path, data, **places, onnx=Path("x.onnx"))
    repair(tmp_path, data, **places)
    assert verify(tmp_path / "embeddings.h5").is_sound


def test_repair_needs_the_model_that_made_it(
    data: Path, run: Path, on_cpu: EmbedConfig, tmp_path: Path
) -> None:
    damage(run, "views/max", 3)
    torch.manual_seed(0)
    network = load_model(run / "model.pt")
    with torch.no_grad():
        next(network.trunk.parameters()).mul_(2)
    save_model(network, run / "model.pt")
    before = (run / "embeddings.h5").read_bytes()
    with pytest.raises(RunError, match="was made by another model than the present one"):
        repair(run, data)
    assert (run / "embeddings.h5").read_bytes() == before


def test_random_weights_are_the_same_each_time_they_are_opened(
    data: Path, tmp_path: Path, fresh: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(replace(fresh, weights="none"), data, tmp_path)
    damage(tmp_path, "views/max", 70)
    with computed(monkeypatch) as counts:
        repair(tmp_path, data)
    assert 0 < sum(counts) <= 64  # else of another network, all of them
