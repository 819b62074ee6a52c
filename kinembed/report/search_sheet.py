"""A contact sheet of a search: the probe, who is rather the same person, and the likeliest kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kinembed.backbones import Framing
from kinembed.data.photos import Pixels, read_photo
from kinembed.errors import DataError
from kinembed.report.compare_picture import GAP, GREY, INK, SMALL, TEXT
from kinembed.report.lettering import LEADING, height_of, saved, wrapped, write_lines
from kinembed.report.strips import fitted

SIDE = 192  # of a face, pixels
COLUMNS = 5
NAME = 14  # size of letters
LINES = 2  # below a name


@dataclass(frozen=True)
class Card:
    """Somebody who is found.

    Attributes:
        title: who it is, with the rank.
        photo: the file, which may be missing; None: it shows somebody else by now.
        lines: what is said of them, at most `LINES`.
    """

    title: str
    photo: Path | None
    lines: Sequence[str]


def draw_sheet(
    title: str,
    note: str,
    probe: Pixels | None,
    groups: Sequence[tuple[str, Sequence[Card]]],
    small_print: Sequence[str],
    path: Path,
) -> Path:
    """Draws a probe and who is found, in rows of `COLUMNS`.

    Args:
        title: the probe, as the user named it.
        note: what was taken of it.
        probe: its face; None: it is not at hand.
        groups: a heading and the people below it, each.
        small_print: what the numbers hold for, a line each; long ones are wrapped.
        path: where the PNG goes.
    """
    inner = COLUMNS * SIDE + (COLUMNS - 1) * GAP
    width = inner + 2 * GAP
    prints = [(line, SMALL, GREY) for text in small_print for line in wrapped(text, SMALL, inner)]
    card = SIDE + LEADING + NAME + LEADING + LINES * (NAME + LEADING) + GAP
    shown = [(heading, cards) for heading, cards in groups if cards]
    heights = [TEXT + 2 * LEADING + card * -(-len(cards) // COLUMNS) for _, cards in shown]
    height = GAP + SIDE + GAP + sum(heights) + height_of(prints) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(sheet)
    sheet.paste(_face(probe), (GAP, GAP))
    beside = 2 * GAP + SIDE
    lines = [(fitted(title, inner - SIDE - GAP, TEXT), TEXT, INK)]
    lines += [(line, SMALL, GREY) for line in wrapped(note, SMALL, inner - SIDE - GAP)]
    write_lines(canvas, lines, beside, GAP)
    top = GAP + SIDE + GAP
    for (heading, cards), size in zip(shown, heights, strict=True):
        canvas.text((GAP, top), fitted(heading, inner, TEXT), INK, font_size=TEXT)
        for number, each in enumerate(cards):
            left = GAP + number % COLUMNS * (SIDE + GAP)
            at = top + TEXT + 2 * LEADING + number // COLUMNS * card
            sheet.paste(_face(None if each.photo is None else _read(each.photo)), (left, at))
            texts = [(fitted(each.title, SIDE, NAME), NAME, INK)]
            texts += [(fitted(line, SIDE, NAME), NAME, GREY) for line in each.lines[:LINES]]
            write_lines(canvas, texts, left, at + SIDE + LEADING)
        top += size
    write_lines(canvas, prints, GAP, top)
    return saved(sheet, path)


def _read(path: Path) -> Pixels | None:
    """A photo as the network sees it; None if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return read_photo(path, Framing(SIDE, SIDE))[1]
    except DataError:
        return None


def _face(pixels: Pixels | None) -> Image.Image:
    """A face, or a grey field that says that it is not at hand."""
    if pixels is not None:
        whole = Image.fromarray(np.ascontiguousarray(pixels))
        return whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    field = Image.new("RGB", (SIDE, SIDE), "#e4e4e4")
    canvas = ImageDraw.Draw(field)
    canvas.text((SIDE / 2, SIDE / 2), "not in --data", GREY, font_size=NAME, anchor="mm")
    return field
