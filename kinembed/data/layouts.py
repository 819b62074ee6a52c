"""Who is on a photo, as the place of its file says: one reader of all layouts of folders.

A person is `FAMILY/PERSON`, or `PERSON` where the family is not known, whatever folders lie around
or below. Names of people are in Unicode's NFC, whichever form the file system keeps.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args
from unicodedata import normalize

Layout = Literal["auto", "kaggle", "rfiw", "fiw", "kinfacew", "people", "flat"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_PERSON = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]+(/[^/\\\x00-\x1f\x7f-\x9f]+)?")
_FAMILY_FOLDER = re.compile(r"F\d+", re.IGNORECASE)  # FIW's, Kaggle's and RFIW's
_PERSON_FOLDER = re.compile(r"MID\d+", re.IGNORECASE)
_NOBODY_FOLDERS = {"unrelated_and_nonfaces"}  # FIW's, below a family
# Folders of days, months, years and cameras, which are neither families nor people.
_ALBUM = re.compile(
    r"(19|20)\d\d([-_. ]?(0?[1-9]|1[0-2])([-_. ]?\d{1,2})?)?(\D.*)?"
    r"|\d{1,2}[-_. ]\d{1,2}[-_. ](19|20)\d\d"
    r"|(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?"
    r"|oct(ober)?|nov(ember)?|dec(ember)?)([-_. ]?(19|20)\d\d)?"
    r"|\d{3}[a-z_]{5}|dcim|camera( roll)?"
    r"|(albums?|photos?|pictures?|images?|scans?)(\d+|[-_. ].+)?",
    re.IGNORECASE,
)
_SAY = "say what the folders are with --layout, or who is on the photos with --people-table"
_KINFACEW = re.compile(r"((?:fd|fs|md|ms)_\d+)_([12])\.\w+", re.IGNORECASE)

Known = Collection[tuple[str, str]]  # family and person, as `folded` makes them


@dataclass(frozen=True)
class People:
    """Who is on the photos of a folder.

    Attributes:
        layout: the layout that was taken, never `auto`.
        people: (N,) who is on each photo; empty if nobody is known.
        text: what the folder was taken for, in a few words, with an example.
        doubt: why its folders may mean something else, and what says what they mean; mostly empty.
    """

    layout: Layout
    people: tuple[str, ...]
    text: str
    doubt: str = ""


def is_person(text: str) -> bool:
    """Whether a text may name a person: `FAMILY/PERSON`, or `PERSON` without a family."""
    return bool(_PERSON.fullmatch(text)) and not {"", ".", ".."} & {*text.split("/")}


def family_of(person: str) -> str:
    """The family of a person, empty if it is not known."""
    family, slash, _ = person.partition("/")
    return family if slash else ""


def kaggle_person(photo: str) -> str:
    """The person of a photo `[FOLDER/]FAMILY/PERSON/FILE`, empty if it lies otherwise."""
    parts = photo.split("/")
    return f"{parts[-3]}/{parts[-2]}" if len(parts) in (3, 4) else ""


def folded(person: str) -> tuple[str, str]:
    """Family and person without regard to case and Unicode's form: what folders are compared by."""
    family, _, name = normalize("NFC", person).casefold().partition("/")
    return family, name


