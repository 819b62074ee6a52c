"""People as a user names them: a photograph, a face crop, or a folder of one person's photos."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinembed.backbones import Framing
from kinembed.backbones.faces import DetectedFace
from kinembed.data.crops import CROP_SIDE
from kinembed.data.folders import list_photos
from kinembed.data.left_out import LeftOut
from kinembed.data.photo_formats import FORMATS, photo_format
from kinembed.data.photos import Pixels, decode_upright, place_photo, read_file, without_advice
from kinembed.errors import DataError
from kinembed.file_kinds import describe_file
from kinembed.printable import counted
from kinembed.threads import processors

if TYPE_CHECKING:
    from kinembed.data.aligner import Aligner

log = logging.getLogger(__name__)

LEAST_CROP, LONGEST_CROP = 16, 3  # pixels of a crop's shorter side; the longer one by it
FLAT = 2.0  # standard deviation of grey values, 0 to 255, below which a crop shows nothing
PREVIEW = 640  # longer side of a preview, pixels
MOST_SAID = 6  # other faces of a photo whose places a message says
WANTED = "photos of one person"
NO_FACE = "no face is found on it"

Advance = Callable[[int], object]


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face on a photo.

    Attributes:
        number: on its photo, from 1; the largest is the first.
        crop: (224, 224, 3) uint8, framed as Kaggle's photos are.
        box: left, top, right and bottom in pixels of the upright photo.
        points: (5, 2) eyes, nose and corners of the mouth, in pixels; None where nobody looked.
        probability: of a face, by the detector; None where nobody looked for one.
    """

    number: int
    crop: Pixels
    box: tuple[float, float, float, float]
    points: NDArray[np.floating[Any]] | None = None
    probability: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Where it is, as JSON types."""
        points = None if self.points is None else np.round(self.points, 1).tolist()
        box = [round(side, 1) for side in self.box]
        return {"box": box, "points": points, "probability": self.probability}


@dataclass(frozen=True, eq=False)
class PhotoFaces:
    """The faces on a photo.

    Attributes:
        path: the file.
        sha256: of its bytes.
        size: width and height of the upright photo, in pixels.
        is_crop: the whole photo is the crop of one face.
        faces: the largest first; one at least.
        preview: the upright photo, shrunk.
    """

    path: Path
    sha256: str
    size: tuple[int, int]
    is_crop: bool
    faces: tuple[FoundFace, ...]
    preview: Pixels


@dataclass(frozen=True, eq=False)
class NamedPerson:
    """A person, as named by a path.

    Attributes:
        path: of a photo, or of a folder.
        is_folder: it is a folder.
        photos: with a face each.
        chosen: which face of each photo is the person's, as an index of its faces.
        left_out: files of the folder that are not used.
    """

    path: Path
    is_folder: bool
    photos: tuple[PhotoFaces, ...]
    chosen: tuple[int, ...]
    left_out: LeftOut

    @classmethod
    def of(cls, photo: PhotoFaces) -> NamedPerson:
        """The person on a photo: its largest face."""
        return cls(photo.path, False, (photo,), (0,), LeftOut())

    @property
    def faces(self) -> list[FoundFace]:
        """The person's face on each photo."""
        return [photo.faces[which] for photo, which in zip(self.photos, self.chosen, strict=True)]

    @property
    def keys(self) -> list[tuple[str, int]]:
        """The person's face on each photo, by the photo's bytes and the face's number."""
        return [
            (photo.sha256, which) for photo, which in zip(self.photos, self.chosen, strict=True)
        ]

    def as_json(self) -> dict[str, Any]:
        """The person's faces as found, as JSON types."""
        photos = [
            {
                "photo": str(photo.path),
                "sha256": photo.sha256,
                "crop": photo.is_crop,
                "face": which + 1,
                "faces": [face.as_json() for face in photo.faces],
            }
            for photo, which in zip(self.photos, self.chosen, strict=True)
        ]
        left_out = [
            {"reason": reason, "count": count, "example": self.left_out.examples[reason]}
            for reason, count in self.left_out.counts.items()
        ]
        return {"path": str(self.path), "photos": photos, "left_out": left_out}

    def note(self) -> str:
        """What was taken, in a few words: `face 1 of 3`, or `12 photos, 2 left out`."""
        if self.is_folder:
            said = counted(len(self.photos), "photo")
            return said + (f", {len(self.left_out):,} left out" if len(self.left_out) else "")
        (photo,), (which,) = self.photos, self.chosen
        if photo.is_crop:
            return "a face crop, taken whole"
        count = len(photo.faces)
        return f"face {which + 1} of {count}" if count > 1 else "the one face on it"


