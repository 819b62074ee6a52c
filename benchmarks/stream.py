"""Scoring of 10 and 50 million pairs from a cache of a million rows: memory, and time a pair.

    python benchmarks/stream.py

Memory is what the process holds of its own (RssAnon, at its peak); the mapped cache is not in it.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from kinembed.cache import SCHEMA
from kinembed.cache.writer import write_cache
from kinembed.heads.file import save_head
from kinembed.heads.pair import PairHead


def prepare(run: Path, rows: int, width: int) -> None:
    """Writes a cache and a head."""
    rng = np.random.default_rng(0)
    names = np.array([f"test/face{row:07}.jpg".encode() for row in range(rows)])
    vectors = rng.standard_normal((rows, width), np.float32)
    digests = np.zeros((rows, 32), np.uint8)
    about = {"schema": SCHEMA, "model": "benchmark"}
    write_cache(run / "embeddings.h5", about, names, digests, {"native": [vectors]})
    shapes = list(pairwise((width, 100, 25, 1)))
    kernels = tuple(rng.standard_normal(shape, np.float32) * 0.1 for shape in shapes)
    biases = tuple(np.zeros(out, np.float32) for _, out in shapes)
    save_head(PairHead("native", "benchmark", kernels, biases), run / "head.h5")


def write_pairs(path: Path, rows: int, count: int) -> None:
    """Writes a submission of random pairs."""
    rng = np.random.default_rng(1)
    with path.open("w") as file:
        file.write("img_pair,is_related\n")
        for start in range(0, count, 1_000_000):
            drawn = rng.integers(rows, size=(min(1_000_000, count - start), 2)).tolist()
            file.write("".join(f"face{a:07}.jpg-face{b:07}.jpg,0\n" for a, b in drawn))


def scored(run: Path, pairs: Path) -> tuple[float, float]:
    """Seconds of `kinembed score`, and the peak of its own memory in MiB."""
    command = [sys.executable, "-m", "kinembed", "score", "--run", run, "--pairs", pairs, "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)))
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            try:
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon"):
                        peak[0] = max(peak[0], int(line.split()[1]))
            except (FileNotFoundError, ProcessLookupError):
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        sys.exit("score failed")
    watcher.join()
    return time.perf_counter() - start, peak[0] / 1024


def main() -> None:
    """Prints time a pair, memory, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=50_000_000, help="And a fifth of it.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        prepare(run, options.rows, options.width)
        times = []
        for count in (options.pairs // 5, options.pairs):
            write_pairs(run / "pairs.csv", options.rows, count)
            seconds, peak = scored(run, run / "pairs.csv")
            times.append(seconds / count)
            print(
                f"{count:,} pairs: {seconds:.1f} s, {seconds / count * 1e6:.3f} us a pair, "
                f"own memory {peak:.0f} MiB"
            )
        print(f"time a pair, five times as many against one: {times[1] / times[0]:.3f}")


if __name__ == "__main__":
    main()
