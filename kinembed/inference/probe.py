"""The person whose kin are looked for: from a photo, a crop, a folder, or a photo of the cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.config import SearchConfig
from kinembed.data.families import PeopleFinder
from kinembed.data.folders import list_photos
from kinembed.data.left_out import nearest
from kinembed.data.photos import Pixels
from kinembed.errors import DataError
from kinembed.heads.pooled_people import PooledPeople
from kinembed.inference.answerer import Answerer
from kinembed.inference.chosen_faces import with_fitting_faces
from kinembed.inference.mixed_photos import mixed_note
from kinembed.inference.named_people import FaceReader, NamedPerson, take_faces
from kinembed.inference.trained import same_bytes
from kinembed.printable import counted
from kinembed.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Probe:
    """One person.

    Attributes:
        name: as the user named them.
        note: what was taken, in a few words.
        person: pooled over their photos.
        rows: (R,) of the cache: the same photos, by name or by their bytes.
        named: the faces as found; None for a photo of the cache.
        photo: name of the photo in the cache, if it is one of it.
        mixed: says where the photos may show two people.
    """

    name: str
    note: str
    person: PooledPeople
    rows: Rows
    named: NamedPerson | None = None
    photo: str = ""
    mixed: str = ""

    @property
    def crop(self) -> Pixels | None:
        """The face on the first photo; None for a photo of the cache."""
        return None if self.named is None else self.named.faces[0].crop

    def as_json(self) -> dict[str, Any]:
        """What was taken, as JSON types."""
        about: dict[str, Any] = {"name": self.name, "note": self.note, "photo": self.photo}
        return about if self.named is None else about | self.named.as_json()


def find_probe(
    config: SearchConfig, cache: Embeddings, answerer: Answerer, progress: Progress
) -> Probe:
    """The person that a search is for.

    A path goes before a name in the cache.

    Raises:
        DataError: there is no such file, photo or person, or no face on it.
    """
    path = config.photo
    if not path.exists():
        named = [("--face", config.face is not None), ("--crops", config.crops)]
        asked = " and ".join(option for option, is_asked in named if is_asked)
        if asked:
            raise DataError(f"{path}: no such file or folder; {asked} wants a photo, not a name")
        return _of_cache(str(path), cache, answerer)
    photos = len(list_photos(path).names) if path.is_dir() else 1
    with progress("Photos", photos) as bar:
        people = FaceReader(whole=config.crops).people([path], bar.advance)
    (person,) = take_faces(people, () if config.face is None else (config.face,))
    return probe_of(person, cache, answerer)


def _of_cache(name: str, cache: Embeddings, answerer: Answerer) -> Probe:
    row = int(cache.find([name])[0])
    if row >= 0:
        rows = np.array([row], np.intp)
        note = "a photo of the cache"
        if owner := cache.people[row].decode():
            note += f", of {owner}"
    elif row == -2:
        raise DataError(cache.unknown(name))
    else:
        people = np.unique(cache.people)
        names = [each.decode() for each in people.tolist()]
        found = [number for number in PeopleFinder(names)(name) if names[number]]
        if len(found) != 1:
            match = nearest(name, [*cache.names.tolist(), *people.tolist()])
            raise DataError(
                f"{name}: no such file or folder, and no photo or person of {cache.path}"
                + (f" (nearest: {match})" if match else "")
            )
        rows = np.flatnonzero(cache.people == people[found[0]])
        note = f"a person of the cache, {counted(len(rows), 'photo')}"
    photos = answerer.cache_photos(cache, rows)
    person = answerer.people(photos, [np.arange(len(rows))])
    return Probe(name, note, person, rows, photo=cache.names[rows[0]].decode())


def probe_of(person: NamedPerson, cache: Embeddings, answerer: Answerer) -> Probe:
    """The person on photos, with the photos of a cache that are the same files."""
    crops = [face.crop for photo in person.photos for face in photo.faces]
    counts = [len(photo.faces) for photo in person.photos]
    # In an order of their own, so that no number depends on the names of the photos.
    order = sorted(range(len(crops)), key=lambda each: crops[each].tobytes())
    photos = answerer.photos([crops[each] for each in order])
    row_of = np.empty(len(order), np.intp)
    row_of[order] = np.arange(len(order))
    person = with_fitting_faces(person, photos, row_of.tolist())
    first = np.cumsum(counts) - counts
    chosen = np.sort(row_of[first + np.array(person.chosen)])
    pooled = answerer.people(photos, [chosen])
    alone = [photo for photo in person.photos if len(photo.faces) == 1]
    rows = same_bytes(cache, [photo.sha256 for photo in alone])
    note = person.note()
    if len(rows):
        note += f"; {cache.names[rows[0]].decode()} of the cache is the same file"
    mixed = ""
    if person.is_folder:
        own = (row_of[first + np.array(person.chosen)]).tolist()
        names = [str(photo.path.relative_to(person.path)) for photo in person.photos]
        mixed = mixed_note(answerer, photos, own, names)
    return Probe(str(person.path), note, pooled, rows, person, mixed=mixed)
