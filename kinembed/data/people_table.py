"""A table that says who is on photos, whatever their folders say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from kinembed.data.columns import Shape
from kinembed.data.layouts import is_person
from kinembed.data.left_out import LeftOut, nearest
from kinembed.data.tables import clean_name, read_table
from kinembed.errors import DataError
from kinembed.printable import counted

if TYPE_CHECKING:  # the cache imports this module
    from kinembed.cache.lookup import NameLookup

WANTED = "photo,person,family"
UNKNOWN = "of its rows name no photo"
AMBIGUOUS = "of its rows may name several photos each"
# How tables write that a field is empty. A family or a person may be called Nan.
EMPTY = {"", "nan", "NaN", "NAN", "none", "None", "NONE", "null", "NULL", "n/a", "N/A", "<NA>"}


@dataclass(frozen=True)
class _Row:
    """Who is on a photo, by a row of the table: a person and perhaps a family."""

    person: str
    family: str
    line: int

    def __str__(self) -> str:
        return f"{self.family}/{self.person}" if self.family else self.person


def read_people_table(
    path: Path, names: Sequence[str], notes: list[str], paths: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """Who is on photos, by a table of photos, people and, perhaps, families.

    A person whose family one row leaves out is of the family that other rows give them.

    Args:
        path: the table.
        names: the photos that there are, sorted.
        notes: what is to be told; added to.
        paths: their files, if there are any: a row may name one by its folders.

    Raises:
        DataError: the table is malformed, names no photo, or contradicts itself.
    """
    from kinembed.cache.lookup import NameLookup  # the cache imports this module

    known = np.array([name.encode() for name in names])
    lookup = NameLookup(known, str(path), any_folders=True)
    rows: dict[str, _Row] = {}
    left_out = LeftOut()
    shape = Shape(("photo", "person"), ("family",), False)
    for block in read_table(path, [shape], WANTED, 65_536):
        photos = block.columns["photo"]
        families = block.columns.get("family") or [""] * len(block.lines)
        people = zip(block.columns["person"], families, block.lines, strict=True)
        for row, photo, who in zip(lookup.find(photos).tolist(), photos, people, strict=True):
            if row >= 0 and not _is_meant(photo, names[row], paths):
                row = -1
            if row < 0:
                left_out.add(UNKNOWN if row == -1 else AMBIGUOUS, photo)
                continue
            now = _person(path, *who)
            before = rows.setdefault(names[row], now)
            if before.person != now.person or len({before.family, now.family} - {""}) > 1:
                raise DataError(
                    f"{path}, line {now.line}: {names[row]} shows {now or 'nobody'}, but "
                    f"{before or 'nobody'} before; wanted one person a photo"
                )
            if now.family:
                rows[names[row]] = now
    _explain(left_out, lookup, known)
    if not rows:
        raise DataError(
            f"{path}: says who is on no photo: {left_out}; wanted {WANTED}, with photos as their "
            f"folder has them, such as {names[0] if names else 'there are none'}"
        )
    people_of = _families_filled(path, rows, notes)
    told = f"{path}: says who is on {counted(len(rows), 'photo')}"
    notes.append(told + f"; {left_out}" * bool(left_out))
    return people_of


def _person(path: Path, cell: str, family: str, line: int) -> _Row:
    """The person of a row.

    Raises:
        DataError: it names none, or two families.
    """
    *_, own, person = ["", *("" if cell.strip() in EMPTY else clean_name(cell)).split("/")][-2:]
    family = "" if family.strip() in EMPTY else normalize("NFC", family.strip())
    row = _Row(person, (own or family) if person else "", line)
    if (person or own) and not is_person(str(row)):
        raise DataError(
            f"{path}, line {line}: found person {cell[:120]!r}, wanted {WANTED}, as in "
            "a.jpg,MID1,F0002, or F0002/MID1 as the person"
        )
    if own and family and own.casefold() != family.casefold():
        raise DataError(
            f"{path}, line {line}: found person {cell[:120]!r} and family {family[:120]!r}, "
            "wanted one family"
        )
    return row


def _is_meant(photo: str, name: str, paths: Mapping[str, Path] | None) -> bool:
    """Whether a row means a photo found by its last parts: not if these are but the file's name.

    `b/1.jpg` may be a photo `1.jpg` only if its file lies in a folder `b`.
    """
    from kinembed.cache.lookup import FOLDERS  # the cache imports this module

    wanted = [part for part in clean_name(photo).casefold().split("/") if part]
    has = normalize("NFC", name).casefold().split("/")
    if wanted[0] in FOLDERS:
        wanted = wanted[1:]
    if has[-len(wanted) :] == wanted or (len(has) > 1 and wanted[-2:] == has[-2:]):
        return True
    return paths is not None and normalize("NFC", str(paths[name].absolute())).casefold().endswith(
        "/".join(["", *wanted])
    )


def _explain(left_out: LeftOut, lookup: NameLookup, known: NDArray[np.bytes_]) -> None:
    if UNKNOWN in left_out.examples:
        match = nearest(left_out.examples[UNKNOWN], known)
        left_out.explain(UNKNOWN, f"; nearest: {match}" if match else "")
    if AMBIGUOUS in left_out.examples:
        left_out.explain(AMBIGUOUS, f": {lookup.explain(left_out.examples[AMBIGUOUS])}")


def _families_filled(path: Path, rows: Mapping[str, _Row], notes: list[str]) -> dict[str, str]:
    """Who is on each photo; rows without a family take that of the person's other rows.

    Raises:
        DataError: other rows give the person several.
    """
    families: dict[str, set[str]] = {}
    for row in rows.values():
        if row.family:
            families.setdefault(row.person, set()).add(row.family)
    several = {person: sorted(some) for person, some in families.items() if len(some) > 1}
    people = {}
    for photo, row in rows.items():
        if row.person in several and not row.family:
            raise DataError(
                f"{path}, line {row.line}: {row.person} has no family, but is of "
                f"{' and of '.join(several[row.person][:2])} in other rows; wanted one of them"
            )
        family = row.family or next(iter(families.get(row.person, [""])))
        people[photo] = f"{family}/{row.person}" if family else row.person
    if several:
        person, some = next(iter(several.items()))
        notes.append(
            f"{path}: {len(several):,} names are of people of several families, who are taken for "
            f"different people ({some[0]}/{person} and {some[1]}/{person})"
        )
    return people
