"""Eyes, nose and mouth of the largest face on a photo."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from kinembed.backbones.detection import Cascade
from kinembed.threads import processors

SMALLEST = 0.25  # face that is looked for, of the photo's side


def find_landmarks(photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | None]:
    """What `LandmarkFinder.find` finds on each photo, by a thread for each processor.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """
    finder, before = LandmarkFinder(), torch.get_num_threads()
    try:
        # For such small networks torch's own threads would mostly wait for each other.
        with ThreadPoolExecutor(processors(), "", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(finder.find, photos))
    finally:
        torch.set_num_threads(before)


class LandmarkFinder:
    """Finds the eyes, nose and mouth of the largest face on a photo, on the CPU.

    Raises:
        WeightsError: facenet-pytorch is missing, or its files have changed.
    """

    def __init__(self) -> None:
        self._cascade = Cascade()

    def find(self, photo: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The left eye (as seen), right eye, nose, and left and right corner of the mouth.

        Args:
            photo: (H, W, 3) uint8, RGB.

        Returns:
            (5, 2) float32, x and y in pixels; None where there is no face.
        """
        smallest = SMALLEST * min(photo.shape[:2])
        (found,) = self._cascade.candidates([photo], smallest)
        if not len(found.boxes):
            return None
        points: NDArray[np.float32] = found.points[found.sides.argmax()]
        return points
