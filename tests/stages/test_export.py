"""The stage `export`: what its file gives, and what reads it back."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import kinembed
from kinembed.cache import EmbeddingCache
from kinembed.cli import run as command
from kinembed.config import EmbedConfig, ExportConfig, ScoreConfig
from kinembed.embed import embed
from kinembed.errors import KinembedError, RunError, WeightsError
from kinembed.export import export
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.score_norm import ScoreNorm
from kinembed.score import score


def exported(run: Path, faces: Path, out: Path, **settings: object) -> onnxruntime.InferenceSession:
    path = export(ExportConfig(out, **settings), faces, run).path  # type: ignore[arg-type]
    return onnxruntime.InferenceSession(path.read_bytes())


def test_the_representation_is_the_heads(answering: Path, faces: Path, tmp_path: Path) -> None:
    session = exported(answering, faces, tmp_path / "net.onnx")
    side = session.get_inputs()[0].shape[1]
    photos = np.random.default_rng(1).integers(256, size=(4, side, side, 3), dtype=np.uint8)
    names = [each.name for each in session.get_outputs()]
    assert names == ["avg", "max", "representation"]
    found = dict(zip(names, session.run(names, {"photos": photos}), strict=True))
    head = load_head(answering / "head.h5")
    assert found["representation"] == pytest.approx(head.represent(found["avg"]), abs=1e-4)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2", "s-norm"])
def test_every_kind_of_projection_is_the_same(
    answering: Path, faces: Path, tmp_path: Path, similarity: str
) -> None:
    run = Path(shutil.copytree(answering, tmp_path / "run"))
    rng = np.random.default_rng(2)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        widths = {view: cache.vectors(view).shape[1] for view in ("max", "avg")}
        model = cache.provenance["model"]
    width = sum(widths.values())
    projections = (
        Projection(random(width, 6), random(6), (random(width, 9), random(9), random(9, 6))),
        Projection(random(width, 4), random(4), ()),
    )
    norms = tuple(ScoreNorm.fit(unit(random(30, each.width)), np.ones(30)) for each in projections)
    is_normed = similarity == "s-norm"
    head = MetricHead(
        "max+avg+max-flip+avg-flip", model, projections, weights=(1.0, 3.0), tta_views=2,
        similarity="cosine" if is_normed else similarity,  # type: ignore[arg-type]
        norms=norms if is_normed else (),
    )  # fmt: skip
    save_head(head, run / "head.h5")
    session = exported(run, faces, tmp_path / "net.onnx")
    names = [each.name for each in session.get_outputs()]
    assert names == ["avg", "max", "avg-flip", "max-flip", "representation"]
    side = session.get_inputs()[0].shape[1]
    photos = rng.integers(256, size=(3, side, side, 3), dtype=np.uint8)
    found = dict(zip(names, session.run(names, {"photos": photos}), strict=True))
    mirrored = session.run(["max"], {"photos": photos[:, :, ::-1].copy()})[0]
    assert found["max-flip"] == pytest.approx(mirrored, abs=1e-5)
    vectors = np.concatenate([found[view] for view in head.view.split("+")], 1)
    wanted = head.represent(vectors)
    assert found["representation"] == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("framing", ["loose", "whole"])
def test_the_documented_program_without_kinembed_gives_the_same_logits(
    answering: Path, faces: Path, tmp_path: Path, on_cpu: EmbedConfig, framing: str
) -> None:
    """The example of docs/elsewhere.md, on photos of other sides than the network's."""
    page = Path(kinembed.__file__).parents[1] / "docs" / "elsewhere.md"
    if not page.is_file():
        pytest.skip("not run from a checkout")
    (example,) = (
        text for text in re.findall("```python\n(.*?)```", page.read_text(), re.DOTALL)
        if "onnxruntime" in text
    )  # fmt: skip
    assert "kinembed" not in example.replace('["kinembed"]', "")
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(faces, data)
    shutil.copytree(answering, run)
    names = sorted(path.relative_to(data).as_posix() for path in (data / "train").rglob("*.jpg"))
    for name in names[:6]:
        with Image.open(data / name) as photo:
            photo.resize((150, 101)).save(data / name.replace(".jpg", ".png"))
        (data / name).unlink()
    for path in (data / "train").rglob("*.jpg"):
        path.unlink()
    shutil.rmtree(data / "test")
    embed(replace(on_cpu, backbone="mtcnn-onet", views=("max", "avg"), framing=framing), data, run)
    head = load_head(run / "head.h5")
    assert isinstance(head, MetricHead)
    head = replace(head, scale=7.5, centre=0.25)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        vectors = cache.vectors("avg")
    if framing == "loose":
        head = replace(head, norms=(ScoreNorm.fit(head.represent(vectors), np.ones(6)),))
    save_head(head, run / "head.h5")
    out = export(ExportConfig(tmp_path / "net.onnx"), data, run).path
    definitions = example.partition("\nprint(")[0].replace('"net.onnx"', repr(str(out)))
    program: dict[str, Any] = {}
    exec(compile(definitions, str(page), "exec"), program)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        assert len(cache) == 6
        wanted = head.represent(cache.vectors("avg"))
        paths = [data / name.decode() for name in cache.names]
    for one in range(6):
        for other in range(6):
            logit = head.score(wanted, np.array([[one, other]]))[0]
            assert program["logit"](paths[one], paths[other]) == pytest.approx(logit, abs=2e-3)


