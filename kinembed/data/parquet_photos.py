"""Photos inside of parquet files, as Hugging Face's datasets have them: a row a photo.

A photo's path leads through the file: `photos.parquet/F0001/MID1/a.jpg`. The column of bytes may be
binary, or a struct of `bytes` and `path`. Listing reads names alone. A photo is read by going
through its group of rows as far as to it, and what comes next is at hand; so rows in the order of
their names take one pass. pyarrow may crash on a malformed file: it runs in a process of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from kinembed.children import program, start
from kinembed.data.folders import UNSAFE_NAME, Walk, number_of
from kinembed.data.layouts import is_person
from kinembed.data.packed import MAX_BYTES, place_of, too_large
from kinembed.data.parquet import LONGEST_FIELD, check_footer, check_pages
from kinembed.errors import DataError
from kinembed.limits import end_after, limited_memory

NAMES = ("name", "photo", "file_name", "path")  # titles of the column of names, the first counts
IMAGE, PERSON = "image", "person"
SECONDS, MEMORY = 60, 2 << 30  # for an answer, and bytes for a file
KEPT = 32 << 20  # bytes of photos of a file that are at hand
LISTED, ROWS = 4096, 8  # rows that are listed, and read, at once
OPENED = 16  # files at once
_CHILD = program("kinembed.data.parquet_photos")


def walk_parquet(path: Path) -> Walk:
    """Lists the photos of a parquet file, whose size and time stand for those of each photo.

    Raises:
        DataError: it is no parquet file, or has no column of photos or of names.
    """
    walk, status = Walk(), path.stat()
    walk.listed.add(number_of(status))
    walk.add_place("", status.st_size, status.st_mtime_ns)
    photos: list[tuple[bytes, str]] = []
    seen: set[bytes] = set()
    for _, _, names, people in _listed(path):
        for name, person in zip(names, people, strict=True):
            shown = (name or "")[:120].encode(errors="backslashreplace").decode()
            own = _clean(name).encode() if name and shown else b""
            if not own:
                walk.left_out.add("rows without a name", f"row {len(photos) + len(walk.left_out)}")
            elif "\n" in shown or len(own) > LONGEST_FIELD or UNSAFE_NAME.search(own.decode()):
                walk.left_out.add("rows whose names lead elsewhere or are not plain", shown)
            elif own in seen:
                walk.left_out.add("rows of a name that another row has", shown)
            else:
                seen.add(own)
                if person and not is_person(person):
                    walk.left_out.add("rows whose person is no name", f"{shown}: {person[:80]}")
                else:
                    photos.append((own, person or ""))
    photos.sort()
    if photos:
        names_, people_ = zip(*photos, strict=True)
        stats = np.tile(np.array([status.st_size, status.st_mtime_ns], np.int64), (len(photos), 1))
        walk.pieces.append((np.array(names_), stats))
        walk.people = [*people_] if any(people_) else []
    return walk


def read_cell(path: Path, most: int) -> bytes | None:
    """The bytes of a photo whose path leads through a parquet file; None if it does not.

    Raises:
        DataError: the file has no such photo, or it is empty or larger than `most` bytes.
    """
    found = place_of(path, ".parquet", _index)
    if found is None:
        return None
    file, place = found
    content = _reader().read(file, *place, most)
    if isinstance(content, int):
        raise too_large(path, content, most)
    if not content:
        raise DataError(f"{path}: has no bytes; wanted a photo")
    return content


def _clean(name: str) -> str:
    return name.removeprefix("./").encode(errors="replace").decode()


def _listed(path: Path) -> Iterator[tuple[int, int, list[str | None], list[str | None]]]:
    """Group, first row, names and people of some rows after the other."""
    with _Child() as child:
        child.ask(["list", str(path)])
        while (answer := child.answer(path)) is not None:
            group, first, names, people = answer
            yield group, first, names, people


@lru_cache(16)
def _index(path: Path, size: int, mtime: int) -> dict[str, tuple[int, int]]:
    """Group and row of each photo, by its name; of rows of one name the first."""
    index: dict[str, tuple[int, int]] = {}
    for group, first, names, _ in _listed(path):
        for row, name in enumerate(names, first):
            if name:
                index.setdefault(_clean(name), (group, row))
    return index


_readers: dict[int, _Child] = {}  # of this process, by its number: a fork has its own
_lock = Lock()


def _reader() -> _Child:
    """The process that reads photos; another one, if that has crashed."""
    with _lock:
        reader = _readers.get(os.getpid())
        if reader is None or reader.has_ended():
            reader = _readers[os.getpid()] = _Child()
        return reader


@atexit.register
def _close() -> None:
    with suppress(KeyError):
        _readers.pop(os.getpid()).close()


class _Child:
    """A process that reads parquet files."""

    def __init__(self) -> None:
        if find_spec("pyarrow") is None:
            raise DataError("--photos: reading parquet needs pip install 'kinembed[parquet]'")
        self._own = Lock()
        self._process = start(_CHILD, ARROW_DEFAULT_MEMORY_POOL="system")

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        with self._process as process:
            process.kill()

    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def ask(self, question: list[Any]) -> None:
        """Sends a question."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, path: Path) -> Any:
        """The next answer about a file.

        Raises:
            DataError: the file is malformed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise DataError(
                f"{path}: not a parquet file (pyarrow crashed on it, or took more than "
                f"{SECONDS} s or its memory); wanted columns name and image"
            )
        answer = json.loads(line)
        if isinstance(answer, str):
            raise DataError(answer)
        return answer

    def read(self, path: Path, group: int, row: int, most: int) -> bytes | int | None:
        """The bytes of a photo, their number if these are more than `most`, None if there are none.

        Raises:
            DataError: the file is malformed.
        """
        with self._own:
            self.ask(["read", str(path), group, row, most])
            size = self.answer(path)
            if size is None or size > most:
                return None if size is None else int(size)
            assert self._process.stdout is not None
            return self._process.stdout.read(size)


def answer_parent() -> None:
    """Answers questions about files on standard input, until there are no more."""
    import pyarrow.parquet

    errors = (pyarrow.ArrowException, OSError, ValueError, EOFError, MemoryError)
    files: OrderedDict[str, _Photos] = OrderedDict()
    with limited_memory(MEMORY):
        for line in sys.stdin.buffer:
            question, text, *rest = json.loads(line)
            end_after(SECONDS)
            try:
                if text not in files or files[text].has_changed():
                    files[text] = _Photos(Path(text))
                    if len(files) > OPENED:
                        files.popitem(last=False)
                files.move_to_end(text)
                if question == "list":
                    for answer in files[text].listed():
                        end_after(0)  # the parent may take its time
                        _write(answer)
                        end_after(SECONDS)
                    _write(None)
                else:
                    group, row, most = rest
                    content = files[text].read(group, row)
                    _write(None if content is None else len(content))
                    if content is not None and len(content) <= most:
                        sys.stdout.buffer.write(content)
                        sys.stdout.buffer.flush()
            except DataError as error:
                _write(str(error))
            except errors as error:
                reason = str(error).partition("\n")[0][:200]
                _write(f"{text}: not a parquet file ({reason}); wanted columns name and image")
            end_after(0)


def _write(answer: object) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


class _Photos:
    """A parquet file of photos, in the process that reads it."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._path, self._raw = path, path.open("rb")
        status = os.fstat(self._raw.fileno())
        self._stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        check_footer(self._raw)
        self._file = parquet.ParquetFile(
            path, thrift_string_size_limit=4 << 20, thrift_container_size_limit=100_000,
            page_checksum_verification=True, buffer_size=1 << 20,
        )  # fmt: skip
        self._image, self._name, self._person = _columns(path, self._file.schema_arrow)
        self._kept: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self._size = 0
        self._group, self._next = -1, 0
        self._batches: Iterator[Any] = iter(())

    def has_changed(self) -> bool:
        """Whether another file has taken its place."""
        status = self._path.stat()
        return (status.st_ino, status.st_size, status.st_mtime_ns) != self._stamp

    def listed(self) -> Iterator[tuple[int, int, list[Any], list[Any]]]:
        """As `_listed`."""
        columns = [self._name, *([self._person] if self._person else [])]
        check_pages(self._raw, self._path, self._file.metadata, set(columns))
        for group in range(self._file.num_row_groups):
            first = 0
            for batch in self._file.iter_batches(
                LISTED, row_groups=[group], columns=columns, use_threads=False
            ):
                names, *people = (_cell(batch, column).to_pylist() for column in columns)
                yield group, first, names, people[0] if people else [None] * len(names)
                first += batch.num_rows

    def read(self, group: int, row: int) -> bytes | None:
        """The bytes of a photo; None if it has none."""
        if (group, row) in self._kept:
            return self._kept[group, row]
        if group != self._group or row < self._next:
            check_pages(
                self._raw, self._path, self._file.metadata, {self._image}, [group], MAX_BYTES,
                MAX_BYTES + (1 << 20),
            )  # fmt: skip
            self._group, self._next = group, 0
            self._batches = self._file.iter_batches(
                ROWS, row_groups=[group], columns=[self._image], use_threads=False
            )
        while self._next <= row:
            values = _cell(next(self._batches), self._image)
            for at, value in enumerate(values, self._next):
                if at >= row:  # none of those before it
                    content = value.as_py()
                    self._kept[group, at] = content
                    self._size += len(content or b"")
            self._next += len(values)
        found = self._kept[group, row]
        while self._size > KEPT:
            self._size -= len(self._kept.popitem(last=False)[1] or b"")
        return found


