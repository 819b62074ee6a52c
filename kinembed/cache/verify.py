"""Verifies a cache: reads all of it and compares it with its checksums."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows, rows_not_finite
from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.own import UNKNOWN, how_to_make, is_own
from kinembed.cache.provenance import Provenance
from kinembed.cache.schema import BLOCK
from kinembed.cache.sharded import ShardedCache
from kinembed.data.layouts import family_of
from kinembed.data.photo_files import FOLDERS
from kinembed.errors import RunError
from kinembed.printable import at_run, counted, one_line


@dataclass(frozen=True)
class Verification:
    """The result of verifying a cache.

    Attributes:
        path: the cache.
        rows: photos in it; 0 if it cannot be opened.
        damaged: names of the photos with damaged rows; row numbers if the names are damaged.
        problems: all other problems, one line each.
        blocks: the first damaged photo of each block of rows that share a checksum, and how many
            of the block are damaged.
        cure: what to run; empty where nothing is wrong.
    """

    path: Path
    rows: int
    damaged: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    blocks: tuple[tuple[str, int], ...] = ()
    cure: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there is no damage and no problem."""
        return not self.damaged and not self.problems

    def as_text(self) -> str:
        """One line per problem, of damage per block of rows, or one line that there is none."""
        if self.is_sound:
            return one_line(f"{self.path}: {counted(self.rows, 'photo')}, sound")
        lines = list(self.problems)
        if self.damaged:
            for first, count in self.blocks:
                more = f" and {count - 1} more rows of its block" if count > 1 else ""
                lines.append(f"{self.path}: damaged: {first}{more}")
            lines.append(
                f"{self.path}: {len(self.damaged):,} of {self.rows:,} rows are damaged, or one "
                f"that shares their checksum is: there is one for {BLOCK} rows"
            )
        return "\n".join(map(one_line, lines))


def verify(path: Path) -> Verification:
    """Reads all of a cache and finds any flipped bit in the file.

    Its structure is compared when it is opened: every byte outside the datasets is what kinembed
    would write. The HDF5 library is not used.

    Raises:
        RunError: there is no such file.
    """
    if not cache_at(path).is_file():
        raise RunError(f"{path}: no such file; run {how_to_make(path, UNKNOWN)}")
    path = cache_at(path)
    try:
        cache = EmbeddingCache.open(path)
    except RunError as error:
        return Verification(path, 0, problems=(str(error),))
    count = len(cache)
    refused = cache.refused() if isinstance(cache, ShardedCache) else {}
    if isinstance(cache, ShardedCache) and refused:
        cache.close()
        cache = cache.without(refused)
    with cache:
        named = len(cache.damaged_rows("names")) == 0
        problems = [*refused.values()]
        problems += [] if named else [f"{path}: names are damaged"]
        if named:
            try:
                _ = cache.names
            except RunError as error:
                problems.append(str(error))
                named = False
        rows = unsound_rows(cache)
        names = [cache.names[row].decode() if named else f"row {row}" for row in rows.tolist()]
        first_of: dict[int, str] = {}
        counts: Counter[int] = Counter()
        for name, block in zip(names, (rows // BLOCK).tolist(), strict=True):
            first_of.setdefault(block, name)
            counts[block] += 1
        blocks = tuple((first, counts[block]) for block, first in first_of.items())
        cure = _cure(cache) if names or problems else ""
        return Verification(path, count, tuple(names), tuple(problems), blocks, cure)


def _cure(cache: EmbeddingCache) -> str:
    """What mends a damaged cache: a repair where the run folder made it itself, else all again."""
    try:
        config = Provenance.read(cache.provenance, cache.path).settings(())
    except RunError:
        return "make it again as it was made, with kinembed cache import, merge or embed"
    if not is_own(cache.path):  # a repair reads places that the cache names
        return "run kinembed embed again with what it was made of"
    named = {
        "--photos": not all(folder in FOLDERS for folder in config.photos),
        "--weights": config.weights not in ("auto", "none"),
        "--model": config.model is not None,
        "--onnx": config.onnx is not None,
    }
    options = ", ".join(option for option, is_named in named.items() if is_named)
    how = f" with {options} as kinembed embed took them" if options else ""
    repair = at_run("kinembed cache verify --repair", cache.path.parent)
    return f"run {repair}{how}, which computes these photos again"


def describe(path: Path) -> dict[str, Any]:
    """Path, photos, people, families, bytes, views and provenance of a cache.

    Raises:
        RunError: the file is missing or is not an embedding cache.
    """
    with EmbeddingCache.open(path) as cache:
        views = {
            view: {"width": stored.shape[1], "dtype": str(np.dtype(stored.dtype))}
            for view in cache.views
            for stored in [cache.footer.extents[f"views/{view}"]]
        }
        people = {person.decode() for person in np.unique(cache.people).tolist()} - {""}
        return {
            "path": str(cache.path),
            "photos": len(cache),
            "people": len(people),
            "families": len({family_of(person) for person in people} - {""}),
            "bytes": cache.bytes,
            "views": views,
            "provenance": cache.provenance,
        }


def as_text(about: dict[str, Any]) -> str:
    """The description of a cache as text."""
    shapes = ", ".join(f"{view} {v['width']} {v['dtype']}" for view, v in about["views"].items())
    lines = [
        f"{about['path']}: {counted(about['photos'], 'photo')}, "
        f"{counted(about['people'], 'person', 'people')}, "
        f"{counted(about['families'], 'family', 'families')}, {about['bytes'] / 1e6:,.1f} MB",
        f"views  {shapes}",
    ]
    width = max(map(len, about["provenance"]))
    lines += [
        f"{key:{width}}  {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sorted(about["provenance"].items())
    ]
    return "\n".join(map(one_line, lines))


def unsound_rows(cache: EmbeddingCache) -> Rows:
    """Sorted rows that are damaged in any dataset, or whose vectors are not finite."""
    views = [name for name in cache.footer.extents if name.startswith(("views/", "scales/"))]
    rows = [cache.damaged_rows(name) for name in ("names", "people", "digests", "stats", *views)]
    rows += [rows_not_finite(cache.vectors(view)) for view in cache.views]
    return np.unique(np.concatenate(rows))
