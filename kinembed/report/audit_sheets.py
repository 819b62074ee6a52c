"""Sheets of an audit's findings: strips of photos with what is doubtful about them."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from kinembed.auditing.finding import TITLES, Finding, Kind
from kinembed.backbones import Framing
from kinembed.data.families import Families
from kinembed.data.photos import read_photo
from kinembed.errors import DataError
from kinembed.io import write_bytes
from kinembed.report.strips import fitted

SIDE = 96  # of a photo, pixels
EACH = 4  # photos of a person
GAP, TITLE, LINE = 12, 40, 17
TEXT = 13  # size of letters
MISSING = "#cccccc"


def draw_sheet(
    kind: Kind, findings: Sequence[Finding], families: Families, data: Path, path: Path,
    changed: Collection[str] = (),
) -> Path:  # fmt: skip
    """Draws findings of one kind, two in a row.

    Args:
        kind: of the findings.
        findings: the surest first.
        families: photos of the people.
        data: the folder of the photos.
        path: where the PNG goes.
        changed: photos that are not shown, since they are others than those that were judged.
    """
    groups = [shown(finding, families) for finding in findings]
    wide = max(sum(len(names) for names in each) * SIDE + (len(each) - 1) * GAP for each in groups)
    width, height = max(wide, 420), SIDE + 3 * LINE + GAP
    columns = 2 if len(findings) > 1 else 1
    rows = -(-len(findings) // columns)
    sheet = Image.new("RGB", (columns * (width + 2 * GAP) + GAP, TITLE + rows * height), "white")
    canvas = ImageDraw.Draw(sheet)
    canvas.text((GAP, 9), TITLES[kind], "black", font_size=18)
    for number, (finding, group) in enumerate(zip(findings, groups, strict=True)):
        left = GAP + (number % columns) * (width + 2 * GAP)
        top = TITLE + (number // columns) * height
        sure = "" if finding.surety is None else f"{finding.surety:.2f}  "
        who = sure + " / ".join(dict.fromkeys(filter(None, finding.people)))
        canvas.text((left, top), fitted(who, width, TEXT), "black", font_size=TEXT)
        for at, line in enumerate(_two_lines(finding.reason, width)):
            canvas.text((left, top + LINE * (at + 1)), line, "#555555", font_size=TEXT)
        x = left
        for names in group:
            for name in names:
                face = _missing() if name in changed else _photo(data / name)
                sheet.paste(face, (x, top + 3 * LINE))
                x += SIDE
            x += GAP
    picture = io.BytesIO()
    sheet.save(picture, "PNG")
    return write_bytes(path, picture.getvalue())


def shown(finding: Finding, families: Families) -> list[list[str]]:
    """The photos that show a finding, in groups: the doubtful one, then some of each person."""
    if finding.kind == "copy":
        return [[name] for name in finding.photos]
    if finding.kind == "family":
        names = families.family_names()
        people = [row for row, name in enumerate(names) if name == finding.people[0]]
        return [[families.photos[families.photo_start[row]] for row in people[: 2 * EACH]]]
    row_of = {person: row for row, person in enumerate(families.people)}
    groups = [list(finding.photos[:1])] if finding.photos else []
    for person in finding.people:
        first, after = families.photo_start[row_of[person] : row_of[person] + 2].tolist()
        photos = [name for name in families.photos[first:after] if name not in finding.photos[:1]]
        groups.append(sorted(photos, key=lambda name: name not in finding.photos)[:EACH])
    if finding.kind == "person":
        kin = {other for pair in finding.leave_out.pairs for other in pair} - set(finding.people)
        first = [families.photos[families.photo_start[row_of[other]]] for other in sorted(kin)]
        groups.append(first[:EACH])
    return [group for group in groups if group]


def _photo(path: Path) -> Image.Image:
    try:
        return Image.fromarray(read_photo(path, Framing(SIDE, SIDE))[1])
    except DataError:
        return _missing()


def _missing() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), MISSING)


def _two_lines(text: str, width: int) -> list[str]:
    """A text in two lines, parted at its first semicolon."""
    first, _, rest = text.partition("; ")
    return [fitted(line, width, TEXT) for line in (first, rest)]
