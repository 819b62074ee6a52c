"""`--json`: the keys and types of each command's result, and nothing else on standard output."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from kinembed.cache import EmbeddingCache
from kinembed.cli import cli, run
from kinembed.demo import DemoResult
from kinembed.heads.file import load_head, save_head

CACHE = {
    **{"path": str, "photos": int, "people": int, "families": int, "bytes": int},
    **{"views": dict, "provenance": dict},
}
HEAD = {
    "path": str,
    "recipe": str,
    "settings": str,
    "view": str,
    "seed": int,
    "folds": int,
    "pairs": int,
    "auc": float,
    "low": float,
    "high": float,
    "epoch_chosen_by": str,
    "seconds": float,
    "head": str,
}
# Of ten families: without figures of decisions, as the pairs to judge them by are another mix.
ESTIMATES = {
    *("auc", "auc_interval", "threshold_interval"),
    *("kin", "non_kin", "within", "all_non_kin", "all_within"),
}
INTERVAL = {"low": float, "high": float}
WEIGHTS = {"path": str, "backbone": str, "parameters": int, "sha256": str, "digest": str}


def types(value: dict[str, Any]) -> dict[str, type]:
    return {key: type(each) for key, each in value.items()}


@pytest.fixture
def answer(run_: Path, faces: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in the run folder; its JSON, after checking that nothing else was printed."""

    def ask(*arguments: object, code: int = 0) -> Any:
        there = ["--run", str(run_), "--data", str(faces), "--json"]
        capfd.readouterr()
        assert run([*map(str, arguments), *there]) == code
        out = capfd.readouterr().out
        found = json.loads(out)
        assert isinstance(found, dict) and out.count("\n") == out.rstrip().count("\n") + 1
        return found

    return ask


@pytest.fixture
def run_(run: Path) -> Path:  # the name is taken by the command
    """The run folder, whose head held out everybody: it is not trained, which is not at issue."""
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = [name.decode() for name in cache.names if name.startswith(b"train/")]
    people = tuple(sorted({"/".join(name.split("/")[1:3]) for name in names}))
    head = load_head(run / "head.h5")
    save_head(replace(head, held_out=people, trained=()), run / "head.h5")
    return run


def test_finetune(answer: Callable[..., Any], run_: Path) -> None:
    short = "--backbone mtcnn-onet --recipe base --split families --epochs 2 --steps 2"
    limits = "--val-steps 1 --batch-size 8 --device cpu --precision fp32"
    found = answer("finetune", *short.split(), *limits.split())
    assert types(found) == {
        "path": str,
        "epochs": int,
        "best_epoch": int,
        "kept_epoch": int,
        "val_auc": float,
        "val_accuracy": float,
        "seconds": float,
    }
    assert found["path"] == str(run_ / "model.pt") and found["epochs"] == 2
    about = json.loads((run_ / "config.json").read_bytes())
    assert found["best_epoch"] == about["best_epoch"]


def test_finetune_summary_has_none(run_: Path) -> None:
    assert run(["finetune", "--backbone", "mtcnn-onet", "--summary", "--json"]) == 2


def test_experiments(answer: Callable[..., Any], run_: Path) -> None:
    what = "--recipes base --backbones mtcnn-onet --splits families --epochs 1 --steps 1"
    limits = "--val-steps 1 --batch-size 8 --device cpu --precision fp32"
    found = answer("experiments", *what.split(), *limits.split())
    assert types(found) == {"path": str, "results": list}
    assert found["path"] == str(run_ / "experiments.csv")
    (row,) = found["results"]
    assert {key: type(value) for key, value in row.items() if value is not None} == {
        "backbone": str,
        "recipe": str,
        "split": str,
        "epochs": int,
        "best_epoch": int,
        "kept_epoch": int,
        "val_auc": float,
        "val_accuracy": float,
        "seconds": float,
        "submission": str,
        "error": str,
    }
    assert row["report_public"] is None and row["report_private"] is None
    failed = answer("experiments", *what.split(), *limits.split(), "--weights", "none.pt", code=1)
    assert "none.pt" in failed["results"][0]["error"]


def test_embed_and_cache(answer: Callable[..., Any], run_: Path, tmp_path: Path) -> None:
    found = answer("embed", "--views", "max", "--device", "cpu", "--precision", "fp32")
    assert types(found) == CACHE
    path = run_ / "embeddings.h5"
    assert found["path"] == str(path) and found["bytes"] == path.stat().st_size
    assert (found["people"], found["families"]) == (46, 10)
    assert found["views"] == {"max": {"width": 128, "dtype": "float32"}}
    assert answer("cache", "info") == found
    assert answer("cache", "views") == {"path": str(path), "views": found["views"]}
    assert answer("cache", "verify") == {
        "path": str(path),
        "photos": found["photos"],
        "sound": True,
        "damaged": [],
        "problems": [],
    }
    out = tmp_path / "vectors.npy"
    assert answer("cache", "export", "--out", out) == {"path": str(out)}
    names = out.with_suffix(".txt")
    imported = answer("cache", "import", out, names, "--backbone-name", "other", "--force")
    assert types(imported) == CACHE and imported["photos"] == found["photos"]
    joined = tmp_path / "joined.h5"
    merged = answer("cache", "merge", path, path, "--out", joined)
    assert types(merged) == CACHE and merged["path"] == str(joined)


