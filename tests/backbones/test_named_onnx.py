"""Backbones that are ONNX files: fetched by name, embedded with, and refused where none can go."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from file_server import Server, serving

from kinembed import cli
from kinembed.backbones import BACKBONES, Backbone, find_backbone
from kinembed.backbones.onnx import open_published
from kinembed.cache import EmbeddingCache
from kinembed.cache.own import network_settings
from kinembed.config import EmbedConfig, FinetuneConfig
from kinembed.embed import embed
from kinembed.errors import KinembedError, RunError, WeightsError
from kinembed.finetune import finetune

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from test_onnx import gemm, helper, info, kinds, network, node  # noqa: E402 - needs onnx

NAMES = [name for name, record in BACKBONES.items() if record.is_onnx]
CPU = torch.device("cpu")
LOOSE = ("--framing", "loose")  # no face is looked for
WIDTH = 512
MATRIX = np.random.default_rng(5).normal(size=(WIDTH, 3)).astype(np.float32)


def face_network(path: Path, width: int = WIDTH) -> Path:
    """What the published ones have, inputs and outputs: (n, 3, 112, 112) floats to (n, 512)."""
    return network(
        path,
        [node("Gemm", ["m", "w"], ["y"], transB=1)],
        [info("y", kinds.FLOAT, ("n", width))],
        shape=("n", 3, 112, 112),
        constants={"w": MATRIX[:width]},
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KINEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, cache: Path) -> Iterator[Server]:
    """Serves such a network."""
    with serving(Server(face_network(tmp_path / "published.onnx").read_bytes())) as state:
        yield state


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """The records, whose files are on the server of this test."""
    for name in NAMES:
        record = BACKBONES[name]
        ((which, source),) = record.sources.items()
        here = replace(
            source,
            url=f"http://127.0.0.1:{server.port}/{source.file_name}",
            sha256=sha256(server.content).hexdigest(),
            size=len(server.content),
        )
        monkeypatch.setitem(BACKBONES, name, replace(record, sources={which: here}))
    return [BACKBONES[name] for name in NAMES]


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([*map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command says before it exits by 1."""
    code, out, err = run(capfd, *arguments, "--quiet")
    assert (code, out) == (1, "") and err.count("\n") == 1, err
    return err


def test_each_record_sees_pixels_as_its_network_was_trained(
    served: list[Backbone], server: Server
) -> None:
    rng = np.random.default_rng(1)
    photos = rng.integers(256, size=(3, 112, 112, 3), dtype=np.uint8)
    for record in served:
        opened = open_published(record, "auto", CPU, accept_licence=True)
        assert opened.names == ("native",) and opened.backbone is record
        assert opened.digest == sha256(server.content).hexdigest()
        means = photos.astype(np.float64).mean((1, 2))  # (3, RGB)
        if record.name.startswith("adaface"):
            means = means[:, ::-1]
        wanted = (means - 127.5) / 127.5 @ MATRIX.T
        found = opened(torch.from_numpy(photos))["native"].numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert len(server.asked) == len(NAMES)


