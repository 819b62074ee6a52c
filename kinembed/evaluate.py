"""The stage `evaluate`: how well a head tells kin, on people who never trained it."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import EvaluateConfig
from kinembed.data.families import Rows, person_of
from kinembed.data.protocols import (
    RELATIONS,
    NamedPairs,
    photograph_of,
    read_kinfacew,
    read_labelled,
    read_rfiw,
)
from kinembed.errors import DataError, RunError
from kinembed.evaluation.calibration import (
    Calibration,
    check_calibration,
    choose_threshold,
    cross_fit,
    load_calibration,
    mixed,
)
from kinembed.evaluation.metrics import (
    Flags,
    Numbers,
    RankedScores,
    accuracy,
    average_precision,
    brier,
    calibration_error,
    delong_interval,
    equal_error_rate,
    family_bootstrap,
    reliability,
    tar_at_far,
)
from kinembed.evaluation.out_of_fold import held_out_scores
from kinembed.heads.file import load_head
from kinembed.heads.pair import AnyHead, matching_vectors, sigmoid
from kinembed.io import write_bytes
from kinembed.report.charts import draw_evaluation

log = logging.getLogger(__name__)

FARS = (0.1, 0.01, 0.001)
SHOWN = 12  # wrong pairs of each kind


@dataclass
class Judged:
    """Pairs, what is known of them and what the head says."""

    names: list[tuple[str, str]]
    rows: Rows
    labels: Flags
    families: Rows
    relations: list[str]
    folds: Rows | None
    logits: Numbers


def evaluate(config: EvaluateConfig, data: Path, run: Path) -> Path:
    """Judges a head by labelled pairs.

    The pairs are those of a CSV or of a protocol, else they are drawn among the people held out.
    A calibration that was fitted on people among them is not judged by them: threshold and map are
    then fitted anew on four folds of the families and judged by the fifth.

    Args:
        config: which pairs.
        data: the data folder: relations, and photos for the pictures.
        run: the run folder with `embeddings.h5`, `head.h5` and, if wanted, `calibration.json`.

    Returns:
        The path of `evaluation.json`; figures lie beside it.

    Raises:
        KinembedError: files are missing, malformed or do not belong together, or people in the
            pairs trained the head.
    """
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        head = load_head(config.head or run / "head.h5")
        pairs = _pairs(config, data, cache, head)
        calibration = _calibration(config, run, cache, head)
        result: dict[str, Any] = {
            "of": _source(config),
            "head": head.digest,
            "cache": cache.digest,
            **_figures(pairs, calibration, config.seed),
            "same_photograph": _audit(pairs, cache),
        }
    if config.protocol == "kinfacew":
        result["folds"] = _by_folds(pairs)
    wrong = _most_wrong(pairs)
    result["wrong"] = wrong
    draw_evaluation(pairs.labels, pairs.logits, result.get("decision"), run)
    if config.pictures:
        _draw_wrong(wrong, data, run)
    path = run / "evaluation.json"
    write_bytes(path, (json.dumps(result, indent=1) + "\n").encode())
    log.info("%s: %s pairs, AUC %.4f", path, f"{len(pairs.labels):,}", result["auc"])
    return path


def as_text(result: dict[str, Any]) -> str:
    """An evaluation as a table to read."""
    interval = result["auc_by_families"]
    lines = [
        f"{result['of']}: {result['kin']:,} kin and {result['pairs'] - result['kin']:,} non-kin "
        f"pairs, {result['families']:,} {result['bootstrap']}",
        f"  ROC AUC            {result['auc']:.4f}  95 % by {result['bootstrap']}: "
        f"{_range(interval)}; by pairs (DeLong): {_range(result['auc_delong'])}",
        f"  average precision  {result['average_precision']:.4f}",
        f"  equal error rate   {result['eer']:.4f}",
        *(
            f"  TAR at FAR {float(far):<6.1%}  {tar['value']:.4f}  ({_range(tar['interval'])})"
            for far, tar in result["tar_at_far"].items()
        ),
    ]
    decision = result.get("decision")
    if decision:
        lines += [
            f"  accuracy           {decision['accuracy']:.4f}  at the threshold, "
            f"{decision['how']}: TAR {decision['tar']:.4f}, FAR {decision['far']:.4f}",
            f"  Brier score        {decision['brier']:.4f}",
            f"  calibration error  {decision['ece']:.4f}",
        ]
    else:
        lines.append("  no threshold: run kinembed calibrate")
    if result["relations"]:
        lines.append(f"  {'relation':<28}{'pairs':>7}{'AUC':>9}  {'95 %':<18}{'accuracy':>9}")
        for name, row in result["relations"].items():
            found = row.get("auc")
            auc = "        -" if found is None else f"{found:9.4f}"
            reach = "" if row.get("interval") is None else _range(row["interval"])
            right = "        -" if row.get("accuracy") is None else f"{row['accuracy']:9.4f}"
            lines.append(
                f"  {RELATIONS.get(name, name):<28}{row['pairs']:>7,}{auc}  {reach:<18}{right}"
            )
    for name, row in result.get("folds", {}).items():
        folds = " ".join(f"{value:.3f}" for value in row["folds"])
        lines.append(f"  {RELATIONS.get(name, name):<28}{row['accuracy']:.4f}  (folds {folds})")
    audit = result["same_photograph"]
    if audit["told"]:
        without = audit["auc_without"]
        lines.append(
            f"  from one photograph: {audit['kin']:,} kin and {audit['non_kin']:,} non-kin pairs; "
            f"AUC without them {'-' if without is None else format(without, '.4f')}"
        )
    return "\n".join(lines) + "\n"


def _range(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['low']:.4f} to {interval['high']:.4f}"


def _source(config: EvaluateConfig) -> str:
    if config.protocol is not None:
        return f"{config.protocol} {config.pairs}"
    return str(config.pairs) if config.pairs is not None else "people held out"


def _pairs(config: EvaluateConfig, data: Path, cache: Embeddings, head: AnyHead) -> Judged:
    if config.pairs is None:
        if config.protocol is not None:
            raise DataError(f"protocol {config.protocol}: name its folder or list")
        return _held_out(config, data, cache, head)
    path = config.pairs
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    readers = {"kinfacew": read_kinfacew, "rfiw": read_rfiw}
    if config.protocol is not None:
        named: NamedPairs = readers[config.protocol](path, cache)
    else:
        named = read_labelled(path)
    rows = named.rows(cache)
    names = _names(cache, rows)
    _refuse_training(named, names, head)
    logits = head.scores(matching_vectors(cache, head), rows)
    if not np.isfinite(logits).all():
        raise RunError(f"{cache.path}: vectors are not finite; run kinembed embed again")
    return Judged(
        names,
        rows,
        named.labels,
        _families(names),
        named.relations if any(named.relations) else [],
        named.folds,
        logits,
    )


def _held_out(config: EvaluateConfig, data: Path, cache: Embeddings, head: AnyHead) -> Judged:
    rng = np.random.default_rng([config.seed, 1])  # other pairs than calibrate's
    drawn, logits = held_out_scores(head, cache, data, config.count, rng)
    names = _names(cache, drawn.rows)
    return Judged(names, drawn.rows, drawn.labels, drawn.families, [], None, logits)


def _names(cache: Embeddings, rows: Rows) -> list[tuple[str, str]]:
    names = np.array(cache.names)[rows].tolist()
    return [(left.decode(), right.decode()) for left, right in names]


def _families(names: Sequence[tuple[str, str]]) -> Rows:
    """The family of each photo as a number; one of its own where the name does not tell."""
    known: dict[str, int] = {}

    def number(name: str) -> int:
        person = person_of(name)
        return known.setdefault(person[0] if person else name, len(known))

    return np.array([[number(left), number(right)] for left, right in names], np.intp)


def _refuse_training(pairs: NamedPairs, names: list[tuple[str, str]], head: AnyHead) -> None:
    trained = set(head.trained)
    seen = [
        row
        for row, pair in enumerate(names)
        if any("/".join(person) in trained for name in pair if (person := person_of(name)))
    ]
    if seen:
        raise DataError(
            f"{pairs.path}, line {pairs.lines[seen[0]]}: {' and '.join(names[seen[0]])}: the head "
            f"was trained on them ({len(seen):,} such lines), which says nothing of others; name "
            "pairs of people held out, or leave out --pairs"
        )


def _calibration(
    config: EvaluateConfig, run: Path, cache: Embeddings, head: AnyHead
) -> Calibration | None:
    """The calibration, if there is one.

    One that is named may be of another cache, as that of a protocol is, but must be of the head.
    """
    if config.calibration is not None:
        found = load_calibration(config.calibration)
        if found.head != head.digest:
            raise RunError(
                f"{config.calibration}: is of another head; run kinembed calibrate again"
            )
        return found
    path = run / "calibration.json"
    if not path.exists():
        return None
    found = load_calibration(path)
    check_calibration(found, cache, head, path)
    return found


def _figures(pairs: Judged, calibration: Calibration | None, seed: int) -> dict[str, Any]:
    labels, logits, families = pairs.labels, pairs.logits, pairs.families
    ranked = RankedScores(labels, logits)
    curve = ranked.curve()
    rng = np.random.default_rng([seed, 2])
    by_photo = all(person_of(name) is None for pair in pairs.names[:100] for name in pair)
    result: dict[str, Any] = {
        "pairs": len(labels),
        "kin": int(labels.sum()),
        "families": len(np.unique(families)),
        "bootstrap": "photos" if by_photo else "families",
        "auc": ranked.auc(),
        "auc_delong": asdict(delong_interval(labels, logits)),
        "auc_by_families": asdict(family_bootstrap(ranked.auc, families, rng)),
        "average_precision": average_precision(labels, logits),
        "eer": equal_error_rate(curve),
        "tar_at_far": {
            str(far): {
                "value": tar_at_far(curve, far),
                "interval": asdict(
                    family_bootstrap(partial(_tar_of, ranked, far), families, rng, 200)
                ),
            }
            for far in FARS
        },
        "relations": {},
    }
    accepted: Flags | None = None
    if calibration is not None:
        decision, accepted = _decision(pairs, calibration, rng)
        result["decision"] = decision
    if pairs.relations:
        result["relations"] = _by_relation(pairs, accepted, rng)
    return result


def _tar_of(ranked: RankedScores, far: float, weights: Numbers) -> float:
    return tar_at_far(ranked.curve(weights), far)


def _decision(
    pairs: Judged, calibration: Calibration, rng: np.random.Generator
) -> tuple[dict[str, Any], Flags | None]:
    """Figures at the threshold, and which pairs it accepts where it is one threshold."""
    labels, logits = pairs.labels, pairs.logits
    fitted_on = set(calibration.people)
    people = {person_of(name) for pair in pairs.names for name in pair}
    if any("/".join(person) in fitted_on for person in people if person):
        how = "cross-fitted"
        judged, accepted, said = cross_fit(
            labels, logits, pairs.families, calibration.target, calibration.map, None, rng
        )
        truth = labels[judged]
        weights: Numbers | None = mixed(truth, float(labels.mean()))
        right, probabilities, whole = accepted[judged], said[judged], None
    else:
        how = "calibrated"
        truth, weights = labels, None
        right = whole = calibration.accepts(logits)
        probabilities = calibration.probabilities(logits)
    figures = {
        "how": how,
        "target": calibration.target,
        "map": calibration.map,
        "threshold": calibration.threshold,
        "pairs": len(truth),
        "accuracy": accuracy(truth, right, weights),
        "tar": float(right[truth].mean()),
        "far": float(right[~truth].mean()),
        "brier": brier(truth, probabilities, weights),
        "ece": calibration_error(truth, probabilities, weights=weights),
        "reliability": {
            key: values.tolist()
            for key, values in zip(
                ("pairs", "said", "was"),
                reliability(truth, probabilities, 15, weights),
                strict=True,
            )
        },
    }
    return figures, whole


def _by_relation(pairs: Judged, accepted: Flags | None, rng: np.random.Generator) -> dict[str, Any]:
    """Figures of each relation; against the non-kin pairs that carry its name, else against all."""
    names = np.array(pairs.relations)
    result = {}
    for name in sorted(set(pairs.relations) - {""}):
        own = names == name
        chosen = own if (own & ~pairs.labels).any() else own | ~pairs.labels
        labels, logits = pairs.labels[chosen], pairs.logits[chosen]
        row: dict[str, Any] = {
            "pairs": int(own.sum()),
            "against": "its own" if (own & ~pairs.labels).any() else "all",
        }
        if 0 < labels.sum() < len(labels):
            ranked = RankedScores(labels, logits)
            row["auc"] = ranked.auc()
            try:
                found = family_bootstrap(ranked.auc, pairs.families[chosen], rng, 300)
                row["interval"] = asdict(found)
            except DataError:
                row["interval"] = None
        if accepted is not None:
            row["accuracy"] = accuracy(labels, accepted[chosen])
        result[name] = row
    return result


def _by_folds(pairs: Judged) -> dict[str, Any]:
    """KinFaceW's protocol: the threshold of the best accuracy on four folds, judged by the fifth.

    Lu et al., "Neighborhood repulsed metric learning for kinship verification", 2014.
    """
    assert pairs.folds is not None
    result: dict[str, Any] = {}
    names = np.array(pairs.relations)
    for name in sorted(set(pairs.relations)):
        folds = []
        for fold in np.unique(pairs.folds[names == name]):
            here = (names == name) & (pairs.folds == fold)
            rest = (names == name) & (pairs.folds != fold)
            curve = RankedScores(pairs.labels[rest], pairs.logits[rest]).curve()
            prior = float(pairs.labels[rest].mean())
            threshold = choose_threshold(curve, "accuracy", prior)
            folds.append(accuracy(pairs.labels[here], pairs.logits[here] >= threshold))
        result[name] = {"accuracy": float(np.mean(folds)), "folds": folds}
    mean = float(np.mean([row["accuracy"] for row in result.values()]))
    result["mean"] = {"accuracy": mean, "folds": []}
    return result


def _audit(pairs: Judged, cache: Embeddings) -> dict[str, Any]:
    """Pairs cut from one photograph, which light and background give away."""
    shots = [(photograph_of(left), photograph_of(right)) for left, right in pairs.names]
    same = np.array([left is not None and left == right for left, right in shots])
    digests = cache.digests
    twins = (digests[pairs.rows[:, 0]] == digests[pairs.rows[:, 1]]).all(1)
    rest = ~(same | twins)
    labels = pairs.labels[rest]
    tellable = rest.any() and 0 < labels.sum() < len(labels)
    return {
        "told": any(left is not None for left, _ in shots),
        "kin": int((same & pairs.labels).sum()),
        "non_kin": int((same & ~pairs.labels).sum()),
        "same_file": int(twins.sum()),
        "auc_without": RankedScores(labels, pairs.logits[rest]).auc() if tellable else None,
    }


def _most_wrong(pairs: Judged) -> list[dict[str, Any]]:
    """The non-kin pairs of the highest scores, and the kin pairs of the lowest.

    One of each two people, so that a single portrait does not fill them all.
    """
    said = sigmoid(pairs.logits)
    found = []
    for label in (False, True):
        rows = np.flatnonzero(pairs.labels == label)
        rows = rows[np.argsort(pairs.logits[rows] if label else -pairs.logits[rows], kind="stable")]
        seen: set[frozenset[object]] = set()
        for row in rows.tolist():
            pair = frozenset(person_of(name) or name for name in pairs.names[row])
            if pair in seen:
                continue
            seen.add(pair)
            relation = pairs.relations[row] if pairs.relations else ""
            found.append(
                {
                    "photos": list(pairs.names[row]),
                    "kin": bool(label),
                    "probability": float(said[row]),
                    "relation": relation,
                }
            )
            if len(seen) == SHOWN:
                break
    return found


def _draw_wrong(wrong: list[dict[str, Any]], data: Path, run: Path) -> None:
    if not all((data / name).is_file() for row in wrong for name in row["photos"]):
        log.info("%s: does not hold the photos, so wrong pairs are not drawn", data)
        return
    from kinembed.report.strips import draw_strips  # Pillow takes its time to import

    draw_strips(wrong, data, run / "errors.png")
