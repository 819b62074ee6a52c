"""Marks of faces: what ties an answer to the face it was given about, whatever its file is called.

A mark is a text of five parts: the first 12 hexadecimal digits of the sha256 of the photograph's
bytes, and left, top, right and bottom of the face on it.
"""

from __future__ import annotations

from collections.abc import Sequence

DIGITS = 12  # of the photograph's digest
OVERLAP = 0.5  # intersection over union from which on two boxes are of one face

Box = tuple[float, float, float, float]


def face_mark(digest: str, box: Box) -> str:
    """The mark of a face.

    Args:
        digest: sha256 of the photograph's bytes, as hexadecimal digits.
        box: left, top, right and bottom on the photograph, in pixels.
    """
    return " ".join([digest[:DIGITS], *(str(round(edge)) for edge in box)])


def parsed_mark(mark: str) -> tuple[str, Box]:
    """The digits and the box of a mark.

    Raises:
        ValueError: it is none.
    """
    digits, *edges = mark.split(" ")
    if len(digits) != DIGITS or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"{digits!r}, wanted {DIGITS} hexadecimal digits")
    left, top, right, bottom = map(int, edges)
    return digits, (left, top, right, bottom)


def face_of_mark(mark: str, marks: Sequence[str], of_photo: Sequence[int]) -> int | None:
    """The face of a mark; None where it is gone.

    Boxes need not be the same to the pixel: a GPU finds them a little otherwise than a CPU.

    Args:
        mark: the mark.
        marks: (F,) of all faces.
        of_photo: the faces on photographs of the same digits.
    """
    box = parsed_mark(mark)[1]
    overlaps = [(overlap(box, parsed_mark(marks[face])[1]), -face) for face in of_photo]
    best, face = max(overlaps, default=(0.0, 0))
    return -face if best >= OVERLAP else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 where they do not meet."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)
