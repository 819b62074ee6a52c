"""Import, export and merge: caches from and to .npy and .csv; parquet is of `photo_table.py`."""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Vectors, finite_or_raise
from kinembed.cache import ATTRIBUTE, EmbeddingCache, Names, cache_at, check_names
from kinembed.cache.joined import Joined, Row, join
from kinembed.cache.lookup import rows_of
from kinembed.cache.provenance import imported, vector_settings
from kinembed.cache.sharded import remove_other, write_sharded
from kinembed.cache.stacked import agreed_people
from kinembed.cache.verify import unsound_rows
from kinembed.cache.writer import Blocks, write_cache
from kinembed.data.layouts import Layout
from kinembed.data.listing import Photo
from kinembed.data.photo_files import describe_people, people_of_names
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.io import sha256_file, write_bytes, written_beside
from kinembed.outputs import check_output

log = logging.getLogger(__name__)

CACHE = "embeddings.h5"  # of a run folder
CHUNK = 4096  # rows per block
LEAST_COSINE = 0.999  # that a narrower format should keep
MOST_NAMES = 1 << 28  # bytes of a list of names


def export_vectors(cache_path: Path, out: Path, view: str | None = None) -> Path:
    """Writes the vectors of a view to a file, sorted by name.

    Args:
        cache_path: the cache.
        out: `.npy` (N, D), with the names line by line in a `.txt` of the same name, as
            `import_vectors` reads them; or `.csv`, one row per photo: its name, then its numbers
            with enough digits to restore every bit.
        view: one of the cache's, or several joined by `+`; None: `max`, or the only one.

    Returns:
        `out`.

    Raises:
        KinembedError: no such view, no such format, or `out` cannot be written.
    """
    writers: dict[str, Callable[[EmbeddingCache, Vectors, Path], None]] = {
        ".npy": _write_npy,
        ".csv": _write_csv,
    }
    if out.suffix not in writers:
        raise KinembedError(f"{out}: wanted a name that ends with {', '.join(writers)}")
    own = [f"embeddings{kind}" for kind in (*writers, ".txt")]
    folders = [cache_path.parent]
    begins = b"\x93numpy" if out.suffix == ".npy" else b"name,0"
    check_output(out, [cache_path], folders, own, kind=(begins, b""))
    if out.suffix == ".npy":
        names = out.with_suffix(".txt")
        check_output(names, [cache_path], folders, own, kind=(b"", b"") if out.exists() else None)
    with EmbeddingCache.open(cache_path) as cache:
        writers[out.suffix](cache, cache.vectors(cache.choose_view(view)), out)
    return out


def import_vectors(
    vectors_path: Path,
    names_path: Path,
    run: Path,
    backbone_name: str,
    view: str = "native",
    force: bool = False,
    data: Path = Path("data"),
    layout: Layout = "auto",
    people_table: Path | None = None,
) -> Path:
    """Makes a run's cache from vectors of another program.

    Args:
        vectors_path: `.npy` (N, D), float16, float32 or float64 (rounded to float32).
        names_path: the photos' names, line by line, UTF-8.
        run: the run folder.
        backbone_name: what made them; a head fits all caches with the same name.
        view: the name of the view.
        force: replace an existing cache.
        data: the data folder, whose relations help to tell families from other folders.
        layout: how the names say who is on a photo (`data/layouts.py`).
        people_table: a table `photo,person,family`, which overrides the layout for its photos.

    Returns:
        The path of the cache.

    Raises:
        KinembedError: the files are missing, malformed, or do not fit each other; or there is a
            cache already.
    """
    path = run / "embeddings.h5"
    if path.exists() and not force:
        raise RunError(f"{path}: is there already; name another --run, or replace it with --force")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", view):
        raise DataError(f"view {view!r}: wanted 1 to 64 letters, digits, _ or -")
    vectors = _read_npy(vectors_path)
    texts = _read_names(names_path)
    if len(texts) != len(vectors):
        raise DataError(
            f"{names_path}: {len(texts):,} names for {len(vectors):,} vectors of {vectors_path}"
        )
    names = np.array([text.encode() for text in texts])
    order = np.argsort(names, kind="stable")
    names = names[order]
    repeated = np.flatnonzero(names[1:] == names[:-1])
    if len(repeated):
        raise DataError(f"{names_path}: {names[repeated[0]].decode()!r} is there twice")
    try:
        check_names(names, names_path)
    except RunError as error:
        raise DataError(str(error).replace("; run kinembed embed again", "")) from None
    dtype = np.dtype(np.float16 if vectors.dtype == np.float16 else np.float32)

    def not_finite(row: int) -> DataError:
        name = names[row].decode()
        return DataError(f"{vectors_path}: the vector of {name!r} is not finite in {dtype}")

    def make(start: int, stop: int) -> Vectors:
        with np.errstate(over="ignore"):  # `finite_or_raise` refuses overflow
            rows = np.asarray(vectors[order[start:stop]]).astype(dtype)
        return finite_or_raise(rows, lambda row: not_finite(start + row))

    provenance = imported(backbone_name, str(dtype), vectors_path, sha256_file(vectors_path))
    unknown = np.zeros((len(names), 32), np.uint8)
    known, notes = people_of_names(
        [name.decode() for name in names.tolist()], data, layout, people_table
    )
    people = np.array([person.encode() for person in known])
    write_cache(path, provenance, names, unknown, {view: Blocks(len(names), make)}, people=people)
    for note in notes:
        log.info("%s: %s", names_path, note)
    log.info("%s: %s", path, describe_people(Counter(known)))
    log.info("%s: %s photos, view %s of %d", path, f"{len(names):,}", view, vectors.shape[1])
    return path


