"""What a run folder tells of itself, for its report; what is missing says what to run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.checked import read_json
from kinembed.data.families import Families, cached_families
from kinembed.errors import KinembedError
from kinembed.evaluation.calibration import Calibration, load_calibration
from kinembed.evaluation.head_log import read_head_log
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord, read_head
from kinembed.io import read_csv

Found = TypeVar("Found")

MOST_JSON = 1 << 26  # bytes of an evaluation


@dataclass
class RunFacts:
    """All that is known of a run; None where something is missing, and then `missing` says why.

    Attributes:
        run: the folder.
        data: the data folder.
        provenance: of its cache.
        names: of the cache's photos.
        people: who is on each photo, empty where nobody is known.
        families: with relations.
        head: in use.
        record: of the head.
        calibration: in use.
        evaluation: `evaluation.json`.
        history: rows of the last training, with numbers.
        heads: rows of `heads.csv`.
        findings: rows of `audit.csv`.
        missing: by the name of what is missing, why, and what to run.
    """

    run: Path
    data: Path
    provenance: Mapping[str, Any] | None = None
    names: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    families: Families | None = None
    head: Head | None = None
    record: HeadRecord | None = None
    calibration: Calibration | None = None
    evaluation: dict[str, Any] | None = None
    history: list[dict[str, Any]] | None = None
    heads: list[dict[str, str]] | None = None
    findings: list[dict[str, str]] | None = None
    missing: dict[str, str] = field(default_factory=dict)


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
        with EmbeddingCache.open(run / "embeddings.h5") as opened:
            facts.provenance = opened.provenance
            facts.names = [name.decode() for name in np.asarray(opened.names).tolist()]
            facts.people = [name.decode() for name in np.asarray(opened.people).tolist()]
            facts.families = tried("relations", lambda: cached_families(opened, data))

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
    facts.history = tried("training", lambda: _read_history(run))
    facts.heads = tried("heads", lambda: _read_heads(run))
    facts.findings = tried("audit", lambda: _read_findings(run))
    return facts


def read_evaluation(run: Path) -> dict[str, Any]:
    """`evaluation.json` of a run folder.

    Raises:
        KinembedError: it is missing, malformed, or of an earlier version without curves.
    """
    path = run / "evaluation.json"
    if not path.is_file():
        raise KinembedError(f"{path}: no such file; run kinembed evaluate --run {run}")
    try:
        found = read_json(path.read_bytes(), MOST_JSON)
        for key in ("head", "source", "pairs", "kin", "auc", "curves", "relations", "wrong"):
            found[key]
        far, tar, at = (found["curves"]["roc"][key] for key in ("far", "tar", "threshold"))
        if not len(far) == len(tar) == len(at) > 1:
            raise ValueError("its curve")
        for number in (found["auc"], *far, *tar, *(each for each in at if each is not None)):
            float(number)
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise KinembedError(
            f"{path}: is no evaluation of this version ({error}); run kinembed evaluate again"
        ) from None
    return found


def _read_history(run: Path) -> list[dict[str, Any]]:
    for name in ("history-head.csv", "history.csv"):
        if (run / name).is_file():
            _, rows = read_csv(run / name)
            return [
                {"member": row.get("member", "0")}
                | {key: float(text) for key, text in row.items() if key != "member" and text}
                for row in rows
            ]
    raise KinembedError("no training is on record; run kinembed head")


def _read_heads(run: Path) -> list[dict[str, str]]:
    if not (run / "heads.csv").is_file():
        raise KinembedError("no head was trained here; run kinembed head")
    return read_head_log(run / "heads.csv")


def _read_findings(run: Path) -> list[dict[str, str]]:
    path = run / "audit.csv"
    if not path.is_file():
        raise KinembedError("the data were not audited; run kinembed audit")
    columns, rows = read_csv(path)
    if not {"kind", "surety", "reason", "cure"}.issubset(columns):
        raise KinembedError(f"{path}: found other columns; run kinembed audit again")
    return [dict(row) for row in rows]
