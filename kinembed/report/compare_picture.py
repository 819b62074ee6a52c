"""Pictures of an answer: the faces as found, and the regions of them that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kinembed.arrays import Float
from kinembed.data.photos import Pixels
from kinembed.inference.words import NAMES, rounded
from kinembed.report.lettering import LEADING, height_of, saved, wrapped, write_lines
from kinembed.report.strips import fitted

if TYPE_CHECKING:
    from kinembed.inference.explain import Regions

SIDE = 340  # of a face, pixels
GAP = 24
LARGE, TEXT, SMALL = 26, 19, 16  # sizes of letters
BAR = 34
SMALLER = 104  # a photograph with its faces marked, or another photo of the person
FEW = 3  # of these below a face
INK, GREY, LINE, MARK = "#1b1b1b", "#6a6a6a", "#c9c9c9", (255, 176, 0)
# Of the three answers, as in the report kin is blue; they are distinguished without colour too.
COLOURS = ("#3d8b63", "#1f6fc0", "#8a8a8a")
LOWERS, RAISES = (31, 111, 192), (214, 92, 0)  # regions without which kin is less likely, and more
STRONGEST = 0.62  # of a region's colour over the face
NO_PROOF = (
    "Such a map shows what this network's answer changes with when one region at a time is "
    "blurred. It does not show which features a family shares, nor why: regions act together, a "
    "blurred face is like none that the network learnt from, and light or age weigh like any "
    "feature."
)


@dataclass(frozen=True)
class Shown:
    """One person as shown.

    Attributes:
        title: who it is, as the user named them.
        note: which face was taken, and of how many.
        crops: the faces, (P, side, side, 3) uint8; the first is shown large.
        photograph: the upright photo that the first is from, with `boxes`; None: it is the crop.
        boxes: (F, 4) left, top, right, bottom of the faces found on it, in pixels, by number.
        taken: the row of the face that was taken.
    """

    title: str
    note: str
    crops: Pixels
    photograph: Pixels | None = None
    boxes: NDArray[np.floating[Any]] | None = None
    taken: int = 0


def draw_answer(
    people: Sequence[Shown],
    answer: str,
    probabilities: Sequence[float] | None,
    small_print: Sequence[str],
    path: Path,
) -> Path:
    """Draws two or three people side by side, and below them the answer.

    Args:
        people: them.
        answer: in words.
        probabilities: of the three answers, for a bar; None: no bar.
        small_print: what the answer holds for, a line each; long ones are wrapped.
        path: where the PNG goes.
    """
    width = GAP + len(people) * (SIDE + GAP)
    inner = width - 2 * GAP
    texts = [(line, LARGE, INK) for line in wrapped(answer, LARGE, inner)]
    prints = [(line, SMALL, GREY) for text in small_print for line in wrapped(text, SMALL, inner)]
    has_more = any(len(each.crops) > 1 or each.photograph is not None for each in people)
    faces = 2 * (TEXT + LEADING) + SIDE + (LEADING + SMALLER if has_more else 0)
    height = GAP + faces + GAP + height_of(texts) + height_of(prints) + GAP
    height += GAP + (BAR + TEXT + 3 * LEADING if probabilities is not None else 0)
    sheet = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, person in enumerate(people):
        _draw_person(sheet, canvas, person, GAP + number * (SIDE + GAP), GAP)
    top = GAP + faces + GAP
    top = write_lines(canvas, texts, GAP, top)
    if probabilities is not None:
        top = _draw_bar(canvas, probabilities, GAP, top + LEADING, inner)
    write_lines(canvas, prints, GAP, top + GAP)
    return saved(sheet, path)


def draw_regions(people: Sequence[Shown], result: Regions, path: Path) -> Path:
    """Draws two faces under their maps, a legend, and what such maps cannot say.

    Args:
        people: two.
        result: what each region of their faces changes.
        path: where the PNG goes.
    """
    width = GAP + 2 * (SIDE + GAP)
    inner = width - 2 * GAP
    several = max(len(person.crops) for person in people) > 1
    of_all = ", in all of the person's photos at once" if several else ""
    legend = (
        f"Blue: blurring the region{of_all} lowers the log odds of kin, which are "
        f"{result.log_odds:+.2f}. Orange: it raises them. The number is the change."
    )
    lines = [(line, TEXT, INK) for line in wrapped(legend, TEXT, inner)]
    warning = [(line, SMALL, GREY) for line in wrapped(NO_PROOF, SMALL, inner)]
    scale = BAR + TEXT + 2 * LEADING
    height = (
        GAP + TEXT + LEADING + SIDE + GAP + scale + height_of(lines) + height_of(warning) + 2 * GAP
    )
    sheet = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(sheet)
    largest = max(result.largest, 1e-9)
    for number, person in enumerate(people):
        left = GAP + number * (SIDE + GAP)
        canvas.text((left, GAP), fitted(person.title, SIDE, TEXT), INK, font_size=TEXT)
        face = _map(person.crops[0], result.falls[number], largest)
        sheet.paste(face, (left, GAP + TEXT + LEADING))
    top = GAP + TEXT + LEADING + SIDE + GAP
    _draw_scale(sheet, canvas, largest, GAP, top, inner)
    top = write_lines(canvas, lines, GAP, top + scale + GAP // 2)
    write_lines(canvas, warning, GAP, top + GAP // 2)
    return saved(sheet, path)


def _draw_person(
    sheet: Image.Image, canvas: ImageDraw.ImageDraw, person: Shown, left: int, top: int
) -> None:
    canvas.text((left, top), fitted(person.title, SIDE, TEXT), INK, font_size=TEXT)
    top += TEXT + LEADING
    canvas.text((left, top), fitted(person.note, SIDE, SMALL), GREY, font_size=SMALL)
    top += TEXT + LEADING
    sheet.paste(_sized(person.crops[0], SIDE, SIDE), (left, top))
    top += SIDE + LEADING
    right = left + SIDE
    if person.photograph is not None:
        marked = _marked(person)
        sheet.paste(marked, (left, top))
        left += marked.width + LEADING
    for crop in person.crops[1 : 1 + FEW]:
        if left + SMALLER > right:  # beside a photograph there is less room
            break
        sheet.paste(_sized(crop, SMALLER, SMALLER), (left, top))
        left += SMALLER + LEADING


def _marked(person: Shown) -> Image.Image:
    """The photograph, small, with a numbered box around each face."""
    assert person.photograph is not None
    height, width = person.photograph.shape[:2]
    scale = min(SMALLER / height, SIDE / 2 / width)
    shown = _sized(person.photograph, max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = ImageDraw.Draw(shown)
    boxes = np.zeros((0, 4)) if person.boxes is None else person.boxes
    for number, box in enumerate(boxes):
        colour = MARK if number == person.taken else (255, 255, 255)
        left, top, right, bottom = (box * scale).tolist()
        canvas.rectangle((left, top, right, bottom), outline=colour, width=2)
        if len(boxes) > 1:
            at = (left + 3, top + 1)
            canvas.text(at, str(number + 1), colour, font_size=SMALL, stroke_width=1,
                        stroke_fill="black")  # fmt: skip
    return shown


def _draw_bar(
    canvas: ImageDraw.ImageDraw, probabilities: Sequence[float], left: int, top: int, width: int
) -> int:
    """A bar in three parts with their names; returns the pixel row below it."""
    at = float(left)
    for colour, probability in zip(COLOURS, probabilities, strict=True):
        until = at + probability * width
        canvas.rectangle((round(at), top, round(until), top + BAR), fill=colour)
        at = until
    canvas.rectangle((left, top, left + width, top + BAR), outline=LINE)
    top += BAR + LEADING
    texts = [f"{name} {shown}" for name, shown in zip(NAMES, rounded(probabilities), strict=True)]
    font = ImageFont.load_default(TEXT)
    widths = [TEXT + 2 + font.getlength(text) for text in texts]
    between = (width - sum(widths)) / (len(texts) - 1)
    at = float(left)
    for colour, text, wide in zip(COLOURS, texts, widths, strict=True):
        canvas.rectangle((at, top + 4, at + TEXT - 5, top + TEXT - 1), fill=colour)
        canvas.text((at + TEXT + 2, top), text, INK, font_size=TEXT)
        at += wide + between
    return top + TEXT + LEADING


def _map(crop: Pixels, falls: Float, largest: float) -> Image.Image:
    """A face with each region in its colour, and the largest changes as numbers."""
    face = np.asarray(_sized(crop, SIDE, SIDE).convert("L"), np.float32)[:, :, None]
    face = np.repeat(face, 3, axis=2)
    grid = len(falls)
    regions = (np.arange(SIDE) * grid // SIDE).astype(int)
    strength = falls[regions][:, regions] / largest  # (SIDE, SIDE)
    share = (np.abs(strength) * STRONGEST)[:, :, None]
    colour = np.where(strength[:, :, None] > 0, np.array(LOWERS), np.array(RAISES))
    shown = Image.fromarray(np.rint(face * (1 - share) + colour * share).astype(np.uint8))
    canvas = ImageDraw.Draw(shown)
    for row, column in np.argwhere(np.abs(falls) > largest / 3).tolist():
        at = ((column + 0.5) * SIDE / grid, (row + 0.5) * SIDE / grid)
        canvas.text(at, f"{-falls[row, column]:+.1f}", "white", font_size=SMALL, anchor="mm",
                    stroke_width=1, stroke_fill="black")  # fmt: skip
    return shown


def _draw_scale(
    sheet: Image.Image, canvas: ImageDraw.ImageDraw, largest: float, left: int, top: int, width: int
) -> None:
    """A bar from the strongest orange to the strongest blue, with the changes they stand for."""
    strength = np.linspace(-1, 1, width)[None, :, None]
    share = np.abs(strength) * STRONGEST
    colour = np.where(strength > 0, np.array(LOWERS), np.array(RAISES))
    bar = np.repeat(np.rint(colour * share + 255 * (1 - share)).astype(np.uint8), BAR, 0)
    sheet.paste(Image.fromarray(bar), (left, top))
    canvas.rectangle((left, top, left + width - 1, top + BAR), outline=LINE)
    top += BAR + LEADING
    for at, anchor, text in (
        (left, "la", f"blurring raises by {largest:.2f}"),
        (left + width / 2, "ma", "0"),
        (left + width, "ra", f"lowers by {largest:.2f}"),
    ):
        canvas.text((at, top), text, INK, font_size=TEXT, anchor=anchor)


def _sized(pixels: Pixels, width: int, height: int) -> Image.Image:
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
