"""Face crops: squares of photos in which eyes and mouth lie as on Kaggle's photos."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinembed.backbones import LOOSE_FACE
from kinembed.data.photos import Pixels

CROP_SIDE = 224  # of a crop, in pixels
EYES_AND_MOUTH = [0, 1, 3, 4]  # of the five points


def crop_face(photo: Pixels, points: NDArray[np.floating]) -> Pixels:
    """The crop of a face, turned and scaled so that eyes and mouth lie as on Kaggle's photos.

    That is the similarity transform of least squares (Umeyama 1991, in the plane). What lies
    outside of the photo repeats its edge pixels. On RFIW's faces, turned by 12 degrees (standard
    deviation), a head on MobileFaceNet has an AUC of .807 on such crops and .759 on unturned ones;
    on faces as they are .815 and .814.

    Args:
        photo: (H, W, 3) uint8, RGB.
        points: (5, 2) eyes, nose and corners of the mouth, in pixels.

    Returns:
        (224, 224, 3) uint8, RGB.
    """
    turn, corner = _placed(points)
    scale = abs(turn)
    corners = corner + turn * np.array([0, CROP_SIDE, CROP_SIDE * 1j, CROP_SIDE * (1 + 1j)])
    left, top = int(np.floor(corners.real.min())) - 2, int(np.floor(corners.imag.min())) - 2
    right, bottom = int(np.ceil(corners.real.max())) + 2, int(np.ceil(corners.imag.max())) + 2
    rows = np.clip(np.arange(top, bottom), 0, photo.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, photo.shape[1] - 1)
    around = Image.fromarray(photo[rows[:, None], columns])
    across, down = 1.0, 1.0
    if scale > 1:  # first smaller, by a filter that sees all pixels, then turned
        size = (round(around.width / scale), round(around.height / scale))
        across, down = around.width / size[0], around.height / size[1]
        around = around.resize(size, Image.Resampling.BICUBIC)
    start = corner - (left + top * 1j)
    affine = (
        *(turn.real / across, -turn.imag / across, start.real / across),
        *(turn.imag / down, turn.real / down, start.imag / down),
    )
    size = (CROP_SIDE, CROP_SIDE)
    crop = around.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(crop)


def _placed(points: NDArray[np.floating]) -> tuple[complex, complex]:
    """Pixel z of the crop lies at `turn * z + corner` of the photo, x + iy each."""
    wanted = np.array(LOOSE_FACE) @ [1, 1j] * CROP_SIDE
    given = np.asarray(points, float)[EYES_AND_MOUTH] @ [1, 1j]
    centred = wanted - wanted.mean()
    turn = complex((centred.conj() * (given - given.mean())).sum() / (abs(centred) ** 2).sum())
    return turn, complex(given.mean()) - turn * complex(wanted.mean())


def crop_scale(points: NDArray[np.floating]) -> float:
    """How many pixels of the photo a pixel of the crop takes, in width; points as `crop_face`."""
    return abs(_placed(points)[0])


def sharpness(crop: Pixels) -> float:
    """How sharp a crop is: the variance of the Laplacian of its grey values, 0 where it is flat.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.

    Args:
        crop: (H, W, 3) uint8, RGB.
    """
    grey = crop @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var())
