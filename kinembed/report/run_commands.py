"""The commands that made a run, as far as its files tell; and what they do not tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kinembed.config import CalibrateConfig, EvaluateConfig, FinetuneConfig
from kinembed.data.protocols import PROTOCOLS
from kinembed.report.run_facts import RunFacts

UNTOLD = {
    "head": "the protocol of kinembed head (--val-steps, --batch-size and the like), and what it "
    "learnt from, if not all (--exclude, --kinfacew)",
    "calibration": "how many pairs kinembed calibrate drew (--pairs), and its seed",
    "evaluation": "the seed of kinembed evaluate",
}


def run_commands(facts: RunFacts, asked: Sequence[str]) -> list[str]:
    """The commands in their order, each a line for a shell.

    Args:
        facts: what the run folder tells.
        asked: options of the report but --run and --data.
    """
    found: list[Sequence[str]] = []
    if facts.finetuning is not None:
        found.append(["finetune", *_finetuned(facts.finetuning)])
    if facts.provenance is not None:
        if "imported" in facts.provenance:
            vectors = str(facts.provenance["imported"].get("vectors"))
            backbone = ("--backbone-name", str(facts.provenance["backbone"]))
            found.append(["cache", "import", vectors, "NAMES.txt", *backbone])
        else:
            found.append(["embed", *_embedded(facts)])
    if facts.record is not None and facts.record.stage == "head":
        found.append(["head", *_headed(facts)])
    if facts.calibration is not None:
        found.append(["calibrate", *_calibrated(facts)])
    if facts.evaluation is not None:
        found.append(["evaluate", *_evaluated(facts.evaluation)])
    if facts.findings is not None:
        found.append(["audit"])
    found.append(["report", *asked])
    places = ["--run", str(facts.run), "--data", str(facts.data)]
    return [shlex.join(["kinembed", *words, *places]) for words in found]


def untold(facts: RunFacts) -> list[str]:
    """What no file of the run tells of its commands."""
    imported = facts.provenance is not None and "imported" in facts.provenance
    names = ["the file of names that kinembed cache import read, NAMES.txt here"]
    return (names if imported else []) + [
        text
        for name, text in UNTOLD.items()
        if getattr(facts, name) is not None
        and (name != "head" or (facts.record is not None and facts.record.stage == "head"))
    ]


def _finetuned(about: Mapping[str, Any]) -> list[str]:
    """Settings other than the defaults of the same network and recipe."""
    recipe = str(about["recipe"]["name"])
    default = asdict(FinetuneConfig(backbone=str(about["backbone"]), recipe=recipe))
    words = ["--backbone", str(about["backbone"]), "--recipe", recipe]
    for key, usual in default.items():
        value = about.get(key, usual)
        if key in ("backbone", "recipe", "overrides") or value == usual or value is None:
            continue
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    overrides = about.get("overrides")
    for each in overrides if isinstance(overrides, list) else []:
        words += ["--set", str(each)]
    return words


def _embedded(facts: RunFacts) -> list[str]:
    assert facts.provenance is not None
    command = facts.provenance.get("command", {})
    named = dict(command)
    if facts.provenance.get("finetuned") is not None or "onnx" in command:
        for key in ("backbone", "weights"):
            named.pop(key, None)
    words: list[str] = []
    for key, value in named.items():
        if key == "photos":
            words += [] if value == ["train", "test"] else ["--photos", ",".join(map(str, value))]
        elif value and value != "auto":
            words += [f"--{key.replace('_', '-')}", str(value)]
    if "onnx" not in command and facts.views:
        words += ["--views", ",".join(v for v in facts.views if not v.endswith("-flip"))]
        if not any(view.endswith("-flip") for view in facts.views):
            words.append("--no-flip")
    if facts.provenance["dtype"] != "float32":
        words += ["--dtype", facts.provenance["dtype"]]
    if "precision" in facts.provenance:
        words += ["--precision", facts.provenance["precision"]]
    return words


def _headed(facts: RunFacts) -> list[str]:
    assert facts.record is not None and facts.head is not None
    words = ["--recipe", facts.record.recipe] if facts.record.recipe else []
    for each in filter(None, facts.record.settings.split(";")):
        words += ["--set", each]
    words += ["--view", facts.head.view]
    if facts.head.kind == "metric":
        words += ["--folds", str(len(facts.head.folds))]
    logged = [row for row in facts.heads or () if row["head"] == facts.head.digest[:12]]
    if logged and logged[-1]["seed"] != "0":
        words += ["--seed", logged[-1]["seed"]]
    return words


def _calibrated(facts: RunFacts) -> list[str]:
    assert facts.calibration is not None
    scale, usual = facts.calibration.alone, CalibrateConfig()
    words = [] if scale.target == usual.target else ["--target", scale.target]
    words += [] if scale.map == usual.map else ["--map", scale.map]
    return words + ([] if scale.prior == scale.fitted_prior else ["--prior", f"{scale.prior:g}"])


def _evaluated(found: Mapping[str, Any]) -> list[str]:
    source = str(found["source"])
    protocol, _, path = source.partition(" ")
    skipped = ["--skip-trained"] if found["skipped_trained"] else []
    if source == "held-out people":
        pairs = found["pairs"]
        return [] if pairs == EvaluateConfig().count else ["--count", str(pairs)]
    if protocol in PROTOCOLS and path:
        return ["--protocol", protocol, path, *skipped]
    return ["--pairs", source, *skipped]
