"""Photographs to their faces: decoded, searched at the size that finds them, and cropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kinembed.backbones import LOOSE_FACE, Framing
from kinembed.backbones.faces import DetectedFace, Numbers
from kinembed.backbones.framing import as_face, distance
from kinembed.data.crops import CROP_SIDE, EYES_AND_MOUTH, crop_face, crop_scale, sharpness
from kinembed.data.photos import Decoded, Pixels, decode_upright, place_photo

if TYPE_CHECKING:
    import torch

MIN_FACE = 40  # pixels of a photo
SEARCHED = 20  # pixels that such a face has at least where it is searched
# The photo with its edge pixels around it, since detectors miss faces that fill a photo.
LOOK = Framing(side=160, inner=112, top=24, left=24)
FILLS = 0.4  # a face as large fills its photo, of the shorter side
CROP = 0.08  # how far the face on a crop may lie from its place, as a share of the side
LEAST = 0.25  # face that is looked for on it, of its side


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face of a photo.

    Attributes:
        face: its place on the photo, upright, in pixels.
        crop: (224, 224, 3) uint8, RGB, framed as `loose`.
        sharpness: of the crop, as `data.crops.sharpness`.
    """

    face: DetectedFace
    crop: Pixels
    sharpness: float


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A photo on its way through an `Aligner`.

    Attributes:
        name: in errors.
        content: the file's bytes.
        decoded: the photo, perhaps smaller than in the file.
        pixels: (H, W, 3) uint8, at the size at which faces are searched.
        shrunk: how many times smaller these are than the photo.
    """

    name: str
    content: bytes
    decoded: Decoded
    pixels: Pixels
    shrunk: int


class Aligner:
    """Finds the faces of photographs and crops them.

    Args:
        device: of the networks; None: the CPU.
        min_face: the size of the smallest faces that are searched, in pixels of the photo.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """

    def __init__(self, device: torch.device | None = None, min_face: int = MIN_FACE) -> None:
        from kinembed.backbones.detection import Cascade

        self.min_face = min_face
        self._cascade = Cascade(device)
        self._shrink = 1
        while 2 * self._shrink * SEARCHED <= min_face:
            self._shrink *= 2

    @property
    def one_by_one(self) -> bool:
        """Whether one thread alone should search, with several photos at a time, as on a GPU."""
        return self._cascade.device.type != "cpu"

    @contextmanager
    def threads(self, count: int) -> Iterator[ThreadPoolExecutor]:
        """Threads for this work; on the CPU each searches its own photo with one processor."""
        import torch

        before = torch.get_num_threads()
        try:
            # For such small networks torch's own threads would mostly wait for each other.
            with ThreadPoolExecutor(count, "", torch.set_num_threads, (1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(before)

    def align(self, content: bytes, name: str) -> list[AlignedFace]:
        """The faces of a photo file, the largest first.

        Args:
            content: the file's bytes.
            name: the photo's name in errors.

        Raises:
            DataError: it is no photo, is damaged, or is far too large.
        """
        photo = self.shrink(content, name)
        return self.crop(photo, self.find([photo])[0])

    def shrink(self, content: bytes, name: str) -> Shrunk:
        """Decodes a photo at the size at which its faces are searched; arguments as `align`."""
        decoded = decode_upright(content, name, self._shrink)
        image, factor = decoded.image, max(1, self._shrink // decoded.shrunk)
        small = image.reduce(factor) if factor > 1 else image
        return Shrunk(name, content, decoded, np.asarray(small), factor * decoded.shrunk)

    def find(self, photos: Sequence[Shrunk]) -> list[list[DetectedFace]]:
        """The faces on photos that are of one size as they are searched, each largest first."""
        smallest = self.min_face / photos[0].shrunk
        found = self._cascade.find_faces([photo.pixels for photo in photos], smallest)
        return [
            [face.scaled(photo.shrunk) for face in faces]
            for photo, faces in zip(photos, found, strict=True)
        ]

    def filling(self, photo: Shrunk, faces: Sequence[DetectedFace]) -> AlignedFace | None:
        """The face that fills a photo, if one does; such as a crop, which is taken whole.

        Detectors miss eyes and mouth near the edge, so it is looked for on the photo with its edge
        pixels around it.

        Args:
            photo: a photo.
            faces: that `find` found on it; the filling one is the first of these, if any.
        """
        image, shrunk = photo.decoded.image, photo.decoded.shrunk
        if faces and faces[0].size <= FILLS * shrunk * min(image.size):
            return None
        if shrunk > 1:
            image = decode_upright(photo.content, photo.name).image
        (found,) = self._cascade.find_faces([place_photo(image, LOOK)], LEAST * LOOK.inner)
        if not found:
            return None
        side = min(image.size)
        start = np.array([image.width - side, image.height - side]) / 2  # of the centre square
        corner, scale = np.array([LOOK.left, LOOK.top]), side / LOOK.inner
        points = ((found[0].points - corner) * scale + start).astype(np.float32)
        box = ((found[0].box.reshape(2, 2) - corner) * scale + start).astype(np.float32).ravel()
        if faces:
            middle = points.mean(0)
            if (middle < faces[0].box[:2]).any() or (middle > faces[0].box[2:]).any():
                return None
        place = as_face(((points - start) / side)[EYES_AND_MOUTH])
        if image.width != image.height or distance(place, LOOSE_FACE) > CROP:
            crop = crop_face(np.asarray(image), points)
            return AlignedFace(
                DetectedFace(box, points, found[0].probability), crop, sharpness(crop)
            )
        return whole(image, points, found[0].probability)

    def crop(self, photo: Shrunk, faces: Sequence[DetectedFace]) -> list[AlignedFace]:
        """Crops faces; a photo that was decoded too small for them is decoded again."""
        if not faces:
            return []
        decoded = photo.decoded
        if min(crop_scale(face.points) for face in faces) < decoded.shrunk > 1:
            decoded = decode_upright(photo.content, photo.name)
        pixels = np.asarray(decoded.image)
        crops = [crop_face(pixels, face.points / decoded.shrunk) for face in faces]
        return [
            AlignedFace(face, crop, sharpness(crop))
            for face, crop in zip(faces, crops, strict=True)
        ]


def whole(
    image: Image.Image, points: Numbers | None = None, probability: float = 1.0
) -> AlignedFace:
    """A photo as the crop of a face.

    Args:
        image: the photo, upright.
        points: (5, 2) eyes, nose and corners of the mouth, in pixels; None: where crops have them.
        probability: of a face.
    """
    side = np.array(image.size, np.float32)
    if points is None:
        eyes_and_mouth = np.array(LOOSE_FACE, np.float32)  # (4, 2)
        nose = eyes_and_mouth.mean(0)
        points = np.insert(eyes_and_mouth, 2, nose, axis=0) * side
    box = np.array([0, 0, *side], np.float32)
    crop = np.asarray(place_photo(image, Framing(CROP_SIDE, CROP_SIDE)))
    return AlignedFace(DetectedFace(box, points, probability), crop, sharpness(crop))
