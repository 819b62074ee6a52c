"""An evaluation as a table to read."""

from typing import Any

from kinembed.data.protocols import RELATIONS


def evaluation_table(found: dict[str, Any]) -> str:
    """The figures of `evaluation.json` as lines of text."""
    bootstrap = found["bootstrap"]
    lines = [
        f"{found['source']}: {found['kin']:,} kin and {found['pairs'] - found['kin']:,} non-kin "
        f"pairs, {found['families']:,} {bootstrap}",
        f"  ROC AUC            {found['auc']:.4f}  95 % by {bootstrap}: "
        f"{_range(found['auc_by_families'])}; by pairs (DeLong): {_range(found['auc_delong'])}",
        f"  average precision  {found['average_precision']:.4f}",
        f"  equal error rate   {found['eer']:.4f}",
        *(
            f"  TAR at FAR {float(far):<6.1%}  {tar['value']:.4f}  ({_range(tar['interval'])})"
            for far, tar in found["tar_at_far"].items()
        ),
        *_decision(found.get("decision")),
        *_relations(found["relations"]),
        *_folds(found.get("folds", {})),
    ]
    same = found["same_photograph"]
    if same["known"]:
        lines.append(
            f"  from one photograph: {same['kin']:,} kin and {same['non_kin']:,} non-kin pairs; "
            f"AUC without them {_four(same['auc_without'])}"
        )
    return "\n".join(lines) + "\n"


def _decision(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["  no threshold: run kinembed calibrate"]
    return [
        f"  accuracy           {found['accuracy']:.4f}  at the threshold, {found['how']}: "
        f"TAR {found['tar']:.4f}, FAR {found['far']:.4f}",
        f"  Brier score        {found['brier']:.4f}",
        f"  calibration error  {found['ece']:.4f}",
    ]


def _relations(found: dict[str, dict[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = [f"  {'relation':<28}{'pairs':>7}{'AUC':>9}  {'95 %':<18}{'accuracy':>9}"]
    for name, row in found.items():
        interval = "" if row.get("interval") is None else _range(row["interval"])
        auc, accuracy = _four(row.get("auc")), _four(row.get("accuracy"))
        lines.append(
            f"  {RELATIONS.get(name, name):<28}{row['pairs']:>7,}{auc:>9}  "
            f"{interval:<18}{accuracy:>9}"
        )
    return lines


def _folds(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, row in found.items():
        folds = " ".join(f"{value:.3f}" for value in row["folds"])
        lines.append(f"  {RELATIONS.get(name, name):<28}{row['accuracy']:.4f}  (folds {folds})")
    return lines


def _range(interval: dict[str, float]) -> str:
    return f"{interval['low']:.4f} to {interval['high']:.4f}"


def _four(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
