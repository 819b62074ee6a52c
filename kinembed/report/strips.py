"""A sheet of photo pairs with their predicted probabilities."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from kinembed.backbones import Framing
from kinembed.data.photos import read_photo
from kinembed.data.protocols import RELATIONS
from kinembed.io import write_bytes
from kinembed.printable import one_line

SIDE = 168  # of a photo, pixels
COLUMNS = 4
GAP, TITLE = 18, 38
NAME, TEXT = 12, 15  # sizes of letters
CAPTION = TEXT + 16  # a line of text, below a line for each name


def draw_strips(pairs: Sequence[dict[str, Any]], data: Path, path: Path) -> Path:
    """Draws pairs of photos, or triples: first the false accepts, then the false rejects.

    Args:
        pairs: `photos`, two or three names; `kin`; `probability`; `relation`.
        data: the folder of the photos.
        path: where the PNG goes.
    """
    groups = [
        ("not listed as kin, with the highest scores", [p for p in pairs if not p["kin"]]),
        ("kin with the lowest scores", [p for p in pairs if p["kin"]]),
    ]
    sides = max((len(pair["photos"]) for pair in pairs), default=2)
    width = COLUMNS * (sides * SIDE + GAP) + GAP
    height = SIDE + CAPTION + sides * (NAME + 3)
    rows = sum(-(-len(group) // COLUMNS) for _, group in groups)
    sheet = Image.new("RGB", (width, rows * height + TITLE * len(groups)), "white")
    canvas = ImageDraw.Draw(sheet)
    top = 0
    for title, group in groups:
        canvas.text((GAP, top + 10), title, "black", font_size=18)
        top += TITLE
        for index, pair in enumerate(group):
            x = GAP + (index % COLUMNS) * (sides * SIDE + GAP)
            y = top + (index // COLUMNS) * height
            below = y + SIDE + 3
            for side, name in enumerate(pair["photos"]):
                pixels = read_photo(data / name, Framing(SIDE, SIDE))[1]
                sheet.paste(Image.fromarray(pixels), (x + side * SIDE, y))
                line = below + side * (NAME + 3)
                canvas.text((x, line), fitted(name, sides * SIDE, NAME), "black", font_size=NAME)
            relation = RELATIONS.get(pair["relation"], pair["relation"])
            shown = fitted(relation, sides * SIDE - 60, TEXT)  # beside the number
            caption = f"{pair['probability']:.3f} {shown}".strip()
            canvas.text((x, below + sides * (NAME + 3)), caption, "black", font_size=TEXT)
        top += -(-len(group) // COLUMNS) * height
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    return write_bytes(path, picture.getvalue())


def fitted(name: str, width: int, size: int) -> str:
    """A name, escaped, of at most `width` pixels in letters of `size`, cut at its left."""
    name = one_line(name)
    name = f"…{name[-width:]}" if len(name) > width else name  # no letter is narrower than a pixel
    font = ImageFont.load_default(size)
    if font.getlength(name) <= width:
        return name
    for start in range(1, len(name)):
        shorter = "…" + name[start:]
        if font.getlength(shorter) <= width:
            return shorter
    return ""
