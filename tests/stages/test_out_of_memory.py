"""A device without memory: one line, nothing half-written, and what the line says to run works."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinembed.backbones.embedder import Embedder
from kinembed.cli import run as kin
from kinembed.config import FinetuneConfig
from kinembed.errors import KinembedError
from kinembed.finetune import _memory
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.siamese import SiameseNetwork


def limited(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, most: int) -> None:
    """From now on a method raises, as torch does, where it takes more photos than that.

    In training; validation takes 64 at a time and keeps nothing for a way back.
    """
    usual = getattr(kind, method)

    def forward(self: object, photos: Tensor) -> Tensor:
        if len(photos) > most and getattr(self, "training", True):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        return usual(self, photos)

    monkeypatch.setattr(kind, method, forward)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that a command that fails leaves."""
    assert kin([*arguments, "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def advice(line: str) -> list[str]:
    """The first of the options that a line names."""
    return re.split(", ", line.partition("; run it with ")[2])[0].split()


def test_embed_names_a_batch_size_that_fits_in_the_end(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited(monkeypatch, Embedder, "forward", 4)
    call = ["embed", "--data", str(faces), "--run", str(tmp_path / "run"), "--device", "cpu"]
    call += ["--backbone", "mtcnn-onet", "--framing", "loose", "--batch-size"]
    line = error_of([*call, "16"], capsys)
    assert line == (
        "Error: device cpu: out of memory, no room for 16 photos at a time; run it with "
        "--batch-size 8"
    )
    assert not any((tmp_path / "run").iterdir())
    line = error_of([*call[:-1], *advice(line)], capsys)
    assert kin([*call[:-1], *advice(line), "--quiet"]) == 0
    assert (tmp_path / "run" / "embeddings.h5").is_file()


@pytest.mark.parametrize(
    ("recipe", "asked", "answered", "kind", "method"),
    [
        ("dense", "--batch-size 16", "--accumulate 2", SiameseNetwork, "feature_map"),
        ("kin", "--set batch_pairs=8", "--set batch_pairs=4", ReplicatedForward, "forward"),
    ],
)
def test_finetune_names_options_that_fit(
    recipe: str, asked: str, answered: str, kind: type, method: str, faces: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    limited(monkeypatch, kind, method, 8)  # a tower of the one, a whole step of the other
    call = ["finetune", "--data", str(faces), "--run", str(tmp_path / "run"), "--device", "cpu"]
    call += ["--backbone", "mtcnn-onet", "--framing", "loose", "--epochs", "1", "--steps", "2"]
    call += ["--val-steps", "1", "--recipe", recipe]
    line = error_of([*call, *asked.split()], capsys)
    assert line.startswith("Error: device cpu: out of memory, no room for ")
    assert not any((tmp_path / "run").iterdir())
    options = advice(line)
    assert options == answered.split()
    options += asked.split() if recipe == "dense" else []  # a value of a recipe is given once
    assert kin([*call, *options, "--quiet"]) == 0
    assert (tmp_path / "run" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("settings", "work", "options"),
    [
        ({}, "32 pairs at a time", "--accumulate 2, the same gradient, or --save-memory, or --batch-size 16"),
        ({"accumulate": 3, "save_memory": True}, "11 pairs at a time", "--accumulate 6, the same gradient, or --batch-size 16"),
        ({"batch_size": 2, "accumulate": 2, "save_memory": True}, "1 pair at a time", "--device cpu"),
        ({"recipe": "kin", "overrides": ("batch_pairs=2",)}, "a step of 2 pairs", "--device cpu"),
    ],
)  # fmt: skip
def test_what_takes_less_memory_than_some_options(settings: dict, work: str, options: str) -> None:
    assert _memory(FinetuneConfig(**settings)) == (work, options)


def test_a_network_that_does_not_fit_the_device_is_one_line(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no photo is at hand yet, as when other programs hold all of the memory."""

    def fail(self: object, *_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(Embedder, "to", fail)
    call = ["embed", "--data", str(faces), "--run", str(tmp_path / "run"), "--device", "cpu"]
    line = error_of([*call, "--backbone", "mtcnn-onet", "--framing", "loose"], capsys)
    assert line == (
        "Error: the device is out of memory; run it with --device cpu (CUDA error: out of memory)"
    )


def test_a_pair_of_photos_that_does_not_fit_is_one_line(
    faces: Path, answering: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    limited(monkeypatch, Embedder, "forward", 0)
    photos = sorted((faces / "test").glob("*.jpg"))[:2]
    call = ["compare", *map(str, photos), "--run", str(answering), "--device", "cpu", "--crops"]
    line = error_of([*call, "--data", str(faces)], capsys)
    assert line == (
        "Error: device cpu: out of memory, no room for 1 photo at a time; run it with --device cpu"
    )


def test_other_errors_of_a_network_stay_as_they_are(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, photos: Tensor) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Embedder, "forward", fail)
    call = ["embed", "--data", str(faces), "--run", str(tmp_path), "--backbone", "mtcnn-onet"]
    with pytest.raises(RuntimeError, match="mat1") as raised:
        kin([*call, "--framing", "loose", "--device", "cpu", "--quiet"])
    assert not isinstance(raised.value, KinembedError)
