"""Vectors of face crops, kept by the crops' bytes: a second call computes only those of new ones.

`vectors.npz` holds the digest of each crop, `digests` (N, 32) uint8, the vectors of each view,
(N, D) float32, and `key`, what made them. It is written again now and then on the way, so that a
call that is killed loses little. A file of another key, or a broken one, counts for nothing: all of
it can be computed again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Vectors
from kinembed.io import write_bytes
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

BATCH = 64  # crops embedded at a time
UNSAVED = 256  # crops after which the file is written, at least
GROWTH = 4  # and this fraction of those in it, so that a large file is written a few times only

Embed = Callable[[Sequence[bytes]], Mapping[str, Vectors]]


@dataclass
class KeptVectors:
    """Vectors of crops by the digest of their bytes.

    Attributes:
        path: of the file.
        key: what makes the vectors: the network, the views.
        rows: the row of each crop's vectors.
        vectors: (N, D) of each view.
    """

    path: Path
    key: str
    rows: dict[bytes, int] = field(default_factory=dict)
    vectors: dict[str, Float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, key: str) -> KeptVectors:
        """What is kept of this key; nothing where the file is missing, broken or of another."""
        if not path.is_file():
            return cls(path, key)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
            digests = content.pop("digests")
            same = content.pop("key").tobytes() == _key_bytes(key).tobytes()
            if digests.dtype != np.uint8 or digests.shape[1:] != (32,):
                raise ValueError("its digests are none")
            for name, vectors in content.items():
                if vectors.dtype != np.float32 or vectors.ndim != 2:
                    raise ValueError(f"{name} are no vectors")
                if len(vectors) != len(digests) or not np.isfinite(vectors).all():
                    raise ValueError(f"{name} are damaged")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.info("%s: is broken (%s), so its vectors are computed again", path, error)
            return cls(path, key)
        if not same:
            log.info("%s: is of another network or head, so all faces are embedded again", path)
            return cls(path, key)
        rows = {digest.tobytes(): row for row, digest in enumerate(digests)}
        return cls(path, key, rows, content)

    def of(
        self, crops: Sequence[Path], embed: Embed, progress: Progress = silent
    ) -> tuple[dict[str, Float], int]:
        """(N, D) vectors of N crops of each view, and how many were computed now.

        Crops of other calls are forgotten.

        Args:
            crops: (N,) the files.
            embed: computes the vectors of crops from their bytes.
            progress: shows the progress.
        """
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in crops]
        files = dict(zip(digests, crops, strict=True))
        todo = [digest for digest in files if digest not in self.rows]
        unsaved = 0
        with progress("embedding", len(todo)) as bar:
            for start in range(0, len(todo), BATCH):
                batch = todo[start : start + BATCH]
                self._add(batch, embed([files[digest].read_bytes() for digest in batch]))
                bar.advance(len(batch))
                unsaved += len(batch)
                if unsaved >= max(UNSAVED, len(self.rows) // GROWTH):
                    self._save()
                    unsaved = 0
        wanted = list(files)
        kept = np.array([self.rows[digest] for digest in wanted], np.intp)
        if unsaved or len(self.rows) != len(wanted):
            self.vectors = {name: each[kept] for name, each in self.vectors.items()}
            self.rows = {digest: row for row, digest in enumerate(wanted)}
            self._save()
        rows = np.array([self.rows[digest] for digest in digests], np.intp)
        return {name: each[rows] for name, each in self.vectors.items()}, len(todo)

    def _add(self, digests: Sequence[bytes], vectors: Mapping[str, Vectors]) -> None:
        for name, new in vectors.items():
            before = self.vectors.get(name, np.empty((0, new.shape[1]), np.float32))
            self.vectors[name] = np.concatenate([before, new.astype(np.float32)])
        for digest in digests:
            self.rows[digest] = len(self.rows)

    def _save(self) -> None:
        digests = np.frombuffer(b"".join(self.rows), np.uint8).reshape(-1, 32)
        file = io.BytesIO()
        np.savez(file, digests=digests, key=_key_bytes(self.key), **self.vectors)  # type: ignore[arg-type]
        write_bytes(self.path, file.getvalue())


def _key_bytes(key: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(key.encode()).digest(), np.uint8)
