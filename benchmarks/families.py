"""A learner that knows families: what is worth something on held-out ones, and what is not.

    python benchmarks/families.py --run RUN --data DATA
    python benchmarks/families.py --run RUN --run OTHER --data DATA

Every fold's people are a gallery of their own, nobody's name is known in it, and pairs of single
photos of it are scored by the member that held it out: AUC, the mean over folds. Runs are of heads
without normalisation, trained with one seed; several are fused late, their logits divided by their
standard deviation. Differences are to the same head alone or expanded, with 95 % intervals by
families.
"""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.samplers import held_out_pairs
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.heads.base import People
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.query_expansion import find_neighbours, vectors_at
from kinembed.training.metric_heads import fit_norms

PAIRS, RESAMPLES = 8_000, 60  # of each fold
KIN, BEST, SHARE = 20, 3, 0.5  # kin of kin: likeliest kin of a photo, best paths, their share
COHORT, NEAREST = 4, 300  # photos of a person in the cohort, and how many of it count
STRANGER = -50.0  # a logit: photos of one person are not kin of each other


@dataclass(frozen=True)
class Gallery:
    """One fold's photos as one network sees them: (P, P) logits."""

    alone: np.ndarray
    expanded: np.ndarray
    alone_norm: np.ndarray
    expanded_norm: np.ndarray
    cohort: np.ndarray  # expanded, normalised by the nearest of a cohort
    pooled: np.ndarray  # mean logit of the photos of both sides
    prototypes: np.ndarray  # cosine of the profiles over training families
    near: np.ndarray  # True for photos that are likely of one person


