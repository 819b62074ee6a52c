"""A folder of photographs to a folder of face crops; an interrupted call can be gone on with.

The crops lie as the photographs do, in the same folders, and `faces.csv` lists them. `.align/` in
the folder of crops holds the settings and, until all is done, a journal: a line for each photograph
that is done. The line is written before the crops that it names, each of which is written whole or
not at all; a photograph is done if its line is there, its file is as the line says, and all of its
crops exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, islice
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Literal

from PIL import Image

from kinembed.data.aligner import AlignedFace, Aligner, Shrunk, whole
from kinembed.data.faces_table import FILE, OWN, CroppedFace, PhotoFaces, read_faces, write_faces
from kinembed.data.folders import list_photos
from kinembed.data.left_out import LeftOut
from kinembed.data.listing import Photo, photo_at
from kinembed.data.photo_formats import FORMATS, HEAD, photo_format
from kinembed.data.photos import Pixels, decode_upright, log_skipped, read_file, without_advice
from kinembed.errors import DataError
from kinembed.io import locked, moved_together, remove, write_bytes
from kinembed.memory import reused_memory
from kinembed.progress import Progress, silent
from kinembed.threads import processors

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Crops = Literal["no", "found", "all"]

SCHEMA = 1  # of what lies there, and of crops: those of another are made again
QUALITY = 95  # of a JPEG, all colours kept: on RFIW the AUC differs from that of PNG by .0005
BATCH = 8  # photographs that a GPU searches at a time
SPOKEN = 30.0  # seconds between two lines that say how far it is


@dataclass(frozen=True)
class AlignedFolder:
    """What is in a folder of crops.

    Attributes:
        table: the path of `faces.csv`.
        photos: the photographs with their faces, as the table has them.
        computed: how many were searched for faces now; the others were done before.
        left_out: photographs that cannot be read or show no face, and files that are none.
        seconds: that it took.
    """

    table: Path
    photos: tuple[PhotoFaces, ...]
    computed: int
    left_out: LeftOut
    seconds: float

    @property
    def faces(self) -> int:
        """The number of faces, and of crops."""
        return sum(len(photo.faces) for photo in self.photos)


def align_folder(
    source: Path,
    target: Path,
    *,
    device: torch.device | None = None,
    min_face: int,
    largest: bool = False,
    rehash: bool = False,
    crops: Crops = "no",
    progress: Progress = silent,
) -> AlignedFolder:
    """Crops the faces of all photographs below a folder, or of one.

    A photograph `sub/photo.png` with one face becomes `sub/photo.jpg`; with several `photo-1.jpg`,
    the largest face, `photo-2.jpg` and so on. Where another's crop would have the same name, the
    name keeps the suffix, `photo.png-1.jpg`, or has a number in any case.

    Photographs whose size and modification time are as before, or whose bytes are, keep their
    crops. Crops of photographs that are gone are removed.

    Args:
        source: the folder, or a photograph.
        target: the folder of crops; new, empty, or of an earlier call for the same `source`.
        device: of the networks; None: the CPU.
        min_face: the size of the smallest faces that are searched, in pixels.
        largest: crop the largest face of each photograph alone.
        rehash: read all photographs, even those whose size and modification time are as before.
        crops: whether photographs that a face fills are searched as such, and taken whole where
            they are crops ("found"), all are taken for crops without a search ("all"), or all are
            searched as ordinary photographs ("no").
        progress: shows the progress.

    Raises:
        DataError: there is no photograph, none can be read, the folders lie in each other, or the
            folder of crops holds something else.
        WriteError: a crop cannot be written.
    """
    start = time.perf_counter()
    paths, left_out = _sources(source)
    _check_apart(source, target)
    stems = crop_stems(paths)
    settings = {"schema": SCHEMA, "source": os.path.realpath(source)}
    settings |= {"min_face": min_face, "largest": largest}
    if crops != "no":
        settings["crops"] = crops
    busy = DataError(f"{target}: another kinembed works in it; wait for it")
    _check_own(target)
    with locked(target / OWN / "lock", busy):
        before = _Before.read(target, settings, source)
        work = _Work(paths, stems, target, before, largest, rehash, crops, left_out)
        todo = [name for name in paths if not work.is_done(name)]
        work.remove(*(photo for photo in before.photos.values() if not work.fits(photo)))
        if todo:
            aligner = Aligner(device, min_face)
            with work.journal(), _spoken(progress, len(todo)) as advance:
                for _ in _each(work, aligner, todo):
                    advance()
        photos = tuple(work.done[name] for name in sorted(work.done))
        if not photos:
            raise DataError(f"{source}: no photo can be read: {left_out}")
        with moved_together(target):
            write_faces(target / FILE, photos)
            remove(target / OWN / "journal")
    for photo in photos:
        if not photo.faces:
            left_out.add("without a face", photo.source)
    seconds = time.perf_counter() - start
    return AlignedFolder(target / FILE, photos, work.computed, left_out, seconds)


def crop_stems(names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """What the names of each photograph's crops begin with, and whether they have a number always.

    No two photographs share a crop, however many faces each has. The begin is the name without its
    suffix; with it where two of a folder differ by it alone. `photo-1.jpg` beside `photo.jpg` gets
    a number in any case, since `photo-1` is the first face of the other. Where names differ by
    upper and lower case or Unicode's form alone, as `photo.jpg` and `photo.JPG`, those after the
    first get another number: `photo.JPG_2`.
    """
    names = list(names)
    plain = {name: _without_suffix(name) for name in names}
    alike = Counter(map(_folded, plain.values()))
    taken = {_folded(str(folder)) for name in names for folder in PurePosixPath(name).parents}
    stems: dict[str, str] = {}
    owners: dict[str, str] = {}
    again: list[str] = []
    for name in names:
        stem = plain[name]
        if alike[_folded(stem)] > 1 or _folded(f"{stem}.jpg") in taken:
            stem = name
        if owners.setdefault(_folded(stem), name) != name:
            again.append(name)
        stems[name] = stem
    for name in again:
        stems[name] = next(
            stem
            for stem in (f"{name}_{number}" for number in count(2))
            if not {_folded(stem), _folded(f"{stem}.jpg")} & {*owners, *taken}
        )
        owners[_folded(stems[name])] = name
    return {name: (stem, _is_numbered(stem, owners)) for name, stem in stems.items()}


def _is_numbered(stem: str, owners: Mapping[str, str]) -> bool:
    """Whether a stem is that of a numbered crop of another photograph."""
    head, dash, number = _folded(stem).rpartition("-")
    return bool(dash) and number.isdigit() and head in owners


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.stem else name


def _folded(name: str) -> str:
    """A name as file systems compare it that take upper and lower case for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def _sources(source: Path) -> tuple[dict[str, Path], LeftOut]:
    """The photographs by name, sorted, and what lies beside them."""
    if source.is_dir():
        walked = list_photos(source)
        if not walked.names:
            left_out = f" ({walked.left_out} left out)" if walked.left_out else ""
            raise DataError(f"{source}: no {FORMATS} below it{left_out}; name a folder of photos")
        return {name: source / name for name in walked.names}, walked.left_out
    try:
        head = read_file(source)[:HEAD]
    except DataError as error:
        raise without_advice(error) from None
    if photo_format(head) is None:
        raise DataError(f"{source}: is no photo; wanted a {FORMATS}, or a folder of them")
    return {source.name: source}, LeftOut()


