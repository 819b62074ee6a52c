"""Decodes damaged photos of every format, a process for many of them, under limits.

    python benchmarks/mutate_photos.py --files 5000

Each file is a whole one with changed bytes, mostly in its first ones, a cut, bytes of another place
or another length in a header. Each has to be decoded or refused in one line, in 5 seconds, and
within 512 MiB: a photo may say that it is large. A crash or any other exception ends the run.
"""

import argparse
import io
import resource
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec

import numpy as np
from PIL import Image, features

from kinembed.backbones import Framing
from kinembed.data.photo_formats import photo_format
from kinembed.data.photos import decode_photo
from kinembed.errors import DataError

LIMIT, MEMORY = 5.0, 512  # seconds, MiB
PART = 500  # files of a process


def whole(kind: str) -> bytes:
    """A photo of a format, with metadata where it can have some."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8))
    image = small.resize((64, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Camera", 72.0
    options: dict[str, object] = {} if kind in ("BMP", "GIF", "TIFF") else {"exif": exif.tobytes()}
    if kind in ("JPEG", "PNG", "WebP", "TIFF"):
        options["icc_profile"] = bytes(200)
    if kind == "JPEG":
        options["comment"] = b"a comment"
    if kind == "progressive JPEG":
        kind, options["progressive"] = "JPEG", True
    if kind in ("deflated TIFF", "JPEG TIFF"):
        compression = {"deflated": "tiff_adobe_deflate", "JPEG": "jpeg"}[kind.split()[0]]
        kind, options = "TIFF", {"compression": compression}
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener()
        kind = "HEIF"
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def kinds() -> list[str]:
    """The formats that can be tried here."""
    found = ["JPEG", "progressive JPEG", "PNG", "BMP", "TIFF", "deflated TIFF", "JPEG TIFF", "GIF"]
    found += [kind for kind in ("WebP", "AVIF") if features.check(kind.lower())]
    return found + (["HEIC"] if find_spec("pillow_heif") else [])


def mutant(content: bytes, number: int) -> bytes:
    """One damaged file."""
    rng = np.random.default_rng([11, number])
    spoilt = bytearray(content)
    kind = number % 8
    early = min(len(content), 700)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        start, other = rng.integers(len(content) - 16, size=2)
        spoilt[start : start + 16] = content[other : other + 16]
    elif kind == 2:  # what a length, size or count may be at worst
        at = int(rng.integers(early - 4))
        worst = (b"\xff\xff\xff\xff", b"\x7f\xff", b"\x00\x00\x00\x00", b"\xff\xff", b"\x00\x20")
        value = worst[rng.integers(len(worst))]
        spoilt[at : at + len(value)] = value
    elif kind == 3:  # something twice
        start, length = int(rng.integers(early)), int(rng.integers(1, 300))
        spoilt[start:start] = content[start : start + length] * int(rng.integers(1, 20))
    else:
        reach = len(content) if kind == 4 else early
        for at in rng.integers(reach, size=2 ** rng.integers(6)).tolist():
            spoilt[at] = int(rng.integers(256))
    return bytes(spoilt)


def watch(kind: str, first: int, stop: int) -> None:
    """Decodes files one after the other; any of the limits broken ends the process."""
    content, framing = whole(kind), Framing(112, 112)
    decode_photo(content, framing, "whole")  # imports what it needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, slowest = {"decoded": 0, "refused": 0}, 0.0
    for number in range(first, stop):
        start = time.perf_counter()
        spoilt = mutant(content, number)
        try:
            pixels = decode_photo(spoilt, framing, "photo")
            assert pixels.shape == (112, 112, 3) and pixels.dtype == np.uint8
            counts["decoded"] += 1
        except DataError as error:
            text = str(error)
            assert text.startswith("photo: cannot be decoded (") and text.isprintable(), text
            counts["refused"] += 1
        seconds = time.perf_counter() - start
        slowest = max(slowest, seconds)
        if seconds > LIMIT:
            sys.exit(f"{kind} {number} ({photo_format(spoilt)}): took {seconds:.1f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEMORY:
        sys.exit(f"{kind}, files {first} to {stop - 1}: grew by {grown:.0f} MiB")
    print(f"{kind} {first} to {stop - 1}: {counts}, {slowest:.2f} s at most, +{grown:.0f} MiB")


def main() -> None:
    """Has the files of each format decoded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="of each format")
    parser.add_argument("--formats", nargs="+", default=kinds())
    parser.add_argument("--first", type=int, help="decode in this process, from this file on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.first is not None:
        for kind in options.formats:
            watch(kind, options.first, options.files)
        return
    for kind in options.formats:
        for first in range(0, options.files, PART):
            stop = min(first + PART, options.files)
            command = [sys.executable, __file__, "--formats", kind, "--first", str(first)]
            if code := subprocess.run([*command, "--files", str(stop)]).returncode:
                sys.exit(f"{kind}: a process ended with {code}")  # negative: a crash


if __name__ == "__main__":
    main()
