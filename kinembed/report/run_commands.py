"""The commands that made a run, as far as its files tell; and what they do not tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kinembed.cache.provenance import embed_words
from kinembed.config import CalibrateConfig, EvaluateConfig, FinetuneConfig
from kinembed.data.protocols import PROTOCOLS
from kinembed.fold_runs import FOLDER
from kinembed.heads.base import Head
from kinembed.heads.fused import FusedHead
from kinembed.heads.kept import IN_USE, learnt_from
from kinembed.report.run_facts import CacheFacts, RunFacts
from kinembed.views import JOIN, TTA, parts_of, without_tta

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
    found: list[tuple[Path, Sequence[str]]] = []
    for run, about in facts.tunings.items():
        found.append((run, ["finetune", *_finetuned(about)]))
    for cache in facts.caches:
        run, words = cache.path.parent, _made(cache)
        if run.parent == facts.run / FOLDER and run.parent.parent in facts.tunings:
            run, words = facts.run, [*words, "--folds"]  # one command for all folds
        if (run, words) not in found:
            found.append((run, words))
    if facts.record is not None and facts.record.stage == "head":
        found.append((facts.run, ["head", *_headed(facts)]))
    if facts.calibration is not None:
        found.append((facts.run, ["calibrate", *_calibrated(facts)]))
    if facts.evaluation is not None:
        found.append((facts.run, ["evaluate", *_evaluated(facts.evaluation)]))
    if facts.findings is not None:
        found.append((facts.run, ["audit"]))
    found.append((facts.run, ["report", *asked]))
    return [
        shlex.join(["kinembed", *words, "--run", str(run), "--data", str(facts.data)])
        for run, words in found
    ]


def untold(facts: RunFacts) -> list[str]:
    """What no file of the run tells of its commands."""
    imported = any("imported" in cache.provenance for cache in facts.caches)
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


def _made(cache: CacheFacts) -> list[str]:
    """What made a cache."""
    about = cache.provenance
    if "imported" in about:
        vectors = str(about["imported"].get("vectors"))
        name = ("--backbone-name", str(about["backbone"]))
        return ["cache", "import", vectors, "NAMES.txt", *name]
    return ["embed", *embed_words(about, cache.views)]


def _headed(facts: RunFacts) -> list[str]:
    assert facts.record is not None and facts.head is not None
    logged = [row for row in facts.heads or () if row["head"] == facts.head.digest[:12]]
    parts = _parts(facts.head)
    words: list[str] = []
    if all(part.kind == "metric" for part in parts) or not logged or float(logged[-1]["seconds"]):
        words += ["--recipe", facts.record.recipe] if facts.record.recipe else []
        for each in filter(None, facts.record.settings.split(";")):
            words += ["--set", each]
        for part in parts:
            words += ["--view", _view(part)]
        if _is_unflipped(facts, parts):
            words.append("--no-flip")
        splits = any(cache.provenance.get("split") for cache in facts.caches)
        if facts.head.kind == "metric" or (parts[0].kind == "metric" and not splits):
            words += ["--folds", str(len(facts.head.folds))]
    else:  # nothing was trained
        words.append("--fine-tuned")
    for name in learnt_from(facts.run / IN_USE):
        words += ["--cache", str(name)]
    if logged and logged[-1]["seed"] != "0":
        words += ["--seed", logged[-1]["seed"]]
    return words


def _parts(head: Head) -> list[Head]:
    """The heads that a head is fused of; of another itself."""
    if not isinstance(head, FusedHead):
        return [head]
    return [one for part in head.parts for one in _parts(part)]


def _view(part: Head) -> str:
    """The view by which --view asks for what a head takes."""
    if part.kind != "metric":
        return part.view
    return JOIN.join(without_tta(parts_of(part.view)))  # mirrored photos are no views of their own


def _is_unflipped(facts: RunFacts, parts: Sequence[Head]) -> bool:
    """Whether no metric head takes the mirrored photos, where the caches have them."""
    several = len(facts.caches) > 1
    known = {
        f"{number}.{view}" if several else view
        for number, cache in enumerate(facts.caches, 1)
        for view in cache.views
    }
    metric = [set(parts_of(part.view)) for part in parts if part.kind == "metric"]
    return any({view + TTA for view in views} <= known for views in metric)


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
