"""What an interrupted embedding has done already: finished parts in a folder, joined at the end.

Part K is `K.h5`, a cache of the rows that were computed, and `K.json`, which is written after it
and says of which photos the part is, which of them were left out, and which have the bytes of a
photo that another row has. A folder of parts is locked while it is written to.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Vectors
from kinembed.cache import EmbeddingCache
from kinembed.cache.verify import unsound_rows
from kinembed.cache.writer import Blocks, write_cache
from kinembed.errors import DataError, RunError
from kinembed.io import lock, write_bytes


@dataclass(frozen=True)
class Photo:
    """A photo's file as it is now.

    Attributes:
        digest: sha256 of its bytes; empty where it has not been read.
        size: bytes.
        mtime: its time of change, in nanoseconds.
    """

    name: str
    digest: bytes
    size: int
    mtime: int


@dataclass
class Part:
    """Photos of one part, in order: computed, the same as another, or left out."""

    computed: list[Photo] = field(default_factory=list)
    views: dict[str, list[Vectors]] = field(default_factory=dict)
    same: list[Photo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Parts:
    """A folder of parts that belong to one embedding.

    Args:
        folder: where they are.
        provenance: what makes the vectors.
        shares: names and times of the photos of each part, in order; a part of other photos is
            not gone on from, nor are those after it.
    """

    def __init__(
        self, folder: Path, provenance: Mapping[str, Any], shares: Sequence[Sequence[Photo]]
    ) -> None:
        self.folder = folder
        self.provenance = provenance
        self._keys = [_key(share) for share in shares]
        self.done: list[Part] = []
        for number in range(len(shares)):
            part = self._read(number)
            if part is None:
                break
            self.done.append(part)

    def add(self, part: Part) -> None:
        """Writes the next part."""
        number = len(self.done)
        if part.computed:
            names, digests, stats = columns(part.computed)
            write_cache(
                self.folder / f"{number:06}.h5",
                self.provenance,
                names,
                digests,
                part.views,
                stats,
            )
        about = {
            "photos": self._keys[number],
            "computed": len(part.computed),
            "same": [[p.name, p.digest.hex(), p.size, p.mtime] for p in part.same],
            "skipped": part.skipped,
        }
        write_bytes(self.folder / f"{number:06}.json", json.dumps(about).encode())
        part.views = {}
        self.done.append(part)

    @contextmanager
    def open(self) -> Iterator[list[EmbeddingCache | None]]:
        """The caches of the parts, None for those in which nothing was computed."""
        caches = [
            EmbeddingCache.open(self.folder / f"{number:06}.h5") if part.computed else None
            for number, part in enumerate(self.done)
        ]
        try:
            yield caches
        finally:
            for cache in caches:
                if cache is not None:
                    cache.close()

    def _read(self, number: int) -> Part | None:
        """A finished part; None where there is none, or not of these photos, or a damaged one."""
        try:
            about = json.loads((self.folder / f"{number:06}.json").read_bytes())
            if about["photos"] != self._keys[number]:
                return None
            same = [Photo(n, bytes.fromhex(sha), size, at) for n, sha, size, at in about["same"]]
            part = Part(same=same, skipped=about["skipped"])
            if about["computed"]:
                with EmbeddingCache.open(self.folder / f"{number:06}.h5") as cache:
                    if len(cache) != about["computed"] or len(unsound_rows(cache)):
                        return None
                    part.computed = photos_of(cache)
        except (OSError, KeyError, TypeError, ValueError, RunError):
            return None
        return part


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps it for this process; it is removed once nothing is left in it.

    Raises:
        RunError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        taken = (
            f"{folder}: another kinembed embeds into this run folder; wait until it is done, or "
            "name another folder with --run"
        )
        lock(file, RunError(taken))
        try:
            yield
        finally:
            if not any(path.suffix == ".json" and path.stem.isdigit() for path in _listed(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def join(
    path: Path,
    provenance: Mapping[str, Any],
    views: Sequence[str],
    photos: Mapping[str, tuple[Photo, int, int]],
    sources: Sequence[EmbeddingCache | None],
) -> Path:
    """Writes one cache of rows that lie in several.

    Args:
        path: where to.
        provenance: what made the vectors.
        views: those wanted; each source has them.
        photos: by name: the photo, the number of its source, and its row there.
        sources: the caches.

    Raises:
        DataError: there are no photos.
    """
    if not photos:
        raise DataError("no photo could be embedded; there is nothing to write")
    rows = [photos[name] for name in sorted(photos, key=str.encode)]
    names, digests, stats = columns([photo for photo, _, _ in rows])
    places = np.array([place for _, *place in rows], np.intp)
    blocks = {view: _gathered(view, places, sources) for view in views}
    return write_cache(path, provenance, names, digests, blocks, stats)


def _gathered(view: str, places: Any, sources: Sequence[EmbeddingCache | None]) -> Blocks:
    """The rows of a view, each from its cache."""
    vectors = [cache.vectors(view) if cache is not None else None for cache in sources]
    model = next(found for found in vectors if found is not None)

    def make(start: int, stop: int) -> Vectors:
        rows = np.empty((stop - start, model.shape[1]), model.dtype)
        for source in np.unique(places[start:stop, 0]).tolist():
            here = np.flatnonzero(places[start:stop, 0] == source)
            rows[here] = vectors[source][places[start + here, 1]]
        return rows

    return Blocks(len(places), make)


def columns(photos: Sequence[Photo]) -> tuple[Any, Any, Any]:
    """Names (N,), digests (N, 32) and stats (N, 2) of photos."""
    names = np.array([photo.name.encode() for photo in photos])
    digests = np.frombuffer(b"".join(photo.digest for photo in photos), np.uint8).reshape(-1, 32)
    return names, digests, np.array([(p.size, p.mtime) for p in photos], np.int64)


def photos_of(cache: EmbeddingCache) -> list[Photo]:
    """The photos of a cache, in the order of its rows."""
    texts = [name.decode() for name in cache.names.tolist()]
    shas = cache.digests.tobytes()
    return [
        Photo(name, shas[32 * row : 32 * row + 32], size, mtime)
        for row, (name, (size, mtime)) in enumerate(zip(texts, cache.stats.tolist(), strict=True))
    ]


def _key(share: Sequence[Photo]) -> str:
    text = json.dumps([[photo.name, photo.size, photo.mtime] for photo in share])
    return hashlib.sha256(text.encode()).hexdigest()
