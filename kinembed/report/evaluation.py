"""An evaluation as a text table."""

from typing import Any

from kinembed.data.protocols import RELATIONS
from kinembed.evaluation.calibration import parse_target
from kinembed.printable import one_line

RETRIEVAL = {
    "map": "mean average precision",
    "rank_1": "kin at rank 1",
    "rank_5": "kin within rank 5",
    "rank_10": "kin within rank 10",
}


def evaluation_table(result: dict[str, Any]) -> str:
    """The figures of `evaluation.json` as lines of text."""
    bootstrap = result["bootstrap"]
    what = "triples" if "triples" in result else "pairs"
    lines = [
        f"{result['source']}: {result['kin']:,} kin and {result['pairs'] - result['kin']:,} "
        f"non-kin {what}, {result['families']:,} {bootstrap}{_skipped(result)}",
        f"  ROC AUC            {result['auc']:.4f}  95 % by {bootstrap}: "
        f"{_range(result['auc_by_families'])}; by {what} (DeLong): {_range(result['auc_delong'])}",
        f"  average precision  {result['average_precision']:.4f}",
        f"  equal error rate   {result['eer']:.4f}",
        *(
            f"  TAR at FAR {float(far):<6.1%}  {tar['value']:.4f}  ({_range(tar['interval'])})"
            for far, tar in result["tar_at_far"].items()
        ),
        *_decision(result),
        *_relations(result["relations"]),
        *_folds(result.get("folds", {})),
        *_retrieval(result.get("retrieval")),
    ]
    if result["source"] == result["epoch_chosen_by"] == "held-out people":
        lines.append(
            "  the same people chose the head's epoch, or its network's: figures are a little high"
        )
    same = result["same_photograph"]
    if same["known"]:
        lines.append(
            f"  from one photograph: {same['kin']:,} kin and {same['non_kin']:,} non-kin pairs; "
            f"AUC without them {_four(same['auc_without'])}"
        )
    return "\n".join(map(one_line, lines)) + "\n"


def _skipped(result: dict[str, Any]) -> str:
    skipped = result["skipped_trained"]
    return f"; {skipped:,} others, on people who trained the head, left out" if skipped else ""


def _decision(result: dict[str, Any]) -> list[str]:
    decision = result.get("decision")
    if decision is None:
        if "triples" in result:
            return ["  no threshold: too few families to choose one by"]
        if "folds" in result:  # which choose their thresholds
            return []
        if "undecided" in result:
            return [f"  no figures at the threshold: {result['undecided']}"]
        return ["  no threshold: run kinembed calibrate"]
    return [
        f"  accuracy           {decision['accuracy']:.4f}  "
        f"{_of_accuracy(decision)}at the threshold for target {decision['target']} and "
        f"{decision['prior']:.3g} kin, {decision['how']}"
        f"{_of_pairs(decision)}: TAR {decision['tar']:.4f}, FAR {decision['far']:.4f}",
        *_missed_target(decision),
        f"  Brier score        {decision['brier']:.4f}",
        f"  calibration error  {decision['ece']:.4f}",
    ]


def _missed_target(decision: dict[str, Any]) -> list[str]:
    """Says where the false accept rate is twice or half of what was asked for, and not by chance.

    Its standard error is the binomial one of the non-kin pairs.
    """
    wanted = parse_target(decision["target"])
    if wanted is None:
        return []
    found, count = decision["far"], decision["non_kin"]
    error = (wanted * (1 - wanted) / count) ** 0.5
    if wanted / 2 <= found <= wanted * 2 or abs(found - wanted) <= 2 * error:
        return []
    why = "its threshold rests on too few families, or on other photos than these"
    return [f"    FAR {found:.4f} is far from the target {wanted:g}: {why}"]


def _of_pairs(decision: dict[str, Any]) -> str:
    """Of which pairs the figures are, where these are not all."""
    if decision["how"] != "cross-fitted":
        return ""
    others = decision["non_kin"]
    return f" on {decision['pairs'] - others:,} kin and {others:,} non-kin pairs"


def _of_accuracy(decision: dict[str, Any]) -> str:
    if "accuracy_interval" not in decision:
        return ""
    return f"({_range(decision['accuracy_interval'])}) "


def _relations(rows: dict[str, dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"  {'relation':<28}{'pairs':>7}{'AUC':>9}  {'95 %':<18}{'accuracy':>9}"]
    for name, row in rows.items():
        interval = "" if row.get("interval") is None else _range(row["interval"])
        auc, accuracy = _four(row.get("auc")), _four(row.get("accuracy"))
        lines.append(
            f"  {RELATIONS.get(name, name):<28}{row['pairs']:>7,}{auc:>9}  "
            f"{interval:<18}{accuracy:>9}"
        )
    return lines


def _folds(rows: dict[str, dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["  by folds, each at the threshold that is best on the others: accuracy"]
    for name, row in rows.items():
        folds = " ".join(f"{value:.3f}" for value in row["folds"])
        detail = f"95 %: {_range(row['interval'])}" + (f"; folds {folds}" if folds else "")
        lines.append(f"  {RELATIONS.get(name, name):<28}{row['accuracy']:.4f}  ({detail})")
    return lines


def _retrieval(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    galleries = f"{found['galleries']:,} folds" if found["galleries"] > 1 else "one gallery"
    lines = [
        f"  retrieval: {found['probes']:,} people, each among {found['people']:,.0f} others of "
        f"{galleries}, who hold {found['kin']:.1f} of their kin on average; ranked by "
        + ("the head's logit" if found["ranked_by"] == "logit" else "evidence of kinship"),
    ]
    for name, words in RETRIEVAL.items():
        figure = found[name]
        lines.append(
            f"  {words:<28}{figure['value']:.4f}  (95 %: {_range(figure['interval'])}; "
            f"at random {figure['chance']:.4f})"
        )
    return lines


def _range(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "no interval"
    return f"{interval['low']:.4f} to {interval['high']:.4f}"


def _four(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
