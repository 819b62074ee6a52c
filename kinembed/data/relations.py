"""The relations of a data folder: Kaggle's table, or FIW's matrix of each family."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from kinembed.data.columns import PHOTO, Shape, truth_of
from kinembed.data.left_out import LeftOut
from kinembed.data.tables import clean_name, read_table
from kinembed.errors import DataError

RELATIONS = "train_relationships.csv"
MATRIX = "mid.csv"
DEPTH = 4  # folders between the data folder and a family's

SPOUSES = "spouses"
UNKNOWN_DEGREE = "tbd"


class Code(IntEnum):
    """What the member of a row of FIW's matrix is to that of a column."""

    CHILD = 1
    SIBLING = 2
    GRANDCHILD = 3
    PARENT = 4
    SPOUSE = 5
    GRANDPARENT = 6
    GREAT_GRANDCHILD = 7
    GREAT_GRANDPARENT = 8
    NOT_KNOWN_YET = 9

    @property
    def inverse(self) -> Code:
        """What the member of the column then is to that of the row."""
        return _INVERSE.get(self, self)


_PAIRS = (
    (Code.CHILD, Code.PARENT),
    (Code.GRANDCHILD, Code.GRANDPARENT),
    (Code.GREAT_GRANDCHILD, Code.GREAT_GRANDPARENT),
)
_INVERSE = dict(_PAIRS) | {elder: younger for younger, elder in _PAIRS}
MOST_RELATIONS = 1_000_000
NO_KIN = "non-kin"  # the kind of relations that a label says to be none
LINES = "p1,p2, then FAMILY/PERSON,FAMILY/PERSON"  # what lines of relations are, for messages
MOST_BYTES = 1 << 20  # of a family's matrix
MOST_MEMBERS = 500
SEPARATORS = ",;\t"

log = logging.getLogger(__name__)


class Relation(NamedTuple):
    """A row of a table of relations.

    Attributes:
        one: a person, `FAMILY/PERSON`.
        other: their relative.
        kind: how they are related, as the file says; "" if it does not.
        line: the row's line.
    """

    one: str
    other: str
    kind: str
    line: int


class Relations(NamedTuple):
    """The relations of a data folder.

    Attributes:
        rows: two people and how they are related, "" if not known.
        told: the people whose relations to all others of their family are told, those in `rows` or
            none; None: everybody's.
    """

    rows: list[tuple[str, str, str]]
    told: frozenset[str] | None = None


def find_relations(data: Path) -> Relations:
    """The relations of a data folder.

    They are those of `train_relationships.csv`; without it, those of all `FAMILY/mid.csv`.

    Raises:
        DataError: they are missing or malformed.
    """
    path = data / RELATIONS
    if not path.is_file():
        matrices = _matrices(data)
        if matrices:
            return _read_matrices(matrices, data)
        if not path.exists():
            raise DataError(
                f"{path}: no such file; name the folder that holds it with --data, or write "
                "it, a CSV of lines p1,p2"
            )
    return Relations([(row.one, row.other, row.kind) for row in read_relations(path)])


def read_relations(path: Path) -> list[Relation]:
    """Reads a table of relations: two people in each row, and how they are related if it says so.

    Of a longer path (`train/F0002/MID1`) the last two parts count. A row whose label says that its
    people are no kin is of the kind `NO_KIN`.

    Raises:
        DataError: the file is missing or empty, or a row does not name two people, or has a label
            that is none.
    """
    shapes = [Shape(("left", "right"), ("label", "relation"))]
    found: list[Relation] = []
    for block in read_table(path, shapes, LINES, 65_536):
        kinds = block.columns.get("relation") or [""] * len(block.lines)
        if "label" in block.columns:
            labels = truth_of(path, block.lines, block.columns["label"])
            kinds = [kind if is_kin else NO_KIN for kind, is_kin in zip(kinds, labels, strict=True)]
        rows = zip(block.columns["left"], block.columns["right"], kinds, block.lines, strict=True)
        for one, other, kind, line in rows:
            people = [clean_name(name) for name in (one, other)]
            parts = [name.split("/") for name in people]
            if not all(len(each) > 1 and all(each[-2:]) for each in parts) or any(
                PHOTO.search(name) for name in people
            ):
                raise DataError(
                    f"{path}, line {line}: found {f'{one},{other}'[:120]!r}, wanted two people "
                    "FAMILY/PERSON,FAMILY/PERSON, as the photos name them (F0002/MID1,F0002/MID3): "
                    "by their folders, or by a table photo,person,family that kinembed embed "
                    "--people-table reads"
                )
            left, right = ("/".join(each[-2:]) for each in parts)
            found.append(Relation(left, right, kind.strip(), line))
        if len(found) > MOST_RELATIONS:
            raise DataError(f"{path}: over {MOST_RELATIONS:,} relations; wanted no more")
    return found


def has_relations(data: Path) -> bool:
    """Whether a data folder has relations, well-formed or not."""
    return (data / RELATIONS).is_file() or bool(_matrices(data))


def _matrices(data: Path) -> list[Path]:
    patterns = ["/".join(["[!.]*"] * depth + [MATRIX]) for depth in range(1, DEPTH + 1)]
    return sorted(path for pattern in patterns for path in data.glob(pattern))


