"""The table of faces, `faces.csv`: each face of each photo, and its crop.

A photo without a face has one row, whose crop is empty.
"""

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.backbones.faces import DetectedFace
from kinembed.errors import DataError
from kinembed.io import read_csv, write_csv
from kinembed.printable import counted

log = logging.getLogger(__name__)

FILE = "faces.csv"
OWN = ".align"  # folder beside it, where `align` keeps what it needs to go on
_BOX = ("left", "top", "right", "bottom")
_POINTS = tuple(
    f"{part}_{axis}"
    for part in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    for axis in "xy"
)
_NUMBERS = (*_BOX, *_POINTS, "probability", "size", "sharpness")
COLUMNS = ("source", "face", "crop", *_NUMBERS, "bytes", "mtime", "sha256")


@dataclass(frozen=True)
class CroppedFace:
    """A face on a photo, and its crop.

    Attributes:
        crop: the crop's path below the folder of the table.
        face: its place on the photo, upright, in pixels.
        sharpness: of the crop, as `data.crops.sharpness`.
    """

    crop: str
    face: DetectedFace
    sharpness: float


@dataclass(frozen=True)
class PhotoFaces:
    """A photo and the faces on it, the largest first.

    Attributes:
        source: its path below the folder of photographs.
        faces: on it; empty where there is none.
        size: of its file, in bytes.
        mtime: when its file was changed, in nanoseconds.
        digest: sha256 of its bytes, as hexadecimal digits.
    """

    source: str
    faces: tuple[CroppedFace, ...]
    size: int
    mtime: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        faces = [
            {
                "crop": each.crop,
                "box": each.face.box.tolist(),
                "points": each.face.points.tolist(),
                "probability": each.face.probability,
                "sharpness": each.sharpness,
            }
            for each in self.faces
        ]
        return {**vars(self), "faces": faces}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "PhotoFaces":
        """The inverse of `as_json`.

        Raises:
            ValueError, TypeError, KeyError: it is malformed.
        """
        faces = tuple(
            CroppedFace(
                each["crop"],
                DetectedFace(
                    np.array(each["box"], np.float32),
                    np.array(each["points"], np.float32),
                    each["probability"],
                ),
                each["sharpness"],
            )
            for each in content["faces"]
        )
        return cls(**{**content, "faces": faces})

    def rows(self) -> Iterator[dict[str, object]]:
        """Its rows in the table."""
        of_file = {"bytes": self.size, "mtime": self.mtime, "sha256": self.digest}
        if not self.faces:
            empty = dict.fromkeys(("crop", *_NUMBERS), "")
            yield {"source": self.source, "face": 0, **empty, **of_file}
        for number, each in enumerate(self.faces, 1):
            face = each.face
            places = np.concatenate([face.box, face.points.reshape(-1)]).astype(float).round(1)
            size = max(places[2] - places[0], places[3] - places[1]).round(1)
            numbers = (*places.tolist(), face.probability, float(size), each.sharpness)
            row: dict[str, object] = {"source": self.source, "face": number, "crop": each.crop}
            yield row | dict(zip(_NUMBERS, numbers, strict=True)) | of_file


def write_faces(path: Path, photos: Sequence[PhotoFaces]) -> Path:
    """Writes the table of faces, whole or not at all."""
    return write_csv(path, [row for photo in photos for row in photo.rows()], COLUMNS)


def read_faces(path: Path) -> list[PhotoFaces]:
    """The photos of a table of faces, in its order.

    Raises:
        DataError: it is missing or malformed; names the line.
    """
    try:
        columns, rows = read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run kinembed align") from None
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); run kinembed align") from None
    if tuple(columns) != COLUMNS:
        raise DataError(
            f"{path}: found columns {','.join(columns)}; wanted {','.join(COLUMNS)}; run kinembed "
            "align"
        )
    photos: list[PhotoFaces] = []
    known: set[str] = set()
    for line, row in enumerate(rows, 2):
        try:
            photo, number = _parsed(row)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, row {line}: {error}; run kinembed align again") from None
        last = photos[-1] if photos else None
        if last is not None and number > 1 and photo.source == last.source:
            if number != len(last.faces) + 1 or photo.digest != last.digest:
                raise DataError(
                    f"{path}, row {line}: found face {number} of {photo.source}, wanted "
                    f"{len(last.faces) + 1}; run kinembed align again"
                )
            faces = (*last.faces, *photo.faces)
            photos[-1] = PhotoFaces(last.source, faces, last.size, last.mtime, last.digest)
            continue
        if photo.source in known or number > 1:
            raise DataError(
                f"{path}, row {line}: {photo.source} is not in one piece; run kinembed align again"
            )
        known.add(photo.source)
        photos.append(photo)
    return photos


def _parsed(row: dict[str, Any]) -> tuple[PhotoFaces, int]:
    """The photo of a row with this one face, and the face's number; 0: it has none.

    Raises:
        ValueError, TypeError: it is malformed.
    """
    if None in row or None in row.values():
        raise ValueError(f"found another number of cells than the {len(COLUMNS)} columns")
    number, size, mtime = (_whole(row, name) for name in ("face", "bytes", "mtime"))
    digest, crop, source = row["sha256"], row["crop"], row["source"]
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"sha256 {digest!r}, wanted 64 hexadecimal digits")
    if not source:
        raise ValueError("no source")
    if not number:
        if crop:
            raise ValueError(f"crop {crop!r} of face 0, wanted none")
        return PhotoFaces(source, (), size, mtime, digest), 0
    if not crop or Path(crop).is_absolute() or ".." in Path(crop).parts:
        raise ValueError(f"crop {crop!r}, wanted a path below the table's folder")
    values = [_number(row, name) for name in _NUMBERS]
    places = np.array(values[:14], np.float32)
    box, points = places[:4], places[4:].reshape(5, 2)
    face = CroppedFace(crop, DetectedFace(box, points, values[14]), values[16])
    return PhotoFaces(source, (face,), size, mtime, digest), number


def _whole(row: dict[str, str], name: str) -> int:
    text = row[name]
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} {text!r}, wanted a whole number")
    return int(text)


def _number(row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{name} {row[name]!r}, wanted a number")
    return value


def is_aligned(folder: Path) -> bool:
    """Whether a folder is one of crops that `align` wrote, with its table."""
    return (folder / FILE).is_file() and (folder / OWN).is_dir()


def warn_of_shared_names(
    folder: Path, photos: Iterable[PhotoFaces], people: Mapping[str, str]
) -> None:
    """Says where several faces of one photo are taken for one person, the one of its folder.

    Args:
        folder: of the crops.
        photos: the photos with their faces.
        people: who is on a crop, by its name; empty where nobody is known.
    """
    shared = []
    for photo in photos:
        named = [who for face in photo.faces if (who := people.get(face.crop))]
        if len(set(named)) < len(named):
            shared.append((photo.source, max(named, key=named.count)))
    if shared:
        log.warning(
            "%s: %s several faces, which all count as the person of their folder (%s as %s); run "
            "kinembed align --largest, or say who is who with kinembed embed --people-table",
            folder, counted(len(shared), "photo has", "photos have"), *shared[0],
        )  # fmt: skip
