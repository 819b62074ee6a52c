"""Photos from files to uint8 arrays in a backbone's frame."""

import io
import logging
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, features

from kinembed.backbones import Framing
from kinembed.data.packed import MAX_BYTES, too_large
from kinembed.data.parquet_photos import read_cell
from kinembed.data.photo_formats import (
    FORMATS,
    ORIENTATION,
    Format,
    count_scans,
    essence,
    photo_format,
)
from kinembed.data.tar_photos import read_member
from kinembed.errors import DataError
from kinembed.memory import free_memory
from kinembed.threads import processors

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000  # a larger photo is a mistake or a decompression bomb, not a face
# Larger JPEGs are read at a fraction of their size, which takes no memory for the whole.
MAX_JPEG_PIXELS = 256_000_000
MAX_COEFFICIENTS = 512 << 20  # bytes that a JPEG's decoder holds if it comes in several scans
MAX_SCANS = 100  # of a progressive JPEG; usual are 10
# A photo of more pixels than these, and of more than so many for each byte, is a decompression
# bomb: flat colours have at most 350 a byte in a JPEG or PNG.
SMALL_PIXELS, PIXELS_A_BYTE = 16_000_000, 1000

# Of each format: the module and class of Pillow that reads it, or of pillow-heif.
DECODERS: dict[Format, tuple[str, str]] = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif.as_plugin", "HeifImageFile"),
}
TURNS = {  # by EXIF's number
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_photo(content: bytes, framing: Framing, name: str) -> Pixels:
    """Decodes a photo file and places it in a backbone's frame.

    The bytes tell the format, whatever the file is called. Turns the photo as the EXIF tag
    Orientation says and ignores all other metadata, turns grey, palette and transparent photos to
    RGB, and crops a photo that is not square to its centre. Of several pictures in a file, it takes
    the first.

    Args:
        content: the file's bytes.
        framing: the backbone's frame.
        name: the photo's name in errors.

    Returns:
        (side, side, 3) uint8, RGB.

    Raises:
        DataError: the file is not a photo, is damaged or cut short, or is far too large.
    """
    with _explained(name):
        return place_photo(_decode(content, 4 * framing.inner).image, framing)


@dataclass(frozen=True)
class Decoded:
    """A decoded photo.

    Attributes:
        image: upright, RGB.
        shrunk: how many times smaller than the file's it is: 1, 2, 4 or 8.
    """

    image: Image.Image
    shrunk: int = 1


def decode_upright(content: bytes, name: str, shrink: int = 1) -> Decoded:
    """Decodes a whole photo as `decode_photo` does, in its own size and shape.

    Args:
        content: the file's bytes.
        name: the photo's name in errors.
        shrink: how many times smaller a JPEG may be, which is read faster.

    Raises:
        DataError: as of `decode_photo`.
    """
    with _explained(name):
        return _decode(content, shrink=shrink)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an error that names the photo."""
    try:
        yield
        return
    except MemoryError:
        reason = "not enough memory"
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise DataError(
        f"{name}: cannot be decoded ({reason}); wanted a whole {FORMATS}; replace it, or leave it "
        "out with --skip-unreadable"
    )


def _decode(content: bytes, least: int | None = None, shrink: int = 1) -> Decoded:
    """The upright RGB photo; a JPEG of more than `MAX_PIXELS` in a fraction.

    Args:
        content: the file's bytes.
        least: sides in pixels that such a fraction has at least; None: it has as many as it may.
        shrink: how many times smaller any JPEG may be.
    """
    kind = photo_format(content)
    if kind is None:
        raise ValueError("not a photo")
    file = essence(content, kind)
    limit = MAX_PIXELS
    if kind == "JPEG":
        limit = min(MAX_JPEG_PIXELS, int(MAX_COEFFICIENTS / max(1.0, file.pixel_bytes)))
    if file.size is not None:
        _check_size(*file.size, len(content), limit)
    if kind == "JPEG" and (scans := count_scans(file.content)) > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans:,} scans, wanted at most {MAX_SCANS}")
    image = _open(kind, file.content)
    _check_size(*image.size, len(content), limit)
    width, height = image.size
    is_large = math.prod(image.size) > MAX_PIXELS
    while is_large and math.prod(image.size) > MAX_PIXELS * shrink**2:
        shrink *= 2
    if is_large and least is not None:
        image.draft(None, (least, least))
    elif shrink > 1:
        image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
    if is_large:
        _check_size(*image.size, len(content), MAX_PIXELS)
    scales = (s for s in (1, 2, 4, 8) if image.size == (-(-width // s), -(-height // s)))
    shrunk = next(scales, 8)
    orientation = file.orientation
    if kind == "AVIF":  # as its decoder says of the picture, in the words of EXIF
        orientation = image.getexif().get(ORIENTATION, 1)
    image.load()
    upright: Image.Image = image
    if orientation in TURNS:
        upright = image.transpose(TURNS[orientation])
    if upright.mode.startswith(("I", "F")):  # deeper than 8 bits: Pillow would clip it at 255
        has_range = kind == "TIFF" and upright.mode in ("I", "F")
        upright = Image.fromarray(_grey(np.asarray(upright), has_range))
    return Decoded(upright if upright.mode == "RGB" else upright.convert("RGB"), shrunk)


def _grey(values: NDArray[Any], has_range: bool) -> Pixels:
    """(H, W) grey values of 8 bits, of deeper ones.

    Args:
        values: (H, W) whole numbers or fractions.
        has_range: their largest tells whether 1, 255 or 65,535 is white; else it is 65,535. Whole
            numbers of 32 bits and fractions have no white of their own.
    """
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= 0xFFFF):
        raise ValueError(f"grey values from {least:.4g} to {most:.4g}, wanted 0 to 65,535")
    grey: NDArray[Any] = values.astype(np.uint16) >> 8
    if has_range and most <= 1 and values.dtype.kind == "f":
        grey = np.rint(values * 255)
    elif has_range and most <= 0xFF:
        grey = np.rint(values)
    return grey.astype(np.uint8)


def _check_size(width: int, height: int, size: int, limit: int) -> None:
    """Refuses a photo before it takes memory or time.

    Args:
        width: in pixels.
        height: in pixels.
        size: of the file, in bytes.
        limit: the number of pixels.
    """
    pixels = width * height
    if pixels > limit:
        raise ValueError(f"{width} x {height} px, wanted at most {limit:,} pixels; shrink it")
    if pixels > max(SMALL_PIXELS, PIXELS_A_BYTE * size):
        raise ValueError(f"{width} x {height} px in {size:,} bytes, a decompression bomb")


def _open(kind: Format, content: bytes) -> ImageFile.ImageFile:
    """A photo whose size is known, not yet decoded.

    The class is called itself: `Image.open` warns of JPEGs over 89 million pixels and refuses those
    over 179 million, which are read at a fraction here.
    """
    module, name = DECODERS[kind]
    try:
        decoder = getattr(import_module(module), name)
    except ImportError:
        decoder = None
    if decoder is None or (kind in ("WebP", "AVIF") and not features.check(kind.lower())):
        raise ValueError(
            "a HEIC; run pip install 'kinembed[heic]'"
            if kind == "HEIC"
            else f"this Pillow reads no {kind}; run pip install --upgrade pillow"
        )
    image: ImageFile.ImageFile = decoder(io.BytesIO(content))
    return image


def place_photo(image: Image.Image, framing: Framing) -> Pixels:
    """Puts the centre square of an RGB photo in the frame: (side, side, 3) uint8."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    box = (left, top, left + square, top + square)
    inner = image.resize((framing.inner, framing.inner), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(inner)
    if framing.inner == framing.side and not framing.top and not framing.left:
        return pixels
    positions = np.arange(framing.side)
    rows = np.clip(positions - framing.top, 0, framing.inner - 1)
    columns = np.clip(positions - framing.left, 0, framing.inner - 1)
    return pixels[rows][:, columns]


def read_photo(path: Path, framing: Framing) -> tuple[bytes, Pixels]:
    """A photo file's bytes and its pixels in the frame.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    content = read_file(path)
    return content, decode_photo(content, framing, str(path))


def without_advice(error: DataError) -> DataError:
    """An error of a photo without what `embed` takes to leave it out."""
    return DataError(re.split("; (?:replace|remove) it, or leave it out", str(error))[0])


def read_file(path: Path) -> bytes:
    """A photo file's bytes. Devices, pipes and sockets are not opened; links to files are followed.

    Raises:
        DataError: it cannot be read, is no regular file, or is far too large.
    """
    try:
        _check_regular(path, path.stat())
        # should a pipe take its place now, this does not wait for the other end
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
        with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(path, status)
            return file.read(status.st_size)
    except NotADirectoryError as error:  # the path may lead through a tar or parquet file
        content = read_member(path, MAX_BYTES)
        if content is None:
            content = read_cell(path, MAX_BYTES)
        if content is None:
            raise DataError(f"{path}: {error.strerror}; wanted a photo") from None
        return content
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; wanted a photo") from None
    except ValueError:
        raise DataError(f"{str(path)!r}: no name of a file; wanted a photo") from None


def _check_regular(path: Path, status: os.stat_result) -> None:
    """Refuses what is no file, or too large, before it is read."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        kind = kinds.get(stat.S_IFMT(status.st_mode), "no file")
        raise DataError(
            f"{path}: is {kind}; wanted a photo; remove it, or leave it out with --skip-unreadable"
        )
    if status.st_size > MAX_BYTES:
        raise too_large(path, status.st_size, MAX_BYTES)


def log_skipped(error: DataError) -> None:
    """Says why a photo is left out, without what to do about it."""
    log.info("%s", str(error).partition("; wanted")[0])


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
        except DataError as error:
            if not skip_unreadable:
                raise
            log_skipped(error)
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
    free = free_memory()
    if size <= (4 << 30 if free is None else free) // 2:
        return np.zeros(shape, np.uint8)
    # Unlinked at once by TemporaryFile: nothing stays behind, however the process ends.
    file = tempfile.TemporaryFile(prefix="kinembed-photos-")  # noqa: SIM115
    file.truncate(size)
    return np.memmap(file, np.uint8, "r+", shape=shape)
