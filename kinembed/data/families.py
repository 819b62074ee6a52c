"""People, photos and relations of *Recognizing Faces in the Wild*, and the split of people."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.kinship import by_blood
from kinembed.data.layouts import Layout, family_of, kaggle_person
from kinembed.data.left_out import LeftOut, nearest
from kinembed.data.photo_files import find_photos, train_folder
from kinembed.data.relations import UNKNOWN_DEGREE, find_relations
from kinembed.errors import DataError
from kinembed.printable import counted

if TYPE_CHECKING:  # the cache imports this module
    from kinembed.cache import Embeddings

log = logging.getLogger(__name__)

WARN_ABOVE = 0.05  # of the relations lost
NOBODY = "name people without photos"
NOT_TOLD = ", which is no known word for kin or for others"
MOST_WORDS = 5  # that are named


@dataclass(frozen=True)
class Families:
    """Photos grouped by person, and who is related to whom.

    Attributes:
        photos: photo names below the data folder, sorted (`train/F0002/MID1/P00009_face3.jpg`).
        people: person names in the order of their photos (`F0002/MID1`).
        photo_start: (people + 1,) row of each person's first photo; person i owns the rows
            `photo_start[i]:photo_start[i + 1]`.
        relations: (relations, 2) rows of `people`, as listed, of relations usable for training.
        kinds: (relations,) how they are related (`fs`), "" if not known; empty if none is known.
        apart: (pairs, 2) rows of `people` who may be related, but not in a known way: they are no
            kin pair and no non-kin pair.
        listed: how many relations the file lists.
        unusable: the relations that were left out.
        rows: (photos,) the row of each photo's vector in a cache or an array, which samplers
            return; `arange(photos)` if the array holds just these photos.
    """

    photos: tuple[str, ...]
    people: tuple[str, ...]
    photo_start: Rows
    relations: Rows
    listed: int
    unusable: LeftOut
    rows: Rows
    kinds: tuple[str, ...] = ()
    apart: Rows = field(default_factory=lambda: np.empty((0, 2), np.intp))

    @cached_property
    def owner(self) -> Rows:
        """(photos,) the row of `people` for each photo."""
        return np.repeat(np.arange(len(self.people)), np.diff(self.photo_start))

    @cached_property
    def family(self) -> Rows:
        """(people,) each person's family, as a number; people of one family share it."""
        numbers: Rows = np.unique(self.family_names(), return_inverse=True)[1]
        return numbers

    @property
    def unit(self) -> str:
        """What `family` numbers: `families`, `people` if no family is known, or both."""
        known = [bool(family_of(person)) for person in self.people]
        return "families" if all(known) else "families and people" if any(known) else "people"

    @cached_property
    def _by_row(self) -> Rows:
        return np.argsort(self.rows)

    def owner_of(self, rows: Rows) -> Rows:
        """The row of `people` for each row of the vectors, in the shape of `rows`."""
        order = np.searchsorted(self.rows, rows, sorter=self._by_row)
        return self.owner[self._by_row[order]]

    def photos_of(self, people: Rows) -> Rows:
        """The rows of the vectors of these people's photos, in the order of `photos`."""
        return self.rows[np.isin(self.owner, people)]

    def family_names(self) -> tuple[str, ...]:
        """Each person's family (`F0002`), in the order of `people`; their own if none is known."""
        return tuple(person.split("/")[0] for person in self.people)

    def keep(self, photos: Rows) -> Families:
        """The families with only some of the photos, by their index; `rows` count these alone."""
        owner = [self.people[row] for row in self.owner.tolist()]
        kinds = self.kinds or [""] * len(self.relations)
        related = [*zip(self.relations.tolist(), kinds, strict=True)]
        related += [(pair, UNKNOWN_DEGREE) for pair in self.apart.tolist()]
        return group_families(
            [self.photos[row] for row in photos.tolist()],
            [(self.people[a], self.people[b], kind) for (a, b), kind in related],
            people=[owner[row] for row in photos.tolist()],
        )

    def summary(self) -> str:
        """Counts of families, people, photos and relations, in one line."""
        text = (
            f"{counted(len(set(self.family_names())), 'family', 'families')}, "
            f"{counted(len(self.people), 'person', 'people')}, "
            f"{counted(len(self.photos), 'photo')}, {counted(self.listed, 'relation')}"
        )
        if not self.unusable:
            return text
        return f"{text}, {len(self.relations):,} usable ({self.unusable})"