def _check_apart(source: Path, target: Path) -> None:
    """Refuses folders that lie in each other: crops would be taken for photographs."""
    one, other = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if other.exists() and not other.is_dir():
        raise DataError(f"{target}: is a file; name a folder for the crops")
    folder = one if source.is_dir() else one.parent
    if other.is_relative_to(folder) and source.is_dir():
        raise DataError(f"{target}: lies in {source}, whose photos are cropped; name one outside")
    if folder.is_relative_to(other):
        raise DataError(f"{source}: lies in {target}, where the crops go; name another for these")


def _check_own(target: Path) -> None:
    """Refuses a folder that holds what is not of `align`."""
    others = sorted(set(os.listdir(target)) - {OWN}) if target.is_dir() else []
    if others and not (target / OWN / "settings.json").is_file():
        raise DataError(
            f"{target}: is not empty, and not of kinembed align (it holds {others[0]}"
            f"{f' and {len(others) - 1:,} more' if others[1:] else ''}); name a new folder"
        )


@dataclass(frozen=True)
class _Before:
    """What earlier calls left in the folder of crops.

    Attributes:
        photos: the photographs that are done, by name.
        is_damaged: the table cannot be read, so there may be crops of which nobody knows.
    """

    photos: dict[str, PhotoFaces]
    is_damaged: bool = False

    @classmethod
    def read(cls, target: Path, settings: Mapping[str, Any], source: Path) -> _Before:
        """Reads it; crops of other settings are removed.

        Raises:
            DataError: it is of other photographs, or broken.
        """
        path, table = target / OWN / "settings.json", target / FILE
        photos: dict[str, PhotoFaces] = {}
        text = json.dumps(settings, indent=2).encode()
        if not path.is_file():
            write_bytes(path, text)
            return cls(photos)
        try:
            earlier = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            raise DataError(f"{path}: is damaged; remove {target}, and run it again") from None
        if earlier.get("source") != settings["source"]:
            raise DataError(
                f"{target}: holds the faces of {earlier.get('source')}, not of {source}; name "
                "another folder"
            )
        is_damaged = False
        try:
            if table.is_file():
                photos = {photo.source: photo for photo in read_faces(table)}
        except DataError as error:
            is_damaged = True
            log.warning("%s; all photos are searched again", str(error).partition("; run")[0])
        photos |= _read_journal(target / OWN / "journal")
        if earlier != settings:
            keys = {**settings, **earlier}
            changed = [key for key in keys if earlier.get(key) != settings.get(key)]
            log.info(
                "%s: was made with other settings (%s); all is done again",
                target,
                ", ".join(changed),
            )
            for photo in photos.values():
                _remove_crops(target, photo)
            with moved_together(target):
                remove(table)
                remove(target / OWN / "journal")
                write_bytes(path, text)
            photos = {}
        return cls(photos, is_damaged)


