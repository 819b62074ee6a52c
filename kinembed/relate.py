"""The stage `relate`: an album of photographs to its people, and who of them may be kin."""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np

from kinembed.config import RelateConfig
from kinembed.data.faces_table import PhotoFaces
from kinembed.data.layouts import folded
from kinembed.data.left_out import LeftOut
from kinembed.data.photo_files import people_of_names
from kinembed.data.photos import Pixels
from kinembed.errors import DataError
from kinembed.inference.album import Album, Confirmed, Face, Person
from kinembed.inference.confirmed import (
    COLUMNS,
    MARKS,
    Answers,
    read_confirmed,
    resolve,
    with_marks_of,
)
from kinembed.inference.face_marks import face_mark
from kinembed.inference.grey import are_grey, grey_note
from kinembed.inference.kept_vectors import KeptVectors
from kinembed.inference.links import check_fdr
from kinembed.inference.relating import Judge, Related, relate_faces
from kinembed.io import check_writable, moved_together, write_csv
from kinembed.printable import counted
from kinembed.progress import Progress, silent

if TYPE_CHECKING:
    from kinembed.inference.answerer import Answerer

log = logging.getLogger(__name__)

FOLDER = "album"  # in the run folder, of crops and vectors
NAMED = 10  # photos in a line
BOUND = "answers.csv"  # in it: the answers, with what ties them to their faces
PEOPLE = ("person", "photo", "face", "left", "top", "right", "bottom", "confidence", "crop")
LINKS = (
    *("left", "right", "probability", "false_rate", "far", "shown", "answer"),
    *("left_photos", "right_photos"),
)


@dataclass(frozen=True)
class Found:
    """A face on a photograph, before it is known who it is."""

    photo: str
    number: int
    box: tuple[float, float, float, float]
    crop: Path
    size: float
    mark: str

    @property
    def name(self) -> str:
        """As `Face.name`."""
        return f"{self.photo}#{self.number}"


def relate(config: RelateConfig, data: Path, run: Path, *, progress: Progress = silent) -> Album:
    """Tells who is who in an album, and who may be kin.

    Faces are found and cropped as `align` does it, and embedded, both once: a second call does what
    is new. Then faces become people, and pairs of people links.

    Args:
        config: the settings, with the album's folder.
        data: the data folder, whose relations help to tell families from other folders.
        run: the run folder. Reads `confirmed.csv`; writes `people.csv`, `relate.csv` and
            `relate.html`, all or none; keeps crops and vectors in `album/`.
        progress: shows the progress.

    Returns:
        What was found.

    Raises:
        KinembedError: there is no photograph or no face, answers contradict each other, or head,
            calibration or network are missing.
    """
    from kinembed.inference.answerer import Answerer
    from kinembed.report.album_page import write_album_page

    began = time.perf_counter()
    check_fdr(config.fdr)
    people, links, page = (run / name for name in ("people.csv", "relate.csv", "relate.html"))
    check_writable(people, links, page)
    confirmed = config.confirmed or run / "confirmed.csv"
    if config.confirmed is not None and not config.confirmed.exists():
        raise DataError(f"{config.confirmed}: no such file; wanted answers that relate.html saved")
    _check_inputs(config, (people, links, page))
    answers = with_marks_of(read_confirmed(confirmed), _bound(run / FOLDER / BOUND))
    answerer = Answerer.open(
        run, config.head, device=config.device, precision=config.precision, progress=progress
    )
    kept = KeptVectors.read(run / FOLDER / "vectors.npz", _key(answerer))
    every, left_out = _faces(config, run / FOLDER, progress)
    if _removed_broken(every, run / FOLDER, kept):
        every, left_out = _faces(config, run / FOLDER, progress)
    photos, copies = _once(every)
    faces = [face for photo in photos for face in _found(photo, run / FOLDER)]
    if not faces:
        raise DataError(
            f"{config.folder}: no face on {counted(len(photos), 'photograph')}; wanted photographs "
            "of people, faces from --min-face pixels on"
        )
    named, notes = _names(config, data, photos, faces, copies)
    names, marks = [face.name for face in faces], [face.mark for face in faces]
    of_copies = {
        f"{copy}#{face.number}": face.name
        for copy, source in copies.items() for face in faces if face.photo == source
    }  # fmt: skip
    said = resolve(answers, names, named, confirmed, marks, of_copies)
    vectors, computed = kept.of(
        [face.crop for face in faces], lambda crops: _embedded(answerer, crops), progress
    )
    photo_numbers = {photo.source: number for number, photo in enumerate(photos)}
    related = relate_faces(
        Judge(answerer.head, answerer.three_way),
        answerer.represent(vectors),
        np.array([photo_numbers[face.photo] for face in faces], np.intp),
        said,
        config.fdr,
        exact=config.exact,
    )
    left_out.update(said.left_out)
    lines = left_out.lines()
    if note := _grey_links(related, faces, answerer.packaged):
        lines.append(note)
    album = _album(config, faces, related, said, (*notes, *lines), answerer.source, len(photos))
    with moved_together(run):
        write_csv(people, [*_people_rows(album, run)], PEOPLE)
        write_csv(links, [*_link_rows(album)], LINKS)
        write_album_page(album, page, _again(config, data, run), confirmed)
        write_csv(run / FOLDER / BOUND, [vars(row) for row in said.bound], [*COLUMNS, *MARKS])
    for line in album.left_out:
        log.info("%s: %s", config.folder, line)
    log.info(
        "%s: %s on %s (%s, %s embedded now); %s of %s shown as kin, %.1f of them expected to be "
        "false; %s; %.1f s",
        page, counted(len(album.people), "person", "people"), counted(album.photos, "photograph"),
        counted(len(faces), "face"), f"{computed:,}", f"{len(album.shown):,}",
        counted(album.pairs, "pair"), album.expected_false, counted(album.questions, "question"),
        time.perf_counter() - began,
    )  # fmt: skip
    if album.why_none:
        log.warning("%s: %s", config.folder, album.why_none)
    return album


