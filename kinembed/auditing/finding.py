"""What an audit finds, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["copy", "photo", "double", "person", "relation", "unlisted", "family"]
KINDS: tuple[Kind, ...] = get_args(Kind)
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
        surety: how likely it is a fault, 0 to 1.
        reason: in words.
        cure: in words.
        leave_out: what a training would leave out.
        people: names of one or two people; of a family its name.
        photos: names of photos, at most two.
    """

    kind: Kind
    surety: float
    reason: str
    cure: str
    leave_out: LeaveOut
    people: tuple[str, ...]
    photos: tuple[str, ...] = ()


def by_surety(findings: list[Finding]) -> list[Finding]:
    """The surest first; equal ones by kind and names, so that their order is always the same."""
    return sorted(findings, key=lambda f: (-f.surety, KINDS.index(f.kind), f.people, f.photos))
