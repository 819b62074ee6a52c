"""Pairs scored a second by the 2048-100-25-1 head, against the rate of a matrix product.

    python benchmarks/forward.py

The bound is the product of the first layer alone, 4,096 x 2048 by 2048 x 100, on all processors:
in float64, which it takes for a score to be the same whatever is scored with it, and in float32,
which would do without that. All are measured in turn. The plain loop computes in float32, in chunks
of 4,096 pairs, as one would write it first.
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
    single = rng.random((4096, WIDTH), np.float32)
    double, kernel = single.astype(np.float64), kernels[0].astype(np.float64)

    def plain() -> None:
        for start in range(0, PAIRS // 4, 4096):
            x = distances(vectors, pairs[start : start + 4096])
            for each in kernels[:-1]:
                x = np.maximum(x @ each, 0)
            x @ kernels[-1]

    turns = [
        (
            PAIRS / seconds(lambda: head.score(vectors, pairs)),
            PAIRS // 4 / seconds(plain),
            10 * 4096 / seconds(lambda: [double @ kernel for _ in range(10)]),
            10 * 4096 / seconds(lambda: [single @ kernels[0] for _ in range(10)]),
        )
        for _ in range(options.rounds + 1)
    ]
    rates = np.array(turns[1:])  # the first one warms up
    names = ("kinembed", "plain loop", "product in float64", "product in float32")
    shares = np.median(rates[:, :1] / rates, 0)
    print(f"medians of {options.rounds} turns")
    for name, rate, share in zip(names, np.median(rates, 0), shares, strict=True):
        print(f"{name:20} {rate:10,.0f} pairs/s; kinembed at {share:.2f} of it")


if __name__ == "__main__":
    main()
