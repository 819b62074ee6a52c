"""Figures of a run as cells of tables: HTML, with texts of strangers escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kinembed.printable import counted, in_xml
from kinembed.report.evaluation import RETRIEVAL
from kinembed.report.vega_charts import Curves

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of false accepts, in tables


def figures_beside(evaluations: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Names of the figures of any `evaluation.json`, and the values in each, or `none`."""
    found = [dict(figure_rows(each)) for each in evaluations]
    names = dict.fromkeys(name for each in found for name in each)
    return [[name, *(each.get(name, "none") for each in found)] for name in names]


def figure_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the figures of `evaluation.json`."""
    what = "triples" if "triples" in evaluation else "pairs"
    rows = [
        (what, f"{evaluation['pairs']:,}, {evaluation['kin']:,} of them kin"),
        ("judged on", in_xml(evaluation["source"])),
        ("ROC AUC", with_interval(evaluation["auc"], evaluation.get("auc_by_families"))),
        ("average precision", f"{evaluation['average_precision']:.4f}"),
        ("equal error rate", percent(evaluation["eer"])),
    ]
    for far, tar in evaluation["tar_at_far"].items():
        rows.append(
            (
                f"true accept rate at a false accept rate of {100 * float(far):g} %",
                with_interval(tar["value"], tar.get("interval")),
            )
        )
    if decision := evaluation.get("decision"):
        rows += [
            ("accuracy at the threshold",
             f"{with_interval(decision['accuracy'], decision.get('accuracy_interval'))}, "
             f"{in_xml(decision['how'])}"),
            ("its true and false accept rate",
             f"{percent(decision['tar'])} and {percent(decision['far'])}"),
            ("Brier score", f"{decision['brier']:.4f}"),
            ("calibration error (ECE)", f"{decision['ece']:.4f}"),
        ]  # fmt: skip
    for key, text in RETRIEVAL.items():
        if found := (evaluation.get("retrieval") or {}).get(key):
            value = with_interval(found["value"], found.get("interval"))
            rows.append((text, f"{value}; at random {found['chance']:.4f}"))
    same = evaluation["same_photograph"]
    if same.get("auc_without") is not None and same["kin"] + same["non_kin"]:
        rows.append(
            ("ROC AUC without pairs that one photograph shows",
             f"{same['auc_without']:.4f}, without {counted(same['kin'] + same['non_kin'], 'pair')}")
        )  # fmt: skip
    if evaluation["source"] == evaluation["epoch_chosen_by"] == "held-out people":
        rows.append(
            (
                "a doubt",
                "the same people chose the head's epoch, or its network's: figures are a little "
                "high",
            )
        )
    rows.append(("intervals", f"95 %, by a bootstrap over {in_xml(evaluation['bootstrap'])}"))
    return rows


def rates(
    curves: Curves, what: str, of: Callable[[float], float]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a curve's table: at some false accept rates, another rate of each run.

    Args:
        curves: by the run's name.
        what: the other rate's name.
        of: the other rate, of the true accept rate.
    """
    rows = []
    for rate in RATES:
        cells = []
        for curve in curves.values():
            below = [
                tar for far, tar in zip(curve["far"], curve["tar"], strict=True) if far <= rate
            ]
            cells.append(percent(of(max(below, default=0.0))))
        rows.append([f"{100 * rate:g} %", *cells])
    names = [what] if len(curves) == 1 else [f"{what}: {name}" for name in curves]
    return ["false accept rate", *names], rows


def settings(text: str) -> str:
    """Settings of a recipe, `key=value;key=value`, as HTML."""
    return in_xml(text.replace(";", ", ")) or "defaults"


def code(text: object) -> str:
    """A text as code, such as a digest."""
    return f"<code>{in_xml(text)}</code>"


def span(values: Sequence[float]) -> str:
    """The lowest to the highest value, or the only one."""
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def percent(share: float) -> str:
    """A share as percent."""
    return f"{100 * share:.1f} %"


def interval(found: Mapping[str, Any] | None) -> str:
    """`low` and `high` of an interval, four digits; `none` where there is none."""
    if not found or found.get("low") is None:
        return "none"
    return f"{found['low']:.4f} to {found['high']:.4f}"


def with_interval(value: float, found: Mapping[str, float] | None) -> str:
    """A figure and, if it has one, its interval."""
    return f"{value:.4f}" + (f" ({interval(found)})" if found else "")


def number(value: float | None) -> str:
    """A figure, four digits; `none` where there is none."""
    return "none" if value is None else f"{value:.4f}"
