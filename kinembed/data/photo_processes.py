"""Reads and decodes photos in processes of their own.

Python runs in one thread at a time. Where a GPU waits for photos, the threads of many processors
that decode them wait for each other, and four read fewer than two. So each thread asks a process,
in a line of JSON; another comes back, then the numbers of all photos as they are, never a pickle.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import numpy as np

from kinembed.backbones import Framing
from kinembed.children import Child, program, start
from kinembed.data.photos import Pixels, decode_photo, read_file
from kinembed.errors import DataError, KinembedError
from kinembed.limits import end_with

MEMORY = 8 << 30  # bytes that a process takes at most: photos of hundreds of megapixels are read
PIPE = 1 << 20  # bytes that a process may be ahead; a 16th of that is usual, and a photo is more
LINE = 1 << 26  # bytes of a line at most
_CHILD = program("kinembed.data.photo_processes")

Job = tuple[Path, Framing]
Found = tuple[bytes, Pixels | None] | DataError  # sha256 of a file and (side, side, 3); or why not


class PhotoProcesses:
    """As many processes as threads ask at a time; to be closed."""

    def __init__(self) -> None:
        self._all: list[Child] = []
        self._free: list[Child] = []
        # On Linux a process ends with the thread that started it, and those who ask come and go.
        self._starter = ThreadPoolExecutor(1)

    def read(self, jobs: Sequence[Job]) -> list[Found]:
        """Digest and pixels of photos, in their order, or what is wrong with one.

        Raises:
            KinembedError: the process has ended.
        """
        try:
            child = self._free.pop()
        except IndexError:
            child = self._starter.submit(_start).result()
            self._all.append(child)
        try:
            found = _ask(child, jobs)
        except BaseException as error:
            self._end(child)  # what it has still to say would be taken for other photos
            if not isinstance(error, EOFError | OSError | ValueError):
                raise
            names = f"{jobs[0][0]} to {jobs[-1][0]}" if len(jobs) > 1 else str(jobs[0][0])
            raise KinembedError(
                f"{names}: the process that reads these photos ended with {child.returncode}; run "
                "the command again, which goes on where it was"
            ) from None
        self._free.append(child)
        return found

    def _end(self, child: Child) -> None:
        self._all.remove(child)
        child.kill()
        child.communicate()

    def close(self) -> None:
        """Ends the processes."""
        for child in [*self._all]:
            self._end(child)
        self._free.clear()
        self._starter.shutdown()


def _ask(child: Child, jobs: Sequence[Job]) -> list[Found]:
    asked, answers = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
    asked.write(json.dumps([[os.fspath(path), vars(framing)] for path, framing in jobs]).encode())
    asked.write(b"\n")
    asked.flush()
    return _answer(answers, [framing.side for _, framing in jobs])


def _start() -> Child:
    # Ctrl-C is for the command, which then closes this.
    child = start(_CHILD, str(os.getpid()), own_session=True)
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # a user may have so many pages of pipes alone
            fcntl.fcntl(cast(IO[bytes], child.stdout), fcntl.F_SETPIPE_SZ, PIPE)
    return child


def _answer(stream: IO[bytes], sides: Sequence[int]) -> list[Found]:
    """What a process has found; the pixels of a photo follow those of the one before."""
    line = stream.readline(LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    answers = json.loads(line)
    shapes = [(0 if "problem" in each else side, side, 3)
              for each, side in zip(answers, sides, strict=True)]  # fmt: skip
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    pixels = np.empty(ends[-1], np.uint8)
    if cast(BufferedReader, stream).readinto(pixels.data) != pixels.nbytes:
        raise EOFError
    parts = np.split(pixels, ends[:-1])
    return [
        DataError(each["problem"]) if "problem" in each
        else (bytes.fromhex(each["digest"]), part.reshape(shape))
        for each, part, shape in zip(answers, parts, shapes, strict=True)
    ]  # fmt: skip


def read_photos(jobs: Sequence[Job], is_known: Callable[[bytes], bool]) -> Iterator[Found]:
    """The same in this thread, but for pixels of files whose digests are known."""
    for path, framing in jobs:
        try:
            content = read_file(path)
            digest = hashlib.sha256(content).digest()
            yield digest, None if is_known(digest) else decode_photo(content, framing, str(path))
        except DataError as error:
            yield error


def answer_parent(parent: str) -> None:
    """Reads photos as standard input asks for them, until it ends."""
    end_with(int(parent), MEMORY)
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        jobs = [(Path(path), Framing(**framing)) for path, framing in json.loads(line)]
        answers: list[dict[str, str]] = []
        pixels: list[Pixels] = []
        for found in read_photos(jobs, lambda digest: False):
            if isinstance(found, DataError):
                answers.append({"problem": str(found)})
            else:
                answers.append({"digest": found[0].hex()})
                pixels.append(np.ascontiguousarray(found[1]))
        out.write(json.dumps(answers).encode() + b"\n")
        for each in pixels:
            out.write(each.data)
        out.flush()
