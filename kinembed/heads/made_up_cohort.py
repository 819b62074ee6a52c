"""A cohort of made-up vectors in place of real strangers', for heads that are given away.

The cohort of `SamePerson` holds the vectors of real people's faces, by which they can be
recognised. A made-up one is drawn from what groups of many of them have in common: the mean vector
of each group and one covariance around them. So photos keep their ambient similarities, while no
vector is of a person.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kinembed.arrays import Float, Rows
from kinembed.heads.exact import Double, unit
from kinembed.heads.same_person import SamePerson
from kinembed.seeds import Stream, generator

GROUP = 60  # vectors in a group, about
FEWEST = 30  # vectors in a group; smaller ones join the others, as a mean of few shows them
ROUNDS = 30  # of k-means
WIDTHS = (0.25, 4.0)  # factors of the covariance's standard deviation
HALVINGS = 12  # of the interval of widths


def with_made_up_cohort(model: SamePerson, directions: Float, seed: int) -> SamePerson:
    """The model with a cohort of as many made-up vectors.

    The draws are as wide around the groups' means as it takes for the median ambient similarity of
    some photos to be that of the real cohort. The numbers are rounded to float16.

    Args:
        model: with real vectors.
        directions: (P, D) unit vectors of photos.
        seed: of the draws.
    """
    rng = generator(seed, Stream.COHORT)
    cohort = model.cohort
    means, counts, root = _groups(cohort, rng)
    centres = np.repeat(means, counts, axis=0)  # (C, D)
    noise = (rng.standard_normal(cohort.shape) @ root).astype(np.float32)  # (C, D)
    wanted = np.median(model.ambient(directions, in_gallery=False))

    def drawn(width: float) -> SamePerson:
        made_up = unit(centres + np.float32(width) * noise)
        return replace(model, cohort=made_up.astype(np.float16).astype(np.float32))

    # The wider the draws, the less alike are they to any photo.
    low, high = WIDTHS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if np.median(drawn(middle).ambient(directions, in_gallery=False)) > wanted:
            low = middle
        else:
            high = middle
    return drawn((low + high) / 2)


def _groups(cohort: Float, rng: np.random.Generator) -> tuple[Float, Rows, Double]:
    """Means (G, D) of groups of similar vectors, their sizes (G,), a root (D, D) of the covariance.

    By spherical k-means; the covariance is that around the means, of all groups together. Of fewer
    than `FEWEST` vectors nothing is told: the mean is 0, and all directions are alike.
    """
    if len(cohort) < FEWEST:
        width = cohort.shape[1]
        return np.zeros((1, width), np.float32), np.array([len(cohort)]), np.eye(width)
    count = max(1, len(cohort) // GROUP)
    means = cohort[rng.permutation(len(cohort))[:count]]  # (G, D)
    for _ in range(ROUNDS):
        group = (cohort @ means.T).argmax(1)  # (C,)
        kept = [number for number in range(len(means)) if (group == number).any()]
        means = unit(np.stack([cohort[group == number].mean(0) for number in kept]))
    group = (cohort @ means.T).argmax(1)
    large = np.flatnonzero(np.bincount(group, minlength=len(means)) >= FEWEST)
    if len(large):
        means = np.stack([cohort[group == number].mean(0) for number in large])
    else:
        means = cohort.mean(0)[None]
    group = np.square(cohort[:, None] - means).sum(2).argmin(1)
    rest = (cohort - means[group]).astype(np.float64)  # (C, D)
    values, vectors = np.linalg.eigh(rest.T @ rest / len(cohort))
    root = (vectors * np.sqrt(np.maximum(values, 0))).T  # (D, D)
    return means, np.bincount(group, minlength=len(means)), root
