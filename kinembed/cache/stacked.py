"""Stacked caches: the same photos embedded by several networks, stacked column-wise."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows, Vectors
from kinembed.cache import Digests, EmbeddingCache, Embeddings, Names, Stats, cache_at
from kinembed.cache.own import UNKNOWN, how_to_make
from kinembed.errors import RunError
from kinembed.printable import counted, one_line


class StackedCache(Embeddings):
    """Several caches of the same photos; views carry the cache's number: `1.max`, `2.native`.

    Composite views may combine several caches: `1.native+2.native`.

    Args:
        caches: opened for reading; closing this closes them.

    Attributes:
        path: of the first cache, which also provides names, people, digests and stats.
        provenance: `model` is the sha256 of all models; `split` is the common split of the
            fine-tuned networks, if any and if they have one; `caches` lists the caches' own.

    Raises:
        RunError: their photos or people differ, or the held-out people of their networks.
    """

    def __init__(self, caches: Sequence[EmbeddingCache]) -> None:
        self.caches = tuple(caches)
        first, *others = self.caches
        for other in others:
            _check_photos(first, other)
        self._people = agreed_people(self.caches)
        self.path = first.path
        models = [cache.provenance["model"] for cache in self.caches]
        self.provenance: dict[str, Any] = {
            "model": joined_model(models),
            "caches": [cache.provenance for cache in self.caches],
        }
        split = common_split(self.caches)
        if split is not None:
            self.provenance["split"] = split

    def close(self) -> None:
        """Closes the caches; memory-mapped vectors stay readable."""
        for cache in self.caches:
            cache.close()

    @property
    def views(self) -> tuple[str, ...]:
        """The views of all caches, each with the number of its cache and a dot in front."""
        return tuple(
            f"{number}.{view}"
            for number, cache in enumerate(self.caches, start=1)
            for view in cache.views
        )

    @property
    def names(self) -> Names:
        """(N,) photo names, sorted, as UTF-8 bytes."""
        return self.caches[0].names

    @property
    def people(self) -> Names:
        """(N,) who is on each photo, as UTF-8 bytes."""
        return self._people

    @property
    def starts(self) -> Rows:
        """(F,) rows with which a file of one of the caches begins."""
        return np.unique(np.concatenate([cache.starts for cache in self.caches]))

    @property
    def digest(self) -> str:
        """The sha256 of the caches' digests."""
        digests = "".join(cache.digest for cache in self.caches)
        return hashlib.sha256(digests.encode()).hexdigest()

    @property
    def digests(self) -> Digests:
        """(N, 32) sha256 of each photo's file."""
        return self.caches[0].digests

    @property
    def stats(self) -> Stats:
        """(N, 2) size in bytes and modification time in nanoseconds of each photo's file."""
        return self.caches[0].stats

    def path_of(self, view: str) -> Path:
        """The file of the cache whose number stands before the view's name."""
        return self.caches[int(view.partition(".")[0]) - 1].path

    def _vectors(self, view: str) -> Vectors:
        which, _, name = view.partition(".")
        caches = {str(number): cache for number, cache in enumerate(self.caches, start=1)}
        if which not in caches or not name:
            paths = ", ".join(f"{number} is {cache.path}" for number, cache in caches.items())
            raise RunError(
                f"no view {view} in stacked caches: wanted the cache's number and a dot before its "
                f"name, as in {', '.join(self.views)} ({paths})"
            )
        return caches[which].vectors(name)


def joined_model(models: Sequence[str]) -> str:
    """The digest of the networks of stacked caches; of one alone its own."""
    one = len(models) == 1
    return models[0] if one else hashlib.sha256("".join(models).encode()).hexdigest()


