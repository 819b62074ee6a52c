"""Out-of-fold scores: a head's scores of pairs of its held-out people."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import Embeddings
from kinembed.data.families import Families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.samplers import held_out_pairs
from kinembed.errors import RunError
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.heads.base import Head
from kinembed.heads.query_expansion import QueryExpansion
from kinembed.heads.representations import Representations
from kinembed.seeds import Stream, generator

JUDGED_PAIRS = 8_000  # for the comparison of heads
RESAMPLES = 200


@dataclass(frozen=True)
class OutOfFold:
    """The AUC of a head on held-out people, and its 95 % interval by families."""

    auc: float
    low: float
    high: float
    pairs: int


def out_of_fold_scores(
    head: Head,
    cache: Embeddings,
    families: Families,
    count: int,
    rng: np.random.Generator,
    expansion: QueryExpansion | None = None,
) -> tuple[LabelledPairs, NDArray[np.float64]]:
    """Pairs of held-out people, half of them kin, and their logits.

    If the members hold out folds of families, each pair is within one fold, and only the member
    that holds out this fold scores it.

    Args:
        head: the head.
        cache: of the head's model.
        families: the families of the cache.
        count: how many pairs.
        rng: the random generator.
        expansion: neighbours of this cache in the head's `knn_view`, if known already.

    Raises:
        KinembedError: nobody was held out, or cache and families do not fit.
    """
    folds = head.out_of_fold()
    if not folds:
        raise RunError(
            "the head does not say who was held out from its training, so there are no pairs to "
            "judge it; run kinembed head, or name labelled pairs with --pairs"
        )
    if expansion is None and head.qe_k > 1:
        expansion = QueryExpansion(cache, head.knn_view, head.qe_k)
    sizes = np.diff(np.linspace(0, count, len(folds) + 1).astype(int))
    pairs, logits = [], []
    for (people, member), size in zip(folds, sizes.tolist(), strict=True):
        of_fold = held_out_pairs(families, people, max(2, size), rng)
        pairs.append(of_fold)
        logits.append(Representations(cache, member, expansion=expansion).score(of_fold.rows))
    scores = cache.finite(np.concatenate(logits))  # (K,)
    rows, labels, numbers = (
        np.concatenate([getattr(of_fold, name) for of_fold in pairs])
        for name in ("rows", "labels", "families")
    )
    relations = tuple(relation for of_fold in pairs for relation in of_fold.relations)
    return LabelledPairs(rows, labels, numbers, relations, unit=families.unit), scores


def judge(
    head: Head,
    cache: Embeddings,
    families: Families,
    seed: int,
    expansion: QueryExpansion | None = None,
) -> OutOfFold:
    """The AUC of a head on held-out people; equal seeds sample equal pairs for every head."""
    rng = generator(seed, Stream.HEAD_PAIRS)
    pairs, logits = out_of_fold_scores(head, cache, families, JUDGED_PAIRS, rng, expansion)
    ranked = RankedScores(pairs.labels, logits)
    resample = generator(seed, Stream.HEAD_BOOTSTRAP)
    interval = family_bootstrap(ranked.auc, pairs.families, resample, RESAMPLES)
    return OutOfFold(ranked.auc(), interval.low, interval.high, len(pairs))
