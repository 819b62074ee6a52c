"""What query expansion is worth, and the error of calibrated probabilities, by photos of a person.

    python benchmarks/expansion.py --run runs/default --data data

The collection is thinned to at most 1, 2, 3, 5 and all photos of each person. In each, pairs of
held-out people are scored by the member that did not train on them, alone and expanded, and
turned into probabilities by the one calibration of the run, which was fitted on all photos.

    python benchmarks/expansion.py --run runs/default --data data --among 100000

This hides the collection's photos among so many of strangers. These are made up: one photo of each
person, turned by random signs in the directions of its view's principal components, so that they
are as alike as strangers are, and nobody twice.
"""

import argparse
import logging
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.samplers import held_out_pairs
from kinembed.evaluation.calibration import Calibration, load_calibration
from kinembed.evaluation.metrics import calibration_error, roc_auc
from kinembed.heads.base import Head
from kinembed.heads.file import load_head
from kinembed.heads.query_expansion import Neighbours, expansion_of, find_neighbours, vectors_at

MOST = (1, 2, 3, 5, 10_000)  # photos of a person
PAIRS = 80_000  # before thinning


def thinned(families: Families, most: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of at most so many photos of each person."""
    parts = np.split(families.rows, families.photo_start[1:-1])
    return np.sort(np.concatenate([rng.permutation(part)[:most] for part in parts]))


def logits_of(
    member: Head, cache: EmbeddingCache, neighbours: Neighbours, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) logits of expanded pairs, logits alone, and the pairs' expansion."""
    asked = np.unique(pairs)
    needed = neighbours.of(asked)
    represented = np.asarray(member.represent(vectors_at(cache, member.view, needed)))
    row_of = np.full(len(cache), -1)
    row_of[needed] = np.arange(len(needed))
    alone = represented[row_of[asked]]
    expanded = neighbours.expand(member, asked, represented, row_of)
    places = np.searchsorted(asked, pairs)
    amount = expansion_of(neighbours.counts(pairs.ravel()).reshape(-1, 2))
    is_expanded = member.score(expanded, places) - member.expansion_slope * amount
    return is_expanded, member.score(alone, places), amount


def row(
    head: Head, cache: EmbeddingCache, families: Families, calibration: Calibration, most: int
) -> str:
    """The figures at so many photos of a person."""
    rng = np.random.default_rng(0)
    gallery = thinned(families, most, rng)
    assert head.same_person is not None
    vectors = vectors_at(cache, head.knn_view, gallery)
    neighbours = find_neighbours(vectors, head.same_person, gallery)
    labels, together, alone = [], [], []
    folds = head.out_of_fold()
    for people, member in folds:
        pairs = held_out_pairs(families, people, PAIRS // len(folds), rng)
        kept = np.isin(pairs.rows, gallery).all(1)
        logits, own, amount = logits_of(member, cache, neighbours, pairs.rows[kept])
        labels.append(pairs.labels[kept])
        together.append(calibration.probabilities(logits, amount))
        alone.append(calibration.alone.probabilities(own))
    truth, both, single = map(np.concatenate, (labels, together, alone))
    return (
        f"| {most if most < 1000 else 'all'} | {len(gallery):,} | "
        f"{neighbours.make_up.expanded:,} | {len(truth):,} | "
        f"{roc_auc(truth, single):.4f} | {roc_auc(truth, both):.4f} | "
        f"{calibration_error(truth, single):.3f} | {calibration_error(truth, both):.3f} |"
    )


def strangers(vectors: np.ndarray, count: int) -> np.ndarray:
    """(count, D) made-up vectors with the mean and the covariance of (N, D) of different people."""
    rng = np.random.default_rng(1)
    mean = vectors.mean(0)
    basis = np.linalg.svd(vectors - mean, full_matrices=False)[2]  # (D, D)
    parts = (vectors - mean) @ basis.T
    turns = max(1, -(-count // len(vectors)))
    made = [(parts * rng.choice((-1, 1), len(basis))) @ basis + mean for _ in range(turns)]
    return np.concatenate(made)[:count].astype(np.float32)


def hidden(cache: EmbeddingCache, view: str, families: Families, among: int) -> np.ndarray:
    """(P + among, W) vectors of all photos of the families, and of strangers."""
    parts = []
    for name in view.split("+"):
        real = vectors_at(cache, name, families.rows)
        made = strangers(real[families.photo_start[:-1]], among)
        parts.append(np.concatenate([real, made]))
    return np.concatenate(parts, 1)


def hide(head: Head, cache: EmbeddingCache, families: Families, among: int) -> str:
    """The figures of the collection's pairs among so many strangers."""
    assert head.same_person is not None
    rng = np.random.default_rng(0)
    photos = len(families.rows)
    vectors = hidden(cache, head.view, families, among)
    gallery = np.arange(photos + among)
    near = hidden(cache, head.knn_view, families, among)
    neighbours = find_neighbours(near, head.same_person, gallery)
    counts = neighbours.counts(gallery)
    left = np.repeat(gallery, counts)
    owner = np.append(families.owner, np.arange(-among, 0))
    right = owner[left] == owner[neighbours.others]
    each = np.diff(families.photo_start)
    some = f"{(counts[photos:] > 0).mean():.4f}" if among else "-"
    labels, together, alone = [], [], []
    folds = head.out_of_fold()
    row_of = np.full(len(gallery), -1)
    for people, member in folds:
        pairs = held_out_pairs(families, people, PAIRS // len(folds), rng)
        rows = np.searchsorted(families.rows, pairs.rows)
        asked = np.unique(rows)
        needed = neighbours.of(asked)
        represented = np.asarray(member.represent(vectors[needed]))
        row_of[needed] = np.arange(len(needed))
        places = np.searchsorted(asked, rows)
        amount = expansion_of(counts[rows])
        expanded = member.score(neighbours.expand(member, asked, represented, row_of), places)
        labels.append(pairs.labels)
        together.append(expanded - member.expansion_slope * amount)
        alone.append(member.score(represented[row_of[asked]], places))
    truth, both, single = map(np.concatenate, (labels, together, alone))
    return (
        f"| {among:,} | {right.mean():.3f} | {right.sum() / (each * (each - 1)).sum():.3f} | "
        f"{(counts[:photos] > 0).mean():.3f} | {some} | "
        f"{roc_auc(truth, single):.4f} | {roc_auc(truth, both):.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--among", type=int, nargs="+", help="strangers")
    asked = parser.parse_args()
    head = load_head(asked.run / "head.h5")
    if asked.among:
        logging.basicConfig(level=logging.INFO, format="  %(message)s")
        print("| strangers | precision | recall | photos with neighbours | strangers with some "
              "| AUC alone | AUC |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
            families = cached_families(cache, asked.data)
            for among in asked.among:
                print(hide(head, cache, families, among), flush=True)
        return
    calibration = load_calibration(asked.run / "calibration.json")
    print("| photos a person | photos | expanded | pairs | AUC alone | AUC | ECE alone | ECE |")
    print("|---|---|---|---|---|---|---|---|")
    with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
        families = cached_families(cache, asked.data)
        for most in MOST:
            print(row(head, cache, families, calibration, most), flush=True)


if __name__ == "__main__":
    main()
