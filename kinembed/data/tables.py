"""The reader of tables: relations, labelled pairs, lists and submissions, whoever wrote them.

Columns are known by their titles, in any order and case, else by what they hold. Fields are
separated by `,`, `;`, tabs or `|`; those of lists by blanks. A byte order mark, UTF-16, CRLF, blank
lines, index columns and empty last fields are accepted. Rows are read in blocks, in their order,
and nothing is kept that a block does not hold: a line, a row and a file have a largest size.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from kinembed.data.kinship import by_blood
from kinembed.errors import DataError

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # characters read at a time
LONGEST_LINE = 1 << 16  # characters; a path has at most 4,096
LONGEST_ROW = 4  # chunks without the end of a row
SAMPLE = 50  # rows that tell how a file is written
MOST_FIELDS = 1000  # in a row

STANDARD_INPUT = Path("-")

PHOTO = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)$", re.IGNORECASE)
PAIR = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)-[^-]", re.IGNORECASE)

_STEMS = (
    *("", "p", "f", "x", "img", "image", "photo", "picture", "pic", "face", "file", "filename"),
    *("path", "person", "people", "id", "name", "sample", "subject", "member", "mid", "pid"),
    *("imgpath", "imagepath", "photopath", "imagename", "imgname", "facepath", "personid"),
)
_THIRDS = ("3", "c", "third", "three")
_SIDES = (("1", "2"), ("a", "b"), ("left", "right"), ("first", "second"), ("one", "two"),
          ("0", "1"))  # fmt: skip
_WHATS = (
    *("", "image", "img", "photo", "picture", "pic", "face", "path", "file", "filename", "name"),
    *("id", "person"),
)
PAIRS_OF_TITLES = (
    *(
        (side.format(stem=stem, side=one), side.format(stem=stem, side=two))
        for one, two in _SIDES
        for side in ("{stem}{side}", "{side}{stem}")
        for stem in _STEMS
        if stem or one.isalpha()
    ),
    *(
        (parent + what, child + what)
        for parent in ("father", "dad", "mother", "mom", "mum", "parent")
        for child in ("child", "kid", "offspring", "son", "daughter")
        for what in _WHATS
    ),
    *(("probe", "gallery"), ("anchor", "other"), ("source", "target"), ("from", "to")),
)


def _of_person(*names: str) -> tuple[str, ...]:
    return tuple(name + what for what in _WHATS for name in names)


TITLES = {
    "pair": ("imgpair", "pair", "imagepair", "photopair", "imgpairs", "pairs"),
    "father": _of_person("father", "dad"),
    "mother": _of_person("mother", "mom", "mum"),
    "child": _of_person("child", "kid", "offspring", "son", "daughter"),
    "label": (
        *("isrelated", "related", "label", "labels", "kin", "iskin", "kinship", "target", "y"),
        *("same", "issame", "match", "gt", "groundtruth", "truth", "kinlabel", "kinornot"),
    ),
    "relation": (
        *("relation", "relations", "ptype", "type", "pairtype", "kintype", "relationtype", "rel"),
        *("reltype", "relationship", "kinrelation", "kintypes", "kind", "kinshiptype"),
    ),
    "photo": ("photo", "image", "img", "file", "filename", "path", "name", "picture"),
    "person": ("person", "personid", "pid", "who", "subject", "identity", "mid", "people"),
    "family": ("family", "familyid", "fid", "families"),
}  # fmt: skip

PARENTS = ("father", "mother", "child")
_HALVES = {title for pair in PAIRS_OF_TITLES for title in pair} - {
    "source", "target", "from", "to", "other",
}  # fmt: skip

_TRUE = {"1", "+1", "true", "t", "yes", "y", "kin", "related", "positive", "pos"}
_FALSE = {"0", "-1", "false", "f", "no", "n", "nonkin", "notkin", "unrelated", "notrelated"} | {
    "negative", "neg",
}  # fmt: skip


class Shape(NamedTuple):
    """Columns that together say what a row is; the first shape that a table has is taken.

    Attributes:
        needed: columns that it must have.
        further: columns that it may have.
        is_judged: whether labels and relations are used, so that none may go unnoticed.
    """

    needed: tuple[str, ...]
    further: tuple[str, ...] = ()
    is_judged: bool = True


@dataclass(frozen=True)
class Block:
    """Some rows of a table, in their order.

    Attributes:
        lines: the line that each row ends on.
        columns: the fields of each column, as they stand, by what the column is.
        titles: how the file itself names these columns; without a header, what they are.
    """

    lines: list[int]
    columns: dict[str, list[str]]
    titles: dict[str, str]


@dataclass(frozen=True)
class _Layout:
    """How a file is written: its separator, its columns, the rows of its header, and its width."""

    separator: str
    columns: dict[str, int]
    titles: dict[str, str]
    header: int
    width: int


def read_table(path: Path, shapes: Sequence[Shape], wanted: str, size: int) -> Iterator[Block]:
    """Reads a table in blocks: text, compressed with gzip (`.gz`) or not, or `.parquet`.

    Args:
        path: the file; `-` for standard input. It, and a pipe, is read once; it may be compressed.
        shapes: what its rows may be.
        wanted: what its lines should look like, for messages.
        size: rows per block.

    Raises:
        DataError: naming the line, what it holds and what was wanted; or what about the columns is
            ambiguous, and what would tell.
    """
    if not path.is_file() and not _is_stream(path):
        what = "no such file"
        if path.exists():
            what = "Is a directory" if path.is_dir() else "not a file"
        raise DataError(f"{path}: {what}; wanted a CSV of lines {wanted}")
    count = 0
    if path.suffix == ".parquet" and path.is_file():
        from kinembed.data.parquet import read_parquet  # most tables are text

        blocks = read_parquet(path, shapes, wanted, size)
    else:
        blocks = _read_text(path, shapes, wanted, size)
    for block in blocks:
        _refuse_broken_text(path, block, wanted)
        count += len(block.lines)
        yield block
    if not count:
        raise DataError(f"{path}: a header but no rows; wanted {wanted}")


def truth_of(path: Path, lines: Sequence[int], labels: Sequence[str]) -> list[bool]:
    """Labels as truth values: 1/0, 1/-1, yes/no, true/false, kin/non-kin.

    Raises:
        DataError: naming the line of a label that is neither.
    """
    known = {label: truth(label) for label in set(labels)}
    if None in known.values():
        row = next(row for row, label in enumerate(labels) if known[label] is None)
        raise DataError(
            f"{path}, line {lines[row]}: found label {labels[row][:80]!r}, wanted 0 or 1 (or -1 "
            "and 1, yes and no, true and false, kin and non-kin)"
        )
    return [bool(known[label]) for label in labels]


def truth(label: str) -> bool | None:
    """Whether a label says kin; None if it says neither."""
    text = label.strip().casefold()
    text = text[:1] + re.sub(r"[\s_-]+", "", text[1:])
    number = re.sub(r"\.0*$", "", text)
    return True if number in _TRUE else False if number in _FALSE else None


def clean_name(name: str) -> str:
    r"""The name of a photo or a person with `/` between its parts, in NFC, whoever wrote it.

    `\` becomes `/`; `//`, `./` and blanks around it go.

    Example:
        >>> clean_name(".\\F0002//MID1")
        'F0002/MID1'
    """
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    parts = name.split("/")
    return "/".join(
        part for at, part in enumerate(parts) if part != "." and (part or (at == 0 and parts[1:]))
    )


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


MOST_RELATIONS = 1_000_000
NO_KIN = "non-kin"  # the kind of relations that a label says to be none
RELATIONS = "p1,p2, then FAMILY/PERSON,FAMILY/PERSON"  # what lines of relations are, for messages


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
    for block in read_table(path, shapes, RELATIONS, 65_536):
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


# How a file is written


class Told(NamedTuple):
    """The columns of a table, and how they are told.

    Attributes:
        columns: the number of each.
        header: how many rows it takes, 0 or 1.
        by_titles: whether its titles are known.
        unused: what other columns hold that might be of use, for messages.
    """

    columns: dict[str, int]
    header: int
    by_titles: bool
    unused: tuple[str, ...] = ()


class TitlesError(DataError):
    """A table says what its columns are, but not all of what has to be known of them."""


def tell_columns(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> Told:
    """The columns of a table by the titles of its first row, else by what they hold.

    Args:
        rows: the first rows.
        shapes: what rows may be.

    Raises:
        TitlesError: some columns are told, but others might be meant as well.
        DataError: they can't be told; says why not.
    """
    first, rest = rows[0], rows[1:]
    shift = _unnamed_index(first, rest)
    below = [row[shift:] for row in rest]
    titled = _by_titles(first, below, shapes)
    if titled is not None:
        unused = _unused(first, below, *titled)
        columns = {name: number + shift for name, number in titled[0].items()}
        return Told(columns, 1, True, unused)
    # Where all rows do not agree, the first says what the others should be, unless it is a header.
    for header, sample in ((0, rows), (0, rows[:1]), (1, rest), (1, rest[:1])):
        if header and (any(map(_is_name, first)) or _has_parts_of(first, rest)):
            continue  # else a malformed first row would be lost
        held = _by_content(sample, shapes) if sample else None
        if held is None:
            continue
        columns, shape = held
        if header:
            _check_half_known(first, columns)
        elif "father" in columns and not _are_both_parents(sample, columns):
            raise TitlesError(
                f"found {','.join(first)[:120]!r}, three photos without father,mother,child above"
            )
        return Told(
            columns, header, False, _unused(first if header else (), sample, columns, shape)
        )
    _refuse_other_labels(rows, shapes)
    raise DataError(f"found {','.join(first)[:120]!r}")


class _NoLabelError(DataError):
    """The pairs are told, but what should be a label is none.

    Attributes:
        row: the row, of those at the start, that has none.
    """

    def __init__(self, text: str, row: int) -> None:
        super().__init__(text)
        self.row = row


def _refuse_other_labels(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> None:
    """Names the first field that should be a label, where all but the label is told.

    Raises:
        DataError: there is one.
    """
    for shape in shapes:
        if "label" not in shape.needed:
            continue
        unlabelled = Shape(tuple(role for role in shape.needed if role != "label"))
        for sample in (rows, rows[1:]):
            held = _by_content(sample, [unlabelled]) if sample else None
            if held is None:
                continue
            at_row = next((i for i, row in enumerate(sample) if not any(map(_is_label, row))), -1)
            if at_row < 0:
                continue
            bad = sample[at_row]
            rest = [field for at, field in enumerate(bad) if at not in held[0].values()]
            which = f"{rest[0][:40]!r} is no label" if len(rest) == 1 else "no field is a label"
            raise _NoLabelError(
                f"found {','.join(bad)[:120]!r}, in which {which}; wanted 0 or 1 (or -1 and 1, yes "
                "and no, true and false, kin and non-kin)",
                at_row + len(rows) - len(sample),
            )


def _is_label(field: str) -> bool:
    return truth(field) is not None


def _is_name(field: str) -> bool:
    """Whether a field is a photo, a pair of photos or a person `FAMILY/PERSON`, and no title."""
    found = PHOTO.search(field) or PAIR.search(field) or re.search(r"[^/\\][/\\]+[^/\\]", field)
    return found is not None


def _has_parts_of(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a row holds a part of a name below it, such as `F0017` of `F0017/MID1`."""
    parts = {part for row in rest for field in row if _is_name(field) for part in field.split("/")}
    return any(field in parts for field in first)


