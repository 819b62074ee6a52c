"""Opens damaged and hostile cache files, a process for many of them, watched by an audit hook.

    python benchmarks/mutate.py --files 1000

Each file is a whole one with flipped bits, a cut, bytes of another place, or a structure that HDF5
writes on request: links and storage elsewhere, filters, odd types. Each has to be refused, or read
with just the numbers that were written; in 5 seconds, in 256 MiB, and without any other file.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.verify import verify
from kinembed.cache.writer import write_cache
from kinembed.errors import RunError

ROWS, WIDTH, LIMIT = 500, 32, 5.0


def vectors() -> np.ndarray:
    """The original contents."""
    return np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)


def hostile(file: h5py.File, kind: int) -> None:
    """Adds a foreign HDF5 object to a cache."""
    del file["views/max"]
    if kind == 0:
        file["views/max"] = h5py.ExternalLink("/etc/hostname", "/x")
    elif kind == 1:
        file["views/max"] = h5py.SoftLink("/names")
    elif kind == 2:
        file.create_dataset(
            "views/max", (ROWS, WIDTH), "f4", external=[("/etc/hostname", 0, ROWS * WIDTH * 4)]
        )
    elif kind == 3:
        layout = h5py.VirtualLayout((ROWS, WIDTH), "f4")
        layout[:] = h5py.VirtualSource("/etc/hostname", "x", (ROWS, WIDTH))
        file.create_virtual_dataset("views/max", layout)
    elif kind == 4:
        file.create_dataset("views/max", data=vectors(), compression="gzip", chunks=(50, WIDTH))
    elif kind == 5:
        file.create_dataset("views/max", (10**9, 10**4), "f4", chunks=(1, 10**4), compression="lzf")
    elif kind == 6:
        file.create_dataset("views/max", (ROWS, WIDTH), h5py.string_dtype())
    elif kind == 7:
        file.create_dataset("views/max", (ROWS,), h5py.vlen_dtype(np.float32))
    elif kind == 8:
        file["views/max"] = vectors().astype([("a", "f4")])
    else:
        file["views/max"] = h5py.SoftLink("/views/max")


def mutant(whole: bytes, number: int, path: Path) -> None:
    """Writes one file."""
    rng = np.random.default_rng([7, number])
    spoilt = bytearray(whole)
    kind = number % 8
    if kind == 0:
        spoilt = spoilt[: rng.integers(len(whole))]
    elif kind == 1:
        start, other = rng.integers(len(whole) - 64, size=2)
        spoilt[start : start + 64] = whole[other : other + 64]
    elif kind == 2:  # in the HDF5 metadata
        for at in rng.integers(4096, size=rng.integers(1, 20)).tolist():
            spoilt[at] ^= int(rng.integers(1, 256))
    elif kind > 3:
        for at in rng.integers(len(whole), size=2 ** rng.integers(8)).tolist():
            spoilt[at] ^= 1 << int(rng.integers(8))
    if bytes(spoilt) == whole and kind != 3:  # zeros over zeros
        spoilt[rng.integers(len(whole))] ^= 1
    path.write_bytes(spoilt)
    if kind == 3:
        with h5py.File(path, "r+") as file:
            hostile(file, number // 8 % 10)


def watch(folder: Path, first: int, stop: int) -> None:
    """Reads files one after the other; any of the limits broken ends the process."""
    allowed = str(folder)
    watching = False

    def hook(event: str, arguments: tuple) -> None:
        if watching and event == "open" and not str(arguments[0]).startswith(allowed):
            sys.exit(f"opened {arguments[0]}")

    wanted = vectors()
    verify(folder / "whole.h5")  # imports what it needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(hook)
    counts = {"refused": 0, "damage named": 0}
    for number in range(first, stop):
        path = folder / f"{number}.h5"
        watching = True
        start = time.perf_counter()
        found = verify(path)
        if found.is_sound:
            sys.exit(f"{path}: nothing was found")
        try:
            with EmbeddingCache.open(path) as cache:
                damaged = cache.damaged_rows("views/max")
                sound = np.setdiff1d(np.arange(ROWS), damaged)
                if not (cache.vectors("max")[sound] == wanted[sound]).all():
                    sys.exit(f"{path}: other numbers were read")
                counts["damage named"] += 1
        except RunError:
            counts["refused"] += 1
        watching = False
        if time.perf_counter() - start > LIMIT:
            sys.exit(f"{path}: took more than {LIMIT} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > 256:
        sys.exit(f"grew by {grown:.0f} MiB")
    print(f"files {first} to {stop - 1}: {counts}, grew by {grown:.1f} MiB")


def main() -> None:
    """Writes the files, and has them read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--watch", nargs=3, metavar=("FOLDER", "FIRST", "STOP"))
    options = parser.parse_args()
    if options.watch:
        folder, first, stop = options.watch
        watch(Path(folder), int(first), int(stop))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = np.array([f"train/{row:05}.jpg".encode() for row in range(ROWS)])
        write_cache(
            folder / "whole.h5",
            {"schema": SCHEMA, "model": "benchmark"},
            names,
            np.zeros((ROWS, 32), np.uint8),
            {"max": [vectors()]},
        )
        whole = (folder / "whole.h5").read_bytes()
        for number in range(options.files):
            mutant(whole, number, folder / f"{number}.h5")
        for first in range(0, options.files, 250):
            stop = min(first + 250, options.files)
            command = [sys.executable, __file__, "--watch", folder, str(first), str(stop)]
            if code := subprocess.run(command).returncode:
                sys.exit(f"a process ended with {code}")  # negative: a crash of the interpreter


if __name__ == "__main__":
    main()
