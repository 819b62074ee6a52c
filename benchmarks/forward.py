"""Pairs scored a second by the 2048-100-25-1 head, against the rate of a matrix product.

    python benchmarks/forward.py

The bound is the product of the first layer alone, 4,096 x 2048 by 2048 x 100, on all processors:
in float64, which it takes for a score to be the same whatever is scored with it, and in float32,
which would do without that. All are measured in turn. The plain loop computes in float32, in chunks
of 4,096 pairs, as one would write it first.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from turns import Comparison, compared, in_turns

from kinembed.heads.pair import PairHead, distances

ROWS, WIDTH, PAIRS = 18_661, 2048, 400_000


def compare(pairs_count: int = PAIRS, rounds: int = 7, rows: int = ROWS) -> Iterator[Comparison]:
    """The head's scores beside a plain loop's, and beside products."""
    rng = np.random.default_rng(0)
    vectors = rng.random((rows, WIDTH), np.float32)
    shapes = list(pairwise((WIDTH, 100, 25, 1)))
    kernels = tuple(rng.standard_normal(shape, np.float32) * 0.02 for shape in shapes)
    head = PairHead("max", "", kernels, tuple(np.zeros(out, np.float32) for _, out in shapes))
    pairs = rng.integers(0, rows, (pairs_count, 2))
    single = rng.random((4096, WIDTH), np.float32)
    double, kernel = single.astype(np.float64), kernels[0].astype(np.float64)

    def plain() -> None:
        for start in range(0, pairs_count // 4, 4096):
            x = distances(vectors, pairs[start : min(start + 4096, pairs_count // 4)])
            for each in kernels[:-1]:
                x = np.maximum(x @ each, 0)
            x @ kernels[-1]

    sides = {
        "kinembed": lambda: head.score(vectors, pairs),
        "plain loop, in float32": plain,
        "product of the first layer, in float64": lambda: [double @ kernel for _ in range(10)],
        "product of the first layer, in float32": lambda: [single @ kernels[0] for _ in range(10)],
    }
    times = in_turns(sides, rounds)
    own = times.pop("kinembed")
    for (name, other), done in zip(times.items(), (pairs_count // 4, 40_960, 40_960), strict=True):
        what = "scoring pairs in memory, head 2048-100-25-1"
        yield compared(what, name, "pairs/s", own, other, pairs_count, done)


def main() -> None:
    """Prints rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    for row in compare(rounds=parser.parse_args().rounds):
        print(row)


if __name__ == "__main__":
    main()
