"""Published weights: their files on this machine, and downloads. Does not import torch."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import IO, Literal
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from kinembed.backbones import Backbone, WeightSource, find_backbone
from kinembed.errors import WeightsError, WriteError
from kinembed.io import lock, make_folder, sha256_file, write_bytes
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

Status = Literal["installed", "cached", "to fetch", "to install"]

TIMEOUT = 15  # seconds without a byte
MOST = 1 << 34  # bytes of a file whose size is not known beforehand
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
        names = ", ".join(("auto", *backbone.sources, *([] if backbone.is_onnx else ["none"])))
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
    """The safetensors copy of weights that are read once; None for others."""
    if not source.converted:
        return None
    key = (source.sha256 or "")[:16]
    return cache_folder() / f"{Path(source.file_name).stem}-{key}.safetensors"


def locate(source: WeightSource) -> tuple[Status, Path | None]:
    """The status of published weights on this machine, and their file, present or to download."""
    converted = converted_path(source)
    if converted is not None and converted.is_file() and _beside(converted, "sha256").is_file():
        return "cached", converted  # without a sha256, nothing says that it was read from them
    readable = not source.reader or find_spec(source.reader) is not None
    if source.url:
        path = cache_folder() / source.file_name
        status: Status = "cached" if path.is_file() else "to fetch"
        return (status if readable else "to install"), path
    package, _, inner = source.bundled.partition(":")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / inner).is_file():
            return ("installed" if readable else "to install"), path
    return "to install", None


def find_weights(
    backbone: Backbone,
    source: WeightSource,
    progress: Progress = silent,
    *,
    accept_licence: bool = False,
) -> Path:
    """The file of published weights, downloaded if missing, with its sha256 verified.

    Args:
        backbone: whose weights.
        source: which of them.
        progress: shows the download.
        accept_licence: the user accepts the licence; that the file is there says it from then on.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, or it has changed.
    """
    status, path = locate(source)
    if path is None or status == "to install":
        why = f"{source.reader} reads its weights" if source.url else "its weights come by pip"
        raise WeightsError(f"{backbone.name}: {why}; run pip install {_quoted(source.install)}")
    if status != "to fetch":
        check_unchanged(path, source)
        return path
    if source.accept_licence and not accept_licence:
        which = [name for name, each in backbone.sources.items() if each == source]
        option = "" if which[0] == next(iter(backbone.sources)) else f" --weights {which[0]}"
        raise WeightsError(
            f"{backbone.name}: its weights are not downloaded before you accept their licence: "
            f"{source.licence}; run kinembed weights fetch {backbone.name}{option} --accept-licence"
        )
    download(source, path, progress)
    return path


def check_unchanged(path: Path, source: WeightSource) -> None:
    """Compares a file with size and sha256 of its record, or with the sha256 of its first use.

    Raises:
        WeightsError: the file has changed.
    """
    cure = f"delete {path} to download it again"
    if source.bundled and path != converted_path(source):
        cure = f"run pip install --force-reinstall {_quoted(source.install)}"
    _compare(path, path, source, _wanted_sha256(path, source), cure)


def check_copy(path: Path, backbone: Backbone) -> None:
    """Refuses a file that is no copy of published weights of a backbone, as far as it is known.

    Raises:
        WeightsError: it is missing, or another file.
    """
    if not path.is_file():
        raise no_such_file(path, backbone)
    cure = "kinembed embed --onnx runs other ONNX networks"
    problem: WeightsError | None = None
    for source in backbone.sources.values():
        try:
            return _compare(path, path.with_name(source.file_name), source, source.sha256, cure)
        except WeightsError as error:
            problem = error
    if problem is not None:
        raise problem


def no_such_file(path: Path, backbone: Backbone) -> WeightsError:
    """What to say where a file of weights is missing: where the published ones come from."""
    problem = f"{path}: no such file; wanted weights of {backbone.name}"
    for source in backbone.sources.values():  # `auto` takes the first
        from_where = f"pip install {_quoted(source.install)} brings"
        if source.url:
            option = " --accept-licence" * source.accept_licence
            from_where = f"kinembed weights fetch {backbone.name}{option} downloads"
        problem += f"; {from_where} the published ones, which are taken without --weights"
        break
    return WeightsError(problem)


def _compare(path: Path, named: Path, source: WeightSource, sha256: str | None, cure: str) -> None:
    """Compares size and sha256 of a file; the size first, which takes no time."""
    size = source.size if named.name == source.file_name else None  # a converted one has its own
    if size is not None and (bytes_ := path.stat().st_size) != size:
        raise WeightsError(f"{path}: found {bytes_:,} bytes, wanted {size:,}; {cure}")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise WeightsError(f"{path}: found sha256 {found}, wanted {sha256}; {cure}")


@contextlib.contextmanager
def kept_if_writable() -> Iterator[None]:
    """Writes to the cache for the next time; where that cannot be, the weights are good still."""
    try:
        yield
    except WriteError:
        folder = cache_folder()
        log.warning("%s: cannot be written; set KINEMBED_CACHE to a folder that can", folder)


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
        _check_space(part, source)
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
                _append(source, file, progress)
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


def _check_space(part: Path, source: WeightSource) -> None:
    """Refuses a download for which the disk has no room."""
    if source.size is None:
        return
    have = part.stat().st_size if part.is_file() else 0
    missing, free = source.size - have, shutil.disk_usage(part.parent).free
    if missing > free:
        raise WeightsError(
            f"{part.parent}: has {free / 1e6:,.1f} MB free, and {source.file_name} takes "
            f"{missing / 1e6:,.1f} MB; free some, or set KINEMBED_CACHE to a folder with more"
        )


def _append(source: WeightSource, file: FileIO, progress: Progress) -> None:
    """Requests the missing bytes of a file and appends them, or all if they are of another.

    Raises:
        WeightsError: the server has a file of another size, or sends more.
    """
    have = _resumable(file)
    etag = _read_etag(Path(file.name))
    headers = {"User-Agent": "kinembed"}
    if have and etag:  # the rest of the same file, or else all of the new one
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        request = Request(source.url, headers=headers)
        answer = _open(request)
    except HTTPError as error:
        if error.code != 416 or "Range" not in headers:  # range not satisfiable
            raise
        file.truncate(0)
        return _append(source, file, progress)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise OSError("a web page came; does this network want you to log in?")
        if (packed := answer.headers["Content-Encoding"] or "identity") != "identity":
            raise OSError(f"it came packed as {packed[:20]}, which was not asked for")
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
        total = have + int(rest) if rest else source.size or 0
        if source.size not in (None, total) or not 0 <= total <= MOST:
            raise _another_size(source, file, f"{total:,}")
        with progress(f"downloading {total / 1e6:.1f} MB", total) as bar:
            bar.advance(have)
            while block := answer.read(BLOCK):
                if file.write(block) != len(block):
                    raise OSError("the disk is full")
                if file.tell() > (total or MOST):  # nothing says where it ends
                    raise _another_size(source, file, f"more than {total or MOST:,}")
                bar.advance(len(block))
        if rest and (size := file.tell()) != total:
            raise OSError(f"the connection was cut after {size} of {total} bytes")
        if not file.tell():
            raise OSError("it is empty")


def _another_size(source: WeightSource, file: FileIO, found: str) -> WeightsError:
    """The error of a file of another size, of which nothing is kept."""
    Path(file.name).unlink()
    _beside(Path(file.name), "etag").unlink(missing_ok=True)
    wanted = f"{source.size:,}" if source.size else f"at most {MOST:,}"
    return WeightsError(f"{source.url}: has {found[:40]} bytes, wanted {wanted}; try again later")


def _open(request: Request) -> HTTPResponse:
    answer: HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT)
    return answer


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but none from https to where anybody on the way may answer."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """As urllib's."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            where = "it redirects from https to an address without"
            raise HTTPError(req.full_url, code, where, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


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
        f"download it elsewhere to {path}, or name a file with kinembed embed "
        "--weights PATH; without a download work --backbone sface (pip install 'kinembed[sface]'), "
        "dlib-resnet ('kinembed[dlib]') and --backbone mtcnn-onet"
    )
