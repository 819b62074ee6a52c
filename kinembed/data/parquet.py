"""The reader of parquet tables: what a file declares is checked before anything is allocated.

A few hundred bytes of parquet may declare gigabytes: one long text that every row repeats, pages
that decompress to a thousand times their size, or any number of rows. The footer and the header of
every page that is read say so before pyarrow does. And pyarrow may end the process on a malformed
footer, so it runs in one of its own, which hands rows over as lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from kinembed.children import program, start
from kinembed.data.columns import SAMPLE, Block, Shape, TitlesError, tell_columns
from kinembed.errors import DataError
from kinembed.limits import end_after, end_with

SECONDS, MEMORY = 60, 512 << 20  # for a block, and bytes for a file
_CHILD = program("kinembed.data.parquet")
LONGEST_FIELD = 8192  # bytes: a pair of two of the longest paths
MOST_FOOTER = 4 << 20  # bytes
MOST_PAGE = 128 << 20  # bytes of a page when it is decompressed
MOST_HEADER = 1 << 16  # bytes of a page's header
ROWS_PER_BYTE = 100  # of the file; a row takes a bit at least where not all are the same


def read_parquet(path: Path, shapes: Sequence[Shape], wanted: str, size: int) -> Iterator[Block]:
    """The rows of a parquet file in blocks; their lines count from 1.

    Raises:
        DataError: the file is no parquet, lacks columns, or declares what no table has.
    """
    if find_spec("pyarrow") is None:
        raise DataError(f"{path}: reading parquet needs pip install 'kinembed[parquet]'")
    asked = [str(path), [list(shape) for shape in shapes], wanted, size, os.getpid()]
    with start(_CHILD, ARROW_DEFAULT_MEMORY_POOL="system") as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            with suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(asked).encode() + b"\n")
            for line in child.stdout:
                answer = json.loads(line)
                if answer is None:
                    return
                if isinstance(answer, str):
                    raise DataError(answer)
                yield Block(*answer)
            raise DataError(
                f"{path}: not a parquet file (pyarrow crashed on it, or took more than {SECONDS} s "
                f"for {size:,} rows or its memory); wanted {wanted}"
            )
        finally:
            child.kill()


def answer_parent() -> None:
    """Reads the file that standard input names, and writes its blocks to standard output."""
    path, shapes, wanted, size, parent = json.loads(sys.stdin.buffer.readline())
    import pyarrow.parquet  # noqa: F401 - what it takes does not count

    end_with(parent, MEMORY)
    try:
        end_after(SECONDS)
        for block in _read(
            Path(path), [Shape(tuple(a), tuple(b), c) for a, b, c in shapes], wanted, size
        ):
            end_after(0)  # the parent may take its time
            _write([block.lines, block.columns, block.titles])
            end_after(SECONDS)
        end_after(0)
        _write(None)
    except DataError as error:
        end_after(0)
        _write(str(error))


def _write(answer: object) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _read(path: Path, shapes: Sequence[Shape], wanted: str, size: int) -> Iterator[Block]:
    """As `read_parquet`, in this process."""
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as raw:
            check_footer(raw)
            opened: dict[str, Any] = {
                "thrift_string_size_limit": MOST_FOOTER,
                "thrift_container_size_limit": 100_000,
                "page_checksum_verification": True,
            }
            with parquet.ParquetFile(path, **opened) as file:
                titles = file.schema_arrow.names
                columns = _columns(path, [titles], shapes, wanted)
                check_pages(raw, path, file.metadata, set(columns.values()))
                sample = _sample(raw, path, file, set(columns.values()))
                columns = _columns(path, [titles, *sample], shapes, wanted)
            texts = list(columns.values())
            with parquet.ParquetFile(path, read_dictionary=texts, **opened) as file:
                first = 1
                for batch in file.iter_batches(size, columns=texts, use_threads=False):
                    lines = list(range(first, first + batch.num_rows))
                    yield Block(
                        lines,
                        {
                            name: _texts(batch.column(title), path, first)
                            for name, title in columns.items()
                        },
                        columns,
                    )
                    first += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError, EOFError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a parquet file ({reason}); wanted {wanted}") from None


def _columns(
    path: Path, rows: Sequence[list[str]], shapes: Sequence[Shape], wanted: str
) -> dict[str, str]:
    """The titles of what is read, by the titles and the first rows."""
    titles, shown = rows[0], ", ".join(rows[0])[:120]
    try:
        told = tell_columns(rows, shapes)
    except TitlesError as error:
        raise DataError(f"{path}: {error}; wanted {wanted}") from None
    except DataError:
        told = None
    if told is None or not told.by_titles:
        raise DataError(f"{path}: has columns {shown}; wanted {wanted}")
    return {name: titles[number] for name, number in told.columns.items()}


def _sample(raw: BinaryIO, path: Path, file: Any, needed: set[str]) -> list[list[str]]:
    """The first rows; of columns that are none of texts or numbers, or are too large, nothing."""
    import pyarrow

    found: dict[str, list[str]] = {}
    for field in file.schema_arrow:
        kind = field.type
        is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        is_text |= pyarrow.types.is_dictionary(kind)
        if not (is_text or pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind)):
            continue
        try:
            check_pages(raw, path, file.metadata, {field.name})
            batch = next(file.iter_batches(SAMPLE, columns=[field.name], use_threads=False), None)
            values = [] if batch is None else batch.column(0).to_pylist()
        except (DataError, ValueError, pyarrow.ArrowException):
            if field.name in needed:
                raise
            continue
        found[field.name] = [
            "" if value is None else str(value)[:LONGEST_FIELD] for value in values
        ]
    count = max(map(len, found.values()), default=0)
    blank = [""] * count
    columns = [found.get(name, blank) for name in file.schema_arrow.names]
    return [list(row) for row in zip(*columns, strict=True)]


def _texts(column: Any, path: Path, first: int) -> list[str]:
    """A column as texts; one that repeats is one object."""
    if not hasattr(column, "dictionary"):  # numbers and truth values
        return ["" if value is None else str(value) for value in column.to_pylist()]
    values = column.dictionary.to_pylist()
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{path}: found {str(value)[:80]!r} in a column of texts")
        if len(value) > LONGEST_FIELD:
            raise DataError(f"{path}: found a text of {len(value):,} characters, wanted a pair")
    return ["" if at is None else values[at] for at in column.indices.to_pylist()]


def check_footer(raw: BinaryIO) -> None:
    """Refuses a file that does not end as one, or whose footer is far too long.

    Raises:
        ValueError: says which.
    """
    end = raw.seek(0, 2)
    raw.seek(max(0, end - 8))
    tail = raw.read(8)
    if end < 12 or tail[4:] != b"PAR1":
        raise ValueError("it does not end in PAR1")
    if not int.from_bytes(tail[:4], "little") <= min(MOST_FOOTER, end - 12):
        raise ValueError("its footer is too long")


def check_pages(
    raw: BinaryIO,
    path: Path,
    metadata: Any,
    wanted: set[str],
    groups: Iterable[int] | None = None,
    longest: int = LONGEST_FIELD,
    most: int = MOST_PAGE,
) -> None:
    """Refuses rows and pages that are larger than a file of this size can mean.

    Args:
        raw: the file.
        path: its path.
        metadata: what its footer says.
        wanted: the columns that will be read.
        groups: the groups of rows that will be; None: all.
        longest: bytes of a value.
        most: bytes of a page.

    Raises:
        DataError: rows or a page are too large.
        ValueError: the file is malformed.
    """
    end = raw.seek(0, 2)
    if metadata.num_rows > ROWS_PER_BYTE * end:
        raise DataError(
            f"{path}: declares {metadata.num_rows:,} rows in {end:,} bytes; wanted at most "
            f"{ROWS_PER_BYTE} a byte"
        )
    for group in range(metadata.num_row_groups) if groups is None else groups:
        rows = metadata.row_group(group)
        for at in range(rows.num_columns if rows.num_rows else 0):
            column = rows.column(at)
            if column.path_in_schema not in wanted:
                continue
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            stop = start + column.total_compressed_size
            if not 0 < start <= stop <= end:
                raise ValueError("a column lies outside of it")
            while start < stop:
                raw.seek(start)
                header = _PageHeader(raw.read(MOST_HEADER))
                if not (
                    0 <= header.values <= rows.num_rows
                    and 0 <= header.compressed <= stop - start - header.length
                    and 0 <= header.size <= min(most, (1 << 20) + longest * header.values)
                ):
                    raise DataError(
                        f"{path}: a page of {column.path_in_schema} declares {header.size:,} bytes "
                        f"for {header.values:,} values of {rows.num_rows:,}; wanted names or photos"
                    )
                start += header.length + header.compressed


class _PageHeader:
    """The header of a page: its size, its size in the file, its values, its own length.

    Thrift's compact protocol, as in https://github.com/apache/parquet-format.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        fields = self._struct(0)
        self.length = self._at
        self.size, self.compressed = int(fields.get(2, -1)), int(fields.get(3, -1))
        # Of a data page, of a dictionary, or of a data page of the second version.
        kinds = [fields[number] for number in (5, 7, 8) if isinstance(fields.get(number), dict)]
        self.values = int(kinds[0].get(1, -1)) if kinds else 0

    def _byte(self) -> int:
        if self._at >= len(self._content):
            raise ValueError("the header of a page is cut off")
        self._at += 1
        return self._content[self._at - 1]

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 70:
                raise ValueError("the header of a page has no number")

    def _struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step = head >> 4
            number = number + step if step else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _signed(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > 8:
            raise ValueError("the header of a page is too deep")
        if kind in (1, 2):  # truth values
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            self._at += 8
            return 0.0
        if kind == 8:
            length = self._number()
            self._at += length
            return b""
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._number()
            if count > MOST_HEADER:
                raise ValueError("the header of a page has too long a list")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self._struct(depth + 1)
        raise ValueError("the header of a page is of no known kind")
