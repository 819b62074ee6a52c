"""Photos within other files: what reading one from a tar file and from a parquet file share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from kinembed.errors import DataError

PACKED = (".tar", ".parquet")  # files that hold photos
MAX_BYTES = 256 << 20  # of a photo's file

Place = TypeVar("Place")


def place_of(
    path: Path, suffix: str, index: Callable[[Path, int, int], Mapping[str, Place]]
) -> tuple[Path, Place] | None:
    """The file that a photo's path leads through, and the photo's place there; None without one.

    Args:
        path: of the photo.
        suffix: of the file.
        index: a file, its size and modification time, to the places in it by their names.

    Raises:
        DataError: the file has no such photo.
    """
    file = next((each for each in path.parents if each.suffix == suffix and each.is_file()), None)
    if file is None:
        return None
    status = file.stat()
    place = index(file, status.st_size, status.st_mtime_ns).get(path.relative_to(file).as_posix())
    if place is None:
        raise DataError(f"{path}: is not in {file.name}; wanted a photo")
    return file, place


def too_large(path: Path, size: int, most: int) -> DataError:
    """The error of a photo of more bytes than `most`."""
    return DataError(
        f"{path}: {size:,} bytes, wanted at most {most:,}; shrink the photo, or leave it out with "
        "--skip-unreadable"
    )
