"""The reader of tables: relations, labelled pairs, lists and submissions, whoever wrote them.

What their columns are, `columns.py` tells. Fields are separated by `,`, `;`, tabs or `|`; those of
lists by blanks. A byte order mark, UTF-16, CRLF, blank lines, index columns and empty last fields
are accepted. Rows are read in blocks, in their order, and nothing is kept that a block does not
hold: a line, a row and a file have a largest size.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

from kinembed.data.columns import (
    SAMPLE,
    Block,
    NoLabelError,
    Shape,
    TitlesError,
    Told,
    tell_columns,
    unnamed_index,
)
from kinembed.errors import DataError

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # characters read at a time
LONGEST_LINE = 1 << 16  # characters; a path has at most 4,096
LONGEST_ROW = 4  # chunks without the end of a row
MOST_FIELDS = 1000  # in a row

STANDARD_INPUT = Path("-")


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
        except NoLabelError as error:
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
        shift = unnamed_index(rows[0], rows[1:]) if told.by_titles else 0
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
