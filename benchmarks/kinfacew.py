"""KinFaceW by its protocol: networks alone and fused late, accuracy of each relation and mean.

    python benchmarks/kinfacew.py --photos KinFaceW-I --network RUN --network OTHER

Each network is a run folder with the cache of KinFaceW's photos and a head: one that
`kinembed head --kinfacew` trained there, whose members judge the folds that they held out, or a
copy of one that was trained on other photos. Late fusion is the mean of the networks' logits, each
divided by its standard deviation over all pairs.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.data.protocols import read_kinfacew
from kinembed.evaluate import _held_out_folds
from kinembed.evaluation.figures import figures
from kinembed.evaluation.out_of_fold import ScoredPairs, by_folds, scored_pairs
from kinembed.heads.file import load_head
from kinembed.heads.representations import Representations

RELATIONS = ("fs", "fd", "ms", "md", "mean")


def row(name: str, scored: ScoredPairs) -> str:
    """Accuracy of each relation and their mean, each with its interval."""
    folds = figures(scored, [("", "")] * len(scored.pairs), None, 0)["folds"]
    cells = []
    for relation in RELATIONS:
        interval = folds[relation]["interval"]
        accuracy = f"{folds[relation]['accuracy']:.3f}"
        cells.append(f"{accuracy} ({interval['low']:.3f} to {interval['high']:.3f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--network", type=Path, action="append", required=True)
    parser.add_argument("--head", type=Path, action="append", help="in place of each head.h5")
    asked = parser.parse_args()
    heads = asked.head or [run / "head.h5" for run in asked.network]
    print("| network | FS | FD | MS | MD | mean |\n|---|---|---|---|---|---|")
    total, photos, last = 0.0, None, None
    with ExitStack() as stack:
        for run, path in zip(asked.network, heads, strict=True):
            cache = stack.enter_context(EmbeddingCache.open(run / "embeddings.h5"))
            head, pairs = load_head(path), read_kinfacew(asked.photos, cache)
            folds = _held_out_folds(pairs, cache, head)
            if folds is None:
                scored = scored_pairs(Representations(cache, head, expand=False), pairs)
            else:
                scored = by_folds(head, cache, pairs, folds, expand=False)
            names = pairs.names(cache)
            if photos not in (None, names):
                raise SystemExit(f"{run}: other pairs than the first network's")
            photos, last = names, scored
            total = total + scored.logits / np.std(scored.logits)
            print(row(run.name, scored), flush=True)
    if len(heads) > 1:
        both = ScoredPairs(last.pairs, total, total, np.zeros(len(total)), None)
        print(row("late", both))


if __name__ == "__main__":
    main()