def _check_inputs(config: RelateConfig, outputs: Sequence[Path]) -> None:
    """Refuses a table of people or of answers that would be replaced."""
    for path in (config.people_table, config.confirmed):
        for out in outputs:
            if path is not None and path.exists() and out.exists() and path.samefile(out):
                raise DataError(
                    f"{path}: would be replaced by what relate writes; move it, or name another "
                    "--run"
                )


def _removed_broken(photos: Sequence[PhotoFaces], folder: Path, kept: KeptVectors) -> bool:
    """Removes crops that are no pictures any more, so that they are made again; whether it did."""
    from PIL import Image

    removed = False
    for crop in (folder / "faces" / face.crop for photo in photos for face in photo.faces):
        try:
            content = crop.read_bytes()
        except OSError as error:
            raise DataError(f"{crop}: cannot be read ({error.strerror}); delete it") from None
        if hashlib.sha256(content).digest() in kept.rows:
            continue
        try:
            Image.open(BytesIO(content)).load()
        except (OSError, ValueError, SyntaxError):
            log.warning("%s: is damaged, and is made again", crop)
            crop.unlink()
            removed = True
    return removed


def _grey_links(related: Related, faces: Sequence[Found], packaged: bool) -> str:
    """Says how many links shown are of people whose photos are all black and white."""
    shown = [(link.left, link.right) for link in related.links if link.is_shown]
    grey = {
        person: are_grey(_pixels(faces[face].crop.read_bytes()) for face in related.people[person])
        for person in {each for pair in shown for each in pair}
    }
    count = sum(grey[one] and grey[other] for one, other in shown)
    who = counted(count, "link is of people who are", "links are of people who are")
    return grey_note(f"{who} both", packaged) if count else ""


def _bound(path: Path) -> list[Confirmed]:
    """The answers of the last call with the marks of their faces."""
    try:
        return read_confirmed(path)
    except DataError as error:
        log.warning("%s; answers without marks are taken as the files stand now", error)
        return []


