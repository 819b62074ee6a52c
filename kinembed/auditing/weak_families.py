"""Families that pull the AUC down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kinembed.arrays import Rows
from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.relations import Kinship
from kinembed.auditing.surety import surety
from kinembed.evaluation.metrics import Numbers
from kinembed.printable import counted

MADE = 4000  # families of strangers made on purpose


def weak_families(kinship: Kinship, rng: np.random.Generator) -> list[Finding]:
    """Families without which the out-of-fold AUC of people would be higher.

    Told by the evidence of all their relations; beside families of strangers, made on purpose, with
    the same relations.

    Args:
        kinship: relations and evidence.
        rng: draws the strangers.
    """
    families = kinship.families
    if not len(kinship.listed) or not len(kinship.strangers):
        return []
    kin, others = (kinship.evidence.of_pairs(each) for each in (kinship.listed, kinship.strangers))
    influence = auc_without_each(
        kin, others, families.family[kinship.listed], families.family[kinship.strangers],
        int(families.family.max()) + 1,
    )  # fmt: skip
    shares = _shares_below(kin, others)  # (L,) of each relation: its own AUC
    auc = float(shares.mean())
    names = families.family_names()
    related = np.unique(families.family[kinship.listed]).tolist()
    relations = [
        np.flatnonzero((families.family[kinship.listed] == family).any(1)) for family in related
    ]
    sure = surety(_fit(kin, relations), _of_strangers(kinship, relations, rng))
    found = []
    for family, own, how_sure in zip(related, relations, sure.tolist(), strict=True):
        if influence[family] <= auc:
            continue
        people = np.flatnonzero(families.family == family)
        found.append(
            Finding(
                "family", how_sure,
                f"AUC of its {counted(len(own), 'relation')} {shares[own].mean():.2f}; "
                f"of all {auc:.4f}, without this family {influence[family]:.4f}",
                "look at its photos and relations",
                LeaveOut(people=tuple(families.people[row] for row in people.tolist())),
                (names[people[0]],),
            )
        )  # fmt: skip
    return found


def _of_strangers(kinship: Kinship, relations: Sequence[Rows], rng: np.random.Generator) -> Numbers:
    """The features of families whose people are replaced by strangers, at most `MADE`."""
    judged = np.flatnonzero(kinship.evidence.member >= 0)
    place = np.zeros(len(kinship.families.people), np.intp)
    made = []
    for _ in range(max(1, MADE // max(1, len(relations)))):
        place[judged] = rng.permutation(judged)
        pairs = place[kinship.listed]
        made.append(_fit(kinship.evidence.of_pairs(pairs), relations))
    return np.concatenate(made)


def _fit(evidence: Numbers, relations: Sequence[Rows]) -> Numbers:
    """(F, 2) how well faces fit the relations of each family: mean, and mean by its error."""
    own = [evidence[rows] for rows in relations]
    means = np.array([each.mean() for each in own])
    roots = np.sqrt([len(each) for each in own])
    return np.column_stack([means, means * roots])


def auc_without_each(
    kin: Numbers, others: Numbers, kin_families: Rows, other_families: Rows, count: int
) -> Numbers:
    """(count,) the AUC without all pairs that a family has part in, for each family.

    Args:
        kin: (K,) scores of kin pairs.
        others: (N,) scores of other pairs.
        kin_families: (K, 2) families of kin pairs.
        other_families: (N, 2) of other pairs.
        count: of families.
    """
    above = _shares_below(kin, others) * len(others)  # (K,) others below each kin pair
    below = (1 - _shares_below(others, kin)) * len(kin)  # (N,) kin above each other pair
    total = float(above.sum())
    result = np.empty(count)
    kin_of, others_of = _by_family(kin_families, count), _by_family(other_families, count)
    for family in range(count):
        own, their = kin_of[family], others_of[family]
        both = float((_shares_below(kin[own], others[their]) * len(their)).sum())
        pairs = (len(kin) - len(own)) * (len(others) - len(their))
        rest = total - above[own].sum() - below[their].sum() + both
        result[family] = rest / pairs if pairs else np.nan
    return result


def _by_family(families: Rows, count: int) -> list[Rows]:
    """The rows that each family has part in, each once."""
    rows = np.repeat(np.arange(len(families)), 2)
    keys = np.unique(families.ravel() * max(1, len(families)) + rows)
    numbers, own = np.divmod(keys, max(1, len(families)))
    return np.split(own, np.searchsorted(numbers, np.arange(1, count)))


def _shares_below(scores: Numbers, others: Numbers) -> Numbers:
    """(K,) the share of others below each score; equal ones count half."""
    ordered = np.sort(others)
    ranks = [np.searchsorted(ordered, scores, side) for side in ("left", "right")]
    result: Numbers = (ranks[0] + ranks[1]) / (2 * max(1, len(ordered)))
    return result