class FaceReader:
    """Reads photos and finds the faces on them.

    Args:
        whole: photos are crops of one face each; no face is looked for.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

    @cached_property
    def _aligner(self) -> Aligner:
        from kinembed.data.aligner import Aligner  # torch

        return Aligner()

    def open(self) -> None:
        """Opens the networks that find faces, before threads ask for them."""
        if not self.whole:
            self._aligner  # noqa: B018

    def people(
        self, paths: Sequence[Path], advance: Advance = lambda count: None
    ) -> list[NamedPerson]:
        """People with all faces on their photos, and of each photo the largest chosen.

        Args:
            paths: of each a photo, or a folder of photos; folders within it count.
            advance: reports so many photos more.

        Raises:
            DataError: somebody has no photo with a face; says what was found instead.
        """
        if self.whole:
            return [self._person(path, map, advance) for path in paths]
        import torch

        self.open()
        before = torch.get_num_threads()
        try:
            # For such small networks torch's own threads would mostly wait for each other.
            with ThreadPoolExecutor(processors(), "", torch.set_num_threads, (1,)) as pool:
                return [self._person(path, pool.map, advance) for path in paths]
        finally:
            torch.set_num_threads(before)

    def _person(self, path: Path, mapped: Any, advance: Advance) -> NamedPerson:
        if not path.is_dir():
            (photo,) = mapped(self.photo, [path])
            advance(1)
            return NamedPerson.of(photo)
        walked = list_photos(path)
        left_out = walked.left_out
        photos: dict[str, PhotoFaces] = {}

        def read(name: str) -> PhotoFaces | DataError:
            try:
                return self.photo(path / name)
            except DataError as error:
                return error

        for name, found in zip(walked.names, mapped(read, walked.names), strict=True):
            if isinstance(found, DataError):
                left_out.add(_reason(found), name)
            elif found.sha256 in photos:
                left_out.add("copies of another photo", name)
            else:
                photos[found.sha256] = found
            advance(1)
        if not photos:
            what = f"found {left_out}" if len(left_out) else "it is empty"
            raise DataError(f"{path}: has no photo with a face: {what}; wanted {WANTED}")
        if len(left_out):
            log.warning("%s: left out: %s", path, left_out)
        return NamedPerson(path, True, tuple(photos.values()), (0,) * len(photos), left_out)

    def photo(self, path: Path) -> PhotoFaces:
        """The faces on a photo.

        Raises:
            DataError: it is no photo, or shows no face.
        """
        try:
            content = read_file(path)
        except DataError as error:
            raise without_advice(error) from None
        return self.faces(content, path, lambda: describe_file(path))

    def faces(
        self, content: bytes, path: Path, describe: Callable[[], str] = lambda: ""
    ) -> PhotoFaces:
        """The faces on a photo that is in memory.

        Args:
            content: the file's bytes.
            path: its name in errors and answers.
            describe: says what a file is that is no photo.

        Raises:
            DataError: as of `photo`.
        """
        if photo_format(content) is None:
            what = describe() or "no photo"
            wanted = f"a photo ({FORMATS}), or a folder of {WANTED}"
            raise DataError(f"{path}: is {what}; wanted {wanted}")
        try:
            found = self._read(content, path)
        except DataError as error:
            raise without_advice(error) from None
        if not found.faces:
            raise DataError(
                f"{path}: {NO_FACE}; wanted an upright face, seen from the front, of "
                f"{self._aligner.min_face} px or more; if the photo is a crop of one, say --crops"
            )
        return found

    def _read(self, content: bytes, path: Path) -> PhotoFaces:
        sha256, name = hashlib.sha256(content).hexdigest(), str(path)
        if self.whole:
            image = decode_upright(content, name).image
            _check_crop(image, name)
            return PhotoFaces(path, sha256, image.size, True, (_whole(image),), np.asarray(image))
        photo = self._aligner.shrink(content, name)
        (found,) = self._aligner.find([photo])
        image, shrunk = photo.decoded.image, photo.decoded.shrunk
        size = (image.width * shrunk, image.height * shrunk)
        preview = np.asarray(_shrunk(image, PREVIEW))
        filling = self._aligner.filling(photo, found)
        own = None if filling is None else _face(1, filling.crop, filling.face)
        faces = [] if own is None else [own]
        for each in self._aligner.crop(photo, found[len(faces) :]):
            faces.append(_face(len(faces) + 1, each.crop, each.face))
        is_crop = own is not None and own.box == _whole_box(size)
        return PhotoFaces(path, sha256, size, is_crop, tuple(faces), preview)


def _face(number: int, crop: Pixels, face: DetectedFace) -> FoundFace:
    left, top, right, bottom = face.box.tolist()
    return FoundFace(number, crop, (left, top, right, bottom), face.points, face.probability)


def _whole(image: Image.Image) -> FoundFace:
    """A photo as the crop of a face."""
    crop = place_photo(image, Framing(CROP_SIDE, CROP_SIDE))
    return FoundFace(1, np.asarray(crop), _whole_box(image.size))


def _check_crop(image: Image.Image, name: str) -> None:
    """Refuses a crop that can show no face: whatever it is, a network answers.

    Raises:
        DataError: it is too small, too long, or of one colour.
    """
    width, height = image.size
    if min(width, height) < LEAST_CROP or max(width, height) > LONGEST_CROP * min(width, height):
        raise DataError(
            f"{name}: is {width} x {height} pixels; wanted the crop of a face, about as wide as "
            f"high and of {LEAST_CROP} pixels or more"
        )
    if float(np.asarray(image.convert("L"), np.float32).std()) < FLAT:
        raise DataError(f"{name}: is of one colour; wanted the crop of a face")


def _whole_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
    return 0.0, 0.0, float(size[0]), float(size[1])


def take_faces(people: Sequence[NamedPerson], numbers: Sequence[int]) -> list[NamedPerson]:
    """People with the faces of these numbers, on photos that show several; says which it takes.

    Args:
        people: them; a folder chooses by itself.
        numbers: one for each photo that is named, or one for the only one that shows several
            faces; none: the largest of each.

    Raises:
        DataError: there is no such face, or which photo is meant is not clear.
    """
    named = [each for each, person in enumerate(people) if not person.is_folder]
    several = [each for each in named if len(people[each].photos[0].faces) > 1]
    chosen = dict.fromkeys(named, 0)
    if len(numbers) == 1 and len(named) > 1:
        if len(several) > 1:
            names = " and ".join(str(people[each].path) for each in several)
            raise DataError(
                f"face: {numbers[0]} is of {names}, which show several faces each; wanted a number "
                f"for each photo, such as --face {_example(people, named)}"
            )
        chosen[(several or named)[0]] = numbers[0] - 1
    elif numbers:
        if not named:
            raise DataError(
                "face: a folder takes the faces that fit each other; leave out --face, which is of "
                "photos that are named"
            )
        if len(numbers) != len(named):
            raise DataError(
                f"face: found {counted(len(numbers), 'number')}, wanted one for each of "
                f"{counted(len(named), 'photo')} (a folder takes the faces that fit each other)"
            )
        chosen = dict(zip(named, (number - 1 for number in numbers), strict=True))
    result = list(people)
    for each, which in chosen.items():
        photo = people[each].photos[0]
        if which >= len(photo.faces):
            found = counted(len(photo.faces), "face")
            raise DataError(f"{photo.path}: has no face {which + 1}; found {found}")
        result[each] = replace(people[each], chosen=(which,))
        if len(photo.faces) > 1:
            log.info("%s", _places(photo, which))
    return result


def _example(people: Sequence[NamedPerson], named: Sequence[int]) -> str:
    """A face of each photo, and another one where a photo is named again."""
    seen: Counter[str] = Counter()
    numbers = []
    for each in named:
        digest = people[each].photos[0].sha256
        seen[digest] += 1
        numbers.append(str(seen[digest]))
    return ",".join(numbers)


def without_shared(people: Sequence[NamedPerson]) -> list[NamedPerson]:
    """People of whom no two have one face, by the bytes of its photo; folders go without it.

    Raises:
        DataError: somebody has no other face: a face would be compared with itself.
    """
    owners: dict[tuple[str, int], list[int]] = {}
    for each, person in enumerate(people):
        for key in person.keys:
            owners.setdefault(key, []).append(each)
    result = []
    for person in people:
        shared = [len(owners[key]) > 1 for key in person.keys]
        if any(shared):
            number = shared.index(True)
            one, other = (people[each] for each in owners[person.keys[number]][:2])
            if all(shared) and (person.is_folder or not (one.is_folder or other.is_folder)):
                raise DataError(_same_face(one, other, person.photos[number]))
            if person.is_folder:
                person = _without(person, shared)
        result.append(person)
    return result


def _same_face(one: NamedPerson, other: NamedPerson, photo: PhotoFaces) -> str:
    what = "are one photo, byte for byte" if one.path != other.path else "is named twice"
    names = f"{one.path} and {other.path}" if one.path != other.path else str(one.path)
    if one.is_folder or other.is_folder:
        what = "have the same photos, byte for byte" if one.path != other.path else what
    wanted = "two people, from other photos"
    if len(photo.faces) > 1:
        wanted = "two of its faces, such as --face 1,2"
    return f"{names} {what}: that compares a face with itself; wanted {wanted}"


def _without(person: NamedPerson, shared: Sequence[bool]) -> NamedPerson:
    """A folder's person without some of the photos."""
    dropped, left_out = LeftOut(), LeftOut()
    kept = [number for number, is_shared in enumerate(shared) if not is_shared]
    for photo, is_shared in zip(person.photos, shared, strict=True):
        if is_shared:
            name = photo.path.relative_to(person.path).as_posix()
            dropped.add("also among the other person's photos", name)
    log.warning("%s: left out: %s", person.path, dropped)
    left_out.update(person.left_out)
    left_out.update(dropped)
    return replace(
        person,
        photos=tuple(person.photos[number] for number in kept),
        chosen=tuple(person.chosen[number] for number in kept),
        left_out=left_out,
    )


def _places(photo: PhotoFaces, which: int) -> str:
    """Which of several faces is taken, and where the others are."""

    def place(number: int) -> str:
        left, top, right, bottom = (round(side) for side in photo.faces[number].box)
        return f"{right - left} x {bottom - top} px from {left}, {top}"

    why = ", the largest," if which == 0 else ""
    others = [number for number in range(len(photo.faces)) if number != which]
    said = "; ".join(f"{number + 1}: {place(number)}" for number in others[:MOST_SAID])
    more = f"; and {len(others) - MOST_SAID} more" if len(others) > MOST_SAID else ""
    return (
        f"{photo.path}: shows {len(photo.faces)} faces; face {which + 1}{why} is taken: "
        f"{place(which)}. --face names another ({said}{more})"
    )


def _shrunk(image: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2)


def _reason(error: DataError) -> str:
    """Why a file of a folder is left out, as a group of files."""
    return "without a face" if NO_FACE in str(error) else "that cannot be read"
