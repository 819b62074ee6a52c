"""Photo files by name: their paths, sizes and times, before they are decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinembed.data.families import TRAIN_FOLDERS, list_photos, train_folder
from kinembed.errors import DataError


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
        stat = path.stat()
    except OSError:
        return Photo(name, b"", -1, -1)
    return Photo(name, b"", stat.st_size, stat.st_mtime_ns)


def find_photos(folders: Sequence[str], data: Path) -> dict[str, Path]:
    """Photo files by their names in the cache, sorted.

    `train` and `test` are folders below `data` and stay in the name. Any other folder is a path,
    and the name is the path below it.

    Raises:
        DataError: a folder is missing or holds no photo, or two photos share a name.
    """
    photos: dict[str, Path] = {}
    for folder in folders:
        root, prefix = _root(folder, data)
        listed = list_photos(root, prefix)
        if not listed:
            raise DataError(f"{root}: no photo below it; name a folder of photos")
        for name in listed:
            if name in photos:
                raise DataError(f"{name}: both below {photos[name].parent} and {root}")
            photos[name] = root / name.removeprefix(prefix)
    return dict(sorted(photos.items()))


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
    if folder not in (*TRAIN_FOLDERS, "test"):
        return Path(folder), ""
    name = train_folder(data) if folder in TRAIN_FOLDERS else folder
    return data / name, f"{name}/"
