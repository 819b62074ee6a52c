"""`evaluation.json` read back, each value of its type and range: anybody may have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinembed.checked import Bounds, Values, number, read_json
from kinembed.errors import KinembedError

MOST_JSON = 1 << 26  # bytes
MOST_PAIRS, MOST_BINS = 1000, 10_000
RATE = Bounds(least=0, most=1)
SOME = Bounds(least=1)
ANY = Bounds(least=0)


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
        _check(Values(found))
    except (OSError, ValueError) as error:
        raise KinembedError(
            f"{path}: is no evaluation of this version ({error}); run kinembed evaluate again"
        ) from None
    return found


def _check(found: Values) -> None:
    """Refuses what is not an evaluation.

    Raises:
        ValueError: naming the value.
    """
    for key in ("source", "head", "bootstrap", "epoch_chosen_by"):
        found.text(key)
    pairs = found.whole("pairs", Bounds(least=2))
    found.whole("kin", Bounds(least=1, most=pairs - 1))
    found.whole("skipped_trained", ANY)
    for key in ("auc", "average_precision", "eer"):
        found.number(key, RATE)
    _check_interval(found, "auc_by_families")
    for far, tar in _named(found, "tar_at_far"):
        number("tar_at_far", float(far), RATE)
        tar.number("value", RATE)
        _check_interval(tar, "interval")
    _check_curves(found.object("curves"))
    if found.content.get("decision") is not None:
        _check_decision(found.object("decision"))
    if "undecided" in found.content:
        found.text("undecided")
    for _, row in _named(found, "relations"):
        row.whole("pairs", ANY)
        _check_optional(row, "auc", "accuracy")
        _check_interval(row, "interval")
    for _, row in _named(found, "folds") if "folds" in found.content else ():
        row.number("accuracy", RATE)
        row.numbers("folds", RATE)
        _check_interval(row, "interval")
    if found.content.get("retrieval") is not None:
        for name in ("map", "rank_1", "rank_5", "rank_10"):
            figure = found.object("retrieval").object(name)
            figure.number("value", RATE)
            figure.number("chance", RATE)
            _check_interval(figure, "interval")
    same = found.object("same_photograph")
    _check_optional(same, "auc_without")
    for key in ("kin", "non_kin"):
        same.whole(key, ANY)
    for key in ("wrong", "right"):
        for pair in found.objects(key, MOST_PAIRS):
            pair.texts("photos", 3)
            pair.number("probability", RATE)
            pair.text("relation")
            if not isinstance(pair.get("kin"), bool):
                raise ValueError("kin: wanted true or false")


def _check_curves(curves: Values) -> None:
    roc, scores = curves.object("roc"), curves.object("scores")
    far, tar = (roc.numbers(key, RATE) for key in ("far", "tar"))
    (at,) = Values({"threshold": [roc.get("threshold")]}).lists("threshold", 1)
    if not len(far) == len(tar) == len(at) > 1:
        raise ValueError("roc: its lists have other lengths")
    thresholds = [number("threshold", each, Bounds()) for each in at if each is not None]
    if not thresholds or thresholds != sorted(thresholds, reverse=True):
        raise ValueError("threshold: wanted falling numbers")
    edges = scores.numbers("edges", most=MOST_BINS)
    counts = [scores.wholes(key, ANY, MOST_BINS) for key in ("kin", "non_kin")]
    if any(len(each) != len(edges) - 1 for each in counts) or len(edges) < 2:
        raise ValueError("scores: its lists have other lengths")


def _check_decision(decision: Values) -> None:
    for key in ("how", "target", "map"):
        decision.text(key)
    decision.number("threshold")
    for key in ("accuracy", "tar", "far", "brier", "ece", "prior"):
        decision.number(key, RATE)
    _check_interval(decision, "accuracy_interval")
    bins = decision.object("reliability")
    lengths = {len(bins.numbers(key, ANY)) for key in ("pairs", "predicted", "observed")}
    if len(lengths) != 1:
        raise ValueError("reliability: its lists have other lengths")


def _named(found: Values, key: str) -> list[tuple[str, Values]]:
    return [(name, Values(row)) for name, row in found.object(key).content.items()]


def _check_interval(found: Values, key: str) -> None:
    if found.content.get(key) is not None:
        for end in ("low", "high"):
            found.object(key).number(end, RATE)


def _check_optional(found: Values, *keys: str) -> None:
    for key in keys:
        if found.content.get(key) is not None:
            found.number(key, RATE)
