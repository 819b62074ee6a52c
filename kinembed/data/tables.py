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
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from kinembed.errors import DataError

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # characters read at a time
LONGEST_LINE = 1 << 16  # characters; a path has at most 4,096
LONGEST_ROW = 4  # chunks without the end of a row
SAMPLE = 50  # rows that tell how a file is written
MOST_FIELDS = 1000  # in a row

PHOTO = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)$", re.IGNORECASE)
PAIR = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif|avif|heic|heif)-[^-]", re.IGNORECASE)

_STEMS = (
    *("", "p", "f", "x", "img", "image", "photo", "picture", "pic", "face", "file", "filename"),
    *("path", "person", "people", "id", "name", "sample", "subject", "member", "mid", "pid"),
    *("imgpath", "imagepath", "photopath", "imagename", "imgname", "facepath", "personid"),
)
_SIDES = (("1", "2"), ("a", "b"), ("left", "right"), ("first", "second"), ("one", "two"),
          ("0", "1"))  # fmt: skip
PAIRS_OF_TITLES = (
    *(
        (side.format(stem=stem, side=one), side.format(stem=stem, side=two))
        for one, two in _SIDES
        for side in ("{stem}{side}", "{side}{stem}")
        for stem in _STEMS
        if stem or one.isalpha()
    ),
    *((f"parent{what}", f"child{what}") for what in ("", "image", "img", "photo", "face", "path")),
    *((parent, "child") for parent in ("father", "mother")),
    *(("probe", "gallery"), ("anchor", "other"), ("source", "target"), ("from", "to")),
)
TITLES = {
    "pair": ("imgpair", "pair", "imagepair", "photopair", "imgpairs", "pairs"),
    "father": ("father", "fatherimage", "fatherimg", "fatherphoto", "dad", "fatherpath"),
    "mother": ("mother", "motherimage", "motherimg", "motherphoto", "mom", "mum", "motherpath"),
    "child": ("child", "childimage", "childimg", "childphoto", "kid", "childpath"),
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

_TRUE = {"1", "+1", "true", "t", "yes", "y", "kin", "related", "positive", "pos"}
_FALSE = {"0", "-1", "false", "f", "no", "n", "nonkin", "notkin", "unrelated", "notrelated"} | {
    "negative", "neg",
}  # fmt: skip


class Shape(NamedTuple):
    """Columns that together say what a row is; the first shape that a table has is taken.

    Attributes:
        needed: columns that it must have.
        further: columns that it may have.
    """

    needed: tuple[str, ...]
    further: tuple[str, ...] = ()


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
        path: the file.
        shapes: what its rows may be.
        wanted: what its lines should look like, for messages.
        size: rows per block.

    Raises:
        DataError: naming the line, what it holds and what was wanted; or what about the columns is
            ambiguous, and what would tell.
    """
    if not path.is_file():
        what = "no such file"
        if path.exists():
            what = "Is a directory" if path.is_dir() else "not a file"
        raise DataError(f"{path}: {what}; wanted a CSV of lines {wanted}")
    count = 0
    if path.suffix == ".parquet":
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
RELATIONS = "p1,p2, then FAMILY/PERSON,FAMILY/PERSON"  # what lines of relations are, for messages


def read_relations(path: Path) -> list[Relation]:
    """Reads a table of relations: two people in each row, and how they are related if it says so.

    Of a longer path (`train/F0002/MID1`) the last two parts count.

    Raises:
        DataError: the file is missing or empty, or a row does not name two people.
    """
    shapes = [Shape(("left", "right"), ("relation",))]
    found: list[Relation] = []
    for block in read_table(path, shapes, RELATIONS, 65_536):
        kinds = block.columns.get("relation") or [""] * len(block.lines)
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
    """

    columns: dict[str, int]
    header: int
    by_titles: bool


def tell_columns(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> Told:
    """The columns of a table by the titles of its first row, else by what they hold.

    Args:
        rows: the first rows.
        shapes: what rows may be.

    Raises:
        DataError: they can't be told; says why not.
    """
    first, rest = rows[0], rows[1:]
    titled = _by_titles(first, rest, shapes)
    if titled is not None:
        shift = _unnamed_index(first, rest)
        return Told({name: number + shift for name, number in titled.items()}, 1, True)
    # Where all rows do not agree, the first says what the others should be, unless it is a header.
    for header, sample in ((0, rows), (0, rows[:1]), (1, rest), (1, rest[:1])):
        held = _by_content(sample, shapes) if sample else None
        if held is not None:
            return Told(held, header, False)
    _refuse_other_labels(rows, shapes)
    raise DataError(f"found {','.join(first)[:120]!r}")


class _NoLabelError(DataError):
    """The pairs are told, but what should be a label is none."""


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
            bad = next((row for row in sample if not any(map(_is_label, row))), None)
            if bad is None:
                continue
            rest = [field for at, field in enumerate(bad) if at not in held.values()]
            which = f"{rest[0][:40]!r} is no label" if len(rest) == 1 else "no field is a label"
            raise _NoLabelError(
                f"found {','.join(bad)[:120]!r}, in which {which}; wanted 0 or 1 (or -1 and 1, yes "
                "and no, true and false, kin and non-kin)"
            )


def _is_label(field: str) -> bool:
    return truth(field) is not None


def _by_titles(
    first: Sequence[str], rest: Sequence[Sequence[str]], shapes: Sequence[Shape]
) -> dict[str, int] | None:
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
                raise DataError(f"found columns {both}, either of which may be the pair")
            columns["left"], columns["right"] = pairs[0]
        for role in (*shape.needed, *shape.further):
            if role in ("left", "right"):
                continue
            numbers = [number for number in named(role) if number not in columns.values()]
            if role == "relation" and "label" in shape.needed and "label" not in columns:
                continue
            if len(numbers) > 1 and role == "label":
                both = " and ".join(first[number] for number in numbers[:2])
                raise DataError(f"found columns {both}, either of which may be the label")
            if numbers:
                columns[role] = numbers[0]
        if "label" in shape.needed and "label" not in columns:  # `relation` that holds 0 and 1
            numbers = [number for number in named("relation") if _are_labels(rest, number)]
            if numbers:
                columns["label"] = numbers[0]
        if all(role in columns for role in shape.needed):
            return columns
    return None


def _by_content(rows: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> dict[str, int] | None:
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
        if needs_label or ("label" in shape.further and len(labels) == 1):
            columns["label"] = labels[0]
        if "relation" in shape.further and len(words) == 1:
            columns["relation"] = words[0]
        return columns
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


def _is_index(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first column counts the rows."""
    fields = [row[0] for row in rows]
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
    for separator in (",", "\t", ";", "|", ""):
        rows, line = _first_rows(sample, separator)
        if not rows:
            continue
        try:
            likely.append((separator, tell_columns(rows, shapes), rows))
        except _NoLabelError as error:
            problems.append((min(map(len, rows)), f"{path}: {error}"))
        except DataError as error:
            problem = f"line {line}: {error}, wanted {wanted}; a header with these names would tell"
            problems.append((min(map(len, rows)), f"{path}, {problem}"))
    if likely:
        # A known header says more than what the columns hold, and more columns than fewer.
        separator, told, rows = max(likely, key=lambda each: (each[1].by_titles, len(each[1][0])))
        if told.header and not told.by_titles:
            log.info(
                "%s: its header %r is not known; by what they hold, %s",
                path, ",".join(rows[0])[:120],
                ", ".join(f"column {at + 1} is {name}" for name, at in told.columns.items()),
            )  # fmt: skip
        shift = _unnamed_index(rows[0], rows[1:]) if told.by_titles else 0
        titles = {
            name: rows[0][at - shift].strip() if told.header else name
            for name, at in told.columns.items()
        }
        return _Layout(separator, told.columns, titles, told.header, len(rows[0]) + shift)
    if not problems:
        return None
    raise DataError(max(problems, key=lambda each: each[0])[1])


def _first_rows(sample: list[str], separator: str) -> tuple[list[list[str]], int]:
    """The first rows with a separator, and the line of the very first."""
    reader = _reader(sample, separator)
    rows: list[list[str]] = []
    line = 0
    with suppress(csv.Error):  # named with its line when all rows are read
        for fields in reader:
            if fields:
                line = line or reader.line_num
                rows.append(fields)
            if len(rows) == SAMPLE:
                break
    return rows, line


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
    return csv.reader(lines, delimiter=separator, strict=True) if separator else _Blanks(lines)


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


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """A file's text, decompressed if need be; UTF-16 where its byte order mark says so."""
    opened: Callable[..., Any] = Path.open
    if path.suffix == ".gz":
        import gzip

        opened = gzip.open
    with opened(path, "rb") as file:
        mark = file.read(2)
    utf_16 = mark in (b"\xff\xfe", b"\xfe\xff")
    # `_refuse_broken_text` names the line of bytes that are not UTF-8, once it has the whole block.
    style = {"encoding": "utf-16"} if utf_16 else {
        "encoding": "utf-8-sig", "errors": "surrogateescape",
    }  # fmt: skip
    with opened(path, "rt", newline="", **style) as file:
        yield cast(TextIO, file)


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