def gallery(
    member: MetricHead, cache: EmbeddingCache, families: Families, people: People
) -> tuple[np.ndarray, Gallery]:
    """The rows of a fold's photos, and what is known of them."""
    photos = np.split(families.rows, families.photo_start[1:-1])
    inside = np.isin(np.array(families.people), people)
    rows = np.sort(np.concatenate([photos[at] for at in np.flatnonzero(inside)]))
    trained = np.flatnonzero(~inside)
    vectors = vectors_at(cache, member.view, np.arange(len(cache)))
    (norm,) = fit_norms(member, vectors, families, [trained])
    normed = replace(member, norms=(norm,))
    neighbours = find_neighbours(vectors_at(cache, member.knn_view, rows), member.same_person, rows)
    row_of = np.full(len(cache), -1)
    row_of[rows] = np.arange(len(rows))
    counts = neighbours.counts(rows)
    near = np.eye(len(rows), dtype=bool)
    near[np.repeat(np.arange(len(rows)), counts), row_of[neighbours.others]] = True
    amount = np.log1p(counts)
    slope = member.expansion_slope * (amount[:, None] + amount) / 2

    def logits(head: MetricHead, expand: bool) -> np.ndarray:
        values = np.asarray(head.represent(vectors[rows]))
        if expand:
            values = neighbours.expand(head, rows, values, row_of)
        width = head.projections[0].width
        similarity = values[:, :width] @ values[:, :width].T
        if head.norms:
            similarity -= (values[:, -1:] + values[:, -1]) / 2
        return head.scale * (similarity - head.centre) - (slope if expand else 0)

    plain, expanded = logits(member, False), logits(member, True)
    values = neighbours.expand(member, rows, np.asarray(member.represent(vectors[rows])), row_of)
    some = np.concatenate([photos[at][:COHORT] for at in trained])
    strangers = np.asarray(member.represent(vectors[some]))
    nearest = np.sort(values @ strangers.T, 1)[:, -NEAREST:].mean(1) * member.scale
    means = near / near.sum(1, keepdims=True)
    family = families.family[families.owner_of(some)]
    prototypes = np.stack([strangers[family == each].mean(0) for each in np.unique(family)])
    profiles = values @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    profiles -= profiles.mean(1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    return rows, Gallery(
        plain, expanded, logits(normed, False), logits(normed, True),
        expanded - (nearest[:, None] + nearest) / 2, means @ plain @ means.T,
        profiles @ profiles.T, near,
    )  # fmt: skip


def kin_of_kin(scores: np.ndarray, near: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(K,) mean of the best paths a-c-b over the likeliest kin c of a, and of b.

    A path is as likely as its less likely half.
    """
    scores = np.where(near, STRANGER, scores)
    kin = np.argpartition(-scores, KIN - 1, axis=1)[:, :KIN]
    total = np.zeros(len(pairs))
    for a, b in (pairs.T, pairs.T[::-1]):
        between = kin[a]  # (K, KIN)
        paths = np.minimum(scores[a[:, None], between], scores[b[:, None], between])
        total += np.sort(paths, 1)[:, -BEST:].mean(1) / 2
    return total


def scored(galleries: list[Gallery], pairs: np.ndarray) -> dict[str, np.ndarray]:
    """(K,) logits of each way, of one network or the mean of several."""
    a, b = pairs.T

    def fused(name: str) -> np.ndarray:
        return np.mean([getattr(g, name) / getattr(g, name)[a, b].std() for g in galleries], 0)

    near = np.any([each.near for each in galleries], 0)
    expanded, normed = fused("expanded"), fused("expanded_norm")
    return {
        "alone": fused("alone")[a, b],
        "alone, score_norm=s-norm": fused("alone_norm")[a, b],
        "expanded": expanded[a, b],
        "expanded, score_norm=s-norm": normed[a, b],
        "expanded, normalised by the nearest 300 of a cohort": fused("cohort")[a, b],
        "expanded, kin of kin": expanded[a, b] + SHARE * kin_of_kin(expanded, near, pairs),
        "expanded, s-norm, kin of kin": normed[a, b] + SHARE * kin_of_kin(normed, near, pairs),
        "mean score of all pairs of both sides' photos": fused("pooled")[a, b],
        "expanded, a tenth of family prototypes": expanded[a, b] + 0.1 * fused("prototypes")[a, b],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    with ExitStack() as stack:
        heads = [load_head(run / "head.h5") for run in asked.run]
        caches = [
            stack.enter_context(EmbeddingCache.open(run / "embeddings.h5")) for run in asked.run
        ]
        families = [cached_families(cache, asked.data) for cache in caches]
        if any(head.folds != heads[0].folds for head in heads):
            raise SystemExit("the heads hold out different folds; train them with one seed")
        parts: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
        for fold, people in enumerate(heads[0].folds):
            seen = [
                gallery(head.members()[fold], cache, known, people)
                for head, cache, known in zip(heads, caches, families, strict=True)
            ]
            rng = np.random.default_rng([7, fold])
            pairs = held_out_pairs(families[0], people, PAIRS, rng)
            places = np.searchsorted(seen[0][0], pairs.rows)
            parts.append((pairs.labels, pairs.families, scored([g for _, g in seen], places)))
            print(f"fold {fold}: {len(seen[0][0]):,} photos", flush=True)
    cuts = np.cumsum([len(labels) for labels, _, _ in parts])[:-1]
    every = np.concatenate([numbers for _, numbers, _ in parts])
    ranked = {
        way: [RankedScores(labels, scores[way]) for labels, _, scores in parts]
        for way in parts[0][2]
    }

    def mean(way: str, weights: np.ndarray) -> float:
        each = zip(ranked[way], np.split(weights, cuts), strict=True)
        return float(np.mean([one.auc(own) for one, own in each]))

    print("| scores | AUC | difference |\n|---|---|---|")
    for way in ranked:
        base = "alone" if way.startswith("alone") else "expanded"
        auc, before = (mean(each, np.ones(len(every))) for each in (way, base))
        change = "-"
        if way != base:
            found = family_bootstrap(
                lambda weights, way=way, base=base: mean(way, weights) - mean(base, weights),
                every, np.random.default_rng(0), RESAMPLES,
            )  # fmt: skip
            change = f"{auc - before:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
        print(f"| {way} | {auc:.4f} | {change} |", flush=True)


if __name__ == "__main__":
    main()