def convert(
    source: Path,
    run: Path,
    dtype: str | None = None,
    shard_photos: int | None = None,
    force: bool = False,
) -> Path:
    """Makes a run's cache from another: in shards or in one file, in another number format.

    Args:
        source: the cache, `embeddings.h5` or `embeddings.json`.
        run: the run folder.
        dtype: `float32`, `float16` or `int8`; None: as it is.
        shard_photos: photos per shard; None: one file.
        force: replace an existing cache.

    Returns:
        The path of the cache.

    Raises:
        RunError: there is a cache already, or the source is none or damaged.
    """
    path = run / CACHE
    with EmbeddingCache.open(source) as cache:
        if cache_at(path).exists():
            if cache_at(path).samefile(cache.path):
                raise RunError(f"{cache.path}: is the cache of {run}; name another --run")
            if not force:
                raise RunError(
                    f"{cache_at(path)}: is there already; name another --run, or replace it with "
                    "--force"
                )
        if len(unsound_rows(cache)):
            raise RunError(f"{cache.path}: is damaged; run kinembed cache verify")
        count = len(cache)
        rows = Joined([cache], np.zeros(count, np.int32), np.arange(count))
        about = dict(cache.provenance)
        if dtype is not None:
            about["dtype"] = dtype

        def people(names: Names) -> Names:
            return cache.people[rows_of(cache.names, names)]

        if shard_photos is None:
            join(path, about, cache.views, rows, people, dtype)
            remove_other(path)
        else:
            path = path.with_suffix(".json")
            write_sharded(path, about, cache.views, rows, people, shard_photos, dtype=dtype)
        with EmbeddingCache.open(path) as made:
            for view in cache.views:
                least, mean = _cosines(cache.vectors(view), made.vectors(view))
                log.info("%s: view %s: cosine with what it was %.5f on average, %.5f at least",
                         path, view, mean, least)  # fmt: skip
                if least < LEAST_COSINE:
                    log.warning("%s: view %s: some vectors have a cosine below %g with what they "
                                "were", path, view, LEAST_COSINE)  # fmt: skip
    return path


def _cosines(before: Vectors, now: Vectors) -> tuple[float, float]:
    """The least and the mean cosine of rows."""
    every = []
    for start in range(0, len(before), CHUNK):
        a, b = (np.asarray(each[start : start + CHUNK], np.float64) for each in (before, now))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        every.append(np.where(lengths > 0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1), 1))
    found = np.concatenate(every)
    return float(found.min()), float(found.mean())


def merge(first: Path, second: Path, out: Path, force: bool = False) -> Path:
    """Merges two caches: of different photos, or of different views of the same photos.

    Raises:
        KinembedError: one is damaged or no cache, their settings differ, or a photo is in both
            with different bytes, people or vectors.
    """
    if out.exists() and not force:
        raise RunError(f"{out}: is there already; name another --out, or replace it with --force")
    check_output(out, [first, second], [out.parent, first.parent, second.parent], own=[CACHE],
                 kind=(b"\x89hdf", f"{ATTRIBUTE}\0".encode()))  # fmt: skip
    with EmbeddingCache.open(first) as a, EmbeddingCache.open(second) as b:
        for cache in (a, b):
            if len(unsound_rows(cache)):
                raise RunError(f"{cache.path}: is damaged; run kinembed cache verify")
        left, right = vector_settings(a.provenance), vector_settings(b.provenance)
        different = sorted(k for k in left | right if left.get(k) != right.get(k))
        if different:
            how = (
                f" ({left['dtype']}, {right['dtype']}); give both the same with kinembed cache "
                "convert FILE --run DIR --dtype FORMAT"
                if different == ["dtype"]
                else "; only caches of the same network and settings can be merged"
            )
            raise RunError(
                f"{a.path} and {b.path} were made with another {', '.join(different)}{how}"
            )
        _check_numbers(a)
        _check_numbers(b)
        known = {photo.name: (row, photo) for row, photo in enumerate(_photos_of(a))}
        common = []
        for row, photo in enumerate(_photos_of(b)):
            if photo.name in known:
                other, before = known[photo.name]
                if before.digest != photo.digest:
                    raise RunError(f"{photo.name}: has other bytes in {first} than in {second}")
                if before.person != photo.person and before.person and photo.person:
                    raise RunError(
                        f"{photo.name}: shows {before.person} in {first} and {photo.person} in "
                        f"{second}; run kinembed embed for both again"
                    )
                common.append((other, row, photo.name))
        _check_common_rows(a, b, common)
        if set(a.views) != set(b.views):
            if not len(a) == len(b) == len(common):
                raise RunError(
                    f"{first} has views {', '.join(a.views)} and {second} {', '.join(b.views)}, "
                    "of different photos: wanted the same views, or the same photos"
                )
            views = {v: [cache.stored(f"views/{v}")] for cache in (b, a) for v in cache.views}
            scales = {
                view: [cache.stored(f"scales/{view}")]
                for cache in (b, a)
                for view in cache.views
                if f"scales/{view}" in cache.footer.extents
            }
            digests, stats = np.array(a.digests), np.array(a.stats)
            people = agreed_people([a, b])
            write_cache(out, a.provenance, a.names, digests, views, stats, people, scales)
            return out
        photos: dict[str, Row] = {}
        for number, cache in enumerate((b, a)):
            for row, photo in enumerate(_photos_of(cache)):
                if not photo.person and photo.name in photos:
                    photo = replace(photo, person=photos[photo.name].photo.person)
                photos[photo.name] = Row(photo, number, row)
        rows = [photos[name] for name in sorted(photos, key=str.encode)]

        def people_on(names: Names) -> Names:
            return np.array([photos[n.decode()].photo.person.encode() for n in names.tolist()])

        return join(out, a.provenance, a.views, Joined.of(rows, [b, a]), people_on)


