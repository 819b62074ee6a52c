r"""What late fusion of several networks' heads is worth: AUC out of fold, alone and expanded.

    python benchmarks/fusion.py --data data --cache mobilefacenet=runs/m/embeddings.h5 \
        --cache sface=runs/s/embeddings.h5 --cache dlib=runs/d/embeddings.h5 --early

Each network's head is trained once for each seed, which also draws the folds of the families; then
those of each set of networks are fused. `--early` trains heads of all networks' vectors side by
side, too. AUC is of 8,000 pairs of people whom the member that scores them has not seen. Seconds
are those of training, without reading and judging.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families
from kinembed.evaluation.metrics import RankedScores
from kinembed.evaluation.out_of_fold import JUDGED_PAIRS, out_of_fold_scores
from kinembed.heads.base import Head
from kinembed.heads.views import people_views
from kinembed.progress import silent
from kinembed.recipes import METRIC
from kinembed.seeds import Stream, generator
from kinembed.training.fused_heads import FusedData, fused_of
from kinembed.training.head_data import read_head_data, who_learns
from kinembed.training.heads import HeadData, TrainedHead, know_people, train_alone
from kinembed.views import JOIN, TTA, without_tta


class Row(NamedTuple):
    """A head's AUC on held-out people."""

    name: str
    alone: float
    expanded: float
    seconds: float


def main() -> None:
    """Prints a row for each head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--views", action="store_true", help="heads of `native` and `max` apart")
    options = parser.parse_args()
    logging.disable()
    named = dict(each.split("=", 1) for each in options.cache)
    rows: dict[str, list[Row]] = {}
    for seed in range(options.seeds):
        for row in measured(named, options.data, seed, options.early, options.views):
            rows.setdefault(row.name, []).append(row)
            print(f"seed {seed}: {row}", flush=True)
    print("\n| networks | alone | expanded | seconds |\n|---|---|---|---|")
    for name, found in rows.items():
        cells = [
            f"{np.mean(values):.4f} ± {np.std(values, ddof=min(1, len(values) - 1)):.4f}"
            for values in ([each.alone for each in found], [each.expanded for each in found])
        ]
        print(f"| {name} | {cells[0]} | {cells[1]} | {np.mean([e.seconds for e in found]):.0f} |")


def measured(
    named: dict[str, str], data: Path, seed: int, early: bool, views: bool
) -> Iterator[Row]:
    """The rows of a seed."""
    with open_caches([Path(path) for path in named.values()]) as cache:
        families = cached_families(cache, data)
        config = HeadConfig(seed=seed)
        who = who_learns(config, METRIC, families, cache)

        def read(*wanted: str) -> FusedData:
            return read_head_data(replace(config, views=wanted), METRIC, families, who, cache)

        def judged(name: str, parts: Sequence[HeadData], trained: Sequence[TrainedHead]) -> Row:
            head, seconds = fused(parts, trained, cache, config)
            return Row(name, *aucs(head, cache, families, seed), seconds)

        whole = read()
        names = [*named]
        learnt = [learn(part[0], config) for part in whole.parts]
        for size in range(1, len(names) + 1):
            for chosen in combinations(range(len(names)), size):
                parts = [whole.parts[n][0] for n in chosen]
                name = " + ".join(names[n] for n in chosen)
                yield judged(name, parts, [learnt[n] for n in chosen])
                if early and size > 1:
                    (part,) = read(JOIN.join(view for each in parts for view in plain(each))).all
                    yield judged(f"{name}, side by side", [part], [learn(part, config)])
        for number, name in enumerate(names if views else ()):
            start = f"{number + 1}." if len(names) > 1 else ""
            apart = read(f"{start}native", f"{start}max").all
            heads = [learn(part, config) for part in apart]
            for view, part, head in zip(("native", "max"), apart, heads, strict=True):
                yield judged(f"{name}, `{view}` alone", [part], [head])
            yield judged(f"{name}, `native` and `max` apart, late", apart, heads)


def plain(part: HeadData) -> list[str]:
    """The views of a part without mirrored ones."""
    return list(without_tta(part.about["view"].split(JOIN)))


def learn(part: HeadData, config: HeadConfig) -> TrainedHead:
    """The head of a part, before query expansion."""
    (trained,) = train_alone(part, [(METRIC, config.seed)], config, silent)
    return trained


def fused(
    parts: Sequence[HeadData],
    trained: Sequence[TrainedHead],
    cache: Embeddings,
    config: HeadConfig,
) -> tuple[Head, float]:
    """The heads of some parts as one, as `kinembed head` fuses them, and the training's seconds."""
    versions = [view for part in parts for view in part.about["view"].split(JOIN)]
    told = people_views(without_tta(versions))
    knn_view = JOIN.join(view for view in versions if view.removesuffix(TTA) in told)
    about = {"model": cache.provenance["model"], "knn_view": knn_view}
    own = [
        replace(part, about={**part.about, **about}, knn_vectors=cache.vectors(knn_view))
        for part in parts
    ]
    data = FusedData(tuple((part,) for part in own), about)
    known, neighbours = know_people(own, [(METRIC, config.seed)], config.seed)
    named = [replace(each, head=replace(each.head, knn_view=knn_view)) for each in trained]
    made = fused_of(data, known, named, METRIC, neighbours, config.seed)
    return made.head, made.seconds


def aucs(head: Head, cache: Embeddings, families: Families, seed: int) -> tuple[float, float]:
    """AUC on held-out people: of photos alone, and expanded."""
    rng = generator(seed, Stream.HEAD_PAIRS)
    scored = out_of_fold_scores(head, cache, families, JUDGED_PAIRS, rng)
    labels = scored.pairs.labels
    return RankedScores(labels, scored.alone).auc(), RankedScores(labels, scored.logits).auc()


if __name__ == "__main__":
    main()