def test_the_name_is_enough(
    served: list[Backbone],
    server: Server,
    faces: Path,
    tmp_path: Path,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capfd, "weights", "fetch", "adaface-ir101", "--json")
    file = cache / "adaface_ir_101.onnx"
    assert code == 0 and "licence: MIT (code of AdaFace" in err
    wanted = sha256(server.content).hexdigest()
    assert json.loads(out) == {
        "path": str(file), "backbone": "adaface-ir101", "parameters": 0, "sha256": wanted,
        "digest": wanted,
    }  # fmt: skip
    code, out, err = run(capfd, "weights", "verify", "adaface-ir101")
    assert code == 0 and out.startswith(f"{file}: weights of adaface-ir101, an ONNX network\n")
    named, by_file = tmp_path / "named", tmp_path / "file"
    for folder, options in (
        (named, ("--backbone", "adaface-ir101")),
        (by_file, ("--onnx", file, "--mean", 127.5, "--scale", 127.5, "--order", "bgr")),
    ):
        code, _, err = run(capfd, "embed", "--run", folder, "--data", faces, *LOOSE, *options)
        assert code == 0, err
    assert len(server.asked) == 1
    with (
        EmbeddingCache.open(named / "embeddings.h5") as one,
        EmbeddingCache.open(by_file / "embeddings.h5") as other,
    ):
        assert one.views == other.views == ("native",)
        assert np.array_equal(one.vectors("native"), other.vectors("native"))
        about = one.provenance
        assert about["input"] == other.provenance["input"]
        assert about["model"] == other.provenance["model"] == wanted
        assert about["backbone"] == about["command"]["backbone"] == "adaface-ir101"
        assert about["precision"] == "fp32" and "onnx" not in about["command"]
    settings, _ = network_settings(named / "embeddings.h5")
    assert settings.backbone == "adaface-ir101" and settings.onnx is None
    text = refused(capfd, "embed", "--run", named, "--data", faces, "--backbone", "adaface-ir101",
                   "--views", "max")  # fmt: skip
    assert "view 'max': backbone adaface-ir101 has native" in text
    text = refused(capfd, "export", "--run", named, "--onnx", tmp_path / "x.onnx")
    assert "--onnx: the network is an ONNX file already" in text


def test_what_only_runs_is_neither_trained_nor_converted(
    faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], short: FinetuneConfig
) -> None:
    wanted = (
        "backbone lvface-t: is an ONNX file, which can be neither fine-tuned nor converted; those "
        "that can: resnet50, senet50, "
    )
    data = ("--run", tmp_path / "run", "--data", faces)
    for words in (
        ("finetune", "--backbone", "lvface-t", *data),
        ("finetune", "--backbone", "lvface-t", "--summary"),
        ("experiments", "--backbones", "lvface-t", *data),
        ("weights", "convert", faces / "train_relationships.csv", tmp_path / "x.safetensors",
         "--backbone", "lvface-t"),
    ):  # fmt: skip
        assert wanted in refused(capfd, *words)
    with pytest.raises(KinembedError, match="backbone lvface-t: is an ONNX file"):
        finetune(replace(short, backbone="lvface-t"), faces, tmp_path / "run")
    assert not any(name in wanted for name in NAMES if name != "lvface-t")


