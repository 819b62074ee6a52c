"""What a run folder tells of itself, for its report; what is missing says what to run."""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kinembed.auditing.finding import KINDS
from kinembed.auditing.record import AuditRecord
from kinembed.cache import EmbeddingCache
from kinembed.cache.stacked import StackedCache, open_caches
from kinembed.checked import Values, read_json
from kinembed.data.families import Families, cached_families
from kinembed.errors import KinembedError
from kinembed.evaluation.calibration import Calibration, load_calibration
from kinembed.evaluation.head_log import read_head_log
from kinembed.fold_runs import FOLDER, SETTINGS, has_folds
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord, read_head
from kinembed.heads.kept import IN_USE, caches_of
from kinembed.io import read_csv
from kinembed.printable import one_line
from kinembed.report.evaluation_file import read_evaluation

Found = TypeVar("Found")

FINDING = (
    *("kind", "surety", "person", "other_person", "photo", "other_photo"),
    *("reason", "cure"),
)  # columns of audit.csv
COMMAND = re.compile(r"kinembed (?:finetune|embed|head|calibrate|evaluate|audit|doctor)\b")


@dataclass(frozen=True)
class CacheFacts:
    """What is known of a cache that a run works from.

    Attributes:
        path: its own.
        provenance: what made it.
        views: its own.
        digest: of its vectors.
    """

    path: Path
    provenance: Mapping[str, Any]
    views: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, cache: EmbeddingCache) -> CacheFacts:
        """Of an open cache."""
        return cls(cache.path, cache.provenance, tuple(cache.views), cache.digest)


