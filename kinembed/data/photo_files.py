"""Photo files by name: their paths, sizes and times, before they are decoded."""

from collections.abc import Sequence
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
        if folder in (*TRAIN_FOLDERS, "test"):
            name = train_folder(data) if folder in TRAIN_FOLDERS else folder
            root, prefix = data / name, f"{name}/"
        else:
            root, prefix = Path(folder), ""
        listed = list_photos(root, prefix)
        if not listed:
            raise DataError(f"{root}: no photo below it; name a folder of photos")
        for name in listed:
            if name in photos:
                raise DataError(f"{name}: both below {photos[name].parent} and {root}")
            photos[name] = root / name.removeprefix(prefix)
    return dict(sorted(photos.items()))
