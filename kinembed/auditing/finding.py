"""What an audit finds, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["copy", "photo", "double", "swap", "relation", "unlisted", "family"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: dict[Kind, str] = {
    "copy": "one photograph under two people, or on both sides of a split",
    "photo": "a photo unlike the others of its person",
    "double": "two people who look like one",
    "swap": "two people whose relations fit when exchanged",
    "relation": "a relation that nothing supports",
    "unlisted": "two people without a relation who look like kin",
    "family": "a family that pulls the AUC down",
}


@dataclass(frozen=True)
class Finding:
    """Something doubtful.

    Attributes:
        kind: of the finding.
        surety: how likely it is a fault, 0 to 1, if one in a hundred is faulty.
        reason: in words.
        cure: in words.
        people: names of one or two people; of a family its name.
        photos: names of photos, at most two.
        leave_out: what to leave out of a training: names of photos, of one person, or of two people
            whose pair is then neither kin nor strangers.
    """

    kind: Kind
    surety: float
    reason: str
    cure: str
    people: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    leave_out: LeaveOut = field(default_factory=lambda: LeaveOut())


@dataclass(frozen=True)
class LeaveOut:
    """What a training does without.

    Attributes:
        photos: names of photos.
        people: names of people.
        pairs: pairs of people who are then neither kin nor strangers.
    """

    photos: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def by_surety(findings: list[Finding]) -> list[Finding]:
    """The surest first; equal ones by kind and names, so that their order is always the same."""
    return sorted(findings, key=lambda f: (-f.surety, KINDS.index(f.kind), f.people, f.photos))
