"""Where eyes and mouth lie on the photos of a folder, and the frame that suits them."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kinembed.backbones import Backbone, Face, Framing
from kinembed.backbones.framing import AUTO, FITTED, LOOSE, as_face, choose, distance, named_framing
from kinembed.data.photos import Pixels, read_photo
from kinembed.errors import DataError
from kinembed.printable import counted
from kinembed.seeds import Stream, generator
from kinembed.threads import processors

log = logging.getLogger(__name__)

SAMPLE = 64  # photos of a folder
FEWEST = 0.25  # share of them that shows a face
SPREAD = 0.12  # of the faces' places, above which no frame suits most; 0.03 on Kaggle's photos
# The photo with its edge pixels around it, since the networks miss faces that fill a photo.
_LOOK = Framing(side=160, inner=112, top=24, left=24)


@dataclass(frozen=True)
class Faces:
    """The faces on a sample of photos.

    Attributes:
        photos: that were looked at, without those that cannot be read.
        found: those with a face.
        face: medians of eyes and mouth; None where too few photos show a face.
        spread: median distance of a face's points from these, as a share of the side.
        seconds: that it took.
    """

    photos: int
    found: int
    face: Face | None
    spread: float
    seconds: float


def choose_framings(
    backbone: Backbone,
    folders: Mapping[str, Sequence[Path]],
    name: str = AUTO,
    before: Mapping[str, Framing] | None = None,
) -> dict[str, Framing]:
    """The frame of each folder's photos: the one of a name, or by where their faces lie.

    Args:
        backbone: the network.
        folders: photo files by folder.
        name: `loose`, `aligned` or `whole`; `auto` finds eyes and mouth on a sample.
        before: frames in use, by folder; `auto` keeps them while they fit.

    Raises:
        KinembedError: the name is unknown.
    """
    if name != AUTO:
        return dict.fromkeys(folders, named_framing(backbone, name))
    before = before or {}
    names: dict[str, str] = {}
    chosen: dict[str, Framing] = {}
    for folder, paths in folders.items():
        own = [before[folder]] if folder in before else []
        others = [*chosen.values(), *before.values()]  # a frame that two folders can share
        names[folder], chosen[folder] = _choose(backbone, folder, look(paths), [*own, *others])
    if len(set(names.values())) > 1 or len(set(chosen.values())) > 1:
        log.warning(
            "the faces lie at other places on the photos of one folder than of another: %s.  Each "
            "has its own frame; wanted one for all, name it with --framing",
            ", ".join(f"{folder} {name}" for folder, name in names.items()),
        )
    return chosen


def look(paths: Sequence[Path], sample: int = SAMPLE) -> Faces:
    """Finds eyes and mouth on a sample of photos, always the same of the same files."""
    from kinembed.backbones.landmarks import find_landmarks  # torch

    start = time.perf_counter()
    rows = np.arange(len(paths))
    if len(paths) > sample:
        rows = np.sort(generator(0, Stream.FRAMING).choice(len(paths), sample, replace=False))
    ordered = sorted(paths)
    with ThreadPoolExecutor(processors()) as pool:
        read = pool.map(_pixels, (ordered[row] for row in rows))
        photos = [photo for photo in read if photo is not None]
    found = [points for points in find_landmarks(photos) if points is not None]
    corner, eyes_and_mouth = np.array([_LOOK.left, _LOOK.top]), [0, 1, 3, 4]
    faces = [(points[eyes_and_mouth] - corner) / _LOOK.inner for points in found]
    face, spread = None, 0.0
    if len(faces) >= max(1, FEWEST * len(photos)):
        face = as_face(np.median(faces, 0))
        spread = float(np.median([distance(face, as_face(each)) for each in faces]))
    return Faces(len(photos), len(faces), face, spread, time.perf_counter() - start)


def _pixels(path: Path) -> Pixels | None:
    """A photo to look at; None where it cannot be read, which embedding it will say."""
    try:
        return read_photo(path, _LOOK)[1]
    except DataError:
        return None


def _choose(
    backbone: Backbone, folder: str, faces: Faces, before: Sequence[Framing]
) -> tuple[str, Framing]:
    """The framing that suits faces, and its name; says it."""
    seen = f"on {faces.found} of {counted(faces.photos, 'photo')}, {faces.seconds:.1f} s"
    if faces.face is None:
        log.warning(
            "%s: too few faces found (%s), so framing loose, for photos like Kaggle's; name "
            "another with --framing", folder, seen,
        )  # fmt: skip
        return LOOSE, named_framing(backbone, LOOSE)
    name, framing = choose(backbone, faces.face, faces.found, before)
    left, right, left_mouth, right_mouth = faces.face
    said = name
    if name == FITTED:
        said += (
            f" to them: the photo has {framing.inner} of {framing.side} px, {framing.top} px from "
            f"the top and {framing.left} px from the left"
        )
    log.info(
        "%s: eyes at %.2f and %.2f of the width and %.2f of the height, mouth at %.2f (%s), so "
        "framing %s", folder, left[0], right[0], (left[1] + right[1]) / 2,
        (left_mouth[1] + right_mouth[1]) / 2, seen, said,
    )  # fmt: skip
    if faces.spread > SPREAD:
        log.warning(
            "%s: the faces lie at very different places, and no frame suits all; crop the photos "
            "to their faces first", folder,
        )  # fmt: skip
    return name, framing