def test_a_licence_for_research_is_accepted_once(
    served: list[Backbone], server: Server, faces: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = (
        "embed",
        "--run",
        tmp_path / "run",
        "--data",
        faces,
        *LOOSE,
        "--backbone",
        "arcface-r50",
    )
    text = refused(capfd, *words)
    assert "licence: non-commercial research only (InsightFace" in text
    cure = "run kinembed weights fetch arcface-r50 --accept-licence"
    assert cure in text and not server.asked
    assert cure in refused(capfd, "weights", "fetch", "arcface-r50")
    assert run(capfd, "weights", "fetch", "arcface-r50", "--accept-licence")[0] == 0
    assert run(capfd, *words)[0] == 0
    _, out, _ = run(capfd, "weights", "list")
    where = {line.split()[0]: line for line in out.splitlines() if line}
    assert "  cached  " in where["arcface-r50"] and "  to fetch  " in where["lvface-t"]


def test_a_copy_is_held_to_the_records_bytes(
    served: list[Backbone], server: Server, faces: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    copy = tmp_path / "mine.onnx"
    copy.write_bytes(server.content)
    words = (
        "embed",
        "--run",
        tmp_path / "run",
        "--data",
        faces,
        *LOOSE,
        "--backbone",
        "adaface-ir18",
    )
    assert run(capfd, *words, "--weights", copy)[0] == 0 and not server.asked
    assert run(capfd, "weights", "verify", copy, "--backbone", "adaface-ir18")[0] == 0
    changed = bytearray(server.content)
    changed[-1] ^= 1
    copy.write_bytes(changed)
    for path, problem in (
        (copy, "found sha256"),
        (gemm(tmp_path / "other.onnx"), "bytes, wanted"),
        (
            tmp_path / "none.onnx",
            "; kinembed weights fetch adaface-ir18 downloads the published ones",
        ),
    ):
        text = refused(capfd, *words, "--weights", path)
        assert text.startswith(f"Error: {path}: ") and problem in text
        verify = refused(capfd, "weights", "verify", path, "--backbone", "adaface-ir18")
        assert verify.startswith(f"Error: {path}: ")
    text = refused(capfd, *words, "--weights", "none")
    assert "adaface-ir18 has auto, webface4m; or name a file" in text
    assert run(capfd, "embed", "--run", tmp_path / "run", "--backbone", "adaface-ir18")[0] == 1
    # what is copied into a folder names no file that is opened
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    shutil.copy(tmp_path / "run" / "embeddings.h5", stranger)
    with pytest.raises(RunError, match=r"names a network elsewhere \(.*mine.onnx\), which is not"):
        network_settings(stranger / "embeddings.h5")


def test_a_file_whose_sha256_is_unknown_is_recorded_at_first_use(
    served: list[Backbone], server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    record = BACKBONES["adaface-ir18"]
    unknown = replace(record.sources["webface4m"], sha256=None, size=None)
    record = replace(record, sources={"webface4m": unknown})
    monkeypatch.setitem(BACKBONES, record.name, record)
    server.content = face_network(tmp_path / "other.onnx", width=8).read_bytes()
    text = "not adaface-ir18: found views native:8, wanted native:512; delete .*"
    with pytest.raises(WeightsError, match=text):
        open_published(record, "auto", CPU)
    assert not (cache / "adaface_ir_18.onnx.sha256").exists()  # what does not fit is not recorded
    (cache / "adaface_ir_18.onnx").unlink()
    server.content = face_network(tmp_path / "published.onnx").read_bytes()
    open_published(record, "auto", CPU)
    kept = (cache / "adaface_ir_18.onnx.sha256").read_text()
    assert kept.split() == [sha256(server.content).hexdigest(), "adaface_ir_18.onnx"]
    (cache / "adaface_ir_18.onnx").write_bytes(server.content + b"\n")
    with pytest.raises(WeightsError, match="found sha256 .*; delete .* to download it again"):
        open_published(record, "auto", CPU)


def test_without_onnxruntime_nothing_is_downloaded(
    served: list[Backbone], server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    faces: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from importlib.util import find_spec

    monkeypatch.setattr(
        "kinembed.backbones.published_weights.find_spec",
        lambda name: None if name == "onnxruntime" else find_spec(name),
    )
    need = "lvface-t: onnxruntime reads its weights; run pip install 'kinembed[onnx]'"
    for words in (
        ("embed", "--run", tmp_path / "run", "--data", faces, "--backbone", "lvface-t"),
        ("weights", "fetch", "lvface-t"),
        ("weights", "verify", "lvface-t"),
    ):
        assert need in refused(capfd, *words)
    _, out, _ = run(capfd, "weights", "list")
    assert "pip install 'kinembed[onnx]'" in out and not server.asked


def test_photos_are_embedded_by_scikit_learns_interface_too(
    served: list[Backbone], faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    from kinembed import KinEmbedder

    config = replace(on_cpu, model=None, backbone="lvface-t", framing="loose", views=None)
    with EmbeddingCache.open(embed(config, faces, tmp_path / "run")) as cache:
        names, wanted = cache.names[:4].tolist(), cache.vectors("native")[:4]
    photos = [faces / name.decode() for name in names]
    embedder = KinEmbedder("lvface-t", framing="loose", device="cpu")
    assert np.allclose(embedder.fit_transform(photos), wanted, atol=1e-5)


def test_the_records_are_told_apart_from_those_of_torch() -> None:
    assert NAMES == ["adaface-ir101", "adaface-ir18", "arcface-r50", "lvface-t"]
    assert helper is not None
    for name in NAMES:
        record = find_backbone(name)
        with pytest.raises(KinembedError, match="is an ONNX file"):
            record.build()
        assert dict(record.views) == {"native": WIDTH}
        assert all(s.reader == "onnxruntime" and s.sha256 for s in record.sources.values())
    assert [n for n in NAMES if next(iter(BACKBONES[n].sources.values())).accept_licence] == [
        "arcface-r50"
    ]
