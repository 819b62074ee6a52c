"""Photos from files to uint8 arrays in a backbone's frame."""

import io
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kinembed.backbones import Framing
from kinembed.errors import DataError
from kinembed.threads import processors

Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000  # a larger photo is a mistake or a decompression bomb, not a face
ORIENTATION = 0x0112  # EXIF tag


def decode_photo(content: bytes, framing: Framing, name: str) -> Pixels:
    """Decodes a JPEG or PNG file and places it in a backbone's frame.

    Applies the EXIF rotation, turns grey, palette and transparent photos to RGB, and crops a photo
    that is not square to its centre.

    Args:
        content: the file's bytes.
        framing: the backbone's frame.
        name: the photo's name in errors.

    Returns:
        (side, side, 3) uint8, RGB.

    Raises:
        DataError: the file is not a photo, is cut short, or is far too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{name}: {width} x {height} px, wanted at most {MAX_PIXELS:,} pixels; "
                    "shrink it, or leave it out with --skip-unreadable"
                )
            turned = image.getexif().get(ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image) if turned else image
            if upright.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            rgb = upright.convert("RGB")
    except Image.DecompressionBombError:  # Pillow's own limit, at 179 million pixels
        raise DataError(
            f"{name}: far more than {MAX_PIXELS:,} pixels; shrink it, or leave it out with "
            "--skip-unreadable"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = "not a JPEG or PNG" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{name}: cannot be decoded ({reason}); wanted a whole JPEG or PNG; replace it, or "
            "leave it out with --skip-unreadable"
        ) from None
    return place_photo(rgb, framing)


def place_photo(image: Image.Image, framing: Framing) -> Pixels:
    """Puts the centre square of an RGB photo in the frame: (side, side, 3) uint8."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    box = (left, top, left + square, top + square)
    inner = image.resize((framing.inner, framing.inner), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(inner)
    if framing.inner == framing.side:
        return pixels
    below = max(0, framing.side - framing.inner - framing.top)
    right = max(0, framing.side - framing.inner - framing.left)
    sides = ((framing.top, below), (framing.left, right), (0, 0))
    return np.pad(pixels, sides, mode="edge")[: framing.side, : framing.side]


def read_photo(path: Path, framing: Framing) -> tuple[bytes, Pixels]:
    """A photo file's bytes and its pixels in the frame.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    content = read_file(path)
    return content, decode_photo(content, framing, str(path))


def read_file(path: Path) -> bytes:
    """A photo file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; wanted a photo") from None


def decode_all(
    paths: list[Path],
    framing: Framing,
    *,
    skip_unreadable: bool = False,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[Pixels, list[int]]:
    """Decodes all photos of a training run once.

    The array is in memory if it takes at most half of the free memory, else in a temporary file
    that vanishes with the process.

    Args:
        paths: (N,) photo files.
        framing: the backbone's frame.
        skip_unreadable: leave out photos that cannot be decoded.
        advance: called with the number of photos decoded since the last call.

    Returns:
        Pixels (N, side, side, 3), uint8 RGB, and the skipped rows (their pixels are 0).

    Raises:
        DataError: names the first photo that cannot be decoded, unless these are skipped.
    """
    shape = (len(paths), framing.side, framing.side, 3)
    pixels = _allocate(shape)
    skipped: list[int] = []

    def decode(row: int) -> None:
        try:
            pixels[row] = read_photo(paths[row], framing)[1]
        except DataError:
            if not skip_unreadable:
                raise
            skipped.append(row)

    with ThreadPoolExecutor(processors()) as pool:
        try:
            for _ in pool.map(decode, range(len(paths))):
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pixels, sorted(skipped)


def _allocate(shape: tuple[int, ...]) -> Pixels:
    """Zeros in memory, or in a file if they would take more than half of the free memory."""
    size = int(np.prod(shape))
    if size <= _free_memory() // 2:
        return np.zeros(shape, np.uint8)
    # Unlinked at once by TemporaryFile: nothing stays behind, however the process ends.
    file = tempfile.TemporaryFile(prefix="kinembed-photos-")  # noqa: SIM115
    file.truncate(size)
    return np.memmap(file, np.uint8, "r+", shape=shape)


def _free_memory() -> int:
    """Bytes of free memory, or 4 GiB if the system does not report it."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