def test_a_damaged_cache(answer: Callable[..., Any], run_: Path) -> None:
    path = run_ / "embeddings.h5"
    with EmbeddingCache.open(path) as cache:
        at, name = cache.footer.extents["views/max"].offset, cache.names[0].decode()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    found = answer("cache", "verify", code=1)
    assert not found["sound"] and name in found["damaged"] and found["problems"] == []
    assert answer("cache", "verify", "--repair")["sound"]


def test_head(answer: Callable[..., Any], run_: Path) -> None:
    short = [
        "head",
        "--kind",
        "regularized",
        "--epochs",
        "1",
        "--steps",
        "2",
        "--val-steps",
        "1",
        "--batch-size",
        "8",
    ]
    found = answer(*short)
    assert types(found) == HEAD
    assert found["path"] == str(run_ / "head.h5") and found["recipe"] == "regularized"
    assert load_head(run_ / "head.h5").digest.startswith(found["head"])
    swept = answer(*short, "--sweep", "l2=0,1e-3", "--sweep", "seed=0,1")
    assert types(swept) == {"path": str, "heads": list}
    assert swept["path"] == str(run_ / "sweep.csv") and len(swept["heads"]) == 4
    assert types(swept["heads"][0]) == {
        "l2": str,
        "seed": int,
        "auc": float,
        "low": float,
        "high": float,
        "epoch": int,
    }


def test_calibrate_evaluate_and_score(answer: Callable[..., Any], run_: Path, faces: Path) -> None:
    found = answer("calibrate", "--pairs", "400")
    assert types(found) == {
        "path": str,
        "head": str,
        "people": int,
        "epoch_chosen_by": str,
        "alone": dict,
        "expanded": type(None),
        "make_up": type(None),
        "three_way": dict,
    }
    assert found["path"] == str(run_ / "calibration.json")
    assert types(found["alone"]) == {
        "threshold": float,
        "target": str,
        "map": str,
        "fitted_prior": float,
        "prior": float,
        "estimates": dict,
        "threshold_probability": float,
    }
    assert set(found["alone"]["estimates"]) == ESTIMATES
    assert types(found["alone"]["estimates"]["auc_interval"]) == INTERVAL
    judged = answer("evaluate", "--count", "300", "--no-pictures")
    assert types(judged) == {
        "path": str,
        "source": str,
        "head": str,
        "epoch_chosen_by": str,
        "cache": str,
        "pairs": int,
        "kin": int,
        "families": int,
        "bootstrap": str,
        "auc": float,
        "auc_delong": dict,
        "auc_by_families": dict,
        "average_precision": float,
        "eer": float,
        "tar_at_far": dict,
        "decision": dict,
        "relations": dict,
        "retrieval": dict,
        "same_photograph": dict,
        "skipped_trained": int,
        "wrong": list,
        "right": list,
        "curves": dict,
    }
    assert types(judged["auc_by_families"]) == types(judged["auc_delong"]) == INTERVAL
    assert types(judged["tar_at_far"]["0.01"]) == {"value": float, "interval": dict}
    scored = answer("score")
    rows = len((faces / "sample_submission.csv").read_text().splitlines()) - 1
    assert scored == {"path": str(run_ / "submission.csv"), "pairs": rows}
    packed = answer("score", "--out", run_ / "scores.csv.gz")
    assert packed == {"path": str(run_ / "scores.csv.gz"), "pairs": rows}


def test_demo(answer: Callable[..., Any], run_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = DemoResult(0.75, 0.5, 876, {"network": run_ / "model.pt"})
    monkeypatch.setattr("kinembed.demo.demo", lambda *_, **__: result)
    assert answer("demo") == {
        "path": str(run_),
        "auc": 0.75,
        "colour_auc": 0.5,
        "pairs": 876,
        "files": {"network": str(run_ / "model.pt")},
    }


def test_weights(answer: Callable[..., Any], tmp_path: Path) -> None:
    rows = answer("weights", "list")
    assert types(rows) == {"weights": list}
    wanted = {
        *("backbone", "weights", "auto", "parameters", "side", "views", "status", "path", "url"),
        *("install", "sha256", "size", "licence", "accept_licence"),
    }
    assert all(set(row) == wanted for row in rows["weights"])
    fetched = answer("weights", "fetch", "mtcnn-onet")
    assert types(fetched) == WEIGHTS
    target = tmp_path / "onet.safetensors"
    converted = answer("weights", "convert", fetched["path"], target, "--backbone", "mtcnn-onet")
    assert types(converted) == WEIGHTS and converted["path"] == str(target)
    assert converted["digest"] == fetched["digest"]
    assert answer("weights", "verify", target) == converted


def commands(group: click.Group = cli, name: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for part, command in group.commands.items():
        full = f"{name} {part}".strip()
        found |= commands(command, full) if isinstance(command, click.Group) else {full: command}
    return found


FIRST = {  # keys of commands whose result is no file
    "weights list": "weights",
    "doctor": "next",
    "compare": "sentence",
    "search": "probe",
    "serve": "url",
    "app": "url",
}


def test_every_command_has_a_result_and_its_help_names_the_path() -> None:
    for name, command in commands().items():
        (option,) = (p for p in command.params if "--json" in p.opts)
        assert isinstance(option, click.Option) and option.is_flag
        first = FIRST.get(name, "path")
        assert f"a JSON object of {first}" in str(option.help)
