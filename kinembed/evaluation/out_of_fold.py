"""What a head says of pairs of people who never trained it."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinembed.cache import Embeddings
from kinembed.data.families import cached_families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.samplers import held_out_pairs
from kinembed.errors import RunError
from kinembed.heads.metric import MetricHead
from kinembed.heads.pair import AnyHead, company_of, matching_vectors


def people_held_out(head: AnyHead) -> tuple[str, ...]:
    """The people on whom the head, or one of its members, was not trained, sorted."""
    if isinstance(head, MetricHead) and head.folds:
        return tuple(sorted({person for fold in head.folds for person in fold}))
    return head.held_out


def held_out_scores(
    head: AnyHead, cache: Embeddings, data: Path, count: int, rng: np.random.Generator
) -> tuple[LabelledPairs, NDArray[np.float64]]:
    """Pairs of people held out, half of them kin, and their logits.

    Where each member of the head held out another fold of the families, the pairs of a fold are
    within it and are scored by that member alone, which has seen neither of the two.

    Args:
        head: what scores.
        cache: of the head's model.
        data: the folder of `train_relationships.csv`.
        count: how many pairs.
        rng: what draws them.

    Raises:
        KinembedError: nobody was held out, or cache and relations do not fit.
    """
    if not people_held_out(head):
        raise RunError(
            "the head does not say who was held out from its training, so nobody is known to "
            "judge it by; run kinembed head, or name labelled pairs with --pairs"
        )
    families = cached_families([name.decode() for name in cache.names], data)
    if not (isinstance(head, MetricHead) and head.folds):
        vectors = matching_vectors(cache, head)
        pairs = held_out_pairs(families, head.held_out, count, rng)
        return pairs, cache.finite(head.scores(vectors, pairs.rows))
    company = company_of(cache, head) if head.neighbours > 1 else None
    shares = np.diff(np.linspace(0, count, len(head.folds) + 1).astype(int))
    found, logits = [], []
    for member, (people, share) in enumerate(zip(head.folds, shares.tolist(), strict=True)):
        part = held_out_pairs(families, people, max(2, share), rng)
        vectors = matching_vectors(cache, head, member, company)
        found.append(part)
        logits.append(head.scores(vectors, part.rows))
    pairs = LabelledPairs(
        np.concatenate([part.rows for part in found]),
        np.concatenate([part.labels for part in found]),
        np.concatenate([part.families for part in found]),
    )
    return pairs, cache.finite(np.concatenate(logits))
