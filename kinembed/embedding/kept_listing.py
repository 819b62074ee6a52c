"""The listing of an embedding's photos, kept for all that compute its shards.

To list and sort ten million names takes minutes and a gigabyte. So the first part of an embedding
writes its listing, sealed, into the folder of the shards; the other parts map the file. Each part
examines its own share of the folders and photos, by their times and sizes; all parts together
examine all of them once, and the last one, which joins the shards, once more. Where one has
changed, that part lists all photos again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed import __version__
from kinembed.cache.footer import append_footer, plan_file, read_dataset, read_footer
from kinembed.checked import Values
from kinembed.config import EmbedConfig
from kinembed.data.left_out import LeftOut
from kinembed.data.listing import BLOCK, Block, Folder, Listing
from kinembed.data.packed import PACKED
from kinembed.data.photo_files import PhotoFiles, Places, find_photos
from kinembed.data.relations import RELATIONS
from kinembed.errors import RunError
from kinembed.io import locked, written_beside

log = logging.getLogger(__name__)

FILE = "photos.listing"
ATTRIBUTE = "listing"  # of the HDF5 root
SCHEMA = 1
RECENT = 2_000_000_000  # nanoseconds: of a folder that changed so shortly before, nothing is sure
SAMPLED = 1000  # photos that tell whether a machine sees the same ones
PIECE = 1 << 22  # bytes

Find = Callable[[], PhotoFiles]


def asked_photos(config: EmbedConfig, data: Path) -> tuple[dict[str, Any], Find]:
    """What a listing of the photos depends on, and what lists them."""
    tables = [config.people_table, data / RELATIONS]
    about = {
        "photos": list(config.photos),
        "data": str(data),
        "from": str(Path.cwd()),
        "layout": config.layout,
        "people": [str(config.people_table or ""), *map(_stamp, tables)],
    }
    find = partial(find_photos, config.photos, data, config.layout, config.people_table)
    return about, find


def _stamp(path: Path | None) -> list[int]:
    """Size and modification time of a file; empty where there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        status = None
    return [] if status is None else [status.st_size, status.st_mtime_ns]


def kept_photos(
    folder: Path, about: Mapping[str, Any], find: Find, part: tuple[int, int] | None
) -> tuple[PhotoFiles, bool]:
    """The photos of an embedding: as another process listed them, or listed now.

    Args:
        folder: of the shards, which has the file, or gets it.
        about: what the listing depends on, as JSON types.
        find: lists the photos.
        part: which part of how many, from 1, is examined; None: the photos were listed a moment
            ago, by a driver, and a sample tells whether this machine sees them.

    Returns:
        The photos, and whether another process listed them.

    Raises:
        KinembedError: as of `find`, or this machine sees other photos than the driver.
    """
    path = folder / FILE
    about = {"schema": SCHEMA, "version": __version__, **about}
    with locked(path.with_suffix(".lock"), None):
        try:
            found = read(path, about)
        except FileNotFoundError:
            if part is None:
                raise RunError(f"{path}: is gone; run kinembed embed again") from None
        except (OSError, ValueError) as error:
            log.info("%s: is not read (%s); the photos are listed again", path, error)
        else:
            if part is None:
                _check_sample(found.listing, path)
                return found, True
            changed = changed_of(found, part)
            if changed is None:
                log.info("%s: %s photos, listed before", path, f"{len(found.listing):,}")
                return found, True
            log.info("%s has changed; the photos are listed again", changed)
        return list_and_keep(folder, about, find), False


def list_and_keep(folder: Path, about: Mapping[str, Any], find: Find) -> PhotoFiles:
    """Lists photos now, and writes the file."""
    began = time.time_ns()
    found = find()
    write(folder / FILE, {"schema": SCHEMA, "version": __version__, **about}, found, began)
    return found


