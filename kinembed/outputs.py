"""Where a user's output may go: over no input, no photo, no table of data, no other artefact."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from kinembed.data.photo_formats import HEAD, photo_format
from kinembed.errors import KinembedError

# What the commands write into a run folder, whatever the user says.
ARTEFACTS = re.compile(
    r"""embeddings\.(h5|npy|txt|csv|parquet) | embed\.json | (representations|gallery(-photos)?)\.h5
    | model(-best|-last)?\.pt | checkpoint\.pt | config\.json | history(-head)?\.csv | curves\.png
    | architecture\.svg | heads?\.(h5|csv) | sweep\.(csv|md) | calibration\.json | submission\.csv
    | evaluation\.json | (roc|det|scores|reliability)\.svg | errors\.png | families\.png
    | experiments\.(csv|md|png) | scores\.png | report\.html | map(-part)?\.(html|csv) | map\.json
    | (people|relate|confirmed|audit)\.csv | relate\.html | audit\.json""",
    re.VERBOSE | re.IGNORECASE,
)
FOLDERS = re.compile(
    r"heads|calibrations|tensorboard|audit|album|.+\.partial", re.IGNORECASE
)  # below a run folder
RUN_FILES = ("embeddings.h5", "head.h5", "model.pt", "relate.csv")  # one of them makes a run folder
TABLES = ("train_relationships.csv", "sample_submission.csv")  # of data
MARK = b"kinembed"  # all but tables that a command writes has it in its beginning
BEGINNING = 1 << 20  # bytes
NAME = "name another file for the output"


def check_outputs(outs: Sequence[Path | None], inputs: Iterable[Path], run: Path, data: Path,
                  header: Sequence[str] = ()) -> None:  # fmt: skip
    """Refuses places for several outputs of a command, as `check_output`, and one for two of them.

    Args:
        outs: the places; None: not asked for.
        inputs: the files that the command reads, and folders of photos of a person.
        run: the run folder.
        data: the data folder.
        header: columns of the tables among the outputs.

    Raises:
        KinembedError: as `check_output`, or two outputs are to go into one file.
    """
    inputs, asked = list(inputs), [out for out in outs if out is not None]
    for one, other in combinations(asked, 2):
        if _same_file(one, other):
            raise KinembedError(f"{other}: is named for two outputs; {NAME}")
    for out in asked:
        check_output(out, inputs, [run], data=data, header=header)


def check_output(
    out: Path,
    inputs: Iterable[Path],
    folders: Iterable[Path] = (),
    own: Iterable[str] = (),
    *,
    data: Path | None = None,
    header: Sequence[str] = (),
) -> None:
    """Refuses a place for an output that would replace what is not this output of another call.

    Nothing replaces an input, a photo, a table of data, or an artefact of any run folder. Below the
    data folder nothing is replaced but what kinembed wrote.

    Args:
        out: the place, as it was named; links to a file count as the file.
        inputs: the files that the command reads, and folders of photos of a person; those that are
            missing do not matter.
        folders: the run folders that the command works in.
        own: names of artefacts that this output may have there.
        data: the data folder.
        header: last columns of the output, if it is a table.

    Raises:
        KinembedError: it is one of these.
    """
    target = Path(os.path.realpath(out))
    for path in inputs:
        if _same_file(out, path):
            raise KinembedError(f"{out}: is an input of this command, {path}; {NAME}")
        if path.is_dir() and target.is_relative_to(os.path.realpath(path)):
            raise KinembedError(f"{out}: lies in {path}, which holds photos of a person; {NAME}")
    given = [Path(os.path.realpath(folder)) for folder in folders]
    if target.parent in given and target.name in own:
        return
    others = [parent for parent in target.parents if _is_run(parent)]
    for folder in (*given, *others):
        inside = target.relative_to(folder).parts if target.is_relative_to(folder) else ()
        is_artefact = len(inside) == 1 and ARTEFACTS.fullmatch(inside[0])
        if is_artefact or (len(inside) > 1 and FOLDERS.fullmatch(inside[0])):
            raise KinembedError(f"{out}: is the place of an artefact of {folder}; {NAME}")
    if not target.is_file():
        return
    if target.name in TABLES:
        raise KinembedError(f"{out}: is a table of data; {NAME}")
    with target.open("rb") as file:
        beginning = file.read(BEGINNING)
    if MARK in beginning or (header and _columns(beginning)[-len(header) :] == list(header)):
        return  # of another call
    if photo_format(beginning[:HEAD]) is not None:
        raise KinembedError(f"{out}: is a photo; {NAME}")
    if data is not None and target.is_relative_to(os.path.realpath(data)):
        raise KinembedError(f"{out}: is a file of the data folder {data}; {NAME}")


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def _columns(beginning: bytes) -> list[str]:
    """The columns of a table, by its first line."""
    line = beginning.partition(b"\n")[0].decode(errors="replace")
    return line.removeprefix("\ufeff").strip().split(",")


def check_pictures(outs: Iterable[Path | None]) -> None:
    """Refuses names that say a picture is of another format than PNG.

    Raises:
        KinembedError: a suffix is another.
    """
    for out in outs:
        if out is not None and out.suffix.lower() != ".png":
            raise KinembedError(f"{out}: a picture is a PNG; wanted a name that ends in .png")


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, be it by links; not so of devices and pipes."""
    if one.is_file() and other.is_file():
        return os.path.samefile(one, other)
    return not one.exists() and os.path.realpath(one) == os.path.realpath(other)
