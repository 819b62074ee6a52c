"""The stage `align`: photographs to face crops, framed as the networks want them."""

import logging
from pathlib import Path

from kinembed.config import AlignConfig
from kinembed.data.aligned_folder import AlignedFolder, align_folder
from kinembed.data.faces_table import warn_of_shared_names
from kinembed.data.layouts import read_people
from kinembed.printable import counted
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)


def align(
    config: AlignConfig, source: Path, target: Path, *, progress: Progress = silent
) -> AlignedFolder:
    """Finds the faces on photographs and crops them into a folder; see `align_folder`.

    Args:
        config: the settings.
        source: a folder of photographs, or one.
        target: the folder of crops, with the table `faces.csv`.
        progress: shows the progress.

    Raises:
        KinembedError: photographs, folders or device are unusable.
    """
    from kinembed.backbones.device import choose_device  # torch

    config.check()
    result = align_folder(
        source,
        target,
        device=choose_device(config.device),
        min_face=config.min_face,
        largest=config.largest,
        rehash=config.rehash,
        progress=progress,
    )
    crops = sorted(face.crop for photo in result.photos for face in photo.faces)
    people = dict(zip(crops, read_people(crops).people, strict=True))
    warn_of_shared_names(target, result.photos, people)
    if result.left_out:
        log.info("%s: left out: %s", target, result.left_out)
    log.info(
        "%s: %s on %s; %s searched, %s kept; %.1f s, %.1f photos/s",
        result.table, counted(result.faces, "face"), counted(len(result.photos), "photo"),
        f"{result.computed:,}",
        f"{len(result.photos) - result.computed:,}", result.seconds,
        result.computed / result.seconds,
    )  # fmt: skip
    return result