def _photos_of(cache: EmbeddingCache) -> list[Photo]:
    """The photos of a cache, in the order of its rows; damaged people count as unknown."""
    texts = [name.decode() for name in cache.names.tolist()]
    sound = not len(cache.damaged_rows("people"))
    people = [p.decode() for p in cache.people.tolist()] if sound else [""] * len(cache)
    shas = cache.digests.tobytes()
    return [
        Photo(name, shas[32 * row : 32 * row + 32], size, mtime, people[row])
        for row, (name, (size, mtime)) in enumerate(zip(texts, cache.stats.tolist(), strict=True))
    ]


def _check_numbers(cache: EmbeddingCache) -> None:
    """Refuses a cache whose vectors are not in the number format that its provenance says."""
    wanted = cache.provenance.get("dtype")
    for view in cache.views:
        found = cache.dtype_of(view)
        if wanted is not None and found != wanted:
            raise RunError(
                f"{cache.path}: the numbers of view {view} are {found}, and its provenance says "
                f"{wanted}; run kinembed embed again, or cache convert --dtype {wanted}"
            )


def _check_common_rows(
    a: EmbeddingCache, b: EmbeddingCache, common: list[tuple[int, int, str]]
) -> None:
    """Refuses caches with different vectors of the same photos, given as (row of a, of b, name)."""
    for view in set(a.views) & set(b.views):
        left, right = a.vectors(view), b.vectors(view)
        if left.shape[1:] != right.shape[1:] or left.dtype != right.dtype:
            raise RunError(f"{a.path} and {b.path}: view {view} is of another width or type")
        for start in range(0, len(common), CHUNK):
            pairs = common[start : start + CHUNK]
            same = left[[row for row, _, _ in pairs]] == right[[row for _, row, _ in pairs]]
            if not same.all():
                name = pairs[int(np.argmin(same.all(1)))][2]
                raise RunError(f"{name}: has another {view} vector in {a.path} than in {b.path}")


def _write_npy(cache: EmbeddingCache, vectors: Vectors, out: Path) -> None:
    write_bytes(out.with_suffix(".txt"), b"\n".join([*cache.names.tolist(), b""]))
    with written_beside(out) as file:
        header = {"descr": vectors.dtype.str, "fortran_order": False, "shape": vectors.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(vectors), CHUNK):
            file.write(np.ascontiguousarray(vectors[start : start + CHUNK]).data)


def _write_csv(cache: EmbeddingCache, vectors: Vectors, out: Path) -> None:
    with written_beside(out) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", *range(vectors.shape[1])])
        for name, row in zip(cache.names.tolist(), vectors, strict=True):
            writer.writerow([name.decode(), *(f"{x:.9g}" for x in row.tolist())])
        text.detach()  # which flushes it, and leaves the file open


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    _refuse_pipes(path)
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; wanted vectors as .npy") from None
    except Exception as error:  # numpy lets through what its parser of headers raises
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a .npy file of numbers ({reason})") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype not in (
        *(np.float16, np.float32, np.float64),
    ):
        kind = getattr(vectors, "dtype", type(vectors).__name__)
        raise DataError(f"{path}: found {kind}, wanted float16, float32 or float64 as .npy")
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DataError(f"{path}: found shape {vectors.shape}, wanted (photos, numbers)")
    return vectors


def _refuse_pipes(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path}: is no file")


def _read_names(path: Path) -> list[str]:
    _refuse_pipes(path)
    try:
        if (size := path.stat().st_size) > MOST_NAMES:
            raise DataError(f"{path}: {size:,} bytes of names, wanted at most {MOST_NAMES:,}")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; wanted names, line by line") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; wanted names, line by line") from None
    names = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if "" in names:
        raise DataError(f"{path}, line {names.index('') + 1}: empty, wanted a name")
    return names
