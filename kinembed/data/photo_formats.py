"""Photo files as bytes: their format, their rotation, and the part that makes pixels.

Decoders also read metadata, and stumble over it. So metadata is cut out here before a decoder sees
the file, and all that is used of it is the EXIF tag Orientation.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Format = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF", "HEIC"]
FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC"

# Files of a folder that are taken for photos. The bytes, not the suffix, then tell the format. Of
# files without a suffix, those are photos whose first bytes say so.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".hif"),
)
HEAD = 256  # bytes of a file that tell its format

ORIENTATION = 0x0112  # tag of EXIF and TIFF
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@dataclass(frozen=True)
class Essence:
    """What of a photo file makes pixels.

    Attributes:
        content: the file without its metadata.
        orientation: how to turn the pixels, 1 to 8, as EXIF counts; 1: not at all.
        pixel_bytes: of memory for each pixel, for the coefficients of a JPEG that comes in several
            scans; 0 where one scan has all of the photo.
        size: width and height, where the decoder would not tell them before it needs the memory.
    """

    content: bytes
    orientation: int = 1
    pixel_bytes: float = 0.0
    size: tuple[int, int] | None = None


def photo_format(head: bytes) -> Format | None:
    """The format of a photo file by its first bytes (`HEAD` are enough); None if it is no photo."""
    starts: tuple[tuple[bytes, Format], ...] = (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    )
    for start, name in starts:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[at : at + 4] for at in (8, *range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & HEIC_BRANDS:
            return "HEIC"
    return None


def looks_like_photo(path: str) -> bool:
    """Whether a file of a folder is taken for a photo: by its suffix or, without any, its bytes."""
    name = os.path.basename(path).lower()
    if name.endswith(PHOTO_SUFFIXES):
        return True
    if "." in name or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return photo_format(file.read(HEAD)) is not None
    except OSError:
        return False


def essence(content: bytes, kind: Format) -> Essence:
    """Cuts the metadata out of a photo file, and reads its rotation.

    Whatever is malformed stays as it is, for the decoder to judge.

    Raises:
        ValueError: a TIFF is packed in a way that is not read.
    """
    cut = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WebP": _webp, "AVIF": _heif, "HEIC": _heif}
    return cut[kind](content) if kind in cut else Essence(content)


def read_orientation(exif: bytes) -> int:
    """The rotation in an EXIF block, 1 to 8; 1 where there is none, or it is broken."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return next(iter(_Directory(exif).numbers(ORIENTATION, range(1, 9))), 1)


# JPEG: ITU-T T.81, annex B


def _jpeg(content: bytes) -> Essence:
    """Leaves out all application segments but those that tell libjpeg the colours, and comments."""
    view, kept, exif = memoryview(content), [content[:2]], []
    at, components, progressive, pixel_bytes = 2, 0, False, 8.0  # of four layers
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a byte that only fills
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker <= 1 or 0xD0 <= marker <= 0xD9 or end < at + 4 or end > len(content):
            break
        body = content[at + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 9:
            components, progressive = body[5], marker in (0xC2, 0xC6, 0xCA, 0xCE)
            layers = [max(1, each >> 4) * max(1, each & 15) for each in body[7::3]]
            pixel_bytes = 2 * sum(layers) / max(layers)
        if marker == 0xDA:
            if body and body[0] >= components and not progressive:
                pixel_bytes = 0.0
            break
        colours = (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
            marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        )
        if colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at:end])
        at = end
    return Essence(b"".join([*kept, view[at:]]), read_orientation(b"".join(exif)), pixel_bytes)


def count_scans(content: bytes) -> int:
    """How often a JPEG goes over the whole photo; each time costs as much as decoding it."""
    return content.count(b"\xff\xda")


# PNG: https://www.w3.org/TR/png-3/


def _png(content: bytes) -> Essence:
    """Leaves out all chunks that a decoder may ignore."""
    view, kept, exif, at = memoryview(content), [memoryview(content)[:8]], b"", 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content):
            break
        name = content[at + 4 : at + 8]
        if name == b"eXIf":
            exif = content[at + 8 : end - 4]
        if not name[0] & 0x20:  # a capital: critical
            kept.append(view[at:end])
        at = end
        if name == b"IEND":
            return Essence(b"".join(kept), read_orientation(exif))
    return Essence(b"".join([*kept, view[at:]]), read_orientation(exif))


# WebP: RFC 9649


def _webp(content: bytes) -> Essence:
    """Reads EXIF and the size; the decoder ignores metadata, but takes memory when it opens."""
    exif, size, at = b"", None, 12
    while at + 8 <= len(content):
        name, start = content[at : at + 4], at + 8
        end = start + int.from_bytes(content[at + 4 : at + 8], "little")
        body = content[start : min(end, start + 10)]
        if name == b"EXIF":
            exif = content[start:end]
        elif size is None and len(body) == 10:
            size = _webp_size(name, body)
        at = end + end % 2
    return Essence(content, read_orientation(exif), size=size)