def _are_both_parents(rows: Sequence[Sequence[str]], columns: dict[str, int]) -> bool:
    at = columns.get("relation")
    return at is not None and all(_plain(row[at])[:2] == "fm" for row in rows)


def _check_half_known(first: Sequence[str], columns: dict[str, int]) -> None:
    """Refuses a header whose titles say something else, or less, than what columns hold."""
    shown = ",".join(first)[:120]
    if max(columns.values()) >= len(first):
        raise TitlesError(f"found a header {shown!r} of {len(first)} fields over rows of more")
    photos = [columns[role] for role in ("left", "right", "pair") if role in columns]
    for at, title in enumerate(map(_plain, first)):
        roles = [role for role in ("label", "relation") if title in TITLES[role]]
        is_photo = title in _HALVES or any(title in TITLES[role] for role in (*PARENTS, "pair"))
        is_used = at in photos or any(columns.get(role, at) == at for role in roles)
        if (is_photo or roles) and not is_used:
            raise TitlesError(f"found a header {shown!r}, of which only {first[at]} is known")
    if "father" in columns:
        raise TitlesError(f"found a header {shown!r} over three photos, not father,mother,child")
    if "label" in columns and _plain(first[columns["label"]]) not in TITLES["label"]:
        raise _untitled_label(first, [columns["label"]])


