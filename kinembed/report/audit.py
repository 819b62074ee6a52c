"""An audit as text tables: how many findings of each kind, and the surest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinembed.auditing.finding import KINDS, TITLES
from kinembed.report.tables import markdown_table

SURE = 0.5
FEW = 3  # findings of a kind that are shown where the data are too few for a surety


def audit_table(
    findings: Sequence[Mapping[str, Any]], top: int, not_judged: Mapping[str, str]
) -> str:
    """Counts by kind, then the surest findings.

    Args:
        findings: rows of `audit.csv`, the surest first; `surety` is a number or None.
        top: how many of them.
        not_judged: kinds that were not looked for.
    """
    counts = [["finding", "what", f"surety {SURE} or more", "listed"]]
    for kind in KINDS:
        own = [row["surety"] for row in findings if row["kind"] == kind]
        sure = f"{sum((each or 0) >= SURE for each in own):,}" if None not in own else "unknown"
        listed = f"{len(own):,}"
        if kind in not_judged:
            sure, listed = "", "not judged"
        counts.append([kind, TITLES[kind], sure, listed])
    text = markdown_table(counts, 2)
    if not findings or not top:
        return text
    rows = [["finding", "surety", "who", "reason"]]
    shown = [row for row in findings if row["surety"] is not None][:top]
    for kind in KINDS:
        unsure = [row for row in findings if row["kind"] == kind and row["surety"] is None]
        shown += unsure[: min(top, FEW)]
    for row in shown:
        people = [row["person"], row["other_person"]]
        who = " / ".join(filter(None, (row["photo"] or people[0], row["other_photo"] or people[1])))
        rows.append(
            [
                row["kind"],
                "" if row["surety"] is None else f"{row['surety']:.2f}",
                who,
                row["reason"],
            ]
        )
    return f"{text}\n{markdown_table(rows, 4)}"
