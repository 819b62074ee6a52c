"""Photo files by name: their paths, who is on them, sizes and times, before they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.data.faces_table import FILE, is_aligned, read_faces, warn_of_shared_names
from kinembed.data.folders import Walk, walk_photos
from kinembed.data.layouts import Known, Layout, family_of, folded, read_people
from kinembed.data.left_out import LeftOut
from kinembed.data.listing import Block, ByName, Folder, Listing, Texts, numbered, with_prefix
from kinembed.data.parquet_photos import walk_parquet
from kinembed.data.people_table import read_people_table
from kinembed.data.photo_formats import FORMATS
from kinembed.data.relations import find_relations
from kinembed.data.tar_photos import check_folder, packed_files, walk_tar
from kinembed.errors import DataError
from kinembed.printable import counted

log = logging.getLogger(__name__)

FIW = "FIDs"
TRAIN_FOLDERS = ("train", "train-faces", FIW)
FOLDERS = (*TRAIN_FOLDERS, "test")  # of photos, in a data folder


@dataclass(frozen=True)
class Places:
    """Folders whose entries were read, or files of photos, below one of a listing's folders.

    Attributes:
        folder: its number.
        names: (n,) where they lie below it, with a slash; empty for itself.
        numbers: (n, 2) sizes in bytes, 0 of folders, and modification times in nanoseconds.
    """

    folder: int
    names: NDArray[np.bytes_]
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class PhotoFiles:
    """The photos of some folders.

    Attributes:
        listing: the photos, sorted by name.
        left_out: files and folders that are no photos of them.
        notes: what each folder was taken for, and what else is to be told, a line each.
        places: the folders and files that were read, by which it is told whether they changed.
    """

    listing: Listing
    left_out: LeftOut
    notes: tuple[str, ...]
    places: Sequence[Places] = ()

    @property
    def paths(self) -> Mapping[str, Path]:
        """The files by the photos' names, sorted."""
        return ByName(self.listing, self.listing.path)

    @property
    def people(self) -> Mapping[str, str]:
        """Who is on each photo, by its name; empty if nobody is known."""
        return ByName(self.listing, lambda row: self.listing[row].person)


def find_photos(
    folders: Sequence[str],
    data: Path,
    layout: Layout = "auto",
    people_table: Path | None = None,
) -> PhotoFiles:
    """Finds photos, and who is on them.

    `train` and `test` are folders below `data` and stay in the name. Any other folder is a path,
    and the name is the path below it; or tar or parquet files, whose photos are named as inside.
    Folders of the system, hidden ones and thumbnails are left out. Links to folders are followed,
    each folder once.

    Args:
        folders: where to look; without `test`, the others are enough.
        data: the data folder, whose relations help to tell families from other folders.
        layout: how the folders say who is on a photo (`data/layouts.py`).
        people_table: a table `photo,person,family`, which overrides the layout for its photos.

    Raises:
        DataError: a folder is missing or holds no photo, two folders overlap, two photos share a
            name, or the table is malformed.
    """
    blocks: list[Block] = []
    codes: dict[str, int] = {}
    left_out, notes = LeftOut(), []
    found: list[Folder] = []
    listed_places: list[Places] = []
    walks: list[tuple[str, set[int]]] = []
    related = _related(data)
    for name in folders:
        if name == "test" and len(folders) > 1 and not (data / name).is_dir():
            notes.append(f"{data / name}: no such folder, so there are no photos of it")
            continue
        files = packed_files(name)
        places = [Folder(name, path, "") for path in files] or [Folder(name, *_root(name, data))]
        root, prefix = Path(name) if files else places[0].root, places[0].prefix
        if not files:
            check_folder(root, name)
        walked = [_walk(each.root, is_file=bool(files)) for each in places]
        left = LeftOut()
        for walk in walked:
            left.update(walk.left_out)
        if not any(walk.pieces for walk in walked):
            raise DataError(
                f"{root}: no {FORMATS} below it"
                + (f" ({left} left out)" if left else "")
                + "; name a folder of photos, or tar or parquet files"
            )
        listed = walked[0].listed if len(walked) == 1 else set().union(*(w.listed for w in walked))
        for earlier, before in walks:
            if before & listed:
                raise DataError(
                    f"--photos {earlier},{name}: both hold the same folders, whose photos "
                    "would be embedded twice, by two names; name one of them, the outer one for all"
                )
        walks.append((name, listed))
        texts = Texts([names for walk in walked for names, _ in walk.pieces])
        read = read_people(texts, layout, related, 1 if name in TRAIN_FOLDERS else 2)
        notes.append(f"{root}: {read.text}")
        if read.doubt:
            log.warning("%s: %s", root, read.doubt)
        left_out.update(left, prefix)
        said = [person for walk in walked for person in walk.people or repeat("", _count(walk))]
        if told := sum(map(bool, said)):
            notes.append(f"{root}: its column person says who is on {counted(told, 'photo')}")
        both = zip(said, read.people, strict=True)
        people, start = numbered((own or other for own, other in both), codes), 0
        for place, walk in zip(places, walked, strict=True):
            while walk.pieces:  # which are many: none is kept twice
                names, stats = walk.pieces.pop(0)
                own = people[start : start + len(names)]
                where = np.full(len(names), len(found), np.uint16)
                blocks.append(Block(with_prefix(names, prefix), stats, own, where))
                start += len(names)
            walk.flush()
            listed_places += [Places(len(found), names, stats) for names, stats in walk.places]
            found.append(place)
    for _, numbers in walks:
        numbers.clear()  # of a million folders they take as much as their photos' names
    listing = Listing(_let_go(blocks), [*codes], found)
    if people_table is not None:
        paths = ByName(listing, listing.path)
        texts_ = [*listing.names()]
        listing = listing.with_people(read_people_table(people_table, texts_, notes, paths))
    for folder in {each.root: each for each in listing.folders}.values():
        if is_aligned(folder.root):
            below = {
                photo.name.removeprefix(folder.prefix): photo.person
                for row, photo in enumerate(listing)
                if listing.path(row).is_relative_to(folder.root)
            }
            warn_of_shared_names(folder.root, read_faces(folder.root / FILE), below)
    return PhotoFiles(listing, left_out, tuple(notes), listed_places)


def _let_go(blocks: list[Block]) -> Iterator[Block]:
    """Blocks that the list does not hold any more: to sort ten million names takes two of them."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()


def _walk(path: Path, *, is_file: bool) -> Walk:
    if not is_file:
        return walk_photos(path)
    return walk_parquet(path) if path.suffix == ".parquet" else walk_tar(path)


def _count(walk: Walk) -> int:
    return sum(len(names) for names, _ in walk.pieces)


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


def describe_people(counts: Mapping[str, int]) -> str:
    """How many photos, people and families there are, and of how many photos nobody is known.

    Args:
        counts: how many photos there are of each person.
    """
    known = {person for person in counts if person}
    families = {family for person in known if (family := family_of(person))}
    nobody = counts.get("", 0)
    numbers = (
        counted(sum(counts.values()), "photo"),
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
        "unzip them there (data/README.md says how) or name their folder with --data DIR; embed "
        "takes photos in other layouts by --photos DIR"
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
    return name in FOLDERS or (bool(name) and Path(name).is_dir())


def _related(data: Path) -> Known:
    """The people in the relations of a data folder; none where these are missing or malformed."""
    try:
        relations = find_relations(data)
    except DataError:
        return frozenset()
    return frozenset(folded(person) for one, other, _ in relations.rows for person in (one, other))
