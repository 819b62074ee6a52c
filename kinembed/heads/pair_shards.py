"""The shards of a scoring: each is computed by itself, by any process, then all are put together.

The pairs lie in a folder, sorted by the two blocks of photos that they touch (`blockwise.py`):

- `plan.json`: what they are of, where each shard begins, digests of the next files; written last;
- `photos.bin`: (R,) rows of the cache that occur in them, and `pairs.bin`: (K, 2) such rows;
- `order.bin`: (K,) which pair of the file each is;
- `K.shard`: the logits of shard K, and its sha256, which holds for these pairs only.

Vectors do not pass between processes: each reads the blocks of its shard from the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.checked import Bounds, Values, read_json
from kinembed.errors import RunError
from kinembed.heads.blockwise import BATCH, Blocks
from kinembed.io import write_bytes
from kinembed.printable import counted

PLAN = "plan.json"
SHA = 32  # bytes

Compute = Callable[[Rows, int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class PairShards:
    """The shards of a scoring, by number.

    Attributes:
        folder: where they lie.
        about: what the scores depend on, as JSON types.
        blocks: of photos.
        pairs: (K, 2) rows of the cache, sorted by the blocks that they touch.
        order: (K,) which pair of the file each is.
        bounds: (S, 4) the two blocks of each shard, its first pair and the one behind its last.
        digests: (S,) the sha256 of the pairs of each, and of their order.
    """

    folder: Path
    about: dict[str, Any]
    blocks: Blocks
    pairs: Rows
    order: Rows
    bounds: NDArray[np.int64]
    digests: Sequence[str]

    @classmethod
    def plan(
        cls, folder: Path, about: dict[str, Any], pairs: Rows, blocks: Blocks, most: int
    ) -> PairShards:
        """Sorts pairs, and divides them.

        Args:
            folder: an empty folder.
            about: what the scores depend on.
            pairs: (K, 2) rows of the cache, one pair at least.
            blocks: of their photos.
            most: pairs of a shard.
        """
        order = _made(folder / "order.bin", (len(pairs),))
        ends = blocks.sorted(pairs, order)
        own = _made(folder / "pairs.bin", pairs.shape)
        for start in range(0, len(pairs), BATCH):
            own[start : start + BATCH] = pairs[order[start : start + BATCH]]
        photos = _made(folder / "photos.bin", blocks.rows.shape)
        photos[:] = blocks.rows
        bounds = []
        for one, other in blocks.in_turn():
            first, end = ends[one * len(blocks) + other : one * len(blocks) + other + 2].tolist()
            bounds += [[one, other, at, min(end, at + most)] for at in range(first, end, most)]
        for written in (order, own, photos):
            written.flush()
        content = {
            "about": about,
            "cuts": blocks.cuts.tolist(),
            "photos": _sha_of([photos]),
            "shards": bounds,
            "digests": [_sha_of([own[a:b], order[a:b]]) for _, _, a, b in bounds],
        }
        write_bytes(folder / PLAN, json.dumps(content).encode())
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> PairShards:
        """The shards of a folder.

        Raises:
            RunError: there are none, or they are damaged.
        """
        try:
            values = Values(read_json((folder / PLAN).read_bytes()))
            values.only(["about", "cuts", "photos", "shards", "digests"])
            cuts = np.array(values.wholes("cuts", Bounds(least=0)), np.intp)
            bounds = np.array(values.content["shards"], np.int64).reshape(-1, 4)
            starts, ends = np.sort(bounds[:, 2]), np.sort(bounds[:, 3])
            count = int(ends[-1])
            if not (starts == np.append(0, ends[:-1])).all() or not (cuts[:-1] < cuts[1:]).all():
                raise ValueError("its shards do not hold each pair once")
            order = np.memmap(folder / "order.bin", np.int64, "r", shape=(count,))
            pairs = np.memmap(folder / "pairs.bin", np.int64, "r", shape=(count, 2))
            photos = np.memmap(folder / "photos.bin", np.int64, "r")
            if _sha_of([photos]) != values.text("photos"):
                raise ValueError("photos.bin is damaged")
            digests = values.texts("digests")
            if len(digests) != len(bounds):
                raise ValueError("a shard has no digest")
            if bounds[:, :2].min() < 0 or bounds[:, :2].max() >= len(cuts) - 1:
                raise ValueError("its blocks are none of its photos")
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(
                f"{folder}: holds no shards of a scoring ({error}); delete it, and run kinembed "
                "score again"
            ) from None
        about = dict(values.object("about").content)
        return cls(folder, about, Blocks(photos, cuts), pairs, order, bounds, digests)

    def __len__(self) -> int:
        return len(self.bounds)

    def size(self, number: int) -> int:
        """Pairs of a shard."""
        return int(self.bounds[number, 3] - self.bounds[number, 2])

    def first(self, number: int) -> str:
        """What a shard is of, in words."""
        one, other = self.bounds[number, :2].tolist()
        return f"blocks {one} and {other} of {counted(len(self.blocks), 'block')} of photos"

    def key(self, number: int) -> str:
        """What a shard is of: the sha256 of all that its scores depend on."""
        of = [self.about, self.bounds[number].tolist(), self.digests[number]]
        text = json.dumps(of, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:06}.shard"

    def compute(self, number: int, compute: Compute) -> None:
        """Writes a shard, whole or not at all.

        Args:
            number: of the shard.
            compute: (n, C) what is known of (n, 2) pairs of two blocks.

        Raises:
            RunError: its pairs are damaged.
        """
        one, other, start, end = self.bounds[number].tolist()
        self.order_of(number)
        found = [
            compute(np.asarray(self.pairs[at : min(end, at + BATCH)]), one, other)
            for at in range(start, end, BATCH)
        ]
        content = np.concatenate(found).astype("<f8").tobytes()
        write_bytes(self.path(number), self._sha(number, content) + content)

    def logits(self, number: int) -> NDArray[np.float64] | None:
        """(n, C) logits, and expansion where photos are expanded, of a finished shard.

        None if it is missing, damaged, or of other pairs.
        """
        try:
            content = self.path(number).read_bytes()
        except OSError:
            return None
        sha, content = content[:SHA], content[SHA:]
        if len(content) % (8 * self.size(number)) or sha != self._sha(number, content):
            return None
        return np.frombuffer(content, "<f8").reshape(self.size(number), -1)

    def order_of(self, number: int) -> Rows:
        """(n,) which pair of the file each of a shard is.

        Raises:
            RunError: the shard's pairs or their order are damaged.
        """
        start, end = self.bounds[number, 2:].tolist()
        order = self.order[start:end]
        if _sha_of([self.pairs[start:end], order]) != self.digests[number]:
            raise RunError(
                f"{self.folder}: its pairs.bin or order.bin is damaged; delete the folder, and run "
                "kinembed score again"
            )
        return order

    def is_done(self, number: int) -> bool:
        """Whether a shard is finished."""
        return self.logits(number) is not None

    def _sha(self, number: int, content: bytes) -> bytes:
        return hashlib.sha256(self.key(number).encode() + content).digest()


def _sha_of(arrays: Sequence[NDArray[np.int64]]) -> str:
    sha = hashlib.sha256()
    for each in arrays:
        for start in range(0, len(each), BATCH):
            sha.update(each[start : start + BATCH].tobytes())
    return sha.hexdigest()


def _made(path: Path, shape: Sequence[int]) -> np.memmap[Any, Any]:
    with path.open("wb") as file:
        file.truncate(8 * int(np.prod(shape)))
    return np.memmap(path, np.int64, "r+", shape=tuple(shape))
