"""Joins the shards of an embedding to the cache of its run, with what an earlier cache keeps."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.cache import EmbeddingCache, Names, cache_at
from kinembed.cache.joined import Joined, join
from kinembed.cache.lookup import rows_of
from kinembed.cache.own import keep_own
from kinembed.cache.provenance import Provenance
from kinembed.cache.sharded import ShardedCache, remove_other, write_sharded
from kinembed.cache.writer import Blocks
from kinembed.data.photo_files import FOLDERS, PhotoFiles, describe_people, find_photos
from kinembed.embedding.plan import Plan
from kinembed.embedding.settings import how_to_go_on, read_settings
from kinembed.embedding.shards import ShardRow, Shards, locked
from kinembed.errors import RunError
from kinembed.io import moved_together
from kinembed.printable import counted
from kinembed.views import with_tta

log = logging.getLogger(__name__)


def join_shards(
    run: Path,
    data: Path,
    photos: tuple[str, ...] | None = None,
    people_table: Path | None = None,
    in_shards: bool | None = None,
    *,
    is_shared: bool = False,
) -> Path:
    """Joins the shards that `kinembed embed --shard` left in a run folder.

    Args:
        run: the run folder.
        data: the data folder.
        photos: the folders of photos, if they are others than `train` and `test` of `data`.
        people_table: as embed took it.
        in_shards: as of `EmbedConfig`.
        is_shared: other processes may join them at the same time, which is waited for.

    Returns:
        The path of the cache.

    Raises:
        KinembedError: there are no shards, some are missing, or they are of other photos.
    """
    path, folder = run / "embeddings.h5", run / "embed.partial"
    if not is_shared and not (folder / "settings.json").is_file():
        done = cache_at(path)
        how = f", and {done} is there: the last part joins by itself" if done.is_file() else ""
        raise RunError(
            f"{folder}: no shards to join{how}; kinembed embed --shard 1/2 computes some"
        )
    with locked(folder, shared=is_shared):
        if not (folder / "settings.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            log.info("%s: another process has joined the shards", path)
            return cache_at(path)
        settings = read_settings(folder)
        _check_numbers(folder, str(settings["provenance"].get("dtype")))
        known = Provenance.read(settings["provenance"], folder)
        config = known.settings(())
        named = {
            "--photos": (config.photos, photos, set(config.photos) <= {*FOLDERS}),
            "--people-table": (config.people_table, people_table, config.people_table is None),
        }
        for option, (wanted, given, is_safe) in named.items():
            if given != wanted and (given is not None or not is_safe):
                text = ",".join(wanted) if isinstance(wanted, tuple) else wanted
                raise RunError(
                    f"{folder}: its shards are of {option} {text}; name it as it was: kinembed "
                    f"cache join {option} …"
                )
        found = find_photos(config.photos, data, config.layout, config.people_table)
        views = tuple(settings["views"])
        views = with_tta(views) if settings["flip"] else views
        provenance = known.as_json()
        with Plan.of(path, views, provenance, found.listing, "rehash" in settings) as plan:
            sizes = settings["batch_size"], settings["shard_photos"]
            shards = Shards(folder, provenance, views, plan, *sizes)
            rows = [*map(shards.read, range(len(shards)))]
            result = join_rows(path, views, found, shards, rows, in_shards)
    path = cache_at(path)
    log.info("%s: %s from %s", path, counted(result.photos, "photo"), counted(len(shards), "shard"))
    return path


def _check_numbers(folder: Path, dtype: str) -> None:
    """Refuses shards of another number format before photos are listed, which may take minutes.

    Raises:
        RunError: names the first.
    """
    others: list[tuple[Path, str]] = []
    for path in sorted(folder.glob("*.h5")):
        with suppress(RunError), EmbeddingCache.open(path) as cache:  # else it counts as missing
            if found := {*map(cache.dtype_of, cache.views)} - {dtype}:
                others.append((path, found.pop()))
    if others:
        path, other = others[0]
        more = f", as are those of {len(others) - 1:,} more" if len(others) > 1 else ""
        raise RunError(
            f"{path}: its numbers are {other}{more}, and {folder / 'settings.json'} says {dtype}; "
            f"run {how_to_go_on(folder)}, which computes these shards again"
        )


@dataclass(frozen=True)
class Result:
    """What an embedding did: numbers of photos."""

    photos: int
    computed: int
    unchanged: int
    gone: int


def join_rows(
    path: Path,
    views: Sequence[str],
    found: PhotoFiles,
    shards: Shards,
    rows: Sequence[ShardRow | None],
    in_shards: bool | None,
) -> Result:
    """Joins the shards to the cache of their run, and removes them; their folder is locked.

    Args:
        path: the cache, `embeddings.h5`; in shards its list takes its place.
        views: of the vectors.
        found: the photos.
        shards: the folder of the shards.
        rows: of the manifest, by number; None: that shard is missing.
        in_shards: as of `EmbedConfig`.

    Raises:
        RunError: some shards are missing.
    """
    done = [row for row in rows if row is not None]
    if len(done) < len(rows):
        raise RunError(_missing(shards, [n for n, row in enumerate(rows) if row is None]))
    listing, plan = found.listing, shards.plan
    joined = rows_by_name(plan, shards, done)

    def people(names: Names) -> Names:
        return listing.people(listing.rows(names))

    computed = sum(row.computed for row in done)
    changes = Changes.of(plan, joined, views, computed, people)
    counts: Counter[str] = Counter()
    for names in joined.blocks(lambda cache: cache.names):
        counts.update(person.decode() for person in people(names).tolist())
    is_sharded = cache_at(path).suffix == ".json"
    in_shards = is_sharded if in_shards is None else in_shards
    is_none = changes.is_none and not _has_moved(plan.earlier, shards.provenance)
    if is_none and in_shards == is_sharded:
        log.info("%s: has all photos as they are; nothing is written", cache_at(path))
        remove_other(cache_at(path))  # what a killed process began to put in its place
    elif in_shards:
        files = [shards.path(row.number) for row in done if row.photos]
        ready = files if plan.earlier is None and _are_of(files, people) else []
        write_sharded(
            path.with_suffix(".json"), shards.provenance, views, joined, people,
            _photos_per_file(plan.earlier) or shards.shard_photos, ready,
        )  # fmt: skip
        joined.close()
        plan.release()
    else:
        with moved_together(path.parent):
            join(path, shards.provenance, views, joined, people)
            joined.close()
            plan.release()  # Windows replaces no file that is open
        remove_other(path)
    keep_own(path)
    shutil.rmtree(shards.folder, ignore_errors=True)
    for row in done:
        for name in row.skipped:
            log.warning("left out: %s", name)
            found.left_out.add("that cannot be decoded", name)
    log.info("%s: %s", cache_at(path), describe_people(counts))
    if found.left_out:
        log.info("%s: left out: %s", cache_at(path), found.left_out)
    return Result(len(joined), computed, changes.unchanged, changes.gone)


def rows_by_name(plan: Plan, shards: Shards, rows: Sequence[ShardRow]) -> Joined:
    """The kept rows of the earlier cache and those of all shards, by name."""
    earlier = plan.earlier
    paths = [shards.path(row.number) if row.photos else None for row in rows]
    caches = [earlier, *paths]
    counts = np.array([row.photos for row in rows], np.intp)
    new = int(counts.sum())
    if not len(plan.kept):
        number = np.repeat(np.arange(1, len(rows) + 1, dtype=np.int32), counts)
        within = np.arange(new) - np.repeat(np.cumsum(counts) - counts, counts)
        return Joined(caches, number, within)
    assert earlier is not None
    known = earlier.names
    source = np.zeros(len(plan.kept) + new, np.int32)
    row = np.empty(len(source), np.intp)
    is_new = np.zeros(len(source), np.bool_)
    start = 0
    for number_, each in enumerate(rows, start=1):
        if not each.photos:
            continue
        with EmbeddingCache.open(shards.path(each.number)) as cache:
            names = cache.names.astype(known.dtype)
        # No name is in both; so of one that is cut off, its beginning comes first.
        before = np.searchsorted(plan.kept, np.searchsorted(known, names, "right"))
        at = start + np.arange(len(names)) + before
        source[at], row[at], is_new[at] = number_, np.arange(len(names)), True
        start += len(names)
    row[~is_new] = plan.kept
    return Joined(caches, source, row)


@dataclass(frozen=True)
class Changes:
    """What an embedding changes of the earlier cache.

    Attributes:
        unchanged: photos whose bytes are still the same, and their rows sound.
        gone: photos that are no longer there.
        is_none: nothing changes.
    """

    unchanged: int
    gone: int
    is_none: bool

    @classmethod
    def of(
        cls, plan: Plan, rows: Joined, views: Sequence[str], computed: int,
        people: Callable[[Names], Names],
    ) -> Changes:  # fmt: skip
        """Compares the new rows with the earlier cache."""
        earlier = plan.earlier
        if earlier is None:
            return cls(0, 0, is_none=False)
        unchanged = found = 0
        same = not computed and len(rows) == len(earlier) and set(views) == set(earlier.views)
        digests, stats = earlier.digests, earlier.stats
        sound = np.zeros(len(earlier), np.bool_)
        sound[plan.known.rows] = True
        for start in range(0, len(rows), Blocks.ROWS):
            stop = min(len(rows), start + Blocks.ROWS)
            names = rows.take(lambda cache: cache.names, start, stop)
            own = rows.take(lambda cache: cache.digests, start, stop)
            at = rows_of(earlier.names, names)
            there = at >= 0
            found += int(there.sum())
            alike = (own[there] == digests[at[there]]).all(1)
            unchanged += int((alike & sound[at[there]]).sum())
            if same:
                same = bool(
                    there.all()
                    and (own == digests[at]).all()
                    and (rows.take(lambda cache: cache.stats, start, stop) == stats[at]).all()
                    and (people(names) == _people_of(earlier)[at]).all()
                )
        return cls(unchanged, len(earlier) - found, same)


def _people_of(cache: EmbeddingCache) -> Names:
    """Who is on the photos; damaged people count as unknown."""
    if len(cache.damaged_rows("people")):
        return np.zeros(len(cache), "S1")
    return cache.people


def _photos_per_file(earlier: EmbeddingCache | None) -> int | None:
    """How many photos the files of a cache in shards have; so those that stay are the same."""
    if not isinstance(earlier, ShardedCache):
        return None
    return max(count for count, _ in earlier.shards)


def _has_moved(earlier: EmbeddingCache | None, provenance: Mapping[str, Any]) -> bool:
    """Whether a cache names another place of the same network than is named now."""
    abouts = ({} if earlier is None else earlier.provenance, provenance)
    before, now = (about.get("command", {}) for about in abouts)
    return any(before.get(key) != now.get(key) for key in ("onnx", "model"))


def _are_of(files: Sequence[Path], people: Callable[[Names], Names]) -> bool:
    """Whether shards say who is on their photos as the listing does."""
    for file in files:
        with EmbeddingCache.open(file) as cache:
            if not np.array_equal(cache.people, people(cache.names)):
                return False
    return True


def _missing(shards: Shards, numbers: Sequence[int]) -> str:
    """Which shards are missing, and what computes them."""
    first = shards.photos(numbers[0])
    files = [shards.path(number).name for number in numbers[:5]]
    some = ", ".join(files) + (" …" if len(numbers) > 5 else "")
    count = len(shards)
    parts = min(count, 1000)
    part = next(i for i in range(1, parts + 1) if count * i // parts > numbers[0])
    return (
        f"{shards.folder}: {len(numbers):,} of {counted(count, 'shard')} are not there, damaged, "
        f"or of other photos: {some} (from {first[0].name} on); run "
        f"{how_to_go_on(shards.folder)}, which computes and joins them; with --shard "
        f"{part}/{parts}, too, it computes the first of them alone"
    )
