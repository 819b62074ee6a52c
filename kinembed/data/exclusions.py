"""A table of what a training leaves out: photos, people, and pairs of people."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kinembed.data.families import Families, PeopleFinder
from kinembed.data.left_out import LeftOut, nearest
from kinembed.errors import DataError
from kinembed.io import read_csv

COLUMNS = ("photo", "person", "other_person")
WANTED = "wanted the columns photo, person and other_person, as kinembed audit --write makes them"


@dataclass(frozen=True)
class Exclusions:
    """What a training leaves out.

    Attributes:
        photos: names of photos.
        people: people, with all of their photos.
        pairs: pairs of people who are taken neither for kin nor for strangers.
    """

    photos: tuple[str, ...]
    people: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_exclusions(path: Path) -> Exclusions:
    """Reads a table of exclusions.

    A row names a photo, a person, or two people.

    Raises:
        DataError: it is missing or malformed.
    """
    try:
        columns, rows = read_csv(path, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "no table"
        raise DataError(f"{path}: cannot be read ({reason}); {WANTED}") from None
    if set(columns) != set(COLUMNS):
        raise DataError(f"{path}: found columns {', '.join(columns)[:120]}; {WANTED}")
    photos: list[str] = []
    people: list[str] = []
    pairs: list[tuple[str, str]] = []
    for line, row in enumerate(rows, start=2):
        photo, person, other = (row.get(column) or "" for column in COLUMNS)
        if None in row:
            raise DataError(
                f"{path}, line {line}: found more cells than columns; put text with a comma in "
                "quotes"
            )
        if photo and not person and not other:
            photos.append(photo)
        elif person and other and not photo and person != other:
            pairs.append((person, other))
        elif person and not photo and not other:
            people.append(person)
        else:
            raise DataError(
                f"{path}, line {line}: found {photo!r}, {person!r}, {other!r}; wanted a photo, a "
                "person, or two people"
            )
    return Exclusions(tuple(photos), tuple(people), tuple(pairs))


def without(families: Families, exclusions: Exclusions, left_out: LeftOut) -> Families:
    """The families without what is excluded; pairs of people go to `Families.apart`.

    Args:
        families: photos, people and relations.
        exclusions: what to leave out.
        left_out: counts rows that name nothing; added to.

    Raises:
        DataError: nobody is left.
    """
    find = PeopleFinder(families.people)
    row_of = {photo: row for row, photo in enumerate(families.photos)}
    kept = np.ones(len(families.photos), np.bool_)
    for photo in exclusions.photos:
        if photo in row_of:
            kept[row_of[photo]] = False
        else:
            left_out.add("name photos that are not in the cache", photo)
    for person in exclusions.people:
        rows = find(person)
        if not rows:
            match = nearest(person, [each.encode() for each in families.people])
            left_out.add("name people without photos", f"{person}; nearest: {match or 'nobody'}")
        kept &= ~np.isin(families.owner, rows)
    pairs = set()
    for one, other in exclusions.pairs:
        found = find(one), find(other)
        if not all(found):
            left_out.add("name people without photos", one if not found[0] else other)
        pairs |= {tuple(sorted((a, b))) for a in found[0] for b in found[1]}
    if not kept.any():
        raise DataError("all photos are excluded; wanted some to learn from")
    excluded = np.array(sorted(pairs), np.intp).reshape(-1, 2)
    relations = np.sort(families.relations, axis=1)
    count = len(families.people)
    is_kin = ~np.isin(
        relations[:, 0] * count + relations[:, 1], excluded[:, 0] * count + excluded[:, 1]
    )
    kinds = tuple(kind for kind, kin in zip(families.kinds, is_kin, strict=False) if kin)
    rest = replace(
        families, relations=families.relations[is_kin], kinds=kinds,
        apart=np.concatenate([families.apart, excluded]),
    )  # fmt: skip
    if not kept.all():
        rest = replace(rest.keep(np.flatnonzero(kept)), rows=families.rows[kept])
    unused = families.listed - len(families.relations)
    return replace(rest, listed=len(rest.relations) + unused, unusable=families.unusable)