def read_families(
    data: Path, layout: Layout = "auto", people_table: Path | None = None
) -> Families:
    """Reads families, people, photos and relations from a data folder.

    Args:
        data: the data folder.
        layout: how its folders say who is on a photo.
        people_table: a table `photo,person,family`, which overrides the layout for its photos.

    Raises:
        DataError: the folder, its families or its relations are missing or malformed.
    """
    folder = train_folder(data)
    found = find_photos((folder,), data, layout, people_table)
    if not any(found.people.values()):
        raise DataError(
            f"{data / folder}: no photos named FAMILY/PERSON/*.jpg; "
            "wanted families as Kaggle gives them, e.g. F0002/MID1/P00009_face3.jpg, or who is on "
            "the photos with --people-table"
        )
    left_out = found.left_out
    for name, person in found.people.items():
        if not person:
            left_out.add("photos of nobody who is known", name)
    if left_out:
        log.info("%s: left out: %s", data / folder, left_out)
    photos, people = list(found.people), list(found.people.values())
    relations, told = find_relations(data)
    return checked(group_families(photos, relations, people=people, told=told), data)


def group_families(
    photos: Sequence[str],
    relations: Sequence[tuple[Any, ...]],
    rows: Sequence[int] | None = None,
    people: Sequence[str] | None = None,
    told: Collection[str] | None = None,
) -> Families:
    """Groups photos by person and resolves the relations.

    Names of people are compared in NFC, and without regard to case where only one person is meant.

    Args:
        photos: photo names, in any order.
        relations: pairs of people `FAMILY/PERSON`, each perhaps with their relation (`fs`).
        rows: the row of each photo's vector; None: its index among the sorted names.
        people: who is on each photo, `FAMILY/PERSON`, or `PERSON` where the family is not known;
            photos of nobody are left out. None: `[FOLDER/]FAMILY/PERSON/FILE`, as Kaggle has it.
        told: the people whose relations within their family are all told; the pairs of others with
            people of their family are `apart` if they are no kin. None: everybody.
    """
    owners = list(map(kaggle_person, photos)) if people is None else people
    # The slash sorts a person as the folder of their photos.
    order = sorted(
        (row for row, owner in enumerate(owners) if owner),
        key=lambda row: (f"{owners[row]}/", photos[row]),
    )
    owned = [owners[row] for row in order]
    starts = [row for row, owner in enumerate(owned) if row == 0 or owner != owned[row - 1]]
    known = tuple(owned[row] for row in starts)
    find = PeopleFinder(known)
    kin: list[tuple[int, int]] = []
    kinds: list[str] = []
    apart: list[tuple[int, int]] = []
    unusable = LeftOut()
    unknown: set[str] = set()
    for one, other, *rest in relations:
        kind = rest[0] if rest else ""
        left, right = find(one), find(other)
        is_kin = by_blood(kind)
        if is_kin is None and len(unknown) < MOST_WORDS:
            unknown.add(kind)
        if is_kin is False:
            unusable.add("are of people who are not kin by blood", f"{one}, {other}")
        elif one == other or (left and left == right):
            unusable.add("relate a person to itself", one)
        elif not left or not right:
            unusable.add(NOBODY, one if not left else other)
        elif len(left) > 1 or len(right) > 1 or is_kin is None:
            apart += [(a, b) for a in left for b in right if a != b]
            why = "name people who differ by case alone"
            if kind == UNKNOWN_DEGREE:
                why = "are of unknown degree"
            elif is_kin is None:
                word = repr(kind[:40]) if kind in unknown else "in other words"
                why = f"are {word}{NOT_TOLD}"
            unusable.add(why, f"{one}, {other}")
        else:
            kin.append((left[0], right[0]))
            kinds.append(kind)
    if told is not None:
        apart += _untold_pairs(known, {row for person in told for row in find(person)}, kin)
    if NOBODY in unusable.examples:
        match = nearest(unusable.examples[NOBODY], [person.encode() for person in known])
        unusable.explain(NOBODY, f"; nearest: {match}" if match else "")
    return Families(
        photos=tuple(photos[row] for row in order),
        people=known,
        photo_start=np.array([*starts, len(order)], np.intp),
        relations=np.array(kin, np.intp).reshape(-1, 2),
        kinds=tuple(kinds) if any(kinds) else (),
        apart=np.array(apart, np.intp).reshape(-1, 2),
        listed=len(relations),
        unusable=unusable,
        rows=np.arange(len(order)) if rows is None else np.asarray(rows, np.intp)[order],
    )