def open_caches(paths: Sequence[Path]) -> EmbeddingCache | StackedCache:
    """Opens one cache, or several as one stacked cache.

    Args:
        paths: one or more caches, in the order of their numbers.

    Raises:
        RunError: one is missing or is no cache, or they do not match.
    """
    if len(paths) == 1 and not cache_at(paths[0]).is_file():
        raise RunError(
            f"{paths[0]}: no such file; run {how_to_make(paths[0], UNKNOWN)}, or name a cache with "
            "--cache"
        )
    for number, path in enumerate(paths):
        before = [other for other in paths[:number] if other.exists() and path.exists()]
        if same := [other for other in before if path.samefile(other)]:
            raise RunError(
                f"{path}: is the same file as {same[0]}, named before; wanted caches of different "
                "networks"
            )
    opened: list[EmbeddingCache] = []
    try:
        for path in paths:
            opened.append(EmbeddingCache.open(path))
        return opened[0] if len(opened) == 1 else StackedCache(opened)
    except BaseException:
        for cache in opened:
            cache.close()
        raise


def _check_photos(first: EmbeddingCache, other: EmbeddingCache) -> None:
    """Refuses caches of different photos."""
    if not np.array_equal(first.names, other.names):
        one, two = set(first.names.tolist()), set(other.names.tolist())
        said = []
        for cache, lacking in ((first, two - one), (other, one - two)):
            if lacking:
                said.append(
                    f"{cache.path} lacks {counted(len(lacking), 'photo')} that the other has, as "
                    f"{min(lacking).decode()}"
                )
        folders = [cache.provenance.get("command", {}).get("photos") for cache in (first, other)]
        if folders[0] != folders[1]:
            cure = "run kinembed embed for both with the same --photos"
        else:  # one was made before the other
            behind = first if two - one else other
            again = how_to_make(behind.path, f"kinembed embed --run {behind.path.parent}")
            cure = f"run {again}" + (
                ", and the same of the other" if one - two and two - one else ""
            )
        raise RunError(
            one_line(
                f"{'; '.join(said)}: wanted the same photos in both; {cure}, which computes "
                "new photos and drops those that are gone"
            )
        )
    a, b = first.digests, other.digests
    different = np.flatnonzero((a != b).any(1) & a.any(1) & b.any(1))  # imported ones are 0
    if len(different):
        raise RunError(
            f"{first.names[different[0]].decode()}: has other bytes in {first.path} than in "
            f"{other.path}, as have {len(different) - 1:,} more; run kinembed embed for both again"
        )


def agreed_people(caches: Sequence[EmbeddingCache]) -> Names:
    """(N,) who is on each photo of caches of the same photos; one that knows is enough.

    Raises:
        RunError: two caches name different people.
    """
    people = caches[0].people
    for cache in caches[1:]:
        theirs = cache.people
        rows = np.flatnonzero((people != theirs) & (people != b"") & (theirs != b""))
        if len(rows):
            name, one, other = (each[rows[0]].decode() for each in (cache.names, people, theirs))
            raise RunError(
                f"{name}: shows {one} in {caches[0].path} and {other} in {cache.path}, as do "
                f"{len(rows) - 1:,} more; run kinembed embed for both again"
            )
        people = np.where(people == b"", theirs, people)
    return people


def common_split(caches: Sequence[EmbeddingCache]) -> Any:
    """The split of the fine-tuned networks; None if none was fine-tuned, or each by a fold.

    Raises:
        RunError: they held out other people, but not folds of the same.
    """
    tuned = [cache for cache in caches if cache.provenance.get("split") is not None]
    splits = [cache.provenance["split"] for cache in tuned]
    folds = [split.get("fold") for split in splits]
    if all(folds) and len(set(folds)) > 1:
        rest = [{key: split.get(key) for key in ("by", "seed", "folds")} for split in splits]
        if all(each == rest[0] for each in rest):
            return None
    for cache in tuned[1:]:
        if cache.provenance["split"] != splits[0]:
            raise RunError(
                f"{tuned[0].path} and {cache.path}: their networks were trained with another "
                "split, so nobody is known to be held out from both; run kinembed finetune for "
                "both with the same --split and --seed, or with --folds, then embed"
            )
    return splits[0] if splits else None