def changed_of(found: PhotoFiles, part: tuple[int, int]) -> Path | None:
    """The first folder or photo of a part that has changed since it was listed."""
    listing = found.listing
    number, parts = part
    total = sum(len(each.names) for each in found.places)
    first, end = total * (number - 1) // parts, total * number // parts
    at, packed = 0, set()
    for each in found.places:
        root = listing.folders[each.folder].root
        if each.numbers[:, 0].any():
            packed.add(each.folder)
        own = slice(max(0, first - at), max(0, end - at))
        at += len(each.names)
        for name, (size, mtime) in zip(
            each.names[own].tolist(), each.numbers[own].tolist(), strict=True
        ):
            place = root / os.fsdecode(name)
            if _now(place, is_file=size > 0) != (size, mtime):
                return place
    rows = range(len(listing) * (number - 1) // parts, len(listing) * number // parts)
    return _changed(listing, rows, packed)


def _changed(listing: Listing, rows: Sequence[int], packed: set[int]) -> Path | None:
    """The first of some photos that has changed, but for those in files of photos."""
    for row in rows:
        block = listing.whole_blocks()[row // BLOCK]
        if int(block.folders[row % BLOCK]) in packed:
            continue
        path = listing.path(row)
        if _now(path, is_file=True) != tuple(block.stats[row % BLOCK].tolist()):
            return path
    return None


def _now(path: Path, *, is_file: bool) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size if is_file else 0), status.st_mtime_ns


def _check_sample(listing: Listing, path: Path) -> None:
    packed = {
        number for number, folder in enumerate(listing.folders) if folder.root.suffix in PACKED
    }
    rows = np.linspace(0, len(listing) - 1, min(SAMPLED, len(listing))).astype(int).tolist()
    changed = _changed(listing, rows, packed)
    if changed is not None:
        raise RunError(
            f"{changed}: is not as the driver listed it in {path}; each machine of the cluster "
            "needs the same photos, from a file system that all share, at the same path"
        )


def write(path: Path, about: Mapping[str, Any], found: PhotoFiles, began: int) -> None:
    """Writes a listing, whole or not at all.

    Args:
        path: the file.
        about: what it depends on.
        found: the photos.
        began: when listing began, in nanoseconds: what changed shortly before counts as changed.
    """
    blocks, folders = found.listing.whole_blocks(), found.listing.folders
    rows = len(found.listing)
    width = max(block.names.itemsize for block in blocks)
    numbers = [each.numbers.copy() for each in found.places]
    for each in numbers:
        each[each[:, 1] > began - RECENT, 1] = -1
    texts = {
        "persons": [person.encode() for person in found.listing.persons],
        "asked": [os.fsencode(folder.name) for folder in folders],
        "roots": [os.fsencode(folder.root) for folder in folders],
        "prefixes": [folder.prefix.encode() for folder in folders],
    }
    arrays: dict[str, tuple[str, tuple[int, ...], Iterator[NDArray[Any]]]] = {
        "names": (f"|S{width}", (rows,), (b.names.astype(f"S{width}") for b in blocks)),
        "stats": ("<i8", (rows, 2), (b.stats for b in blocks)),
        "people": ("|u1", (rows, 4), (_as_bytes(b.people, 4) for b in blocks)),
        "folders": ("|u1", (rows, 2), (_as_bytes(b.folders, 2) for b in blocks)),
    }
    for name, values in texts.items():
        array = np.array(values or [b""])
        arrays[name] = array.dtype.str, array.shape, iter([array])
    places = sum(map(len, numbers))
    broad = max(each.names.itemsize for each in found.places)
    own = (each.names.astype(f"S{broad}") for each in found.places)
    of = (np.full(len(each.names), each.folder, "<i8") for each in found.places)
    arrays["places/names"] = f"|S{broad}", (places,), own
    arrays["places/folders"] = "<i8", (places,), of
    arrays["places/numbers"] = "<i8", (places, 2), iter(numbers)
    content = {
        "of": dict(about),
        "notes": list(found.notes),
        "left_out": [found.left_out.counts, found.left_out.examples],
    }
    layout = plan_file(ATTRIBUTE, content, {n: (t, shape) for n, (t, shape, _) in arrays.items()})
    sha = hashlib.sha256()
    with written_beside(path) as file:
        file.write(layout.head)
        for name, (_, _, parts) in arrays.items():
            file.seek(layout.extents[name].offset)
            for block in parts:
                data = np.ascontiguousarray(block).tobytes()
                sha.update(data)
                file.write(data)
        append_footer(file, content, layout, sha.hexdigest())


def read(path: Path, about: Mapping[str, Any]) -> PhotoFiles:
    """A listing that was kept, mapped from its file.

    Args:
        path: the file.
        about: what it has to depend on.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of other photos; in a few words.
    """
    with path.open("rb", buffering=0) as file:
        footer, sha = read_footer(file, ATTRIBUTE), hashlib.sha256()
        content = Values(footer.about)
        if content.object("of").content != about:
            raise ValueError("it is of other photos, or of another version of kinembed")
        for extent in footer.extents.values():
            for start in range(0, extent.size, PIECE):
                file.seek(extent.offset + start)
                sha.update(file.read(min(PIECE, extent.size - start)))
        if sha.hexdigest() != footer.data:
            raise ValueError("it is damaged")
        # Which is private to this folder, and never cut short: it is replaced as a whole.
        arrays = {n: np.asarray(read_dataset(file, e)) for n, e in footer.extents.items()}
    try:
        names, stats = arrays["names"], arrays["stats"]
        people = arrays["people"].view(np.int32).ravel()
        codes = arrays["folders"].view(np.uint16).ravel()
        roots = [os.fsdecode(each) for each in arrays["roots"].tolist()]
        asked = [os.fsdecode(each) for each in arrays["asked"].tolist()]
        prefixes = [each.decode() for each in arrays["prefixes"].tolist()]
        folders = [Folder(*each) for each in zip(asked, map(Path, roots), prefixes, strict=True)]
        persons = [each.decode() for each in arrays["persons"].tolist()]
        parts = [slice(start, start + BLOCK) for start in range(0, len(names), BLOCK)]
        blocks = [Block(names[p], stats[p], people[p], codes[p]) for p in parts]
        of, own = arrays["places/folders"], arrays["places/names"]
        cuts = [0, *(np.flatnonzero(np.diff(of)) + 1).tolist(), len(of)]
        numbers = arrays["places/numbers"]
        places = [Places(int(of[a]), own[a:b], numbers[a:b]) for a, b in pairwise(cuts)]
        counts, examples = content.content["left_out"]
        left_out = LeftOut(dict(counts), dict(examples))
        notes = content.texts("notes")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"it is not understood ({error})") from None
    return PhotoFiles(Listing.of_sorted(blocks, persons, folders), left_out, notes, places)


def _as_bytes(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, width)
