"""Photos inside of tar files, as WebDataset packs them: listed by headers, read where they lie.

A photo's path leads through the file: `photos-000.tar/F0001/MID1/a.jpg`. Nothing is unpacked, so no
member is written anywhere, whatever its name.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from glob import glob
from pathlib import Path

import numpy as np

from kinembed.data.folders import UNSAFE_NAME, Walk, number_of
from kinembed.data.packed import PACKED, place_of, too_large
from kinembed.data.photo_formats import PHOTO_SUFFIXES
from kinembed.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_FILES = 10_000
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar")
_LATEST = 1 << 62  # nanoseconds


def packed_files(text: str) -> list[Path]:
    """The tar or parquet files that a text names.

    One, a range `photos-{000..009}.tar`, or a pattern with `*` and `?`.

    Returns:
        Their paths, sorted; empty where the text names none.

    Raises:
        DataError: one of a range is missing, or the range is too long.
    """
    if not text.endswith(PACKED):
        return []
    if match := _RANGE.search(text):
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MOST_FILES:
            raise DataError(f"{text}: wanted a range of 1 to {MOST_FILES:,} files")
        width = len(match[1])
        found = [
            Path(f"{text[: match.start()]}{number:0{width}}{text[match.end() :]}")
            for number in range(first, last + 1)
        ]
        if absent := [path for path in found if not path.is_file()]:
            raise DataError(f"{absent[0]}: no such file, as are {len(absent) - 1:,} more of {text}")
        return found
    if Path(text).is_file():
        return [Path(text)]
    return sorted(path for path in map(Path, glob(text)) if path.is_file())


def check_folder(path: Path, text: str) -> None:
    """Refuses what is no folder of photos, and no tar or parquet file either, and says what it is.

    Args:
        path: of the folder.
        text: that named it.

    Raises:
        DataError: as above.
    """
    if path.is_dir():
        return
    wanted = "wanted a folder of photos, or tar or parquet files"
    if path.is_file():
        if path.name.lower().endswith(_COMPRESSED):
            raise DataError(
                f"{path}: is a compressed file, whose photos cannot be read where they lie; unpack "
                "it to a .tar file or to a folder"
            )
        raise DataError(f"{path}: is a file, not a folder; {wanted}")
    if path.exists():
        raise DataError(f"{path}: is no folder; {wanted}")
    if any(letter in text for letter in "*?[{"):
        others = [each for each in glob(text) if Path(each).is_file()]
        seen = f"; {others[0]} fits, but is neither .tar nor .parquet" if others else ""
        raise DataError(
            f"{text}: no file fits this pattern{seen}; wanted tar or parquet files, as "
            "photos-*.tar or photos-{000..009}.tar"
        )
    what = "file" if text.endswith((*PACKED, *_COMPRESSED)) else "folder"
    raise DataError(f"{path}: no such {what}; name one with photos in it")


def walk_tar(path: Path) -> Walk:
    """Lists the photos of a tar file.

    Raises:
        DataError: it is no tar file, or is cut short.
    """
    walk = Walk()
    status = path.stat()
    walk.listed.add(number_of(status))
    walk.add_place("", status.st_size, status.st_mtime_ns)
    photos = []
    for member in _members(path):
        if member.isdir():
            continue
        name = member.name.removeprefix("./")
        shown = name.encode(errors="backslashreplace").decode()
        if not member.isreg() or member.issparse():
            walk.left_out.add("links or other members of tar files that are no files", shown)
        elif "\n" in name or UNSAFE_NAME.search(name) or shown != name:
            walk.left_out.add("of tar files whose names lead elsewhere or are not plain", shown)
        elif not name.lower().endswith(PHOTO_SUFFIXES):
            walk.left_out.add("other files", shown)
        else:
            when = int(max(-_LATEST, min(_LATEST, member.mtime * 1e9)))
            photos.append((name.encode(), member.size, when))
    photos.sort()
    if photos:
        names, *numbers = zip(*photos, strict=True)
        walk.pieces.append((np.array(names), np.array(numbers, np.int64).T.copy()))
    return walk


def read_member(path: Path, most: int) -> bytes | None:
    """The bytes of a photo whose path leads through a tar file; None if it does not.

    Raises:
        DataError: the file has no such member, or it is larger than `most` bytes.
    """
    found = place_of(path, ".tar", _index)
    if found is None:
        return None
    tar, (offset, size) = found
    if size > most:
        raise too_large(path, size, most)
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@lru_cache(16)
def _index(path: Path, size: int, mtime: int) -> dict[str, tuple[int, int]]:
    """Offset and size of each file in a tar file, by its name."""
    return {
        member.name.removeprefix("./"): (member.offset_data, member.size)
        for member in _members(path)
        if member.isreg() and not member.issparse()
    }


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all
                if member.isreg() and member.offset_data + member.size > end:
                    raise DataError(f"{path}: is cut short within {ascii(member.name)[:80]}")
                yield member
            with path.open("rb") as file:  # a header that is cut off ends the list in silence
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise DataError(f"{path}: is cut short, or damaged, at byte {tar.offset:,}")
                while block := file.read(1 << 20):
                    if block.count(0) < len(block):
                        raise DataError(
                            f"{path}: goes on behind its end, at byte {tar.offset:,}, as several "
                            "tar files in one do; wanted each in a file of its own"
                        )
    except (OSError, tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: not a plain tar file ({str(error)[:80]}); unpack a compressed one, or pack "
            "it again"
        ) from None