def test_embed_reads_it_back_to_the_same_scores(
    answering: Path, faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    export(ExportConfig(tmp_path / "net.onnx"), faces, answering)
    run = tmp_path / "back"
    embed(replace(on_cpu, onnx=tmp_path / "net.onnx"), faces, run)
    with (
        EmbeddingCache.open(run / "embeddings.h5") as found,
        EmbeddingCache.open(answering / "embeddings.h5") as wanted,
    ):
        assert found.provenance["model"] == wanted.provenance["model"]
        assert set(found.views) == {"max", "avg"}
        for view in found.views:
            assert found.vectors(view) == pytest.approx(wanted.vectors(view), abs=1e-4)
    config = ScoreConfig(faces / "sample_submission.csv", head=answering / "head.h5", raw=True)
    rows = [
        score(config, faces, folder).read_text().splitlines()[1:]
        for folder in (run, Path(shutil.copytree(answering, tmp_path / "own")))
    ]
    one, other = ([float(row.rpartition(",")[2]) for row in each] for each in rows)
    assert one == pytest.approx(other, abs=1e-4) and len(one) > 10


def test_a_backbone_is_exported_without_a_run(tmp_path: Path, faces: Path) -> None:
    session = exported(
        tmp_path / "none", faces, tmp_path / "net.onnx", backbone="mtcnn-onet", views=("avg",)
    )
    assert [each.name for each in session.get_outputs()] == ["avg"]


def test_a_finetuned_network_is_exported_with_its_views(
    tuned: Path, faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session = exported(tuned, faces, tmp_path / "net.onnx")
    assert [each.name for each in session.get_outputs()] == ["avg", "max"]
    assert "compares pairs by their features, so the views are exported alone" in caplog.text


def test_what_does_not_fit_is_said_and_nothing_is_written(
    answering: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = Path(shutil.copytree(answering, tmp_path / "run")), tmp_path / "net.onnx"
    head = load_head(run / "head.h5")
    save_head(replace(head, model="0" * 64), run / "head.h5")  # type: ignore[type-var]
    with pytest.raises(RunError, match="is of network 000000000000, found"):
        export(ExportConfig(out), faces, run)
    with pytest.raises(KinembedError, match="embeddings.h5"):
        export(ExportConfig(run / "embeddings.h5", head=False), faces, run)
    monkeypatch.setattr("kinembed.export.NEAR", 0.0)
    with pytest.raises(KinembedError, match="differ by .* nothing was written"):
        export(ExportConfig(out, head=False), faces, run)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": "../x"}, "malformed"),
        ({"views": {}}, "malformed"),
        ({"views": {"max": "9"}}, "malformed"),
        ({"views": {"none": 9}}, "lacks its views none"),
        ({"framing": {"side": "48"}}, "malformed"),
        ({"framing": {"side": 9, "inner": 9}}, "lacks its views"),
        (None, "malformed"),
    ],
)
def test_a_file_that_says_wrong_things_of_itself_is_refused(
    answering: Path,
    faces: Path,
    tmp_path: Path,
    on_cpu: EmbedConfig,
    change: dict[str, object] | None,
    problem: str,
) -> None:
    path = export(ExportConfig(tmp_path / "net.onnx"), faces, answering).path
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = "{" if change is None else json.dumps(json.loads(entry.value) | change)
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=problem):
        embed(replace(on_cpu, onnx=path), faces, tmp_path / "run")


def test_the_command_says_where_it_is(
    answering: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    asked = ["export", "--run", str(answering), "--onnx", str(out), "--json", "--quiet"]
    assert command(asked) == 0
    head = load_head(answering / "head.h5")
    assert isinstance(head, MetricHead)
    assert json.loads(capsys.readouterr().out) == {
        "path": str(out), "model": head.model, "outputs": ["avg", "max", "representation"],
        "scale": head.scale, "centre": head.centre,
    }  # fmt: skip
    assert command([*asked[:-2], "--backbone", "nobody"]) == 1
