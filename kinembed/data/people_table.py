"""A table that says who is on photos, whatever their folders say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from kinembed.data.layouts import is_person
from kinembed.data.left_out import LeftOut, nearest
from kinembed.data.tables import Shape, clean_name, read_table
from kinembed.errors import DataError

WANTED = "photo,person,family"
UNKNOWN = "of its rows name no photo"


def read_people_table(path: Path, names: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Who is on photos, by a table of photos, people and, perhaps, families.

    Args:
        path: the table.
        names: the photos that there are, sorted.
        notes: what is to be told; added to.
    """
    from kinembed.cache.lookup import NameLookup  # the cache imports this module

    known = np.array([name.encode() for name in names])
    lookup = NameLookup(known, str(path))
    people: dict[str, str] = {}
    left_out = LeftOut()
    for block in read_table(path, [Shape(("photo", "person"), ("family",))], WANTED, 65_536):
        families = block.columns.get("family") or [""] * len(block.lines)
        rows = lookup.find(block.columns["photo"]).tolist()
        for row, photo, cell, family, line in zip(
            rows, block.columns["photo"], block.columns["person"], families, block.lines,
            strict=True,
        ):  # fmt: skip
            if row < 0:
                left_out.add(UNKNOWN, photo)
                continue
            person = "/".join(clean_name(cell).split("/")[-2:])
            its_family = normalize("NFC", family.strip())
            if person and its_family and "/" not in person:
                person = f"{its_family}/{person}"
            if person and not is_person(person):
                raise DataError(
                    f"{path}, line {line}: found person {person[:120]!r}, wanted {WANTED}, as in "
                    "a.jpg,MID1,F0002, or F0002/MID1 as the person"
                )
            before = people.setdefault(names[row], person)
            if before != person:
                raise DataError(
                    f"{path}, line {line}: {names[row]} shows {person or 'nobody'}, but "
                    f"{before or 'nobody'} before; wanted one person a photo"
                )
    if left_out:
        first = left_out.examples[UNKNOWN]
        match = nearest(first, known)
        left_out.explain(UNKNOWN, f"; nearest: {match}" if match else "")
    notes.append(
        f"{path}: says who is on {len(people):,} photos" + f"; {left_out}" * bool(left_out)
    )
    return people
