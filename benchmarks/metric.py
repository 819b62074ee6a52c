"""Metric heads on a cache, an ingredient at a time: AUC by families, seeds, seconds.

    python benchmarks/metric.py --run runs/mobilefacenet --data DATA

Each row trains a head as `kinembed head` does, for each seed: families are parted in five, and
each fold is judged by the member that has not seen it, on 8,000 pairs in all. Another seed parts
families, draws pairs and begins otherwise; the interval is by families, of the first seed.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np

from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.families import cached_families
from kinembed.data.splits import family_folds
from kinembed.evaluation.head_log import read_head_log
from kinembed.evaluation.out_of_fold import judge
from kinembed.head import head
from kinembed.heads.metric import MetricHead, Projection

BARE = ("hidden_dim=0", "noise=0", "dropout=0", "embed_dim=128", "expand=off", "ema_decay=0")
LINEAR = ("hidden_dim=0", "dropout=0", *BARE[3:5])
ROWS = {  # settings that differ from the recipe, the view, and whether TTA is used
    "a linear map of `native`, contrastive loss": (BARE, "native", False),
    "+ view `max` beside it": (BARE, None, False),
    "+ noise of .8 standard deviations": (BARE[:1] + BARE[2:], None, False),
    "+ exponential moving average of the weights": (LINEAR, None, False),
    "+ test-time augmentation by mirrored photos": (LINEAR, None, True),
    "+ a relu layer added, dropout .3": (BARE[3:5], None, True),
    "+ 256 numbers wide": (BARE[4:5], None, True),
    "+ query expansion: `kinembed head`": ((), None, True),
}


def main() -> None:
    """Prints a row for each head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.disable()
    cache = options.run / "embeddings.h5"
    print("| head | AUC by families | 95 % of the first | seeds apart | seconds |")
    print("|---|---|---|---|---|")
    show("cosine of `native`", [cosine(cache, options.data, s) for s in range(options.seeds)])
    report = [HeadConfig("regularized", seed=s, caches=(cache,)) for s in range(options.seeds)]
    show("the report's best, on `max`", [trained(each, options.data) for each in report])
    for name, (overrides, view, flip) in ROWS.items():
        runs = [
            HeadConfig(
                overrides=overrides,
                views=(view,) if view else (),
                flip=flip,
                seed=seed,
                caches=(cache,),
            )
            for seed in range(options.seeds)
        ]
        show(name, [trained(config, options.data) for config in runs])


def trained(config: HeadConfig, data: Path) -> tuple[float, float, float, float]:
    """AUC, its interval, and seconds, of one training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        head(config, data, Path(folder))
        seconds = time.perf_counter() - start
        (row,) = read_head_log(Path(folder) / "heads.csv")
    return float(row["auc"]), float(row["low"]), float(row["high"]), seconds


def cosine(path: Path, data: Path, seed: int) -> tuple[float, float, float, float]:
    """The same of what needs no training, on the same pairs."""
    with open_caches([path]) as cache:
        families = cached_families(cache, data)
        parts = family_folds(families, np.arange(len(families.people)), 5, seed)
        folds = tuple(tuple(families.people[row] for row in part) for part in parts)
        width = cache.vectors("native").shape[1]
        same = Projection(np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
        model = cache.provenance["model"]
        plain = MetricHead("native", model, (same,) * 5, folds=folds)
        result = judge(plain, cache, families, seed)
    return result.auc, result.low, result.high, 0.0


def show(name: str, runs: list[tuple[float, float, float, float]]) -> None:
    """Prints a row of the table."""
    aucs = [auc for auc, *_ in runs]
    _, low, high, _ = runs[0]
    seconds = np.mean([run[3] for run in runs])
    took = f"{seconds:.0f}" if seconds else "-"
    print(
        f"| {name} | {np.mean(aucs):.3f} | {low:.3f} to {high:.3f} | {np.std(aucs):.3f} | {took} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