def _read_matrices(paths: Sequence[Path], data: Path) -> Relations:
    found: list[tuple[str, str, str]] = []
    told: set[str] = set()
    unread, rows = LeftOut(), LeftOut()
    for path in paths:
        try:
            matrix = read_matrix(path)
        except DataError as error:
            unread.add("cannot be read", str(error))
            continue
        found += matrix.relations
        told.update(matrix.members)
        for row in matrix.left_out:
            rows.add("of no member are left out", f"{path}: {row}")
    if not found:
        raise DataError(
            f"{data}: no relations in {len(paths):,} {MATRIX}"
            + (f": {unread}" if unread else "")
            + f"; wanted FIW's matrices or {RELATIONS}"
        )
    if unread:
        log.warning("%s: of %s %s, %s", data, f"{len(paths):,}", MATRIX, unread)
    if rows:
        log.warning("%s: of the rows in %s, %s", data, MATRIX, rows)
    return Relations(found, frozenset(told))


class Matrix(NamedTuple):
    """FIW's matrix of a family.

    Attributes:
        relations: two people `FAMILY/MIDn`, the elder first, and their relation (`fs`), "" where
            their genders are not known, `tbd` where the matrix says no relation clearly.
        members: the people who have a whole row and a column.
        left_out: rows of no member.
    """

    relations: list[tuple[str, str, str]]
    members: tuple[str, ...]
    left_out: tuple[str, ...]


def read_matrix(path: Path) -> Matrix:
    """FIW's matrix of a family, `FAMILY/mid.csv`, its fields separated by commas, `;` or tabs.

    Its header is `MID,1,2,…,Name,Gender`; the number in a row and a column says what the member of
    the row is to that of the column: 1 child, 2 sibling, 3 grandchild, 4 parent, 5 spouse,
    6 grandparent, 7 great-grandchild, 8 great-grandparent, 9 not known yet
    (https://web.northeastern.edu/smilelab/fiw/).

    Raises:
        DataError: it is no such matrix.
    """
    wanted = "wanted FIW's MID,1,2,…,Name,Gender and a row for each member"
    rows = _rows(path, wanted)
    header = [field.strip() for field in rows[0]] if rows else []
    column_of = _columns(header)
    gender_at = next((at for at, field in enumerate(header) if field.lower() == "gender"), None)
    if not column_of or len(column_of) > MOST_MEMBERS:
        raise DataError(f"{path}: found {','.join(header)[:80]!r}; {wanted}")
    codes: dict[tuple[int, int], Code] = {}
    genders: dict[int, str] = {}
    is_whole: dict[int, bool] = {}
    left_out: list[str] = []
    for row in rows[1:]:
        member = _mid(row[0].strip())
        if not member or len(is_whole) == MOST_MEMBERS:
            left_out.append(",".join(row)[:80])
            continue
        is_whole[member] = member not in is_whole and max(column_of.values()) < len(row)
        if gender_at is not None and gender_at < len(row):
            genders[member] = row[gender_at].strip().lower()[:1]
        for other, at in column_of.items():
            code = _code(row[at] if at < len(row) else "")
            if code and other != member:
                before = codes.setdefault((member, other), code)
                codes[member, other] = code if before == code else Code.NOT_KNOWN_YET
    if not is_whole:
        raise DataError(f"{path}: found {','.join(rows[-1])[:80]!r}; {wanted}")
    family = normalize("NFC", path.parent.name)
    found = []
    for one, other in sorted({(min(pair), max(pair)) for pair in codes}):
        code, back = codes.get((one, other)), codes.get((other, one))
        said = {each for each in (code, back and back.inverse) if each}
        code = said.pop() if len(said) == 1 else Code.NOT_KNOWN_YET  # it contradicts itself
        if code in _INVERSE and code < code.inverse:
            one, other, code = other, one, code.inverse
        kind = _kind(code, genders.get(one, ""), genders.get(other, ""))
        found.append((f"{family}/MID{one}", f"{family}/MID{other}", kind))
    members = [member for member in column_of if is_whole.get(member)]
    return Matrix(found, tuple(f"{family}/MID{each}" for each in members), tuple(left_out))


def _rows(path: Path, wanted: str) -> list[list[str]]:
    """The rows of a matrix, by the separator that gives its header most members."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: over {MOST_BYTES:,} bytes; {wanted}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {wanted}") from None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # names alone have such letters
    most: list[list[str]] = []
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            rows = [row for row in reader if any(field.strip() for field in row)]
        except csv.Error as error:
            raise DataError(f"{path}: no CSV ({error}); {wanted}") from None
        if not most or (rows and len(_columns(rows[0])) > len(_columns(most[0]))):
            most = rows
    return most


def _columns(header: Sequence[str]) -> dict[int, int]:
    """The column of each member in a matrix, by their number."""
    return {number: at for at, field in enumerate(header) if at and (number := _mid(field.strip()))}


def _mid(field: str) -> int:
    """The number of a member, `3` or `MID3`; 0 if it is none."""
    match = re.fullmatch(r"(?:MID)?(\d{1,4})(?:[.,]0)?", field, re.IGNORECASE)
    return int(match[1]) if match else 0


def _code(field: str) -> Code | None:
    match = re.fullmatch(r"(\d)(?:[.,]0)?", field.strip())
    if match:
        return Code(int(match[1])) if int(match[1]) else None
    return Code.NOT_KNOWN_YET if field.strip() else None


def _kind(code: Code, one: str, other: str) -> str:
    """The field's short name of a relation, the elder's gender first."""
    if code in (Code.SPOUSE, Code.NOT_KNOWN_YET):
        return SPOUSES if code == Code.SPOUSE else UNKNOWN_DEGREE
    if {one, other} - {"m", "f"}:
        return ""
    if code == Code.SIBLING:
        return {"mm": "bb", "ff": "ss"}.get(one + other, "sibs")
    elder, younger = "m" if one == "f" else "f", "d" if other == "f" else "s"
    great = {Code.PARENT: "", Code.GRANDPARENT: "g", Code.GREAT_GRANDPARENT: "gg"}[code]
    return f"{great}{elder}{great}{younger}"
