"""Albums that somebody hands over: in a folder that goes with the program, related by `relate`."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kinembed
from kinembed.errors import DataError
from kinembed.inference.confirmed import read_confirmed
from kinembed.inference.words import rate
from kinembed.printable import counted, one_line
from kinembed.serving.photos_form import safe_parts
from kinembed.serving.refused import RefusedError

log = logging.getLogger(__name__)

PREFIX = "kinembed-app-"
MOST_ALBUMS, MOST_PHOTOS, MOST_BYTES = 4, 10_000, 16 << 30
LISTED = 20  # links in an answer
FILES = {
    "relate.html": "text/html; charset=utf-8",
    "people.csv": "text/csv; charset=utf-8",
    "relate.csv": "text/csv; charset=utf-8",
}
STEPS = """<ol id="steps">
<li>Save your answers: the button below, or the key <kbd>s</kbd>. Your browser puts a file
<code>confirmed.csv</code> where it puts downloads.</li>
<li>Go back to the page of kinembed app, choose that file under <em>You know better</em>, and press
<em>Relate again</em>.</li>
</ol>"""


@dataclass
class Album:
    """Photos that belong together.

    Attributes:
        folder: of the album: its photos, and the run folder of `relate`.
        name: of the folder of photos.
        photos: how many there are.
        size: of them, in bytes.
        state: `open`, `working`, `done` or `failed`.
        began: when the work did.
        error: why it failed.
        result: what `relate --json` printed.
        task: the work.
    """

    folder: Path
    name: str
    photos: int = 0
    size: int = 0
    state: str = "open"
    began: float = 0.0
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    @property
    def run(self) -> Path:
        """The run folder of `relate`."""
        return self.folder / "run"

    @property
    def source(self) -> Path:
        """The folder of photos."""
        return self.folder / "photos" / self.name

    def about(self) -> dict[str, Any]:
        """How far it is, and what was found, as JSON types."""
        about: dict[str, Any] = {"state": self.state, "photos": self.photos, "error": self.error}
        if self.state == "working":
            about["seconds"] = time.monotonic() - self.began
        if self.state == "done":
            about["sentences"] = _sentences(self.result)
            about["links"] = _links(self.run / "relate.csv")
            about["left_out"] = self.result["left_out"]
        return about


class Albums:
    """The albums of one program.

    Args:
        folder: where they lie.
        options: of `relate`: the head, the device.
    """

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.folder = folder
        self.options = tuple(options)
        self._albums: dict[str, Album] = {}
        self._turn = asyncio.Lock()  # one album is related at a time

    def __getitem__(self, key: str) -> Album:
        album = self._albums.get(key)
        if album is None:
            raise RefusedError(404, "there is no such album, or no longer; relate its photos again")
        return album

    def add(self, name: str) -> str:
        """Begins an album; its key.

        Raises:
            RefusedError: there are too many, or the name is that of no folder.
        """
        if len(self._albums) >= MOST_ALBUMS:
            raise RefusedError(429, f"{MOST_ALBUMS} albums are open; reload the page they are on, "
                                    "or end kinembed app", 10)  # fmt: skip
        (part,) = safe_parts(name)[-1:]
        key = secrets.token_hex(16)
        album = Album(self.folder / key, part)
        album.source.mkdir(parents=True, mode=0o700)
        self._albums[key] = album
        return key

    def put(self, key: str, name: str, content: bytes) -> None:
        """Writes a photo into an album.

        Args:
            key: of the album.
            name: a relative path.
            content: the photo's bytes.

        Raises:
            RefusedError: the path leads elsewhere or is taken, or the album is full or at work.
        """
        album, parts = self[key], safe_parts(name)
        if album.state != "open":
            raise RefusedError(409, "the album is related already; begin another one")
        if album.photos >= MOST_PHOTOS or album.size + len(content) > MOST_BYTES:
            raise RefusedError(413, f"an album has at most {MOST_PHOTOS:,} photos and "
                                    f"{MOST_BYTES >> 30} GiB")  # fmt: skip
        path = album.source.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with open(os.open(path, flags, 0o600), "wb") as file:
                file.write(content)
        except FileExistsError:
            raise RefusedError(422, f"{one_line(name)}: is there already") from None
        except OSError as error:
            raise RefusedError(507, f"the photo cannot be kept ({error.strerror})") from None
        album.photos += 1
        album.size += len(content)

    def confirm(self, key: str, content: bytes) -> None:
        """Keeps the answers that the album's page saved, for the next time it is related.

        Raises:
            RefusedError: it is being related, or these are no answers.
        """
        album = self[key]
        if album.state == "working":
            raise RefusedError(409, "the album is being related")
        album.run.mkdir(exist_ok=True, mode=0o700)
        given = album.run / "confirmed.part"
        given.write_bytes(content)
        try:
            read_confirmed(given)
        except DataError as error:  # those of before stay
            given.unlink()
            reason = str(error).replace(str(given), "confirmed.csv")
            raise RefusedError(422, one_line(reason)) from None
        given.replace(album.run / "confirmed.csv")

    def relate(self, key: str) -> None:
        """Begins to relate an album.

        Raises:
            RefusedError: it has no photos, or is being related.
        """
        album = self[key]
        if album.state == "working" or not album.photos:
            what = "is being related" if album.photos else "has no photos"
            raise RefusedError(409, f"the album {what}")
        album.state, album.began = "working", time.monotonic()
        album.task = asyncio.get_running_loop().create_task(self._relate(album))

    async def _relate(self, album: Album) -> None:
        async with self._turn:
            try:
                code, out, error = await _run_kinembed(
                    "relate", str(album.source), "--run", str(album.run),
                    "--data", str(album.source), "--json", "--quiet", *self.options,
                )  # fmt: skip
            except OSError as problem:
                code, out, error = 1, b"", f"Error: {problem}".encode()
        lines = error.decode("utf-8", "replace").strip().splitlines()
        try:
            album.result = json.loads(out) if code == 0 else {}
        except ValueError:
            code = 1
        album.state = "done" if code == 0 else "failed"
        said = lines[-1].removeprefix("Error: ") if lines else f"relate ended with {code}"
        for place, name in ((str(album.source), album.name), (f"{album.run}{os.sep}", "")):
            said = said.replace(place, name)  # the folder is nobody's
        album.error = "" if code == 0 else one_line(said)

    async def remove(self, key: str) -> None:
        """Ends the work on an album, and deletes it with all that was found."""
        album = self[key]
        del self._albums[key]
        await _ended(album)
        await asyncio.to_thread(shutil.rmtree, album.folder, ignore_errors=True)

    def file(self, key: str, name: str) -> bytes:
        """A file of an album that is related: one of `FILES`.

        Raises:
            RefusedError: there is none.
        """
        album = self[key]
        if name not in FILES or album.state != "done":
            raise RefusedError(404, "there is no such file")
        content = (album.run / name).read_bytes()
        if name == "relate.html":  # it tells how to answer on the command line
            steps = re.compile(rb'<ol id="steps">.*?</ol>', re.DOTALL)
            content = steps.sub(lambda _: STEPS.encode(), content, count=1)
        return content


async def _run_kinembed(*words: str) -> tuple[int, bytes, bytes]:
    """Runs a command in a process of its own: exit code, standard output, standard error.

    A process of its own can be stopped, and gives its memory back. It works in the folder that the
    package lies in, for Python imports from where it works: never from where photos are.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kinembed", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, cwd=Path(kinembed.__file__).resolve().parents[1],
    )  # fmt: skip
    try:
        out, error = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out, error


