"""Photos of a posted form, read into memory: what is too large is cut off on the way."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass, field
from unicodedata import category

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from kinembed.printable import counted, one_line
from kinembed.serving.answers import Photo
from kinembed.serving.refused import RefusedError, too_large

FORM = b"multipart/form-data"
MOST_HEADERS = 8  # of a part
MOST_HEADER = 4096  # bytes of all headers of a part, or before the first
MOST_NAME = 240  # bytes of a part of a path; systems take 255
# What no name of a file may have on this system, besides what cannot be written down.
FORBIDDEN = re.compile(r'[\\:*?"<>|]' if os.name == "nt" else r"\\|^[A-Za-z]:")
UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of some, line ends


@dataclass
class Budget:
    """Bytes of photos that all requests together hold in memory.

    Attributes:
        most: allowed.
        held: now.
    """

    most: int
    held: int = 0

    def take(self, count: int) -> None:
        """Takes some more.

        Raises:
            RefusedError: there are none left.
        """
        if self.held + count > self.most:
            raise RefusedError(503, "too many photos are on their way; ask again soon", 2)
        self.held += count


@dataclass
class _Part:
    """A part of the form, as far as it is read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    length: int = 0  # of the headers
    name: bytes = b""
    value: bytes = b""
    content: bytearray = field(default_factory=bytearray)


class _Form:
    """Takes in the parts of a form, each of one of the wanted fields, each once."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields
        self.parts: dict[str, tuple[str, bytearray]] = {}
        self.part = _Part()
        self.is_whole = False

    def begin(self) -> None:
        self.part = _Part()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self.part.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self.part.value += data[start:end]

    def _count(self, length: int) -> None:
        self.part.length += length
        if self.part.length > MOST_HEADER or len(self.part.headers) > MOST_HEADERS:
            raise RefusedError(400, "the form: the headers of a part are too long")

    def header_end(self) -> None:
        self.part.headers[self.part.name.lower()] = self.part.value
        self.part.name = self.part.value = b""

    def headers_end(self) -> None:
        kind, options = parse_options_header(self.part.headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""))
        if kind != b"form-data" or b"filename" not in options or name not in self.fields:
            raise RefusedError(
                422,
                f"the form: found field {one_line(name)[:50]!r}"
                f"{'' if b'filename' in options else ', which is no file'}; "
                f"wanted {_wanted(self.fields)}",
            )
        if name in self.parts:
            raise RefusedError(422, f"the form: {name} has two files, wanted one")
        self.parts[name] = (_text(options[b"filename"]), self.part.content)

    def data(self, data: bytes, start: int, end: int) -> None:
        self.part.content += data[start:end]

    def end(self) -> None:
        self.is_whole = True


async def read_photos(
    content_type: str,
    stream: AsyncIterable[bytes],
    fields: Sequence[str],
    budget: Budget,
    *,
    most: int,
    seconds: float,
) -> tuple[list[tuple[str, bytes]], int]:
    """Reads the files of a form, none of which is written anywhere.

    Args:
        content_type: of the request.
        stream: the body.
        fields: names of the fields, with a file each.
        budget: of all requests; the caller gives back what is taken.
        most: bytes of the body.
        seconds: in which it has to arrive.

    Returns:
        Name and bytes of the file of each field, and how much was taken of the budget.

    Raises:
        RefusedError: the form is another one, too large, or too slow; nothing is taken then.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind.lower() != FORM or not 0 < len(boundary) <= 70:
        found = one_line(content_type)[:80] or "nothing"
        raise RefusedError(415, f"content type: found {found}; wanted multipart/form-data with "
                           f"{_wanted(fields)}")  # fmt: skip
    form = _Form(fields)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin,
            "on_header_field": form.header_name,
            "on_header_value": form.header_value,
            "on_header_end": form.header_end,
            "on_headers_finished": form.headers_end,
            "on_part_data": form.data,
            "on_end": form.end,
        },
    )
    taken = 0
    preamble: bytearray | None = bytearray()  # RFC 2046 lets text stand before the first part

    async def read() -> None:
        nonlocal taken, preamble
        async for chunk in stream:
            budget.take(len(chunk))
            taken += len(chunk)
            if taken > most:
                raise RefusedError(413, too_large(most))
            if preamble is not None:
                preamble += chunk
                at = (b"\r\n" + preamble).find(b"\r\n--" + boundary)
                if at < 0 and len(preamble) > MOST_HEADER:
                    raise RefusedError(400, "the form is malformed")
                if at < 0:
                    continue
                chunk, preamble = bytes(preamble[at:]), None
            parser.write(chunk)
        parser.finalize()

    try:
        try:
            await asyncio.wait_for(read(), seconds)
        except asyncio.TimeoutError:
            raise RefusedError(408, f"the photos did not arrive in {seconds:g} seconds") from None
        except ClientDisconnect:  # nobody reads this
            raise RefusedError(400, "the form is cut short") from None
        except FormParserError:
            raise RefusedError(400, "the form is malformed") from None
        missing = [name for name in fields if not form.parts.get(name, ("", b""))[1]]
        if not form.is_whole:
            raise RefusedError(400, "the form is cut short")
        if missing:
            raise RefusedError(422, f"the form: nothing in {', '.join(missing)}; wanted "
                               f"{_wanted(fields)}")  # fmt: skip
    except BaseException:
        budget.held -= taken
        raise
    return [(form.parts[name][0], bytes(form.parts[name][1])) for name in fields], taken


def photo_of(name: str, content: bytes) -> Photo:
    """A photo whose name is that of a file, and no path out of a folder.

    Raises:
        RefusedError: the name is no name of a file.
    """
    return Photo(safe_parts(name)[-1], content)


def safe_parts(name: str) -> list[str]:
    """The folders and the file that a relative path names.

    Raises:
        RefusedError: it leads elsewhere, or is no name of a file.
    """
    parts = name.split("/")
    is_named = 0 < len(parts) <= 20 and all(map(_is_name, parts))
    if not is_named:
        raise RefusedError(422, f"file name: found {one_line(name)[:80]!r}, wanted that of a photo")
    return parts


def _is_name(part: str) -> bool:
    """Whether a text is a name of a file here, and no way to another place."""
    is_plain = not any(category(letter) in UNWRITABLE for letter in part)
    is_plain = is_plain and not FORBIDDEN.search(part)
    return is_plain and 0 < len(part.encode()) <= MOST_NAME and not part.startswith((".", "~"))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _wanted(fields: Iterable[str]) -> str:
    names = list(fields)
    return f"{counted(len(names), 'file')}: {' and '.join(names)}"