def read_people(
    photos: Sequence[str],
    layout: Layout = "auto",
    related: Known = (),
    least_families: int = 2,
) -> People:
    """Says who is on the photos of one folder.

    `auto` takes KinFaceW's layout if the files are named so, and families where most photos lie
    below folders named as FIW's, Kaggle's and RFIW's are (`F0002/MID1`), or as people in the
    relations; else where folders have two levels, of several families. There, levels of dates and
    albums do not count, nor do people whose names recur in several families: `doubt` says so.
    Otherwise nobody is known.

    Args:
        photos: their names below the folder.
        layout: one of `LAYOUTS`.
        related: the people in the relations, `folded`.
        least_families: fewer families by their folders' levels alone are taken for none.
    """
    folders = _folders(photos)
    if layout in ("auto", "kinfacew"):
        people = _kinfacew_people(photos, folders)
        if layout == "kinfacew" or 2 * sum(map(bool, people)) > len(photos):
            what = "KinFaceW's: a person a photo, a family a pair"
            return _described("kinfacew", people, photos, what)
    doubt = ""
    if layout in ("auto", "kaggle", "rfiw", "fiw"):
        at_least = least_families if layout == "auto" else 1
        people = _family_people(folders, related, at_least)
        if layout == "auto" and any(people) and not _is_told(folders, related):
            guess = _without_albums(folders, people, at_least)
            if guess.doubt and any(guess.people):
                return replace(
                    _described(guess.layout, guess.people, photos, guess.text), doubt=guess.doubt
                )
            people, doubt = list(guess.people), guess.doubt
        if layout != "auto" or any(people):
            what = "FAMILY/PERSON/FILE, as Kaggle's, RFIW's and FIW's"
            return _described("kaggle" if layout == "auto" else layout, people, photos, what)
    if layout == "people":
        people = [each[-1] if each else "" for each in folders]
        return _described("people", people, photos, "PERSON/FILE, whose families are not known")
    text = "flat, who is on a photo is not known"
    holders = sorted({each for each in folders if each})
    if len(holders) > 1:
        some = ", ".join("/".join(each) for each in holders[:2])
        more = ", …" if len(holders) > 2 else ""
        text += (
            f"; if each of its {len(holders):,} folders with photos ({some}{more}) is of one "
            "person, say --layout people"
        )
    return People("flat", ("",) * len(photos), text, doubt)


def _folders(photos: Iterable[str]) -> list[tuple[str, ...]]:
    """The parts of each photo's folder, in Unicode's NFC; those of one folder are one object."""
    known: dict[str, tuple[str, ...]] = {}
    folders = []
    for name in photos:
        text = name.rpartition("/")[0]
        parts = known.get(text)
        if parts is None:
            parts = known[text] = tuple(normalize("NFC", text).split("/")) if text else ()
        folders.append(parts)
    return folders


def _described(layout: Layout, people: Sequence[str], photos: Sequence[str], text: str) -> People:
    sound_of = {person: person if is_person(person) else "" for person in set(people)}
    sound = tuple(sound_of[person] for person in people)
    first = next((row for row, person in enumerate(sound) if person), None)
    example = "; nobody is found so" if first is None else f" ({sound[first]}: {photos[first]})"
    return People(layout, sound, text + example)


def _kinfacew_people(photos: Sequence[str], folders: Sequence[tuple[str, ...]]) -> list[str]:
    """Each photo of KinFaceW shows one person, `fd_001/1`; the family is the pair's.

    Several sets in one folder (KinFaceW-I and -II) number their pairs alike: their folder's name
    goes before.
    """
    matches = [_KINFACEW.fullmatch(name.rpartition("/")[2]) for name in photos]
    set_of = {
        folder: " ".join(part for part in folder[:-1] if part.casefold() != "images")
        for folder in set(folders)
    }
    sets = [set_of[folder] for folder in folders]
    several = len({each for each, match in zip(sets, matches, strict=True) if match}) > 1
    return [
        ""
        if match is None
        else f"{f'{its_set} ' if several and its_set else ''}{match[1].lower()}/{match[2]}"
        for its_set, match in zip(sets, matches, strict=True)
    ]


def _family_people(
    folders: Sequence[tuple[str, ...]], related: Known, least_families: int
) -> list[str]:
    """The people of photos below FAMILY/PERSON/, empty for photos that lie otherwise.

    Where a folder's name does not tell the family, its level does: that of most of the others.
    """
    level_of = {folder: _family_level(folder, related) for folder in set(folders)}
    levels = Counter(level for folder in folders if (level := level_of[folder]) is not None)
    if levels:
        usual, _ = max(levels.items(), key=lambda item: (item[1], -item[0]))
    else:
        deep = {folder for folder in level_of if len(folder) >= 2}
        if 2 * sum(folder in deep for folder in folders) <= len(folders):
            return [""] * len(folders)
        usual = _shared_levels(deep)
        if len({folder[usual] for folder in deep}) < least_families:
            return [""] * len(folders)
    people = {}
    for folder, level in level_of.items():
        parts = folder[usual if level is None else level :]
        is_person = len(parts) >= 2 and parts[1].casefold() not in _NOBODY_FOLDERS
        people[folder] = f"{parts[0]}/{parts[1]}" if is_person else ""
    return [people[folder] for folder in folders]


