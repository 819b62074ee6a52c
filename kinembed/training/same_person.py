"""Fits how likely two photos are of the same person, on people with several photos."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from kinembed.arrays import Rows, Vectors
from kinembed.data.families import Families
from kinembed.evaluation.calibration import fit_logistic
from kinembed.heads.exact import unit
from kinembed.heads.same_person import SamePerson, bulk, spread_sample

log = logging.getLogger(__name__)

COHORT = 1000  # strangers to whom photos are compared
FEWEST_PEOPLE = 10  # with several photos
FEWEST_FOUND = 0.1  # share of the pairs of one person that have to be told


def fit_same_person(
    vectors: Vectors, families: Families, people: Rows, rng: np.random.Generator
) -> SamePerson | None:
    """Fits the probability that two photos are of the same person.

    It asks who is on the photos, not who is kin; kin are different people.

    Args:
        vectors: (N, D) by whose cosine photos are alike; their rows are those of the families.
        families: who is on which photo.
        people: (P,) the people to fit it on.
        rng: draws the cohort.

    Returns:
        None where too few people have several photos, or where the vectors hardly tell people
        apart; logs which.
    """
    owners = families.owner[np.isin(families.owner, people)]  # (n,)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(np.append(starts, len(owners)))
    if (counts > 1).sum() < FEWEST_PEOPLE:
        log.info(
            "no query expansion: %d of %d people have several photos, wanted %d",
            (counts > 1).sum(), len(counts), FEWEST_PEOPLE,
        )  # fmt: skip
        return None
    directions = unit(vectors[families.photos_of(people)])  # (n, D)
    drawn = np.sort(rng.permutation(starts)[:COHORT])
    model = SamePerson(directions[drawn], 1.0, 1.0, 0.0, 0.5, 0.5, 0.5)
    median, to_upper = bulk(directions @ spread_sample(directions))
    ambient = model.ambient(directions, in_gallery=False)
    spread = float(np.median((ambient - median) / np.maximum(to_upper, 1e-6)))
    if spread <= 0:  # the vectors are of no use
        return None
    model = replace(model, spread=spread)
    alike = model.likenesses(directions, 0.0)
    of_one = owners[alike.left] == owners[alike.right]
    pairs_of_one = float((counts * (counts - 1) // 2).sum())
    pairs = len(owners) * (len(owners) - 1) / 2
    if not of_one.any() or of_one.all():
        return None
    slope, offset = fit_logistic(of_one, alike.likeness[:, None].astype(np.float64)).tolist()
    if slope <= 0:
        return None
    model = replace(model, slope=slope, offset=offset, prior=pairs_of_one / pairs)
    likely = alike.likeness > max(0.0, model.cut)
    found = float((likely & of_one).sum() / pairs_of_one)
    mistaken = float((likely & ~of_one).sum() + 1) / (pairs - pairs_of_one + 1)
    if found < FEWEST_FOUND:
        log.info(
            "no query expansion: only %.0f %% of the pairs of one person's photos are told from "
            "others, wanted %.0f %%", 100 * found, 100 * FEWEST_FOUND,
        )  # fmt: skip
        return None
    return replace(model, found=found, mistaken=mistaken)
