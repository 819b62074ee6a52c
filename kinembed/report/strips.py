"""A sheet of photo pairs with their predicted probabilities."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from kinembed.backbones import Framing
from kinembed.data.photos import read_photo
from kinembed.io import write_bytes

SIDE = 112  # of a photo, pixels
GAP, CAPTION, COLUMNS = 14, 34, 4


def draw_strips(pairs: Sequence[dict[str, Any]], data: Path, path: Path) -> Path:
    """Draws pairs of photos: first the false accepts, then the false rejects.

    Args:
        pairs: `photos`, two names; `kin`; `probability`; `relation`.
        data: the folder of the photos.
        path: where the PNG goes.
    """
    groups = [
        ("strangers with the highest scores", [pair for pair in pairs if not pair["kin"]]),
        ("relatives with the lowest scores", [pair for pair in pairs if pair["kin"]]),
    ]
    width = COLUMNS * (2 * SIDE + GAP) + GAP
    rows = sum(-(-len(group) // COLUMNS) for _, group in groups)
    sheet = Image.new("RGB", (width, rows * (SIDE + CAPTION) + 30 * len(groups)), "white")
    canvas = ImageDraw.Draw(sheet)
    top = 0
    for title, group in groups:
        canvas.text((GAP, top + 8), title, "black", font_size=15)
        top += 30
        for index, pair in enumerate(group):
            x = GAP + (index % COLUMNS) * (2 * SIDE + GAP)
            y = top + (index // COLUMNS) * (SIDE + CAPTION)
            for side, name in enumerate(pair["photos"]):
                pixels = read_photo(data / name, Framing(SIDE, SIDE))[1]
                sheet.paste(Image.fromarray(pixels), (x + side * SIDE, y))
                short = "/".join(name.split("/")[-3:]).rpartition(".")[0][-23:]
                canvas.text((x + side * SIDE, y + SIDE + 1), short, "black", font_size=9)
            caption = f"{pair['probability']:.3f} {pair['relation']}".strip()
            canvas.text((x, y + SIDE + 13), caption, "black", font_size=13)
        top += -(-len(group) // COLUMNS) * (SIDE + CAPTION)
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    return write_bytes(path, picture.getvalue())