def _faces(
    config: RelateConfig, folder: Path, progress: Progress
) -> tuple[tuple[PhotoFaces, ...], LeftOut]:
    """The photographs and their faces, cropped into the run folder."""
    from kinembed.backbones.device import choose_device
    from kinembed.data.aligned_folder import align_folder

    if not config.folder.is_dir():
        raise DataError(f"{config.folder}: no such folder; name one of photographs")
    aligned = align_folder(
        config.folder,
        folder / "faces",
        device=choose_device(config.device),
        min_face=config.min_face,
        crops="all" if config.crops else "found",
        progress=progress,
    )
    return aligned.photos, aligned.left_out


def _once(photos: Sequence[PhotoFaces]) -> tuple[list[PhotoFaces], dict[str, str]]:
    """Of photographs of the same bytes the first; and by each other one, which that is."""
    first: dict[str, PhotoFaces] = {}
    copies = {
        photo.source: first[photo.digest].source
        for photo in photos
        if first.setdefault(photo.digest, photo) is not photo
    }
    return [*first.values()], copies


def _found(photo: PhotoFaces, folder: Path) -> list[Found]:
    faces = []
    for number, each in enumerate(photo.faces, 1):
        # As the table of faces keeps them, so that a second call says the same.
        left, top, right, bottom = (round(float(edge), 1) for edge in each.face.box)
        faces.append(
            Found(
                photo.source, number, (left, top, right, bottom), folder / "faces" / each.crop,
                float(each.face.size), face_mark(photo.digest, (left, top, right, bottom)),
            )
        )  # fmt: skip
    return faces


