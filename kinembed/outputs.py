"""Where a user's output may go: over nothing but what the same kind of call wrote there."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from kinembed.data.photo_formats import HEAD, photo_format
from kinembed.errors import KinembedError
from kinembed.io import is_device

# What the commands write into a run folder, whatever the user says.
ARTEFACTS = re.compile(
    r"""embeddings\.(h5|json|npy|txt|csv|parquet) | embed\.json
    | (representations|gallery(-photos)?)\.h5
    | model(-best|-last)?\.pt | checkpoint\.pt | config\.json | history(-head)?\.csv | curves\.png
    | architecture\.svg | heads?\.(h5|csv) | sweep\.(csv|md) | calibration\.json | submission\.csv
    | evaluation\.json | (roc|det|scores|reliability)\.svg | errors\.png | families\.png
    | experiments\.(csv|md|png) | scores\.png | report\.html | map(-part)?\.(html|csv) | map\.json
    | (people|relate|confirmed|audit)\.csv | relate\.html | audit\.json""",
    re.VERBOSE | re.IGNORECASE,
)
FOLDERS = re.compile(
    r"heads|calibrations|tensorboard|audit|album|embeddings-[0-9a-f]+|.+\.partial", re.IGNORECASE
)  # below a run folder
RUN_FILES = (
    "embeddings.h5",
    "embeddings.json",
    "head.h5",
    "model.pt",
    "relate.csv",
)  # one of them makes a run folder
TABLES = ("train_relationships.csv", "sample_submission.csv")  # of data
USED = ("embeddings.h5", "head.h5")  # of a run folder; they name other files
MARK = b"kinembed"
# How a file begins, in small letters, that a command wrote under a name of this ending, and what it
# has near its beginning or end. Tables are known by their columns.
Kind = tuple[bytes, bytes]
KINDS: dict[str, Kind] = {
    ".html": (b"<!doctype html", MARK),
    ".md": (b"", MARK),
    ".onnx": (b"\x08", MARK),
    ".parquet": (b"par1", MARK),
    ".png": (b"\x89png", MARK),
    ".safetensors": (b"", b'"__metadata__":{"backbone":'),
    ".svg": (b"<svg", MARK),
    ".h5": (b"\x89hdf", b"published\0"),  # an attribute's name
}
SHOWN = 1 << 20  # bytes of its beginning, and of its end, by which a file is judged
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
    kind: Kind | None = None,
) -> None:
    """Refuses a place for an output that would replace what is not this output of another call.

    Nothing replaces an input, a photo, a table of data, an artefact of any run folder, or a file
    that kinembed did not write. An input is what the command reads, and what that names: the caches
    that a head learnt from; the weights, whole network or ONNX file of a cache.

    Args:
        out: the place, as it was named; links to a file count as the file.
        inputs: the files that the command reads, and folders of photos of a person; those that are
            missing do not matter.
        folders: the run folders that the command works in, whose cache and head are inputs.
        own: names of artefacts that this output may have there.
        data: the data folder.
        header: last columns of the output, if it is a table.
        kind: how such an output begins, and what it holds; None: by the name's ending, as `KINDS`
            tells.

    Raises:
        KinembedError: it is one of these.
    """
    target = Path(os.path.realpath(out))
    used = [folder / name for folder in folders for name in USED if name not in own]
    read = [*inputs, *used]
    for path in [*read, *_behind(read)]:
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
    if not target.is_file() or is_device(out):  # /dev/stdout may be a file, and is appended to
        return
    if target.name in TABLES:
        raise KinembedError(f"{out}: is a table of data; {NAME}")
    beginning, end = _ends(target)
    if found := kind or KINDS.get(out.suffix.lower()):
        begins, mark = found
        is_own = beginning[: len(begins)].lower() == begins
        if is_own and (mark in beginning or mark in end):
            return  # of another call
    if header and (not beginning or _has_columns(beginning, end, header)):
        return
    if photo_format(beginning[:HEAD]) is not None:
        raise KinembedError(f"{out}: is a photo; {NAME}")
    if data is not None and target.is_relative_to(os.path.realpath(data)):
        raise KinembedError(f"{out}: is a file of the data folder {data}; {NAME}")
    if beginning:
        raise KinembedError(
            f"{out}: is there already, and no such output of kinembed; delete it first, or {NAME}"
        )


def _behind(paths: Iterable[Path]) -> list[Path]:
    """The files that heads and caches name: caches, weights, whole networks, tables of people."""
    from kinembed.cache import EmbeddingCache, cache_at  # whose room asks here, too
    from kinembed.cache.provenance import networks_of
    from kinembed.heads.kept import is_cache, learnt_from

    found: list[Path] = []
    queue = [path for path in paths if path.suffix in (".h5", ".json")]
    for path in queue:
        if not is_cache(path):
            continue
        if caches := learnt_from(path):
            found += [cache_at(cache) for cache in caches if is_cache(cache)]
            queue += [cache for cache in caches if is_cache(cache) and cache not in queue]
            continue
        try:
            with EmbeddingCache.open(path) as cache:
                about = cache.provenance
        except KinembedError:  # it is another head, or damaged, as the command will say
            continue
        for each in networks_of(about):
            named = each.get("command") or {}
            keys = ("weights", "model", "onnx", "people_table")
            found += [Path(named[key]) for key in keys if isinstance(named.get(key), str)]
    return [path for path in found if path.is_file()]  # weights may be named otherwise


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The beginning of a file, and its end."""
    with path.open("rb") as file:
        beginning = file.read(SHOWN)
        file.seek(max(0, path.stat().st_size - SHOWN))
        return beginning, file.read(SHOWN)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def _has_columns(beginning: bytes, end: bytes, header: Sequence[str]) -> bool:
    """Whether a table's last columns are these, by its first line; of parquet, whether it has them.

    Nothing that is read here has to be right: no more than a place is refused by it.
    """
    if beginning.startswith(b"PAR1"):
        return all(name.encode() in end for name in header)
    if beginning.startswith(b"\x1f\x8b"):
        try:
            beginning = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(beginning, SHOWN)
        except zlib.error:
            return False
    line = beginning.partition(b"\n")[0].decode(errors="replace")
    columns = line.removeprefix("\ufeff").strip().split(",")
    return columns[-len(header) :] == list(header)


# What stages write into one file of one format.
FORMATS = {".png": "a picture is a PNG", ".html": "a page is HTML", ".onnx": "the network is ONNX"}


def check_suffix(suffix: str, *outs: Path | None) -> None:
    """Refuses names that say an output is of another format than it is.

    Args:
        suffix: of the format, one of `FORMATS`.
        outs: the places; None: not asked for.

    Raises:
        KinembedError: a name ends otherwise.
    """
    for out in outs:
        if out is not None and out.suffix.lower() != suffix:
            raise KinembedError(f"{out}: {FORMATS[suffix]}; wanted a name that ends in {suffix}")


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, be it by links; not so of devices and pipes."""
    if one.is_file() and other.is_file():
        return os.path.samefile(one, other)
    return not one.exists() and os.path.realpath(one) == os.path.realpath(other)
