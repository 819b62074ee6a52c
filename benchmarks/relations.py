"""AUC of each relation on Kaggle's photos, for the people whose relation RFIW's lists tell.

    python benchmarks/relations.py --run RUN --data DATA --list val_choose.txt

Kaggle says who is kin, not how. RFIW's lists of labelled pairs (`0 PATH PATH fs 1`), of the same
people, do. Photos of such two people are scored, expanded, by the member that held out both,
against pairs of strangers among all held-out people. Intervals are by families.
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from kinembed.cache.stacked import open_caches
from kinembed.data.families import cached_families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.samplers import held_out_pairs
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.evaluation.out_of_fold import by_folds
from kinembed.heads.file import load_head

MOST, STRANGERS, RESAMPLES = 20, 20_000, 300  # pairs of photos of two people; pairs of strangers
FEWEST = 5  # families for an interval


def kinds_of(path: Path) -> dict[frozenset[str], str]:
    """The relation of each two people whom a list has as kin."""
    kinds = {}
    for line in path.read_text().splitlines():
        _, left, right, kind, label = line.split()
        if label == "1":
            people = ("/".join(photo.split("/")[-3:-1]) for photo in (left, right))
            kinds[frozenset(people)] = "grandparents" if kind.startswith("g") else kind
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cache", type=Path, action="append", help="in place of the run's")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--list", type=Path, required=True)
    asked = parser.parse_args()
    kinds = kinds_of(asked.list)
    head = load_head(asked.run / "head.h5")
    with open_caches(asked.cache or [asked.run / "embeddings.h5"]) as cache:
        families = cached_families(cache, asked.data)
        photos = np.split(families.rows, families.photo_start[1:-1])
        fold_of = {person: fold for fold, own in enumerate(head.folds) for person in own}
        rng = np.random.default_rng(0)
        rows, relations, folds, families_of = [], [], [], []
        for left, right in families.relations.tolist():
            people = families.people[left], families.people[right]
            kind = kinds.get(frozenset(people))
            both = {fold_of.get(person, -1) for person in people}
            if kind is None or len(both) > 1:
                continue
            pairs = rng.permutation(list(product(photos[left], photos[right])))[:MOST]
            rows += pairs.tolist()
            relations += [kind] * len(pairs)
            folds += [*both] * len(pairs)
            families_of += [families.family[[left, right]].tolist()] * len(pairs)
        for fold, people in enumerate(head.folds):
            some = held_out_pairs(families, people, 2 * STRANGERS // len(head.folds), rng)
            others = some.at(~some.labels)
            rows += others.rows.tolist()
            relations += [""] * len(others)
            folds += [fold] * len(others)
            families_of += others.families.tolist()
        names = np.array(relations)
        pairs = LabelledPairs(np.array(rows), names != "", np.array(families_of), tuple(relations))
        logits = by_folds(head, cache, pairs, np.array(folds)).logits
    print(
        "| relation | two people | families | pairs of photos | AUC | 95 % |\n"
        "|---|---|---|---|---|---|"
    )
    for kind in [*sorted(set(relations) - {""}), "all"]:
        own = pairs.labels if kind == "all" else names == kind
        chosen = own | ~pairs.labels
        part = replace(pairs.at(chosen), relations=())
        ranked = RankedScores(part.labels, logits[chosen])
        count, interval = len(np.unique(pairs.families[own])), "too few families"
        if count >= FEWEST:
            rng = np.random.default_rng(0)
            found = family_bootstrap(ranked.auc, part.families, rng, RESAMPLES)
            interval = f"{found.low:.3f} to {found.high:.3f}"
        people = {tuple(families.owner_of(row).tolist()) for row in pairs.rows[own]}
        print(
            f"| {kind} | {len(people)} | {count} | {own.sum():,} | "
            f"{ranked.auc():.3f} | {interval} |"
        )


if __name__ == "__main__":
    main()
