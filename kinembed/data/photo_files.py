"""Photo files by name: where they lie, and what is known of them before they are decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinembed.data.families import TRAIN_FOLDERS, list_photos, train_folder
from kinembed.errors import DataError


@dataclass(frozen=True)
class Photo:
    """A photo's file as it is now.

    Attributes:
        name: what the cache calls it.
        digest: sha256 of its bytes; empty where it has not been read.
        size: bytes; -1 where not known.
        mtime: its time of change, in nanoseconds; -1 where not known.
    """

    name: str
    digest: bytes
    size: int
    mtime: int


def photo_at(path: Path, name: str) -> Photo:
    """A photo's file by its size and time of change; a missing file is named when it is read."""
    try:
        stat = path.stat()
    except OSError:
        return Photo(name, b"", -1, -1)
    return Photo(name, b"", stat.st_size, stat.st_mtime_ns)


def find_photos(folders: Sequence[str], data: Path) -> dict[str, Path]:
    """Photo files by the names they have in the cache, sorted.

    `train` and `test` are folders below `data` and stay in the name; any other folder is taken
    as it is, and the name is the path below it.

    Raises:
        DataError: a folder is missing or holds no photo, or two photos have one name.
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
            raise DataError(f"{root}: no JPEG or PNG below it; name a folder of photos")
        for name in listed:
            if name in photos:
                raise DataError(f"{name}: both below {photos[name].parent} and {root}")
            photos[name] = root / name.removeprefix(prefix)
    return dict(sorted(photos.items()))