def _untitled_label(first: Sequence[str], numbers: Sequence[int]) -> TitlesError:
    shown, names = ",".join(first)[:120], " or ".join(first[at][:40] for at in numbers[:3])
    return TitlesError(
        f"found a header {shown!r}, where {names} may say who is kin; known titles of that are "
        "label, is_related, kin (1 is kin): rename it, or remove it if it says something else"
    )


def _unused(
    first: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: dict[str, int],
    shape: Shape,
) -> tuple[str, ...]:
    """What columns hold that are not used: photos or people of another kind than those that are.

    Raises:
        TitlesError: they hold more of the same photos or people, or who is kin.
    """
    names = [columns[role] for role in ("left", "right", *PARENTS) if role in columns]
    kind = "photos" if any(map(partial(_hold_photos, rows), names)) else "people"
    titles = [_plain(title) for title in first]
    thirds = {
        one[: len(one) - len(side)] + third if one.endswith(side) else third + one[len(side) :]
        for one in (titles[at] for at in names if at < len(titles))
        for side in ("1", "a", "first", "one")
        if one.endswith(side) or one.startswith(side)
        for third in _THIRDS
        if third.isdigit() == side.isdigit() and (len(third) == 1) == (len(side) == 1)
    }
    parents = {title for role in PARENTS for title in TITLES[role]}
    others = []
    for at in range(len(first) or max(map(len, rows))):  # of a row that is longer, read_table tells
        if at in columns.values():
            continue
        title = first[at].strip() if at < len(first) else f"column {at + 1}"
        are_labels = _may_judge(first, rows, at)
        found = "photos" if _hold_photos(rows, at) else "people" if _are_people(rows, at) else ""
        is_third = bool(first) and at < len(titles) and titles[at] in thirds | parents
        beside = ",".join(first[n] if first else f"column {n + 1}" for n in names)
        if names and (found == kind or (is_third and not are_labels)):
            raise TitlesError(
                f"found {title} with {found or 'names'} beside {beside}; of three in a row, name "
                "them father,mother,child; else remove the column that is not of the pair"
            )
        may_judge = are_labels or ("relation" not in columns and _may_relate(rows, at))
        if shape.is_judged and "label" not in columns and may_judge:
            raise _untitled_label(first or [f"column {n + 1}" for n in range(at + 1)], [at])
        if found:
            others.append(f"{title} holds {found} and is not used")
    return tuple(others)