def _read_journal(path: Path) -> dict[str, PhotoFaces]:
    """The photographs of the journal, by name; a line that was cut off counts for nothing."""
    photos: dict[str, PhotoFaces] = {}
    if not path.is_file():
        return photos
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_bytes(path, whole)
    for line in whole.splitlines():
        with suppress(ValueError, TypeError, KeyError, IndexError):
            photo = PhotoFaces.of_json(json.loads(line))
            photos[photo.source] = photo
    return photos


@dataclass
class _Loaded:
    """A photograph that is read: with pixels to search, or done before with the same bytes."""

    file: Photo
    digest: str
    shrunk: Shrunk | None


@dataclass
class _Work:
    """What is to be done and what is done, for all threads.

    Attributes:
        done: the photographs that are done, by name.
        computed: how many were searched for faces.
    """

    paths: Mapping[str, Path]
    stems: Mapping[str, tuple[str, bool]]
    target: Path
    before: _Before
    largest: bool
    rehash: bool
    crops: Crops
    left_out: LeftOut
    done: dict[str, PhotoFaces] = field(default_factory=dict)
    computed: int = 0
    _lock: Lock = field(default_factory=Lock)
    _journal: IO[bytes] | None = None

    @contextmanager
    def journal(self) -> Iterator[None]:
        """Opens the journal, to which lines are appended."""
        with (self.target / OWN / "journal").open("ab") as file:
            self._journal = file
            yield

    def is_done(self, name: str) -> bool:
        """Whether a photograph is done before, as far as size and modification time tell."""
        earlier = self.before.photos.get(name)
        now = photo_at(self.paths[name], name)
        if earlier is None or self.rehash or not self._is_whole(earlier):
            return False
        if (earlier.size, earlier.mtime) != (now.size, now.mtime):
            return False
        self.done[name] = earlier
        return True

    def load(self, aligner: Aligner, name: str) -> _Loaded | None:
        """Reads a photograph; None where it cannot be read, which is counted."""
        path, earlier = self.paths[name], self.before.photos.get(name)
        file = photo_at(path, name)  # before the bytes: should they change now, it is done again
        try:
            content = read_file(path)
            digest = hashlib.sha256(content).hexdigest()
            if earlier is not None and earlier.digest == digest and self._is_whole(earlier):
                return _Loaded(file, digest, None)
            return _Loaded(file, digest, aligner.shrink(content, str(path)))
        except DataError as error:
            log_skipped(error)
            with self._lock:
                self.left_out.add("that cannot be read", str(error).partition("; wanted")[0])
        if earlier is not None:
            self.remove(earlier)
        return None

    def finish(self, aligner: Aligner, loaded: _Loaded, found: Sequence[Any]) -> None:
        """Crops the faces that were found on a photograph, and writes the crops."""
        name, file = loaded.file.name, loaded.file
        earlier = self.before.photos.get(name)
        if loaded.shrunk is None:
            assert earlier is not None
            photo = PhotoFaces(name, earlier.faces, file.size, file.mtime, loaded.digest)
            self._note(photo, computed=False)
            return
        aligned = self._aligned(aligner, loaded.shrunk, found)
        crops = self._crop_names(name, len(aligned))
        faces = tuple(
            CroppedFace(crop, each.face, each.sharpness)
            for crop, each in zip(crops, aligned, strict=True)
        )
        photo = PhotoFaces(name, faces, file.size, file.mtime, loaded.digest)
        if earlier is not None:
            self.remove(earlier)
        self._note(photo, computed=True)
        for crop, each in zip(crops, aligned, strict=True):
            path = self.target / crop
            if path.exists() and not self.before.is_damaged:
                raise DataError(f"{path}: is no crop of kinembed align, and in its way; move it")
            write_bytes(path, encode_crop(each.crop))

    def _aligned(self, aligner: Aligner, photo: Shrunk, found: Sequence[Any]) -> list[AlignedFace]:
        """The faces that were found on a photograph, cropped; or itself, where it is a crop."""
        if self.crops == "all":
            return [whole(decode_upright(photo.content, photo.name).image)]
        own = aligner.filling(photo, found) if self.crops == "found" else None
        if own is not None and self.largest:
            return [own]
        rest = aligner.crop(photo, found[:1] if self.largest else found[own is not None :])
        return rest if own is None else [own, *rest]

    def find(self, aligner: Aligner, photos: Sequence[Shrunk]) -> list[list[Any]]:
        """The faces on photographs of one size, if they are searched."""
        return [[] for _ in photos] if self.crops == "all" else [*aligner.find(photos)]

    def _note(self, photo: PhotoFaces, *, computed: bool) -> None:
        assert self._journal is not None
        line = json.dumps(photo.as_json()).encode() + b"\n"
        with self._lock:
            self._journal.write(line)
            self._journal.flush()
            self.done[photo.source] = photo
            self.computed += computed

    def remove(self, *photos: PhotoFaces) -> None:
        """Removes the crops of photographs."""
        for photo in photos:
            _remove_crops(self.target, photo)

    def _crop_names(self, name: str, count: int) -> list[str]:
        stem, numbered = self.stems[name]
        if count == 1 and not numbered:
            return [f"{stem}.jpg"]
        return [f"{stem}-{number}.jpg" for number in range(1, count + 1)]

    def fits(self, photo: PhotoFaces) -> bool:
        """Whether a photograph is still there, and its crops have the names that they have now."""
        if photo.source not in self.paths:
            return False
        crops = [face.crop for face in photo.faces]
        return crops == self._crop_names(photo.source, len(crops))

    def _is_whole(self, photo: PhotoFaces) -> bool:
        """Whether a photograph has all of its crops."""
        files = (self.target / face.crop for face in photo.faces)
        return self.fits(photo) and all(file.is_file() for file in files)