def _webp_size(name: bytes, body: bytes) -> tuple[int, int] | None:
    if name == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


# AVIF and HEIC: ISO/IEC 23008-12. Their rotation is a property of the picture; decoders apply it.


def _heif(content: bytes) -> Essence:
    """Renames the items that hold EXIF and XMP, so that no decoder looks into them."""
    at = 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big") or len(content) - at
        if content[at + 4 : at + 8] == b"meta":
            items = rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)"
            meta = re.sub(items, rb"\1skip", content[at : at + size], flags=re.DOTALL)
            return Essence(content[:at] + meta + content[at + size :])
        if size < 8:  # 1: the size has 8 bytes, which no file needs before its pictures
            break
        at += size
    return Essence(content)


# TIFF 6.0, and BigTIFF

# Tags that pixels need: NewSubfileType to StripOffsets, SamplesPerPixel to StripByteCounts,
# PlanarConfiguration, Predictor, ColorMap, tiles, ExtraSamples, SampleFormat, JPEGTables, YCbCr.
TIFF_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325),
    *(338, 339, 347, 529, 530, 531, 532),
}
COMPRESSION, TILE_WIDTH, TILE_LENGTH = 259, 322, 323
# None, LZW, JPEG, Deflate by both numbers, PackBits. Others take memory that the file names.
COMPRESSIONS = {1, 5, 7, 8, 32946, 32773}


class _Directory:
    """The first directory of a TIFF, which EXIF is as well.

    Attributes:
        entries: tag, type, count and the bytes that hold the value or say where it is.
    """

    def __init__(self, tiff: bytes) -> None:
        self.order = ">" if tiff[:2] == b"MM" else "<"
        self.big = tiff[:4] in (b"II+\0", b"MM\0+")
        self.entries: list[tuple[int, int, int, bytes]] = []
        if photo_format(tiff) != "TIFF":
            return
        where, count, self.entry = ("8xQ", "Q", "HHQ8s") if self.big else ("4xI", "H", "HHI4s")
        try:
            (start,) = struct.unpack_from(self.order + where, tiff)
            (entries,) = struct.unpack_from(self.order + count, tiff, start)
            size = struct.calcsize(self.order + self.entry)
            start += struct.calcsize(self.order + count)
            for at in range(start, min(start + entries * size, len(tiff) - size + 1), size):
                self.entries.append(struct.unpack_from(self.order + self.entry, tiff, at))
        except (struct.error, OverflowError):  # it lies outside of the file
            return

    def numbers(self, tag: int, allowed: range) -> Iterator[int]:
        """The single whole numbers of a tag, the last one first."""
        forms = {3: "H", 4: "I", 8: "h", 9: "i"}  # SHORT, LONG and the signed ones
        for its_tag, kind, count, value in reversed(self.entries):
            if its_tag == tag and count == 1 and kind in forms:
                (number,) = struct.unpack_from(self.order + forms[kind], value)
                if number in allowed:
                    yield number

    def written(self, tags: set[int]) -> bytes:
        """The directory with these tags only, as the last one of a file."""
        kept = [entry for entry in self.entries if entry[0] in tags]
        count, following = ("Q", "Q") if self.big else ("H", "I")
        head = struct.pack(self.order + count, len(kept))
        entries = [struct.pack(self.order + self.entry, *entry) for entry in kept]
        return b"".join([head, *entries, struct.pack(self.order + following, 0)])


def _tiff(content: bytes) -> Essence:
    """Writes a directory of just the tags that make pixels; the values stay where they are."""
    directory = _Directory(content)
    anything = range(1 << 32)
    compression = next(iter(directory.numbers(COMPRESSION, anything)), 1)
    if compression not in COMPRESSIONS:
        raise ValueError(f"TIFF of compression {compression}; save it as PNG")
    size = None
    tile = [next(iter(directory.numbers(tag, anything)), 0) for tag in (TILE_WIDTH, TILE_LENGTH)]
    if all(tile):  # the decoder makes room for a whole one
        size = (tile[0], tile[1])
    start = len(content) + len(content) % 2
    offset = struct.pack(directory.order + ("Q" if directory.big else "I"), start)
    head = content[:8] + offset if directory.big else content[:4] + offset
    padded = content[len(head) :] + bytes(start - len(content))
    orientation = next(iter(directory.numbers(ORIENTATION, range(1, 9))), 1)
    return Essence(head + padded + directory.written(TIFF_TAGS), orientation, size=size)