def _is_told(folders: Iterable[tuple[str, ...]], related: Known) -> bool:
    """Whether the names of some folders tell that they are of families or people."""
    return any(_family_level(folder, related) is not None for folder in set(folders))


def _without_albums(
    folders: Sequence[tuple[str, ...]], people: Sequence[str], least_families: int
) -> People:
    """What two levels of folders, of names that tell nothing, are taken for; with what doubt.

    Levels of dates and albums are left out. Then FAMILY/PERSON is taken, if most people's folders
    have names of their own; or PERSON, if one level is left, and dates lie below it.
    """
    distinct = set(folders)
    albums = [
        level
        for level in range(max(map(len, distinct)))
        if _are_albums({folder[level] for folder in distinct if len(folder) > level})
    ]
    first = _shared_levels({folder for folder in distinct if len(folder) >= 2})
    albums = [level for level in albums if level >= first]
    doubt, text = "", ""
    if set(albums) & {first, first + 1}:
        names = (folder[albums[0]] for folder in folders if len(folder) > albums[0])
        example = next(filter(_ALBUM.fullmatch, names))
        doubt = f"folders such as {example} are taken for dates or albums; {_SAY}"
        without = {
            folder: tuple(part for level, part in enumerate(folder) if level not in albums)
            for folder in distinct
        }
        folders = [without[folder] for folder in folders]
        deepest = Counter(len(folder) - first for folder in folders).most_common(1)[0][0]
        if deepest == 1 and first not in albums:
            people = [folder[first] if len(folder) > first else "" for folder in folders]
            return People("people", tuple(people), "PERSON/DATE/FILE, without families", doubt)
        if deepest < 2:
            return People("flat", ("",) * len(folders), text, doubt)
        people = _family_people(folders, (), least_families)
        text = "FAMILY/PERSON/FILE, without folders of dates and albums"
    pairs = {folded(person) for person in people if person}
    parents = Counter(name for _, name in pairs)
    recurring = sum(count for count in parents.values() if count > 1)
    if 2 * recurring > len(pairs):
        name = parents.most_common(1)[0][0]
        some = ", ".join(sorted(person for person in set(people) if folded(person)[1] == name)[:2])
        doubt = f"{some}: folders of one name below several others may mean anything; {_SAY}"
        return People("flat", ("",) * len(folders), "", doubt)
    return People("kaggle", tuple(people), text, doubt)


def _are_albums(names: Collection[str]) -> bool:
    return 2 * sum(_ALBUM.fullmatch(name) is not None for name in names) > len(names)


def _family_level(folder: tuple[str, ...], related: Known) -> int | None:
    """The level of the family's folder, where its name or its person's tells it."""
    found: list[tuple[int, int]] = []
    for level, (family, person) in enumerate(pairwise(folder)):
        is_person = _PERSON_FOLDER.fullmatch(person) is not None
        is_family = _FAMILY_FOLDER.fullmatch(family) is not None
        is_related = (family.casefold(), person.casefold()) in related
        sure = 4 * is_related + 2 * is_person + is_family
        if sure:
            found.append((-sure, level))
    return min(found)[1] if found else None


def _shared_levels(folders: Iterable[tuple[str, ...]]) -> int:
    """How many levels all folders share, with two left below for family and person."""
    listed = list(folders)
    most = min(map(len, listed)) - 2
    shared = 0
    while shared < most and len({folder[shared] for folder in listed}) == 1:
        shared += 1
    return shared
