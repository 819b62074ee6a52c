"""People, photos and relations of *Recognizing Faces in the Wild*, and the split of people."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.photo_formats import looks_like_photo
from kinembed.data.tables import read_relations
from kinembed.errors import DataError

TRAIN_FOLDERS = ("train", "train-faces")
RELATIONS = "train_relationships.csv"


@dataclass(frozen=True)
class Families:
    """Photos grouped by person, and who is related to whom.

    Attributes:
        photos: photo names below the data folder, sorted (`train/F0002/MID1/P00009_face3.jpg`).
        people: person names in the order of their photos (`F0002/MID1`).
        photo_start: (people + 1,) row of each person's first photo; person i owns the rows
            `photo_start[i]:photo_start[i + 1]`.
        relations: (relations, 2) rows of `people`, as listed, of relations usable for training.
        listed: how many relations the file lists.
        unusable: why relations were left out, and how many for each reason.
        rows: (photos,) the row of each photo's vector in a cache or an array, which samplers
            return; `arange(photos)` if the array holds just these photos.
    """

    photos: tuple[str, ...]
    people: tuple[str, ...]
    photo_start: Rows
    relations: Rows
    listed: int
    unusable: dict[str, int]
    rows: Rows

    @cached_property
    def owner(self) -> Rows:
        """(photos,) the row of `people` for each photo."""
        return np.repeat(np.arange(len(self.people)), np.diff(self.photo_start))

    @cached_property
    def family(self) -> Rows:
        """(people,) each person's family, as a number; people of one family share it."""
        numbers: Rows = np.unique(self.family_names(), return_inverse=True)[1]
        return numbers

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
        """Each person's family (`F0002`), in the order of `people`."""
        return tuple(person.split("/")[0] for person in self.people)

    def summary(self) -> str:
        """Counts of families, people, photos and relations, in one line."""
        text = (
            f"{len(set(self.family_names())):,} families, {len(self.people):,} people, "
            f"{len(self.photos):,} photos, {self.listed:,} relations, "
            f"{len(self.relations):,} usable"
        )
        reasons = [f"{count} {why}" for why, count in self.unusable.items() if count]
        return f"{text} ({'; '.join(reasons)})" if reasons else text


def list_photos(folder: Path, prefix: str = "") -> list[str]:
    """Sorted names of all photos below `folder`, with `prefix` in front; follows no links.

    Raises:
        DataError: `folder` is not a folder, or a photo's name is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with photos in it")
    names: list[str] = []

    def walk(path: str, prefix: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    walk(entry.path, f"{prefix}{entry.name}/")
                elif looks_like_photo(entry.path):
                    names.append(prefix + entry.name)

    walk(os.fspath(folder), prefix)
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{folder}: {name!r}: the name is not UTF-8; rename the photo"
            ) from None
    return sorted(names)


def train_folder(data: Path) -> str:
    """The name of the folder of families below `data`.

    Raises:
        DataError: there is none.
    """
    for name in TRAIN_FOLDERS:
        if (data / name).is_dir():
            return name
    entries = sorted(p.name for p in data.iterdir())[:5] if data.is_dir() else None
    has = "no such folder" if entries is None else f"holds {', '.join(entries) or 'nothing'}"
    raise DataError(
        f"{data}: {has}; wanted Kaggle's files, a folder train/ (or train-faces/) of families; "
        "unzip them there (data/README.md says how) or name their folder with --data DIR"
    )


def read_families(data: Path) -> Families:
    """Reads families, people, photos and relations from a data folder.

    Raises:
        DataError: the folder, its families or its relations are missing or malformed.
    """
    folder = train_folder(data)
    names = [n for n in list_photos(data / folder, f"{folder}/") if n.count("/") == 3]
    if not names:
        raise DataError(
            f"{data / folder}: no photos named FAMILY/PERSON/*.jpg; "
            "wanted families as Kaggle gives them, e.g. F0002/MID1/P00009_face3.jpg"
        )
    return group_families(names, _relations(data))


def group_families(
    photos: Sequence[str], relations: Sequence[tuple[str, str]], rows: Sequence[int] | None = None
) -> Families:
    """Groups photo names `[FOLDER/]FAMILY/PERSON/FILE` by person and resolves the relations.

    Args:
        photos: photo names, in any order.
        relations: pairs of person names `FAMILY/PERSON`.
        rows: the row of each photo's vector; None: its index among the sorted names.
    """
    order = sorted(range(len(photos)), key=photos.__getitem__)
    photos = [photos[row] for row in order]
    owners = ["/".join(name.split("/")[-3:-1]) for name in photos]
    starts = [row for row, owner in enumerate(owners) if row == 0 or owner != owners[row - 1]]
    people = tuple(owners[row] for row in starts)
    index = {person: row for row, person in enumerate(people)}
    usable: list[tuple[int, int]] = []
    unusable = {"name people without photos": 0, "relate a person to itself": 0}
    for a, b in relations:
        if a == b:
            unusable["relate a person to itself"] += 1
        elif a in index and b in index:
            usable.append((index[a], index[b]))
        else:
            unusable["name people without photos"] += 1
    return Families(
        photos=tuple(photos),
        people=people,
        photo_start=np.array([*starts, len(photos)], np.intp),
        relations=np.array(usable, np.intp).reshape(-1, 2),
        listed=len(relations),
        unusable=unusable,
        rows=np.arange(len(photos)) if rows is None else np.asarray(rows, np.intp)[order],
    )


def cached_families(names: Sequence[str], data: Path) -> Families:
    """The families among the photos of a cache, with the relations of a data folder.

    Args:
        names: (N,) photo names of the cache; families are those `[FOLDER/]FAMILY/PERSON/FILE`.
        data: the folder of `train_relationships.csv`.

    Returns:
        The families; their `rows` are those of the cache.

    Raises:
        DataError: no photo belongs to a family, or the relations are missing or malformed.
    """
    rows = [row for row, name in enumerate(names) if name.count("/") in (2, 3)]
    if not rows:
        raise DataError(
            f"none of the {len(names):,} photos in the cache is in FAMILY/PERSON/; run kinembed "
            "embed with --photos train,test"
        )
    return group_families([names[row] for row in rows], _relations(data), rows)


def read_csv(path: Path, wanted: str) -> list[tuple[int, list[str]]]:
    """Line numbers and fields of a CSV's lines; accepts a BOM, CRLF and blank lines.

    Raises:
        DataError: the file is missing, empty, or not UTF-8 text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; wanted a CSV of lines {wanted}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {error.strerror}; wanted a CSV of lines {wanted}") from None
    line = 0
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = []
        for fields in reader:
            line = reader.line_num
            if fields:
                rows.append((line, fields))
    except (UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError):
            line = content[: error.start].count(b"\n")
        raise DataError(
            f"{path}, line {line + 1}: not a CSV of UTF-8 text ({error}); wanted lines {wanted}"
        ) from None
    if not rows:
        raise DataError(f"{path}: empty; wanted a CSV of lines {wanted}")
    return rows


def _relations(data: Path) -> list[tuple[str, str]]:
    return [(row.one, row.other) for row in read_relations(data / RELATIONS)]


def person_of(photo: str) -> tuple[str, str] | None:
    """Family and person (`F0002`, `MID1`) of a photo `[FOLDER/]FAMILY/PERSON/FILE`, else None."""
    parts = photo.split("/")
    return (parts[-3], parts[-2]) if len(parts) in (3, 4) else None