def _remove_crops(target: Path, photo: PhotoFaces) -> None:
    """Removes a photograph's crops, and folders that are empty then."""
    for face in photo.faces:
        path = target / face.crop
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == target:
                break
            try:
                folder.rmdir()
            except OSError:
                break


def encode_crop(crop: Pixels) -> bytes:
    """A crop as a JPEG."""
    file = BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _each(work: _Work, aligner: Aligner, todo: Sequence[str]) -> Iterator[None]:
    """Does photograph after photograph: on a CPU one in each thread, on a GPU batch by batch.

    Yields:
        None after each.
    """

    def whole(name: str) -> None:
        loaded = work.load(aligner, name)
        if loaded is not None:
            shrunk = loaded.shrunk
            work.finish(
                aligner, loaded, work.find(aligner, [shrunk])[0] if shrunk is not None else []
            )

    waiting = iter(todo)
    with reused_memory(), aligner.threads(processors()) as pool:
        try:
            if aligner.one_by_one:
                yield from _batches(work, aligner, waiting, pool)
                return
            running = [pool.submit(whole, name) for name in islice(waiting, 2 * processors())]
            while running:
                running.pop(0).result()
                running += [pool.submit(whole, name) for name in islice(waiting, 1)]
                yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _batches(
    work: _Work, aligner: Aligner, waiting: Iterator[str], pool: ThreadPoolExecutor
) -> Iterator[None]:
    """The same where one thread has the device: others read and write meanwhile."""

    def started() -> list[Future[_Loaded | None]]:
        return [pool.submit(work.load, aligner, name) for name in islice(waiting, BATCH)]

    finishing: list[Future[None]] = []
    loading = started()
    while loading:
        following = started()
        batch = [future.result() for future in loading]
        groups: dict[Any, list[_Loaded]] = {}
        for loaded in batch:
            if loaded is not None:
                shape = loaded.shrunk and (loaded.shrunk.pixels.shape, loaded.shrunk.shrunk)
                groups.setdefault(shape, []).append(loaded)
        for future in finishing:
            future.result()
        finishing = []
        for group in groups.values():
            photos = [loaded.shrunk for loaded in group if loaded.shrunk is not None]
            found = work.find(aligner, photos) if photos else [[]] * len(group)
            finishing += [
                pool.submit(work.finish, aligner, loaded, faces)
                for loaded, faces in zip(group, found, strict=True)
            ]
        yield from [None] * len(batch)
        loading = following
    for future in finishing:
        future.result()


@contextmanager
def _spoken(progress: Progress, total: int) -> Iterator[Any]:
    """A function that counts a photograph, and says the rate and the time left."""
    start = last = time.perf_counter()
    done = 0
    with progress("aligning", total) as bar:

        def advance() -> None:
            nonlocal done, last
            done += 1
            now = time.perf_counter()
            rate = done / max(now - start, 1e-9)
            bar.advance(1, f"{rate:.1f} photos/s")
            if progress is silent and now - last > SPOKEN:
                last = now
                left = (total - done) / rate / 60
                log.info(
                    "%s of %s photos, %.1f photos/s, %.0f min left",
                    f"{done:,}", f"{total:,}", rate, left,
                )  # fmt: skip

        yield advance