async def _ended(album: Album) -> None:
    if album.task is not None:
        album.task.cancel()
        with suppress(asyncio.CancelledError):
            await album.task


def _sentences(found: dict[str, Any]) -> list[str]:
    """What `relate` found, in words."""
    people = counted(found["persons"], "person", "people")
    faces = counted(found["faces"], "face")
    lines = [f"{people} on {counted(found['photos'], 'photograph')}, with {faces}."]
    shown, false = found["shown"], found["expected_false"]
    if shown:
        number = f"about {false:.0f}" if false >= 0.95 else "less than one"
        looks, are = "looks" if shown == 1 else "look", "is" if false < 1.5 else "are"
        lines.append(
            f"{counted(shown, 'pair')} of {found['pairs']:,} {looks} alike enough to be listed as "
            f"likely kin; {number} of these {are} expected to be false, and the faces do not tell "
            "which."
        )
    else:
        pairs = counted(found["pairs"], "pair")
        lines.append(f"None of {pairs} looks alike enough to be listed as likely kin.")
    if found["questions"]:
        questions = counted(found["questions"], "question")
        lines.append(f"{questions} to you on the album's page would make it better.")
    return lines


def _links(path: Path) -> list[dict[str, Any]]:
    """The links that are shown, the likeliest first."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["shown"] == "yes"]
    rows.sort(key=lambda row: -float(row["probability"]))
    return [
        {
            "left": one_line(row["left"]),
            "right": one_line(row["right"]),
            "probability": float(row["probability"]),
            "rate": rate(float(row["far"])),
        }
        for row in rows[:LISTED]
    ]


@contextmanager
def albums_folder(keep: Path | None) -> Iterator[Path]:
    """A folder for albums, which is deleted at the end unless it was asked for.

    Args:
        keep: the folder; None: a temporary one, which the next program deletes if this one is
            killed.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield keep.resolve()
        return
    _delete_left()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with _locked(folder / "lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _delete_left() -> None:
    """Deletes what killed programs left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                continue
            with _locked(folder / "lock", is_new=False):
                shutil.rmtree(folder, ignore_errors=True)
                log.info("%s: left by a program that was killed; deleted", folder)


@contextmanager
def _locked(path: Path, is_new: bool = True) -> Iterator[None]:
    """Holds the lock on a file while it is open; a killed process no longer holds one.

    Raises:
        OSError: another process holds it, or there is none and it is not to be made.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if is_new else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif not is_new:
            raise OSError("without locks nobody knows whether it is in use")
        yield
    finally:
        os.close(descriptor)
