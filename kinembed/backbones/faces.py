"""A face as found on a photo, without torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face on a photo.

    Attributes:
        box: (4,) float32: left, top, right and bottom in pixels; parts may lie outside.
        points: (5, 2) float32, x and y in pixels: the left eye (as seen), right eye, nose, left and
            right corner of the mouth.
        probability: that it is one, by the detector.
    """

    box: Numbers
    points: Numbers
    probability: float

    @property
    def size(self) -> float:
        """The longer side of the box in pixels."""
        return float((self.box[2:] - self.box[:2]).max())

    def scaled(self, factor: float) -> "DetectedFace":
        """The face on the same photo at `factor` times the size."""
        scale = np.float32(factor)
        return DetectedFace(self.box * scale, self.points * scale, self.probability)