@dataclass
class RunFacts:
    """All that is known of a run; None where something is missing, and then `missing` says why.

    Attributes:
        run: the folder.
        data: the data folder.
        caches: its own cache, or those that its head learnt from; none: one is missing.
        cache: digest of all of them.
        names: of their photos.
        people: who is on each photo, empty where nobody is known.
        families: with relations.
        head: in use.
        record: of the head.
        calibration: in use.
        evaluation: `evaluation.json`.
        finetuning: `config.json` of a network, or of networks by folds, fine-tuned here.
        tunings: the same of every network that made a cache, by the run folder it was made in.
        history: rows of the last training, with numbers.
        heads: rows of `heads.csv`.
        findings: rows of `audit.csv`.
        not_judged: kinds of findings that the audit did not look for, and why.
        missing: by the name of what is missing, why, and what to run.
    """

    run: Path
    data: Path
    caches: tuple[CacheFacts, ...] = ()
    cache: str = ""
    names: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    families: Families | None = None
    head: Head | None = None
    record: HeadRecord | None = None
    calibration: Calibration | None = None
    evaluation: dict[str, Any] | None = None
    finetuning: dict[str, Any] | None = None
    tunings: dict[Path, dict[str, Any]] = field(default_factory=dict)
    history: list[dict[str, Any]] | None = None
    heads: list[dict[str, str]] | None = None
    findings: list[dict[str, str]] | None = None
    not_judged: Mapping[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def completed(self, text: str) -> str:
        """A text whose commands, such as `kinembed audit`, name the run folder and the data."""
        return completed(text, self.run, self.data)


def completed(text: str, run: Path, data: Path) -> str:
    """A text whose commands that need them name the run folder and the data folder.

    Args:
        text: with commands such as `kinembed audit`.
        run: the run folder.
        data: the data folder.
    """
    places = shlex.join(["--run", str(run), "--data", str(data)])
    text = text.replace(f" --run {run}", "")

    def with_places(found: re.Match[str]) -> str:
        is_elsewhere = text.startswith(" --run ", found.end())
        return f"{found[0]} {shlex.join(['--data', str(data)]) if is_elsewhere else places}"

    return COMMAND.sub(with_places, text)


def read_run(run: Path, data: Path) -> RunFacts:
    """Reads a run folder; nothing of it has to be there."""
    facts = RunFacts(run, data)

    def tried(name: str, read: Callable[[], Found]) -> Found | None:
        try:
            return read()
        except KinembedError as error:
            facts.missing[name] = str(error)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            facts.missing[name] = f"{name} cannot be read ({error}); make it again"
        return None

    def cache() -> None:
        with open_caches(caches_of(run, head=run / IN_USE)) as opened:
            several = opened.caches if isinstance(opened, StackedCache) else (opened,)
            facts.caches, facts.cache = tuple(map(CacheFacts.of, several)), opened.digest
            facts.names = [name.decode() for name in np.asarray(opened.names).tolist()]
            facts.people = [name.decode() for name in np.asarray(opened.people).tolist()]
            facts.families = tried("relations", lambda: cached_families(opened, data))
            if facts.families is None and "--data" not in facts.missing["relations"]:
                facts.missing["relations"] += "; name the folder that has them with --data"

    tried("cache", cache)
    found = tried("head", lambda: read_head(run / "head.h5"))
    if found is not None:
        facts.head, facts.record = found
    facts.calibration = tried("calibration", lambda: load_calibration(run / "calibration.json"))
    head = None if facts.head is None else facts.head.digest
    if facts.calibration is not None and head is not None and facts.calibration.head != head:
        facts.calibration = None
        facts.missing["calibration"] = "it is of another head; run kinembed calibrate"
    facts.evaluation = tried("evaluation", lambda: read_evaluation(run))
    if facts.evaluation is not None and head not in (None, facts.evaluation["head"]):
        facts.evaluation = None
        facts.missing["evaluation"] = "it is of another head; run kinembed evaluate again"
    facts.finetuning = tried("finetuning", lambda: _read_finetuning(run))
    facts.tunings = {} if facts.finetuning is None else {run: facts.finetuning}
    for folder in {cache.path.parent: None for cache in facts.caches if _is_tuned(cache)}:
        if folder.parent != run / FOLDER and folder not in facts.tunings:
            with suppress(KinembedError, OSError, ValueError, KeyError, TypeError):
                facts.tunings[folder] = _read_finetuning(folder)
    facts.history = tried("training", lambda: _read_history(run))
    facts.heads = tried("heads", lambda: _read_heads(run))
    facts.findings = tried("audit", lambda: _read_findings(run, facts.cache, head))
    if facts.findings is not None:
        facts.not_judged = AuditRecord.read(run).not_judged
    facts.missing = {what: facts.completed(why) for what, why in facts.missing.items()}
    return facts


def _read_history(run: Path) -> list[dict[str, Any]]:
    """The rows of the last training: epoch and member, whole numbers, and its figures, floats."""
    for name in ("history-head.csv", "history.csv"):
        if not (run / name).is_file():
            continue
        columns, rows = read_csv(run / name)
        if "epoch" not in columns or not rows:
            raise KinembedError(f"{run / name}: is no training's history; train again")
        found = []
        for line, row in enumerate(rows, 2):
            texts = {key: row[key] for key in columns if row[key] or key == "epoch"}
            numbers = {key: _number(run / name, line, key, text) for key, text in texts.items()}
            whole = {key: int(numbers.get(key, 0)) for key in ("epoch", "member")}
            found.append(numbers | whole)
        return found
    raise KinembedError("no training is on record; run kinembed head")


def _read_heads(run: Path) -> list[dict[str, str]]:
    path = run / "heads.csv"
    if not path.is_file():
        raise KinembedError("no head was trained here; run kinembed head")
    rows = read_head_log(path)
    for line, row in enumerate(rows, 2):
        for key in ("auc", "low", "high", "seconds"):
            if row[key] != "nan":  # nobody was held out, or too few for an interval
                _number(path, line, key, row[key])
    return rows


def _read_findings(run: Path, cache: str, head: str | None) -> list[dict[str, str]]:
    path = run / "audit.csv"
    if not path.is_file():
        raise KinembedError("the data were not audited; run kinembed audit")
    columns, rows = read_csv(path)
    if not set(FINDING).issubset(columns):
        raise KinembedError(f"{path}: found other columns; run kinembed audit again")
    record = AuditRecord.read(run)
    for what, of, now in (("cache", record.cache, cache), ("head", record.head, head)):
        if now and of != now:
            raise KinembedError(f"{path}: is of another {what}; run kinembed audit again")
    found = [{key: row[key] or "" for key in FINDING} for row in rows]
    for line, row in enumerate(found, 2):
        surety = _number(path, line, "surety", row["surety"] or "0")  # none: too few people
        if not 0 <= surety <= 1 or row["kind"] not in KINDS:
            raise KinembedError(f"{path}, line {line}: is no finding; run kinembed audit again")
    return found


def _read_finetuning(run: Path) -> dict[str, Any]:
    path = run / (f"{FOLDER}/{SETTINGS}" if has_folds(run) else SETTINGS)
    if not path.is_file():
        raise KinembedError("no network was fine-tuned here")
    about = read_json(path.read_bytes())
    Values(about).object("recipe").text("name")
    for key in ("backbone", "weights"):
        Values(about).text(key)
    return about


def _is_tuned(cache: CacheFacts) -> bool:
    """Whether the network that made a cache was fine-tuned into the cache's folder."""
    command = cache.provenance.get("command", {})
    return cache.provenance.get("finetuned") is not None and "model" not in command


def _number(path: Path, line: int, key: str, text: str | None) -> float:
    """A cell that has to be a finite number."""
    try:
        found = float(text or "")
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise KinembedError(
            f"{path}, line {line}: {key} is {one_line(text or '')[:40]!r}, no number"
        )
    return found
