"""How likely strangers in small albums are said to be kin, whatever the album's size.

    python benchmarks/strangers.py --run runs/default --data data

Albums of 2, 6, 12 and 100 people, one photo each, of families that one member of the head has held
out from its training, so that nobody in them is kin. Each album is a cache of its own, scored with
query expansion by that member and the calibration for photos alone. Beside it stands what Kaggle's
way of drawing non-kin pairs gives for the same people, scored alone. Prints both, and how many of
the albums' photos were taken for several of one person.
"""

import argparse
from pathlib import Path

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.samplers import held_out_pairs
from kinembed.evaluation.calibration import load_calibration
from kinembed.heads.base import Head
from kinembed.heads.file import load_head
from kinembed.heads.query_expansion import find_neighbours, vectors_at

SIZES = (2, 6, 12, 100)
DRAWS = 100


def one_photo_each(families: Families, people: Rows, rng: np.random.Generator) -> Rows:
    """The sorted rows of a photo of each person."""
    first, after = families.photo_start[people], families.photo_start[people + 1]
    return np.sort(families.rows[rng.integers(first, after)])


def strangers(families: Families, people: Rows, count: int, rng: np.random.Generator) -> Rows:
    """People of as many families."""
    shuffled = rng.permutation(people)
    _, first = np.unique(families.family[shuffled], return_index=True)
    return rng.permutation(shuffled[first])[:count]


def album(cache: EmbeddingCache, head: Head, rows: Rows) -> tuple[np.ndarray, int]:
    """The logits of all pairs of an album, and how many of its photos have neighbours."""
    everybody = np.arange(len(rows))
    represented = np.asarray(head.represent(vectors_at(cache, head.view, rows)))
    is_expanded = 0
    if head.same_person is not None:
        neighbours = find_neighbours(
            vectors_at(cache, head.knn_view, rows), head.same_person, everybody
        )
        is_expanded = neighbours.make_up.expanded
    pairs = np.stack(np.triu_indices(len(rows), 1), 1)
    return head.score(represented, pairs), is_expanded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    asked = parser.parse_args()
    head = load_head(asked.run / "head.h5")
    scale = load_calibration(asked.run / "calibration.json").alone
    with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
        families = cached_families(cache, asked.data)
        folds = [
            (np.flatnonzero(np.isin(families.people, names)), names, member)
            for names, member in head.out_of_fold()
        ]
        rng = np.random.default_rng(0)
        drawn = []
        for _, names, member in folds:
            pairs = held_out_pairs(families, names, 4_000, rng)
            others = pairs.rows[~pairs.labels]
            rows, places = np.unique(others, return_inverse=True)
            represented = np.asarray(member.represent(vectors_at(cache, member.view, rows)))
            drawn.append(scale.probabilities(member.score(represented, places.reshape(-1, 2))))
        print(f"non-kin pairs as drawn, alone: mean probability {np.mean(drawn):.3f}")
        for size in SIZES:
            means, taken = [], 0
            for draw in range(DRAWS):
                people, _, member = folds[draw % len(folds)]
                some = strangers(families, people, size, rng)
                logits, is_expanded = album(cache, member, one_photo_each(families, some, rng))
                means.append(scale.probabilities(logits).mean())
                taken += is_expanded
            low, high = np.quantile(means, [0.025, 0.975])
            print(
                f"albums of {min(size, len(some))} strangers: mean probability "
                f"{np.mean(means):.3f} (95 % of albums: {low:.3f} to {high:.3f}); {taken} of "
                f"{DRAWS * len(some):,} photos taken for several of one person"
            )


if __name__ == "__main__":
    main()