def _names(
    config: RelateConfig,
    data: Path,
    photos: Sequence[PhotoFaces],
    faces: Sequence[Found],
    copies: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """(F,) what folders or a table call the person of each face; and what is to be told of it.

    Of several faces on a photograph it is not known which one is meant; nor of one whose copies
    have different names, whose face it is.
    """
    sources = sorted([*(photo.source for photo in photos), *copies])
    people, told = people_of_names(sources, data, config.layout, config.people_table)
    for note in told[config.layout == "flat" :]:  # what the folders say, if they were asked
        log.info("%s: %s", config.folder, note)
    person_of = dict(zip(sources, people, strict=True))
    notes = _folders_of_one_name(person_of) if config.layout != "flat" else []
    notes += _joined_copies(person_of, copies)
    several = [photo.source for photo in photos if len(photo.faces) > 1 and person_of[photo.source]]
    if several:
        notes.append(
            f"{counted(len(several), 'photograph')} of a named person with several faces; which "
            f"one is theirs goes by likeness ({several[0]})"
        )
    alone = {photo.source for photo in photos if len(photo.faces) == 1}
    return [person_of[face.photo] if face.photo in alone else "" for face in faces], notes


def _joined_copies(person_of: dict[str, str], copies: Mapping[str, str]) -> list[str]:
    """Gives each photograph the one name of its copies, or none; what is to be told of that."""
    names: dict[str, dict[str, str]] = {}  # of a photograph: people, and where each is
    for source in [*copies.values(), *copies]:
        if person := person_of[source]:
            here = names.setdefault(copies.get(source, source), {})
            here.setdefault(normalize("NFC", person), source)
    several = []
    for photo, people in names.items():
        person_of[photo] = next(iter(people)) if len(people) == 1 else ""
        if len(people) > 1:
            several.append(", ".join(f"{source}: {person}" for person, source in people.items()))
    notes = []
    if several:
        notes.append(
            f"{counted(len(several), 'photo')} under two names; who is on it goes by likeness "
            f"({_some(several)})"
        )
    if copies:
        pairs = [f"{copy} of {source}" for copy, source in copies.items()]
        notes.append(
            f"{counted(len(copies), 'copy', 'copies')} of another photo, which counts once "
            f"({_some(pairs)})"
        )
    return notes


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more


def _folders_of_one_name(person_of: Mapping[str, str]) -> list[str]:
    """Lines that say of folders of one name, or nearly one, whether they are one person."""
    folders: dict[tuple[str, str], dict[str, str]] = {}  # person by folder, for each name
    for source, person in person_of.items():
        if person:
            folder = source.rpartition("/")[0]
            folders.setdefault(folded(person), {}).setdefault(folder, person)
    lines = []
    for alike in folders.values():
        if len(alike) > 1:
            one, other = list(alike)[:2]
            same = alike[one] == alike[other]
            lines.append(
                f"{len(alike):,} folders have one name and are taken for "
                f"{'one person' if same else 'different people'} ({one}, {other})"
            )
    return lines


def _key(answerer: Answerer) -> str:
    """What makes the vectors of crops."""
    return f"{answerer.head.model} {answerer.views} {answerer.device} {answerer.precision}"


def _embedded(answerer: Answerer, crops: Sequence[bytes]) -> Mapping[str, np.ndarray]:
    return answerer.vectors([_pixels(crop) for crop in crops])


def _pixels(crop: bytes) -> Pixels:
    from PIL import Image

    return np.asarray(Image.open(BytesIO(crop)).convert("RGB"))


def _album(
    config: RelateConfig,
    faces: Sequence[Found],
    related: Related,
    answers: Answers,
    left_out: tuple[str, ...],
    source: str,
    photos: int,
) -> Album:
    """All of it in one object."""
    people: list[Person] = []
    person_of = np.empty(len(faces), np.intp)
    taken = set(answers.named)
    number = 0
    for index, own in enumerate(related.people):
        person_of[list(own)] = index
        name = next((answers.named[face] for face in own if answers.named[face]), "")
        while not name:
            number += 1
            if f"Person {number}" not in taken:
                name = f"Person {number}"
                people.append(Person(name, own, False))
                break
        else:
            people.append(Person(name, own, True))
    return Album(
        folder=config.folder,
        photos=photos,
        faces=tuple(
            Face(
                face.photo, face.number, face.box, face.crop, face.size, int(person_of[index]),
                float(related.confidence[index]), face.mark,
            )
            for index, face in enumerate(faces)
        ),
        people=tuple(people),
        links=related.links,
        doubts=related.doubts,
        answers=tuple(answers.used),
        fdr=config.fdr,
        pairs=related.pairs,
        unlisted=related.unlisted,
        kin_prior=related.kin_prior,
        left_out=left_out,
        source=source,
        aside=tuple(answers.aside),
    )  # fmt: skip


def _people_rows(album: Album, run: Path) -> list[dict[str, object]]:
    """The rows of `people.csv`, person by person."""
    rows: list[dict[str, object]] = []
    for person in album.people:
        for index in person.faces:
            face = album.faces[index]
            assert face.box is not None
            cells = (person.name, face.photo, face.number, *face.box, face.confidence)
            crop = face.crop.relative_to(run).as_posix()
            rows.append(dict(zip(PEOPLE, (*cells, crop), strict=True)))
    return rows


def _link_rows(album: Album) -> list[dict[str, object]]:
    """The rows of `relate.csv`, the links shown first."""
    rows: list[dict[str, object]] = []
    for link in album.links:
        photos = [
            "; ".join(album.faces[pair[side]].name for pair in link.faces) for side in range(2)
        ]
        names = [album.people[person].name for person in (link.left, link.right)]
        numbers = (link.probability, link.false_rate, link.far)
        shown = "yes" if link.is_shown else "no"
        rows.append(dict(zip(LINKS, (*names, *numbers, shown, link.answer, *photos), strict=True)))
    return rows


def _again(config: RelateConfig, data: Path, run: Path) -> str:
    """The command that makes the page again, with its answers."""
    plain = RelateConfig(config.folder)
    options = ["--run", str(run)]
    if str(data) != "data":
        options += ["--data", str(data)]
    for name, option in (
        ("fdr", "--fdr"), ("layout", "--layout"), ("people_table", "--people"),
        ("confirmed", "--confirmed"), ("head", "--head"), ("min_face", "--min-face"),
        ("crops", "--crops"), ("device", "--device"), ("precision", "--precision"),
    ):  # fmt: skip
        value = getattr(config, name)
        if value != getattr(plain, name):
            options += [option] if value is True else [option, str(value)]
    return shlex.join(["kinembed", "relate", str(config.folder), *options])
