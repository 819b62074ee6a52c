"""Photographs to their faces: decoded, searched at the size that finds them, and cropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinembed.backbones.faces import DetectedFace
from kinembed.data.crops import crop_face, crop_scale, sharpness
from kinembed.data.photos import Decoded, Pixels, decode_upright

if TYPE_CHECKING:
    import torch

MIN_FACE = 40  # pixels of a photo
SEARCHED = 20  # pixels that such a face has at least where it is searched


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
