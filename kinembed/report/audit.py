"""An audit as text tables: how many findings of each kind, and the surest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinembed.auditing.finding import KINDS, TITLES
from kinembed.report.tables import markdown_table

SURE = 0.5


def audit_table(findings: Sequence[Mapping[str, Any]], top: int) -> str:
    """Counts by kind, then the surest findings.

    Args:
        findings: rows of `audit.csv`, the surest first.
        top: how many of them.
    """
    counts = [["finding", "what", f"surety {SURE} or more", "listed"]]
    for kind in KINDS:
        own = [float(row["surety"]) for row in findings if row["kind"] == kind]
        counts.append([kind, TITLES[kind], f"{sum(s >= SURE for s in own):,}", f"{len(own):,}"])
    text = markdown_table(counts, 2)
    if not findings or not top:
        return text
    rows = [["finding", "surety", "who", "reason"]]
    for row in findings[:top]:
        people = [row["person"], row["other_person"]]
        who = " / ".join(filter(None, (row["photo"] or people[0], row["other_photo"] or people[1])))
        rows.append([row["kind"], f"{float(row['surety']):.2f}", who, row["reason"]])
    return f"{text}\n{markdown_table(rows, 4)}"