def _untold_pairs(
    people: Sequence[str], told: Collection[int], kin: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Pairs of one family that may be related, because not all relations of one are told."""
    members: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        if family := family_of(person):
            members.setdefault(family, []).append(row)
    untold = [row for rows in members.values() for row in rows if row not in told]
    if not untold:
        return []
    families = {family_of(people[row]) for row in untold}
    log.warning(
        "the relations of %s people of %s families are not told (%s%s): with their family they are "
        "taken neither for kin nor for strangers",
        f"{len(untold):,}", f"{len(families):,}", people[untold[0]], ", …" * (len(untold) > 1),
    )  # fmt: skip
    related = {frozenset(pair) for pair in kin}
    return [
        pair
        for family in sorted(families)
        for pair in combinations(members[family], 2)
        if not (pair[0] in told and pair[1] in told) and frozenset(pair) not in related
    ]


class PeopleFinder:
    """Finds people by name: as it stands, else in NFC, else without regard to case.

    Args:
        people: their names.
    """

    def __init__(self, people: Sequence[str]) -> None:
        self._exact = {person: row for row, person in enumerate(people)}
        self._composed: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for row, person in enumerate(people):
            composed = normalize("NFC", person)
            self._composed.setdefault(composed, []).append(row)
            self._folded.setdefault(composed.casefold(), []).append(row)

    def __call__(self, person: str) -> list[int]:
        """The rows of all people who may be meant: none, one, or some that differ by case."""
        row = self._exact.get(person)
        if row is not None:
            return [row]
        composed = normalize("NFC", person)
        return self._composed.get(composed) or self._folded.get(composed.casefold(), [])


def cached_families(cache: Embeddings, data: Path) -> Families:
    """The families among the photos of a cache, with the relations of a data folder.

    Args:
        cache: says who is on each photo; photos of nobody are left out.
        data: the folder of `train_relationships.csv`, or of FIW's `mid.csv`.

    Returns:
        The families; their `rows` are those of the cache.

    Raises:
        DataError: nobody is known, or the relations are missing, malformed or of other people.
    """
    people = [person.decode() for person in cache.people.tolist()]
    if not any(people):
        raise DataError(
            f"{cache.path}: who is on its {len(people):,} photos is not known; run kinembed embed "
            "with --photos of a folder FAMILY/PERSON/, or with --people-table"
        )
    names = [name.decode() for name in cache.names.tolist()]
    relations, told = find_relations(data)
    families = group_families(names, relations, range(len(names)), people, told)
    return checked(families, data)


def checked(families: Families, data: Path) -> Families:
    """Families with usable relations; warns if many are lost.

    Raises:
        DataError: all relations are lost.
    """
    lost = families.listed - len(families.relations)
    is_told = not any(reason.endswith(NOT_TOLD) for reason in families.unusable.counts)
    if not families.listed or (is_told and lost <= WARN_ABOVE * families.listed):
        return families
    text = f"{data}: {lost:,} of {families.listed:,} relations are not used: {families.unusable}"
    if len(families.relations):
        log.warning("%s", text)
        return families
    raise DataError(
        f"{text}; wanted people as the photos name them, such as {families.people[0]}: mend the "
        "relations, or say who is on the photos with kinembed embed --people-table"
    )
