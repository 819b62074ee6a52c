"""Opening a cache and gathering rows from it, against h5py and against numpy in memory.

    python benchmarks/open.py

Writes a cache of 1,000,000 x 512 float32 (2 GB) to a temporary folder.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.writer import write_cache

OPEN = """
import sys, time
from pathlib import Path
start = time.perf_counter()
if sys.argv[1] == "kinembed":
    from kinembed.cache import EmbeddingCache
    cache = EmbeddingCache.open(Path(sys.argv[2]))
    cache.vectors("max")
elif sys.argv[1] == "h5py":
    import h5py
else:
    import numpy
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) / 1024)
"""


class Zeros:
    """A view's blocks, made on demand."""

    def __init__(self, rows: int, width: int, size: int = 10_000) -> None:
        self.rows, self.width, self.size = rows, width, size

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __getitem__(self, number: int) -> np.ndarray:
        if number >= len(self):
            raise IndexError(number)
        count = min(self.size, self.rows - number * self.size)
        return np.full((count, self.width), number, np.float32)


def opened(what: str, path: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a process that does nothing else."""
    command = [sys.executable, "-c", OPEN, what, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, memory = map(float, answer.split())
    return seconds, memory


def timed(work) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.h5"
        names = np.array([f"train/{row:08}.jpg".encode() for row in range(options.rows)])
        digests = np.zeros((options.rows, 32), np.uint8)
        blocks = {"max": Zeros(options.rows, options.width)}
        write_cache(path, {"schema": SCHEMA, "model": "benchmark"}, names, digests, blocks)
        print(f"cache of {options.rows:,} x {options.width}: {path.stat().st_size / 1e9:.2f} GB")
        kinds = ("kinembed", "h5py", "numpy")
        turns = [[opened(kind, path) for kind in kinds] for _ in range(options.rounds)]
        ours, theirs, bare = np.median(turns, 0)
        print(
            f"import and open {ours[0] * 1e3:.0f} ms, import h5py {theirs[0] * 1e3:.0f} ms: ratio "
            f"{ours[0] / theirs[0]:.2f}; peak {ours[1]:.0f} MiB, numpy alone {bare[1]:.0f} MiB"
        )
        rows = np.random.default_rng(0).integers(options.rows, size=10_000)
        with EmbeddingCache.open(path) as cache, h5py.File(path, "r") as file:
            mapped, dataset = cache.vectors("max"), file["views/max"]
            memory = np.array(mapped)
            ordered = np.unique(rows)
            gather = [
                ("kinembed", lambda: mapped[rows]),
                ("numpy in memory", lambda: memory[rows]),
                ("h5py, one by one", lambda: [dataset[row] for row in ordered.tolist()]),
                ("h5py, sorted list", lambda: dataset[ordered.tolist()]),
            ]
            for _, work in gather:
                work()
            seconds = np.median([[timed(work) for _, work in gather] for _ in range(5)], 0)
        for (name, _), second in zip(gather, seconds, strict=True):
            print(f"10,000 rows by {name:18} {second * 1e3:8.1f} ms, {second / seconds[0]:.2f} x")


if __name__ == "__main__":
    main()
