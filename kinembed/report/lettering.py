"""Lines of text on pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from kinembed.io import write_bytes
from kinembed.printable import one_line
from kinembed.report.strips import fitted

LEADING = 6  # pixels below a line

Line = tuple[str, int, str]  # text, size of its letters, colour


def wrapped(text: str, size: int, width: int) -> list[str]:
    """A text in lines of at most `width` pixels; a longer word is cut."""
    font = ImageFont.load_default(size)
    result = [""]
    for word in one_line(text).split(" "):
        longer = f"{result[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            result[-1] = longer
        else:
            result.append(word if font.getlength(word) <= width else fitted(word, width, size))
    return [line for line in result if line]


def height_of(lines: Sequence[Line]) -> int:
    """Pixel rows that lines take."""
    return sum(size + LEADING for _, size, _ in lines)


def write_lines(canvas: ImageDraw.ImageDraw, lines: Sequence[Line], left: int, top: int) -> int:
    """Writes lines, each of a size and colour; returns the pixel row below them."""
    for text, size, colour in lines:
        canvas.text((left, top), text, colour, font_size=size)
        top += size + LEADING
    return top


def saved(sheet: Image.Image, path: Path) -> Path:
    """Writes a picture as PNG that says who drew it: another call may replace it."""
    about = PngInfo()
    about.add_text("Software", "kinembed")
    picture = io.BytesIO()
    sheet.save(picture, "PNG", optimize=True, pnginfo=about)
    return write_bytes(path, picture.getvalue())
