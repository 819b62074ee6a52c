"""Which face of each photo is one person's, where photos show several."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kinembed.arrays import Rows
from kinembed.evaluation.metrics import Numbers
from kinembed.heads.pooled_people import RepresentedPhotos, photo_likeness
from kinembed.printable import counted

if TYPE_CHECKING:  # it opens photos
    from kinembed.inference.named_people import NamedPerson

log = logging.getLogger(__name__)


def with_fitting_faces(
    person: NamedPerson, photos: RepresentedPhotos, rows: Sequence[int]
) -> NamedPerson:
    """A person with the face on each photo of a folder that fits the others; says so.

    Args:
        person: of a folder; others stay as they are.
        photos: the faces' representations.
        rows: the number there of each face, photo by photo.
    """
    counts = [len(photo.faces) for photo in person.photos]
    if not person.is_folder or max(counts) == 1:
        return person
    likeness = photo_likeness(photos, np.array(rows, np.intp))
    several = sum(count > 1 for count in counts)
    log.info(
        "%s: %s several faces; of each, the one most like those on the other photos is taken",
        person.path, counted(several, "photo shows", "photos show"),
    )  # fmt: skip
    return replace(person, chosen=tuple(choose_faces(counts, likeness)))


def choose_faces(counts: Sequence[int], likeness: Numbers) -> list[int]:
    """The face of each photo that fits the others best.

    Photos with one face say who the person is. Where there are none, the face does that is most
    like a face of each other photo.

    Args:
        counts: how many faces each of P photos shows, one or more.
        likeness: (F, F) of all faces, photo by photo, the largest face of a photo first.

    Returns:
        (P,) which of its faces, 0 the first; of equally good ones the first.
    """
    ends = np.cumsum(counts)
    own = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
    known = [int(faces[0]) for faces in own if len(faces) == 1]
    if not known:
        support = [_support(face, own, likeness) for face in range(ends[-1])]
        surest = int(np.argmax(support))
        known = [
            surest if surest in faces else int(faces[_fit(faces, [surest], likeness)])
            for faces in own
        ]
    return [_fit(faces, [each for each in known if each not in faces], likeness) for faces in own]


def _support(face: int, own: Sequence[Rows], likeness: Numbers) -> float:
    """How like a face is to the most alike face of each other photo."""
    others = [float(likeness[face, faces].max()) for faces in own if face not in faces]
    return float(np.mean(others)) if others else 0.0


def _fit(faces: Rows, known: Sequence[int], likeness: Numbers) -> int:
    """Which of some faces is most like the known ones."""
    if not known:
        return 0
    return int(np.argmax(likeness[faces][:, list(known)].mean(1)))
