"""Photo files by name: their paths, who is on them, sizes and times, before they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinembed.data.faces_table import FILE, is_aligned, read_faces, warn_of_shared_names
from kinembed.data.folders import list_photos
from kinembed.data.layouts import Known, Layout, family_of, folded, read_people
from kinembed.data.left_out import LeftOut
from kinembed.data.people_table import read_people_table
from kinembed.data.photo_formats import FORMATS
from kinembed.data.relations import find_relations
from kinembed.errors import DataError
from kinembed.printable import counted

log = logging.getLogger(__name__)

FIW = "FIDs"
TRAIN_FOLDERS = ("train", "train-faces", FIW)


@dataclass(frozen=True)
class Photo:
    """The present state of a photo's file.

    Attributes:
        name: its name in the cache.
        digest: sha256 of its bytes; empty before it is read.
        size: bytes; -1 if unknown.
        mtime: its modification time in nanoseconds; -1 if unknown.
        person: who is on it, `FAMILY/PERSON`; empty if nobody is known.
    """

    name: str
    digest: bytes
    size: int
    mtime: int
    person: str = ""


def photo_at(path: Path, name: str) -> Photo:
    """A photo's size and modification time; a missing file raises later, when it is read."""
    try:
        status = path.stat()
    except OSError:
        return Photo(name, b"", -1, -1)
    return Photo(name, b"", status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class PhotoFiles:
    """The photos of some folders.

    Attributes:
        paths: the files by the photos' names, sorted.
        people: who is on each photo, by its name; empty if nobody is known.
        left_out: files and folders that are no photos of them.
        notes: what each folder was taken for, and what else is to be told, a line each.
    """

    paths: dict[str, Path]
    people: dict[str, str]
    left_out: LeftOut
    notes: tuple[str, ...]


def find_photos(
    folders: Sequence[str],
    data: Path,
    layout: Layout = "auto",
    people_table: Path | None = None,
) -> PhotoFiles:
    """Finds photos, and who is on them.

    `train` and `test` are folders below `data` and stay in the name. Any other folder is a path,
    and the name is the path below it. Folders of the system, hidden ones and thumbnails are left
    out. Links to folders are followed, each folder once.

    Args:
        folders: where to look; without `test`, the others are enough.
        data: the data folder, whose relations help to tell families from other folders.
        layout: how the folders say who is on a photo (`data/layouts.py`).
        people_table: a table `photo,person,family`, which overrides the layout for its photos.

    Raises:
        DataError: a folder is missing or holds no photo, two folders overlap, two photos share a
            name, or the table is malformed.
    """
    paths: dict[str, Path] = {}
    people: dict[str, str] = {}
    left_out, notes = LeftOut(), []
    walks: list[tuple[str, frozenset[tuple[int, int]]]] = []
    related = _related(data)
    for folder in folders:
        if folder == "test" and len(folders) > 1 and not (data / folder).is_dir():
            notes.append(f"{data / folder}: no such folder, so there are no photos of it")
            continue
        root, prefix = _root(folder, data)
        walked = list_photos(root)
        if not walked.names:
            raise DataError(
                f"{root}: no {FORMATS} below it"
                + (f" ({walked.left_out} left out)" if walked.left_out else "")
                + "; name a folder of photos"
            )
        for earlier, listed in walks:
            if listed & walked.folders:
                raise DataError(
                    f"--photos {earlier},{folder}: both hold the same folders, whose photos would "
                    "be embedded twice, by two names; name one of them, the outer one for all"
                )
        walks.append((folder, walked.folders))
        read = read_people(walked.names, layout, related, 1 if folder in TRAIN_FOLDERS else 2)
        notes.append(f"{root}: {read.text}")
        if read.doubt:
            log.warning("%s: %s", root, read.doubt)
        left_out.update(walked.left_out, prefix)
        for name, person in zip(walked.names, read.people, strict=True):
            if prefix + name in paths:
                raise DataError(
                    f"{prefix + name}: both below {paths[prefix + name].parent} and {root}"
                )
            paths[prefix + name] = root / name
            people[prefix + name] = person
    names = sorted(paths)
    if people_table is not None:
        people |= read_people_table(people_table, names, notes, paths)
    for root, prefix in {_root(folder, data) for folder in folders}:
        if is_aligned(root):
            below = {
                name.removeprefix(prefix): who
                for name, who in people.items()
                if paths[name].is_relative_to(root)
            }
            warn_of_shared_names(root, read_faces(root / FILE), below)
    return PhotoFiles(
        {name: paths[name] for name in names},
        {name: people[name] for name in names},
        left_out,
        tuple(notes),
    )


def photos_by_folder(
    photos: Mapping[str, Path], folders: Sequence[str], data: Path
) -> dict[str, list[str]]:
    """Names of the photos of `find_photos` by the folder each lies in; of two the inner one."""
    result: dict[str, list[str]] = {folder: [] for folder in folders}
    roots = [(_root(folder, data)[0], folder) for folder in folders]
    inner_first = sorted(roots, key=lambda each: len(each[0].parts), reverse=True)
    for name, path in photos.items():
        folder = next(folder for root, folder in inner_first if path.is_relative_to(root))
        result[folder].append(name)
    return {folder: names for folder, names in result.items() if names}


def _root(folder: str, data: Path) -> tuple[Path, str]:
    """The path of a folder, and what the names of its photos begin with."""
    is_train = folder in TRAIN_FOLDERS and (folder != FIW or (data / FIW).is_dir())
    if not is_train and folder != "test":
        return Path(folder), ""
    name = train_folder(data) if is_train and not (data / folder).is_dir() else folder
    return data / name, f"{name}/"


def people_of_names(
    names: Sequence[str],
    data: Path,
    layout: Layout = "auto",
    people_table: Path | None = None,
) -> tuple[list[str], tuple[str, ...]]:
    """Who is on photos whose names are all there is of them.

    Args:
        names: (N,) sorted names.
        data: the data folder, whose relations help to tell families from other folders.
        layout: how the names say who is on a photo.
        people_table: a table `photo,person,family`, which overrides the layout for its photos.

    Returns:
        (N,) people, empty where nobody is known; and what the names were taken for.

    Raises:
        DataError: the table is malformed.
    """
    read = read_people(names, layout, _related(data))
    if read.doubt:
        log.warning("names of photos: %s", read.doubt)
    people, notes = dict(zip(names, read.people, strict=True)), [read.text]
    if people_table is not None:
        people |= read_people_table(people_table, names, notes)
    return [people[name] for name in names], tuple(notes)


def describe_people(people: Sequence[str]) -> str:
    """How many photos, people and families there are, and of how many photos nobody is known."""
    known = {person for person in people if person}
    families = {family for person in known if (family := family_of(person))}
    nobody = sum(not person for person in people)
    numbers = (
        counted(len(people), "photo"),
        counted(len(known), "person", "people"),
        counted(len(families), "family", "families"),
    )
    return ", ".join(numbers) + (
        f"; nobody is known on {counted(nobody, 'photo')}" if nobody else ""
    )


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


def split_folders(text: str) -> tuple[str, ...]:
    """The folders of a list with commas, `train,test`; the name of one may hold some as well."""
    parts = text.split(",")
    found: list[str] = []
    start = 0
    while start < len(parts):
        stop = start + 1
        if not _is_folder(parts[start]):
            longer = range(start + 2, len(parts) + 1)
            stop = next((end for end in longer if _is_folder(",".join(parts[start:end]))), stop)
        found.append(",".join(parts[start:stop]).strip())
        start = stop
    return tuple(name for name in found if name)


def _is_folder(text: str) -> bool:
    name = text.strip()
    return name in (*TRAIN_FOLDERS, "test") or (bool(name) and Path(name).is_dir())


def _related(data: Path) -> Known:
    """The people in the relations of a data folder; none where these are missing or malformed."""
    try:
        relations = find_relations(data)
    except DataError:
        return frozenset()
    return frozenset(folded(person) for one, other, _ in relations.rows for person in (one, other))
