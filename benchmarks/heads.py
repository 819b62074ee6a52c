"""The report's heads, cosine and L2 on a cache: cross-validated AUC over all families.

    python benchmarks/heads.py --run runs/mobilefacenet --data DATA

Families are parted in five. A head learns from four parts, where a fifth of the families chooses
its epoch, and judges the pairs within the part left out. Figures are the means of the five AUCs.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.config import HeadConfig
from kinembed.data.families import cached_families
from kinembed.data.samplers import PairSampler, held_out_pairs
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.recipes import RECIPES
from kinembed.training.pair_heads import train_pair_heads

FOLDS, PAIRS = 5, 8_000
HEADS = {"l1": "base", "l1-dense": "dense", "regularized": "regularized"}


def main() -> None:
    """Prints a row for each head and view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with EmbeddingCache.open(options.run / "embeddings.h5") as cache:
        known = cached_families(cache, options.data)
        family = np.unique(known.family_names(), return_inverse=True)[1]
        fold = np.random.default_rng(0).permutation(family.max() + 1)[family] % FOLDS
        judged = []
        for part in range(FOLDS):
            names = [known.people[row] for row in np.flatnonzero(fold == part)]
            rng = np.random.default_rng([0, part])
            judged.append(held_out_pairs(known, names, PAIRS, rng))
        print("| view | head | AUC by families, 95 % | seeds apart | seconds a head |")
        print("|---|---|---|---|---|")
        for view in cache.views:
            vectors = np.array(cache.vectors(view), np.float32)
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            sides = [(pairs.rows[:, 0], pairs.rows[:, 1]) for pairs in judged]
            row(view, "cosine", judged, [[(unit[a] * unit[b]).sum(1) for a, b in sides]], 0)
            row(view, "L2", judged, [[-np.linalg.norm(vectors[a] - vectors[b], axis=1)
                                      for a, b in sides]], 0)  # fmt: skip
            for name, recipe in HEADS.items():
                start = time.perf_counter()
                runs = [
                    [
                        trained(vectors, known, fold != part, recipe, seed).score(
                            vectors, judged[part].rows
                        )
                        for part in range(FOLDS)
                    ]
                    for seed in range(options.seeds)
                ]
                seconds = (time.perf_counter() - start) / FOLDS / options.seeds
                row(view, name, judged, runs, seconds)


def trained(vectors, known, people, recipe, seed):
    """A head trained on these people."""
    families = np.array(known.family_names())
    own = np.unique(families[people])
    chosen = np.random.default_rng(seed).permutation(own)[: len(own) // 5]
    by = np.isin(families, chosen)
    train = PairSampler(known, np.flatnonzero(people & ~by))
    validation = PairSampler(known, np.flatnonzero(people & by))
    config = HeadConfig(seed=seed)
    return train_pair_heads(vectors, train, validation, [(RECIPES[recipe], seed)], config)[0].head


def row(view, name, judged, runs, seconds) -> None:
    """Prints the mean AUC over folds and seeds, its interval, and their deviation over seeds."""
    labels = np.concatenate([pairs.labels for pairs in judged])
    families = np.concatenate([pairs.families for pairs in judged])
    cuts = np.cumsum([len(pairs) for pairs in judged])[:-1]
    ranked = [[RankedScores(p.labels, s) for p, s in zip(judged, run, strict=True)] for run in runs]

    def mean(weights):
        parts = np.split(weights, cuts)
        values = []
        for run in ranked:
            values += [each.auc(part) for each, part in zip(run, parts, strict=True)]
        return float(np.mean(values))

    interval = family_bootstrap(mean, families, np.random.default_rng(0), 200)
    seeds = [np.mean([each.auc() for each in run]) for run in ranked]
    spread = f"{np.std(seeds):.3f}" if len(seeds) > 1 else "-"
    took = f"{seconds:.1f}" if seconds else "-"
    print(
        f"| {view} | {name} | {mean(np.ones(len(labels))):.3f} ({interval.low:.3f} to "
        f"{interval.high:.3f}) | {spread} | {took} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
