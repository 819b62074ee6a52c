"""Out-of-fold scores: a head's scores of pairs of its held-out people."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.families import Families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.samplers import held_out_pairs
from kinembed.errors import RunError
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.heads.base import Head
from kinembed.heads.query_expansion import Expanding, MakeUp, QueryExpansion
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


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of held-out people and their scores.

    Attributes:
        pairs: the pairs.
        logits: (K,) as the head scores them in their gallery.
        alone: (K,) logits without query expansion.
        expansion: (K,) of the pairs, as `Representations.expansion` tells; where it is 0, the two
            logits are equal.
        make_up: of the gallery; None without query expansion.
    """

    pairs: LabelledPairs
    logits: NDArray[np.float64]
    alone: NDArray[np.float64]
    expansion: NDArray[np.float64]
    make_up: MakeUp | None


def scored_pairs(representations: Representations, pairs: LabelledPairs) -> ScoredPairs:
    """Pairs with their scores in their gallery and alone.

    Raises:
        RunError: a score is not finite.
    """
    finite, view = representations.cache.finite, representations.head.view
    logits, expansion = representations.score_in_gallery(pairs.rows)
    finite(logits, view)
    alone = (
        finite(representations.score(pairs.rows, alone=True), view) if expansion.any() else logits
    )
    make_ups = list(representations.found.values())
    return ScoredPairs(pairs, logits, alone, expansion, make_ups[0] if make_ups else None)


def out_of_fold_scores(
    head: Head,
    cache: Embeddings,
    families: Families,
    count: int,
    rng: np.random.Generator,
    query_expansion: QueryExpansion | None = None,
    *,
    expand: Expanding = True,
) -> ScoredPairs:
    """Pairs of held-out people, half of them kin, and their logits.

    If the members hold out folds of families, each pair is within one fold, and only the member
    that holds out this fold scores it.

    Args:
        head: the head.
        cache: of the head's model.
        families: the families of the cache.
        count: how many pairs.
        rng: the random generator.
        query_expansion: the query expansion of this cache by the head, if known already.
        expand: apply query expansion, if the head uses it; `exact` compares all pairs for it.

    Raises:
        KinembedError: nobody was held out, or cache and families do not fit.
    """
    folds = head.out_of_fold()
    if not folds:
        raise RunError(
            "the head does not say who was held out from its training, so there are no pairs to "
            "judge it; run kinembed head, or name labelled pairs with --pairs"
        )
    held_out = head.held_out_people()
    if set(held_out).isdisjoint(families.people):
        raise RunError(
            f"{cache.path}: none of the {len(held_out):,} people whom the head held out "
            f"({held_out[0]}{', …' if len(held_out) > 1 else ''}) has photos in it, so there are "
            "no pairs to judge the head by; kinembed score works, and kinembed evaluate with "
            "labelled pairs, --pairs CSV; kinembed head trains a head of the people in it"
        )
    query_expansion = query_expansion or QueryExpansion.of(cache, head, expand)
    sizes = np.diff(np.linspace(0, count, len(folds) + 1).astype(int))
    scored = []
    for (people, member), size in zip(folds, sizes.tolist(), strict=True):
        of_fold = held_out_pairs(families, people, max(2, size), rng)
        by_member = Representations(cache, member, expand=expand, query_expansion=query_expansion)
        scored.append(scored_pairs(by_member, of_fold))

    def joined(of: str, name: str) -> NDArray[Any]:
        each = scored if of == "scores" else [scores.pairs for scores in scored]
        return np.concatenate([getattr(one, name) for one in each])

    return ScoredPairs(
        pairs=LabelledPairs(
            joined("pairs", "rows"),
            joined("pairs", "labels"),
            joined("pairs", "families"),
            tuple(relation for each in scored for relation in each.pairs.relations),
            unit=families.unit,
        ),
        logits=joined("scores", "logits"),
        alone=joined("scores", "alone"),
        expansion=joined("scores", "expansion"),
        make_up=scored[0].make_up,
    )


def by_folds(
    head: Head, cache: Embeddings, pairs: LabelledPairs, folds: Rows, *, expand: Expanding = True
) -> ScoredPairs:
    """Pairs with the scores of the members that hold them out.

    Args:
        head: with a fold for each member.
        cache: of the head's model.
        pairs: K pairs.
        folds: (K,) the member that scores each.
        expand: apply query expansion, if the head uses it; `exact` compares all pairs for it.
    """
    query_expansion = QueryExpansion.of(cache, head, expand)
    numbers = np.zeros((3, len(pairs)))  # logits, alone, expansion
    make_up = None
    for fold, (_, member) in enumerate(head.out_of_fold()):
        own = folds == fold
        if own.any():
            by_member = Representations(
                cache, member, expand=expand, query_expansion=query_expansion
            )
            scored = scored_pairs(by_member, pairs.at(own))
            numbers[:, own] = scored.logits, scored.alone, scored.expansion
            make_up = make_up or scored.make_up
    logits, alone, expansion = numbers
    return ScoredPairs(pairs, logits, alone, expansion, make_up)


def judge(
    head: Head,
    cache: Embeddings,
    families: Families,
    seed: int,
    query_expansion: QueryExpansion | None = None,
) -> OutOfFold:
    """The AUC of a head on held-out people; equal seeds sample equal pairs for every head."""
    rng = generator(seed, Stream.HEAD_PAIRS)
    scored = out_of_fold_scores(head, cache, families, JUDGED_PAIRS, rng, query_expansion)
    pairs = scored.pairs
    ranked = RankedScores(pairs.labels, scored.logits)
    resample = generator(seed, Stream.HEAD_BOOTSTRAP)
    interval = family_bootstrap(ranked.auc, pairs.families, resample, RESAMPLES)
    return OutOfFold(ranked.auc(), interval.low, interval.high, len(pairs))
