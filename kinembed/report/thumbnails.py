"""Photos as small JPEGs, for pages that hold all that they show."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from kinembed.backbones import Framing


def thumbnail(path: Path, side: int, quality: int) -> str:
    """A photo as a JPEG of `side` x `side` pixels, in base64.

    Raises:
        DataError: it cannot be read.
    """
    from PIL import Image

    from kinembed.data.photos import read_photo

    pixels = read_photo(path, Framing(side, side))[1]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def thumbnail_uri(path: Path, side: int, quality: int) -> str:
    """The same as a data URI.

    Raises:
        DataError: it cannot be read.
    """
    return f"data:image/jpeg;base64,{thumbnail(path, side, quality)}"
