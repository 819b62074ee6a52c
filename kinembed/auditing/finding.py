"""What an audit finds, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

Kind = Literal["copy", "photo", "double", "person", "relation", "unlisted", "family"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENOUGH = 300  # people from which on a surety holds, see docs/audit.md; that of copies always does
TITLES: dict[Kind, str] = {
    "copy": "one photograph under two people, or in test/ as well",
    "photo": "photos unlike the others of their person",
    "double": "two people who look like one",
    "person": "people whose relations nothing supports",
    "relation": "relations that nothing supports",
    "unlisted": "people not listed as kin who may be",
    "family": "families that pull the AUC down",
}


@dataclass(frozen=True)
class LeaveOut:
    """What a training does without.

    Attributes:
        photos: names of photos.
        people: names of people, with all of their photos.
        pairs: pairs of people who are then neither kin nor strangers.
    """

    photos: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something doubtful.

    Attributes:
        kind: of the finding.
        surety: how likely it is a fault, 0 to 1; None where the data set is too small to say.
        reason: in words.
        cure: in words.
        leave_out: what a training would leave out.
        people: names of one or two people; of a family its name.
        photos: names of photos, at most two.
    """

    kind: Kind
    surety: float | None
    reason: str
    cure: str
    leave_out: LeaveOut
    people: tuple[str, ...]
    photos: tuple[str, ...] = ()


def by_surety(findings: list[Finding]) -> list[Finding]:
    """The surest first; equal ones by kind and names, so that their order is always the same."""
    return sorted(
        findings, key=lambda f: (-(f.surety or 0), KINDS.index(f.kind), f.people, f.photos)
    )


def on_both_sides(finding: Finding, sides: Mapping[str, str]) -> Finding:
    """A copy or a double, which says so if its two people lie on both sides of a split.

    Args:
        finding: of any kind.
        sides: of each person whose side is known, in words.
    """
    known = [sides[person] for person in finding.people if person in sides]
    if finding.kind not in ("copy", "double") or len({*known}) < 2:
        return finding
    both = f"on both sides of the head's split, {known[0]} and {known[1]}"
    return replace(finding, reason=f"{finding.reason}; {both}, so it is trained on and judged by")


def strongest(findings: list[Finding], top: int) -> list[Finding]:
    """The first of each kind, without a surety; what nothing speaks for is left out.

    Args:
        findings: the surest first.
        top: how many of each kind.
    """
    return [
        replace(finding, surety=None)
        for kind in KINDS
        for finding in [each for each in findings if each.kind == kind and each.surety][:top]
    ]
