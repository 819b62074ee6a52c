"""Peak memory and time of listing, planning and resuming, for listings of any length.

    python benchmarks/listing.py                       # 10,000 to 1,000,000 names
    python benchmarks/listing.py --photos 10000000     # some minutes, and 1.6 GB of disk

The folders are made up: `os.scandir` and `os.stat` answer from numbers, so no photo is written or
read, and what is measured is kinembed's own. Each length runs in a process of its own, in which

- `list` walks through the folders, sorts the names and says who is on each photo;
- `keys` goes through all shards and makes the key that tells whether one is of these photos, as an
  embedding that goes on does;
- `plan` compares the listing with a cache of as many photos, all of which it verifies, where one
  photo in a thousand has changed;
- `join` gathers names, people, digests and vectors of 4 numbers into a new cache.

Prints seconds and peak memory (maximum resident set, MiB) so far after each step, and the
exponents fitted to both.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = "/made-up"
PHOTOS, PEOPLE = 10, 5  # of a person, and of a family
DAY = 86_400_000_000_000  # nanoseconds


class Entry:
    """A made-up entry of a folder."""

    def __init__(self, folder: str, name: str, number: int | None) -> None:
        self.name, self.path, self.number = name, f"{folder}/{name}", number

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.number is None

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> os.stat_result:
        assert self.number is not None
        return status(self.number, 0o100600)


def status(number: int, mode: int) -> os.stat_result:
    when = DAY * 20_000 + number
    return os.stat_result(
        (mode, number, 1, 1, 0, 0, 10_000 + number % 5000, 0, 0, 0),
        {"st_mtime_ns": when, "st_atime_ns": when, "st_ctime_ns": when},
    )


@contextmanager
def made_up(photos: int, flat: bool) -> Iterator[None]:
    """Lets the system answer for folders that are not there."""
    scandir, stat = os.scandir, os.stat
    families = -(-photos // (PHOTOS * PEOPLE))

    def entries(path: str) -> Iterator[Entry]:
        parts = path.removeprefix(ROOT).strip("/").split("/")
        if flat:
            for number in range(photos):
                yield Entry(path, f"P{number:08}_face{number % 7}.jpg", number)
        elif parts == [""]:
            for family in range(families):
                yield Entry(path, f"F{family:07}", None)
        elif len(parts) == 1:
            for person in range(PEOPLE):
                yield Entry(path, f"MID{person + 1}", None)
        else:
            first = (int(parts[0][1:]) * PEOPLE + int(parts[1][3:]) - 1) * PHOTOS
            for number in range(first, min(first + PHOTOS, photos)):
                yield Entry(path, f"P{number:08}_face{number % 7}.jpg", number)

    @contextmanager
    def scan(path: Any) -> Iterator[Iterator[Any]]:
        if str(path).startswith(ROOT):
            yield entries(str(path))
        else:
            with scandir(path) as found:
                yield found

    def ask(path: Any, *more: Any, **named: Any) -> os.stat_result:
        text = str(path)
        if not text.startswith(ROOT):
            return stat(path, *more, **named)
        if text.endswith(".csv"):
            raise FileNotFoundError(2, "no such file", text)
        return status(hash(text) % (1 << 48), 0o040700)

    os.scandir, os.stat = scan, ask  # type: ignore[assignment]
    try:
        yield
    finally:
        os.scandir, os.stat = scandir, stat


def said(step: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{step} {time.perf_counter() - start:.2f} {peak:.0f}", flush=True)


def measure(photos: int, flat: bool) -> None:
    """Does all steps for a number of photos, and prints a line for each."""
    from kinembed.cache import EmbeddingCache
    from kinembed.cache.joined import join
    from kinembed.cache.provenance import imported
    from kinembed.cache.writer import Blocks, write_cache
    from kinembed.data.photo_files import find_photos
    from kinembed.embedding.joining import rows_by_name
    from kinembed.embedding.plan import Plan
    from kinembed.embedding.shards import Shards

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        with made_up(photos, flat):
            listing = find_photos([ROOT], folder).listing
        assert len(listing) == photos
        said("list", start)
        about = imported("none", "float32", Path("none.npy"), "0" * 64)
        start = time.perf_counter()
        with Plan.of(folder / "none.h5", ["max"], about, listing) as plan:
            shards = Shards(folder, about, ["max"], plan, 16, 65_536)
            for number in range(len(shards)):
                assert shards.key(number)
        said("keys", start)

        def rows(start: int, stop: int) -> np.ndarray[Any, Any]:
            return np.arange(start, stop, dtype=np.int64)[:, None]

        def stats(start: int, stop: int) -> np.ndarray[Any, Any]:
            own = np.array([(p.size, p.mtime) for p in listing[start:stop]], np.int64)
            own[rows(start, stop)[:, 0] % 1000 == 0, 0] += 1
            return own

        count, path = len(listing), folder / "embeddings.h5"
        digests = Blocks(
            count, lambda a, b: ((rows(a, b) >> np.arange(0, 64, 2)) & 255).astype("u1")
        )
        names = Blocks(count, lambda a, b: np.array([p.name.encode() for p in listing[a:b]], "S48"))
        people = Blocks(
            count, lambda a, b: np.array([p.person.encode() for p in listing[a:b]], "S16")
        )
        vectors = Blocks(count, lambda a, b: (rows(a, b) + np.arange(4)).astype(np.float32))
        write_cache(path, about, names, digests, {"max": vectors}, Blocks(count, stats), people)
        start = time.perf_counter()
        with Plan.of(path, ["max"], about, listing) as plan:
            assert len(plan.todo) == -(-photos // 1000)
            said("plan", start)
            start = time.perf_counter()
            joined = rows_by_name(plan, Shards(folder, about, ["max"], plan, 16, 65_536), [])
            assert len(joined) == count - len(plan.todo)
            out = folder / "joined.h5"
            join(out, about, ["max"], joined, lambda some: listing.people(listing.rows(some)))
            said("join", start)
        with EmbeddingCache.open(out) as cache:
            assert len(cache) == count - len(plan.todo)


def main() -> None:
    """Measures each length in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--flat", action="store_true", help="all photos in one folder")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure(options.photos[0], options.flat)
        return
    table: dict[str, list[tuple[int, float, float]]] = {}
    for photos in options.photos:
        command = [sys.executable, __file__, "--alone", "--photos", str(photos)]
        command += ["--flat"] * options.flat
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            step, seconds, peak = line.split()
            table.setdefault(step, []).append((photos, float(seconds), float(peak)))
    print("| step | photos | seconds | peak, MiB |\n|---|---|---|---|")
    for step, rows in table.items():
        for photos, seconds, peak in rows:
            print(f"| {step} | {photos:,} | {seconds:.1f} | {peak:,.0f} |")
        if len(rows) > 1:
            photos_, *both = np.log(np.array(rows)).T
            time_, memory = (np.polyfit(photos_, each, 1)[0] for each in both)
            print(f"| {step} | exponent | {time_:.2f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
