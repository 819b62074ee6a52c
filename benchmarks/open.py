"""Opening a cache and gathering rows from it, against h5py and against numpy in memory.

    python benchmarks/open.py

Writes a cache of 1,000,000 x 512 float32 (2 GB) to a temporary folder.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from turns import Comparison, compared, in_turns

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


def compare(rows: int, width: int, rounds: int) -> Iterator[Comparison | str]:
    """Opening, then gathering; the sentences say what is no ratio of times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.h5"
        names = np.array([f"train/{row:08}.jpg".encode() for row in range(rows)])
        digests = np.zeros((rows, 32), np.uint8)
        blocks = {"max": Zeros(rows, width)}
        write_cache(path, {"schema": SCHEMA, "model": "benchmark"}, names, digests, blocks)
        yield f"cache of {rows:,} x {width}: {path.stat().st_size / 1e9:.2f} GB"
        kinds = ("kinembed", "h5py", "numpy")
        turns = np.array([[opened(kind, path) for kind in kinds] for _ in range(rounds)])
        ours, theirs, _ = turns[..., 0].T
        what = f"opening a cache of {rows:,} x {width}, imports included"
        yield compared(what, "importing h5py alone", "ms", ours, theirs)
        peaks = np.median(turns[..., 1], 0)
        yield f"peak {peaks[0]:.0f} MiB, numpy alone {peaks[2]:.0f} MiB"
        drawn = np.random.default_rng(0).integers(rows, size=min(rows, 10_000))
        with EmbeddingCache.open(path) as cache, h5py.File(path, "r") as file:
            mapped, dataset = cache.vectors("max"), file["views/max"]
            memory = np.array(mapped)
            ordered = np.unique(drawn)
            gather = {
                "kinembed": lambda: mapped[drawn],
                "numpy, in memory": lambda: memory[drawn],
                "h5py, row by row": lambda: [dataset[row] for row in ordered.tolist()],
                "h5py's fancy indexing": lambda: dataset[ordered.tolist()],
            }
            times = in_turns(gather, 5)
        own = times.pop("kinembed")
        for name, other in times.items():
            yield compared(f"gathering {len(drawn):,} random rows of it", name, "ms", own, other)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for row in compare(options.rows, options.width, options.rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
