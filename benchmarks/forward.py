"""Pairs scored a second by the 2048-100-25-1 head, against the rate of a matrix product.

    python benchmarks/forward.py

The bound: 2 x 2048 x 100 operations a pair at the rate of numpy's float32 product of 4,096 x 2048
by 2048 x 100, on all processors, measured in turn with the scoring.
"""

import argparse
import time
from itertools import pairwise

import numpy as np

from kinembed.heads.pair import PairHead, distances

ROWS, WIDTH, PAIRS = 18_661, 2048, 400_000


def seconds(work) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.random((ROWS, WIDTH), np.float32)
    shapes = list(pairwise((WIDTH, 100, 25, 1)))
    kernels = tuple(rng.standard_normal(shape, np.float32) * 0.02 for shape in shapes)
    head = PairHead("max", "", kernels, tuple(np.zeros(out, np.float32) for _, out in shapes))
    pairs = rng.integers(0, ROWS, (PAIRS, 2))
    block = rng.random((4096, WIDTH), np.float32)

    def plain() -> None:
        for start in range(0, PAIRS // 4, 4096):
            x = distances(vectors, pairs[start : start + 4096])
            for kernel in kernels[:-1]:
                x = np.maximum(x @ kernel, 0)
            x @ kernels[-1]

    rows = []
    for _ in range(options.rounds):
        ours = PAIRS / seconds(lambda: head.score(vectors, pairs))
        rate = 10 * 4096 / seconds(lambda: [block @ kernels[0] for _ in range(10)])
        rows.append((ours, rate, PAIRS // 4 / seconds(plain)))
    ours, rate, chunk = np.median(rows, 0)
    share = np.median([row[0] / row[1] for row in rows])
    print(f"kinembed {ours:,.0f} pairs/s; plain chunks of 4,096 {chunk:,.0f} pairs/s")
    print(
        f"the product alone {rate:,.0f} pairs/s ({rate * 2 * WIDTH * 100 / 1e9:.0f} GFLOP/s): "
        f"{share:.0%} of it"
    )


if __name__ == "__main__":
    main()
