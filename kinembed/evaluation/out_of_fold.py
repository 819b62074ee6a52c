"""Out-of-fold scores: what a head says of pairs of people who never trained it."""

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

JUDGED_PAIRS = 8_000  # by which heads are compared
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

    Where each member of the head held out another fold of the families, the pairs of a fold are
    within it and are scored by that member alone, which has seen neither of the two.

    Args:
        head: what scores.
        cache: of the head's model.
        families: those of the cache.
        count: how many pairs.
        rng: what draws them.
        expansion: neighbours that are found already, of this cache and the head's view of them.

    Raises:
        KinembedError: nobody was held out, or cache and families do not fit.
    """
    parts = head.out_of_fold()
    if not parts:
        raise RunError(
            "the head does not say who was held out from its training, so nobody is known to "
            "judge it by; run kinembed head, or name labelled pairs with --pairs"
        )
    if expansion is None and head.qe_k > 1:
        expansion = QueryExpansion(cache, head.knn_view, head.qe_k)
    shares = np.diff(np.linspace(0, count, len(parts) + 1).astype(int))
    drawn, logits = [], []
    for (people, member), share in zip(parts, shares.tolist(), strict=True):
        pairs = held_out_pairs(families, people, max(2, share), rng)
        drawn.append(pairs)
        logits.append(Representations(cache, member, expansion=expansion).score(pairs.rows))
    scores = cache.finite(np.concatenate(logits))
    rows, labels, of = (
        np.concatenate([getattr(part, name) for part in drawn])
        for name in ("rows", "labels", "families")
    )
    return LabelledPairs(rows, labels, of), scores


def judge(
    head: Head,
    cache: Embeddings,
    families: Families,
    seed: int,
    expansion: QueryExpansion | None = None,
) -> OutOfFold:
    """How well a head does on held-out people: the same pairs for every head of a seed."""
    rng = generator(seed, Stream.HEAD_PAIRS)
    pairs, logits = out_of_fold_scores(head, cache, families, JUDGED_PAIRS, rng, expansion)
    ranked = RankedScores(pairs.labels, logits)
    resample = generator(seed, Stream.HEAD_BOOTSTRAP)
    interval = family_bootstrap(ranked.auc, pairs.families, resample, RESAMPLES)
    return OutOfFold(ranked.auc(), interval.low, interval.high, len(pairs))