def _cell(batch: Any, column: str) -> Any:
    """A column, or a part of one that is a struct, of rows."""
    name, _, part = column.partition(".")
    if column in batch.schema.names:
        return batch.column(column)
    return batch.column(name).field(part)


def _columns(path: Path, schema: Any) -> tuple[str, str, str | None]:
    """The columns of bytes, names and, if there is one, people.

    Raises:
        DataError: one is missing, or several may be meant.
    """
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        return bool(types.is_string(kind) or types.is_large_string(kind))

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    images, texts = {}, set()
    for field in schema:
        if is_bytes(field.type):
            images[field.name] = field.name
        elif is_text(field.type):
            texts.add(field.name)
        elif types.is_struct(field.type):
            parts = {field.type.field(n).name: field.type.field(n).type
                     for n in range(field.type.num_fields)}  # fmt: skip
            if is_bytes(parts.get("bytes", field.type)):
                images[field.name] = f"{field.name}.bytes"
                if is_text(parts.get("path", field.type)):
                    texts.add(f"{field.name}.path")
    shown = ", ".join(schema.names)[:120]
    wanted = (
        "wanted a column of the photos' bytes, image, and one of their names, "
        f"{' or '.join(NAMES)} (or image, a struct of bytes and path)"
    )
    title = IMAGE if IMAGE in images or len(images) != 1 else next(iter(images))
    if title not in images:
        raise DataError(f"{path}: has columns {shown}; {wanted}")
    name = next((each for each in (*NAMES, f"{title}.path") if each in texts), None)
    if name is None:
        raise DataError(f"{path}: has columns {shown}; {wanted}")
    return images[title], name, PERSON if PERSON in texts else None
