"""Families that pull the AUC down."""

from __future__ import annotations

import numpy as np

from kinembed.arrays import Rows
from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.relations import Kinship
from kinembed.evaluation.metrics import Numbers

CERTAIN = 2.0  # standard errors below the others


def weak_families(kinship: Kinship) -> list[Finding]:
    """Families without which the out-of-fold AUC of people would be higher, beyond chance.

    The surety is the share of their relations that are likely none.

    Args:
        kinship: relations and evidence.
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
    auc, spread = float(shares.mean()), float(shares.std())
    names = families.family_names()
    found = []
    for family in np.unique(families.family[kinship.listed]).tolist():
        own = (families.family[kinship.listed] == family).any(1)
        below = (auc - shares[own].mean()) * np.sqrt(own.sum()) / max(spread, 1e-9)
        if influence[family] <= auc or below < CERTAIN:
            continue
        people = np.flatnonzero(families.family == family)
        found.append(
            Finding(
                "family", float(kinship.doubt[own].mean()),
                f"AUC of its {own.sum()} relations {shares[own].mean():.2f}; of all {auc:.4f}, "
                f"without this family {influence[family]:.4f}",
                "look at its photos and relations",
                LeaveOut(people=tuple(families.people[row] for row in people.tolist())),
                (names[people[0]],),
            )
        )  # fmt: skip
    return found


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
