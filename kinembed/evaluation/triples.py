"""Tri-subject verification: whether a child is that of a father and a mother.

The head scores the child with each parent; one score of both is a logistic regression of the two
on triples of held-out families, or, without any, their mean. The task is that of Qin, Tan and Chen,
"Tri-subject kinship verification: understanding the core of a family" (2015), and of the second
track of the RFIW challenge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.families import Families, cached_families
from kinembed.errors import DataError
from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import Flags, Numbers
from kinembed.heads.base import Head
from kinembed.heads.query_expansion import Expanding, QueryExpansion
from kinembed.heads.representations import Representations
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)

TRIPLES = 4_000  # by which the weights are fitted, half of them kin
FEWEST = 10  # families
FATHERS, MOTHERS = ("fs", "fd"), ("ms", "md")


@dataclass(frozen=True)
class TripleScore:
    """One logit of a child's logits with its father and its mother.

    Attributes:
        father: weight of the logit of father and child.
        mother: weight of that of mother and child.
        offset: what is added.
        families: whose triples it was fitted on; 0 for the mean.
    """

    father: float = 0.5
    mother: float = 0.5
    offset: float = 0.0
    families: int = 0

    def logits(self, scores: Numbers) -> Numbers:
        """(K,) logits of triples from (K, 2) logits of both parents with the child."""
        combined: Numbers = scores @ np.array([self.father, self.mother]) + self.offset
        return combined

    def describe(self) -> str:
        """The formula, and whom it was fitted on."""
        if not self.families:
            mean = "the mean of the child's logits with both parents"
            return f"a triple's score is {mean}, not calibrated"
        return (
            f"a triple's score is {self.father:.2f} x the logit of father and child + "
            f"{self.mother:.2f} x that of mother and child {self.offset:+.2f}, calibrated on "
            f"triples of {self.families} held-out families, half of them kin"
        )


def parent_logits(score: Callable[[Rows], Numbers], rows: Rows) -> Numbers:
    """(K, 2) logits of (K, 3) fathers, mothers and children: of each parent with the child."""
    return np.stack([score(rows[:, [0, 2]]), score(rows[:, [1, 2]])], 1)


def fit_triples(
    head: Head,
    cache: Embeddings,
    data: Path,
    seed: int,
    *,
    expand: Expanding = True,
    families: Families | None = None,
) -> TripleScore:
    """Fits the weights of both parents on triples of the head's held-out families.

    Args:
        head: the head.
        cache: of the head's model.
        data: the folder of the relations.
        seed: draws the triples.
        expand: apply query expansion, if the head uses it; `exact` compares all pairs for it.
        families: these people and relations; None reads them from `data`.

    Returns:
        The mean of both where too few held-out families have triples, or relations are missing;
        logs why.
    """
    try:
        families = families or cached_families(cache, data)
    except DataError as error:
        log.info(
            "father and mother weigh alike: no relations of the people on these photos are known, "
            "by which to weigh them (%s)", error,
        )  # fmt: skip
        return TripleScore()
    trios = find_trios(families)
    rng = generator(seed, Stream.TRIPLES)
    query_expansion = QueryExpansion.of(cache, head, expand)
    scores, labels, count = [], [], 0
    folds = head.out_of_fold()
    for people, member in folds:
        known = np.isin(families.people, people)
        within = trios[known[trios].all(1)]
        if len(np.unique(families.family[within[:, 2]])) < 2:
            continue
        rows, kin = sample_triples(families, within, TRIPLES // len(folds), rng)
        by_member = Representations(cache, member, expand=expand, query_expansion=query_expansion)
        scores.append(cache.finite(parent_logits(by_member.score, rows), member.view))
        labels.append(kin)
        count += len(np.unique(families.family[within]))
    if count < FEWEST:
        log.info(
            "father and mother weigh alike: of the people whom the head held out, the cache has %d "
            "families with a child and both parents, wanted %d to weigh them by", count, FEWEST,
        )  # fmt: skip
        return TripleScore()
    father, mother, offset = fit_logistic(np.concatenate(labels), np.concatenate(scores)).tolist()
    if min(father, mother) < 0 or father + mother <= 0:
        log.info("father and mother weigh alike: triples of held-out families do not weigh them")
        return TripleScore()
    return TripleScore(father, mother, offset, count)


def find_trios(families: Families) -> Rows:
    """(T, 3) people: father, mother and child, as rows of `Families.people`.

    Where relations have no types, two people who are both related to a third of their family, but
    not to each other, are its parents; which is the father is not known, so both orders are there.
    """
    pairs = families.relations.tolist()
    if families.kinds:
        parents: list[dict[int, list[int]]] = [{}, {}]  # fathers and mothers of each child
        for (parent, child), kind in zip(pairs, families.kinds, strict=True):
            for side, kinds in enumerate((FATHERS, MOTHERS)):
                if kind.casefold() in kinds:
                    parents[side].setdefault(child, []).append(parent)
        typed = [
            (father, mother, child)
            for child, fathers in parents[0].items()
            for father in fathers
            for mother in parents[1].get(child, [])
        ]
        if typed:
            return np.unique(np.array(typed, np.intp), axis=0)
    related: dict[int, set[int]] = {}
    for one, other in pairs:
        related.setdefault(one, set()).add(other)
        related.setdefault(other, set()).add(one)
    family = families.family
    found = [
        (one, other, child)
        for child, others in related.items()
        for one in others
        for other in others
        if one != other and other not in related[one] and family[one] == family[other]
        and family[one] == family[child]
    ]  # fmt: skip
    return np.unique(np.array(found, np.intp).reshape(-1, 3), axis=0)


def sample_triples(
    families: Families, trios: Rows, count: int, rng: np.random.Generator
) -> tuple[Rows, Flags]:
    """Photos of triples, half of them kin; the others have the child of another family.

    Args:
        families: who is on which photo.
        trios: (T, 3) of two families or more.
        count: how many.
        rng: the random generator.

    Returns:
        (count, 3) rows of the vectors, and (count,) True for kin.
    """
    by_family = np.array([families.family[trio[2]] for trio in trios])
    # All families are equally likely, however many children they have.
    unique, numbers, sizes = np.unique(by_family, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    first = np.cumsum(sizes) - sizes
    chosen = rng.integers(len(unique), size=count)
    others = (chosen + rng.integers(1, len(unique), size=count)) % len(unique)
    is_kin = np.arange(count) % 2 == 0
    own, other = (
        order[first[which] + (rng.random(count) * sizes[which]).astype(np.intp)]
        for which in (chosen, others)
    )
    people = trios[own].copy()
    people[~is_kin, 2] = trios[other[~is_kin], 2]
    starts, counts = families.photo_start[:-1], np.diff(families.photo_start)
    photo = (rng.random(people.shape) * counts[people]).astype(np.intp)
    return families.rows[starts[people] + photo], is_kin
