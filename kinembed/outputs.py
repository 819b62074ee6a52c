"""Where a user's output may go: over none of the command's inputs, and over no other artefact."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kinembed.errors import KinembedError

# What the commands write into a run folder, whatever the user says.
ARTEFACTS = re.compile(
    r"""embeddings\.(h5|npy|txt|csv|parquet) | embed\.json | (representations|gallery(-photos)?)\.h5
    | model(-best|-last)?\.pt | checkpoint\.pt | config\.json | history(-head)?\.csv | curves\.png
    | architecture\.svg | heads?\.(h5|csv) | sweep\.(csv|md) | calibration\.json | submission\.csv
    | evaluation\.json | (roc|det|scores|reliability)\.svg | errors\.png | families\.png
    | experiments\.(csv|md|png) | scores\.png | report\.html | map\.(html|csv|json)""",
    re.VERBOSE | re.IGNORECASE,
)
FOLDERS = re.compile(
    r"heads|calibrations|tensorboard|.+\.partial", re.IGNORECASE
)  # below a run folder


def check_output(
    out: Path, inputs: Iterable[Path], folders: Iterable[Path] = (), own: Iterable[str] = ()
) -> None:
    """Refuses a place for an output that would replace what the command reads, or an artefact.

    Args:
        out: the place, as it was named; links to a file count as the file.
        inputs: the files that the command reads; those that are missing do not matter.
        folders: the run folders that the command works in.
        own: names of artefacts that this output may have.

    Raises:
        KinembedError: it is one of the inputs, or the place of another artefact.
    """
    name = "name another file for the output"
    for path in inputs:
        if _same_file(out, path):
            raise KinembedError(f"{out}: is an input of this command, {path}; {name}")
    target = Path(os.path.realpath(out))
    for folder in map(os.path.realpath, folders):
        inside = target.relative_to(folder).parts if target.is_relative_to(folder) else ()
        is_artefact = len(inside) == 1 and ARTEFACTS.fullmatch(inside[0]) and inside[0] not in own
        if is_artefact or (len(inside) > 1 and FOLDERS.fullmatch(inside[0])):
            raise KinembedError(f"{out}: is the place of an artefact of {folder}; {name}")


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, be it by links; not so of devices and pipes."""
    if not one.is_file() or not other.is_file():
        return False
    return os.path.samefile(one, other)