def _may_judge(first: Sequence[str], rows: Sequence[Sequence[str]], at: int) -> bool:
    """Whether a column holds labels and does not count the rows."""
    if not _are_labels(rows, at):
        return False
    is_titled = at < len(first) and bool(first[at].strip())
    return not _is_index(rows, at) or (len(rows) == 1 and is_titled)


def _may_relate(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Whether most of a column are words for relations, of which some are not by blood."""
    words = [by_blood(row[at]) for row in rows if at < len(row) and len(row[at].strip()) > 1]
    return False in words and 2 * words.count(None) < len(words)


def _hold_photos(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if at < len(row)]
    return any(PHOTO.search(field) and "://" not in field for field in fields)


def _are_people(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if at < len(row) and row[at].strip()]
    return bool(fields) and all(
        re.fullmatch(r"[^:]*[^\W\d][^:]*[/\\][^/\\:]+", field) for field in fields
    )


def _by_titles(
    first: Sequence[str], rest: Sequence[Sequence[str]], shapes: Sequence[Shape]
) -> tuple[dict[str, int], Shape] | None:
    titles = [_plain(title) for title in first]
    number_of = {title: titles.index(title) for title in titles}

    def named(role: str) -> list[int]:
        return [number_of[title] for title in TITLES[role] if title in number_of]

    for shape in shapes:
        columns: dict[str, int] = {}
        if "left" in shape.needed:
            pairs = [
                (number_of[one], number_of[two])
                for one, two in PAIRS_OF_TITLES
                if one in number_of and two in number_of
            ]
            if len(set(pairs)) > 1:  # such as p1,p2 beside name1,name2
                pairs = [pair for pair in pairs if all(_are_paths(rest, at) for at in pair)]
            if not pairs:
                continue
            if len(set(pairs)) > 1:
                both = " and ".join(f"{first[a]},{first[b]}" for a, b in sorted(set(pairs))[:2])
                raise TitlesError(f"found columns {both}, either of which may be the pair")
            columns["left"], columns["right"] = pairs[0]
        for role in (*shape.needed, *shape.further):
            if role in ("left", "right"):
                continue
            numbers = [number for number in named(role) if number not in columns.values()]
            if role == "relation" and "label" in shape.needed and "label" not in columns:
                continue
            if len(numbers) > 1 and role in ("label", *PARENTS):
                both = " and ".join(first[number] for number in numbers[:2])
                raise TitlesError(f"found columns {both}, either of which may be the {role}")
            if numbers:
                columns[role] = numbers[0]
        if shape.is_judged and "label" not in columns:  # `relation` that holds 0 and 1
            numbers = [number for number in named("relation") if _are_labels(rest, number)]
            if numbers:
                columns["label"] = numbers[0]
                if columns.get("relation") == numbers[0]:
                    del columns["relation"]
        if all(role in columns for role in shape.needed):
            return columns, shape
        if [role for role in shape.needed if role not in columns] == ["label"]:
            numbers = [
                at
                for at in range(len(first))
                if at not in columns.values() and _may_judge(first, rest, at)
            ]
            if numbers:
                raise _untitled_label(first, numbers)
    return None


def _by_content(
    rows: Sequence[Sequence[str]], shapes: Sequence[Shape]
) -> tuple[dict[str, int], Shape] | None:
    width = len(rows[0])
    while width and not any(row[width - 1] for row in rows if len(row) >= width):
        width -= 1  # empty last fields
    if not width or any(len(row) < width or any(row[width:]) for row in rows):
        return None
    pairs = [at for at in range(width) if all(PAIR.search(row[at]) for row in rows)]
    paths = [at for at in range(width) if at not in pairs and _are_paths(rows, at)]
    labels = [at for at in range(width) if _are_labels(rows, at)]
    if len(labels) > 1:
        labels = [at for at in labels if at or not _is_index(rows)]
    words = [
        at
        for at in range(width)
        if at not in labels and all(re.fullmatch(r"[A-Za-z][A-Za-z _-]{0,23}", r[at]) for r in rows)
    ]
    for shape in shapes:
        names = [role for role in shape.needed if role not in ("label", "pair")]
        needs_label, needs_pair = "label" in shape.needed, "pair" in shape.needed
        if len(paths) != len(names) or len(pairs) != needs_pair:
            continue
        if needs_label and len(labels) != 1:
            continue
        columns = dict(zip(names, paths, strict=True))
        if needs_pair:
            columns["pair"] = pairs[0]
        is_told = len(labels) == 1 and (labels[0] > 0 or not _is_index(rows))
        if needs_label or ("label" in shape.further and is_told):
            columns["label"] = labels[0]
        if "relation" in shape.further and len(words) == 1:
            columns["relation"] = words[0]
        return columns, shape
    return None


def _plain(title: str) -> str:
    """A title's letters and digits alone, in lower case."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", title).casefold())


def _are_paths(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = [row[at] for row in rows if len(row) > at]
    return bool(fields) and all(
        "/" in field or "\\" in field or PHOTO.search(field) is not None for field in fields
    )


def _are_labels(rows: Sequence[Sequence[str]], at: int) -> bool:
    fields = {row[at] for row in rows if len(row) > at}
    return bool(fields) and all(truth(field) is not None for field in fields)


def _is_index(rows: Sequence[Sequence[str]], at: int = 0) -> bool:
    """Whether a column counts the rows."""
    fields = [row[at] if at < len(row) else "" for row in rows]
    if not all(re.fullmatch(r"\d{1,15}", field) for field in fields):
        return False
    numbers = list(map(int, fields))
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _unnamed_index(first: Sequence[str], rest: Sequence[Sequence[str]]) -> int:
    """1 if a column of row numbers stands before the titled ones, as R writes it, else 0."""
    shifted = rest and all(len(row) == len(first) + 1 and row[-1] for row in rest)
    return int(bool(shifted) and all(re.fullmatch(r"\d+", row[0]) for row in rest))


def _tell_layout(
    sample: list[str], shapes: Sequence[Shape], path: Path, wanted: str
) -> _Layout | None:
    """How a file is written, by its first lines; None if they are all blank."""
    problems: list[tuple[int, str]] = []
    likely: list[tuple[str, Told, list[list[str]]]] = []
    refused: DataError | None = None
    for separator in (",", "\t", ";", "|", ""):
        rows, lines = _first_rows(sample, separator)
        if not rows:
            continue
        try:
            likely.append((separator, tell_columns(rows, shapes), rows))
        except TitlesError as error:
            refused = refused or DataError(f"{path}, line {lines[0]}: {error}; wanted {wanted}")
        except _NoLabelError as error:
            problems.append((min(map(len, rows)), f"{path}, line {lines[error.row]}: {error}"))
        except DataError as error:
            problem = f"{error}, wanted {wanted}; a header with these names would tell"
            problems.append((min(map(len, rows)), f"{path}, line {lines[0]}: {problem}"))
    if refused and not any(told.by_titles for _, told, _ in likely):
        raise refused
    if likely:
        # A known header says more than what the columns hold, and more columns than fewer.
        separator, told, rows = max(likely, key=lambda each: (each[1].by_titles, len(each[1][0])))
        if told.header and not told.by_titles:
            log.info(
                "%s: its header %r is not known; by what they hold, %s",
                path, ",".join(rows[0])[:120],
                ", ".join(f"column {at + 1} is {name}" for name, at in told.columns.items()),
            )  # fmt: skip
        for unused in told.unused:
            log.info("%s: %s", path, unused)
        shift = _unnamed_index(rows[0], rows[1:]) if told.by_titles else 0
        titles = {
            name: rows[0][at - shift].strip() if told.header else name
            for name, at in told.columns.items()
        }
        return _Layout(separator, told.columns, titles, told.header, len(rows[0]) + shift)
    if not problems:
        return None
    raise DataError(max(problems, key=lambda each: each[0])[1])


def _first_rows(sample: list[str], separator: str) -> tuple[list[list[str]], list[int]]:
    """The first rows with a separator, and their lines."""
    reader = _reader(sample, separator)
    rows: list[list[str]] = []
    lines: list[int] = []
    with suppress(csv.Error):  # named with its line when all rows are read
        for fields in reader:
            if fields:
                lines.append(reader.line_num)
                rows.append(fields)
            if len(rows) == SAMPLE:
                break
    return rows, lines


# Text


class _Blanks:
    """A reader of fields between blanks, with the interface of `csv.reader`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.line_num = 0

    def __iter__(self) -> _Blanks:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines)
        self.line_num += 1
        return [field.strip('"') for field in line.split()]


def _reader(lines: Iterable[str], separator: str) -> Any:
    if not separator:
        return _Blanks(lines)
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


class _Rows:
    """The rows of a text, in blocks; refuses lines and rows of a size that no table has."""

    def __init__(self, path: Path, wanted: str) -> None:
        self.path, self.wanted = path, wanted
        self.ended = 0  # rows that are read to their end
        self.lines: list[int] = []
        self.line = 0

    def lines_of(self, file: TextIO, start: str) -> Iterator[str]:
        """The lines of a file, after what was read of it already."""
        return chain.from_iterable(self._chunks(file, start))

    def _chunks(self, file: TextIO, rest: str) -> Iterator[Iterable[str]]:
        ended, unended, line = -1, 0, 0
        while chunk := file.read(CHUNK):
            text = rest + chunk
            end = text.rfind("\n") + 1 or text.rfind("\r", 0, -1) + 1
            rest = text[end:]
            if end:
                line += text.count("\n", 0, end) or text.count("\r", 0, end)
                yield io.StringIO(text[:end], newline="")
            if len(rest) > LONGEST_LINE:
                raise self.too_long(line + 1, "line", LONGEST_LINE)
            now = self.ended + len(self.lines)
            unended = unended + 1 if now == ended else 0
            ended = now
            if unended > LONGEST_ROW:
                raise self.too_long(self.line + 1, "row", LONGEST_ROW * CHUNK)
        if rest:
            yield io.StringIO(rest, newline="")

    def too_long(self, line: int, what: str, most: int) -> DataError:
        return DataError(
            f"{self.path}, line {line}: a {what} of over {most:,} characters; wanted a CSV of "
            f"lines {self.wanted}"
        )


def _read_text(path: Path, shapes: Sequence[Shape], wanted: str, size: int) -> Iterator[Block]:
    rows = _Rows(path, wanted)
    try:
        with _open_text(path) as file:
            start = file.read(CHUNK)
            sample = io.StringIO(start, newline="").readlines(4 * LONGEST_LINE)
            for number, line in enumerate(sample, 1):
                if len(line) > LONGEST_LINE:
                    raise rows.too_long(number, "line", LONGEST_LINE)
            layout = _tell_layout(sample[: 4 * SAMPLE], shapes, path, wanted)
            if layout is None:
                raise DataError(f"{path}: empty; wanted a CSV of lines {wanted}")
            reader = _reader(rows.lines_of(file, start), layout.separator)
            yield from _blocks(reader, layout, rows, size)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {rows.line + 1}: not a CSV of UTF-8 text ({error}); wanted lines "
            f"{wanted}"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{path}: not text ({error}); wanted lines {wanted}") from None
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); wanted lines {wanted}") from None


def _blocks(reader: Any, layout: _Layout, rows: _Rows, size: int) -> Iterator[Block]:
    """The rows of a reader in blocks."""
    last = max(layout.columns.values())
    is_header = bool(layout.header)
    found: list[list[str]] = []
    for fields in reader:
        line = rows.line = reader.line_num
        if not fields:
            continue
        if is_header:
            is_header = False
            continue
        if not last < len(fields) <= layout.width and not _may_be(fields, last, layout.width):
            raise _of_other_width(rows.path, line, fields, layout, rows.wanted)
        found.append(fields)
        rows.lines.append(line)
        if len(found) == size:
            yield _block(found, rows, layout)
            found = []
    if found:
        yield _block(found, rows, layout)


def _block(found: list[list[str]], rows: _Rows, layout: _Layout) -> Block:
    lines, rows.lines = rows.lines, []
    rows.ended += len(lines)
    columns = {name: [row[at] for row in found] for name, at in layout.columns.items()}
    return Block(lines, columns, layout.titles)


def _may_be(fields: list[str], last: int, width: int) -> bool:
    """Whether a row has all of its columns and, beyond the header's, empty fields alone."""
    return last < len(fields) and len(fields) < MOST_FIELDS and not any(fields[width:])


def _of_other_width(
    path: Path, line: int, fields: list[str], layout: _Layout, wanted: str
) -> DataError:
    shown = (
        (layout.separator or " ")
        .join(fields[:20])[:80]
        .encode(errors="surrogateescape")
        .decode(errors="replace")
    )
    under = f"a header of {layout.width}" if layout.header else f"rows of {layout.width}"
    return DataError(
        f"{path}, line {line}: found {shown!r}, {len(fields)} fields under {under}; wanted {wanted}"
    )


def _is_stream(path: Path) -> bool:
    """Whether a path is standard input, or a pipe such as `/dev/stdin` or `/dev/fd/63`."""
    return path == STANDARD_INPUT or path.is_fifo() or path.is_char_device()


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """A file's text, decompressed if need be; UTF-16 where its byte order mark says so.

    It is opened once and read once, as a pipe has to be.
    """
    with ExitStack() as opened:
        if path == STANDARD_INPUT:
            raw = cast(BufferedReader, sys.stdin.buffer)
        else:
            raw = opened.enter_context(path.open("rb"))
        mark = raw.peek(4)[:4] if _is_stream(path) else b""
        if mark == b"PAR1":
            raise DataError(f"{path}: parquet is not read from a pipe; wanted a file, or text")
        if path.suffix == ".gz" or mark[:2] == b"\x1f\x8b":
            import gzip

            raw = cast(BufferedReader, opened.enter_context(gzip.GzipFile(fileobj=raw)))
        utf_16 = raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        # `_refuse_broken_text` names the line of bytes that are not UTF-8, once it has the block.
        encoding, errors = ("utf-16", "strict") if utf_16 else ("utf-8-sig", "surrogateescape")
        text = io.TextIOWrapper(raw, encoding, errors, newline="")
        try:
            yield text
        finally:
            with suppress(ValueError):  # it is closed
                text.detach()  # else it would close standard input


def _refuse_broken_text(path: Path, block: Block, wanted: str) -> None:
    for fields in block.columns.values():
        try:
            "".join(fields).encode()
        except UnicodeEncodeError:
            bad = next(row for row, text in enumerate(fields) if not _is_text(text))
            raise DataError(
                f"{path}, line {block.lines[bad]}: not a CSV of UTF-8 text; wanted lines {wanted}"
            ) from None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
