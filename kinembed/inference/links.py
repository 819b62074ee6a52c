"""Which pairs of people to show as kin, so that few of those shown are false.

Most pairs of an album are not kin: of the 1,770 pairs of 60 people perhaps 100. So even a good
likeness is more often false than true, and a threshold that suits one album floods another. Three
steps: how alike a pair is says how much likelier kinship is than chance; how common kin are in
this album is estimated from all of its pairs (Saerens et al., "Adjusting the outputs of a
classifier to new a priori probabilities", 2002); and of the pairs, the likeliest are shown as long
as their mean probability of being false is at most the wanted rate. That mean is the expected share
of false links, the false discovery rate by local rates (Efron, "Size, power and false discovery
rates", 2007; Müller et al., "Optimal sample size for multiple testing", 2004).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinembed.data.person_pairs import KIN, SAME, UNRELATED
from kinembed.errors import KinembedError

Probabilities = NDArray[np.float64]
Flags = NDArray[np.bool_]

# The share of kin that is expected of an album before it is seen, and by how many pairs' worth. A
# pair or two say nothing of how common kin are: without this, the estimate would be all, or none.
EXPECTED, EXPECTED_PAIRS = 0.15, 12.0
# But the share of kin is not estimated below this, nor below so many kin a person where that is
# less. The more people, the smaller is the share of kin, since each has as many kin as before.
# Where it is so small, the estimate fails: that unrelated pairs look a little less alike than those
# of the calibration brings it to 0. Albums of RFIW's families have 3.6 listed kin a person; two
# leave room for strangers.
LEAST, RELATIVES = 0.05, 2.0
# Of the people that clusters found, so many pairs are one person in two for each pair of kin. It
# cannot be estimated from the album: the pairs that look like one person were joined. Measured by
# benchmarks/relate.py; without it, people in two parts are the most frequent false links.
SAME_FOR_KIN = 0.2
STEPS, CLOSE = 500, 1e-7  # of the estimate, at most, and when it stands still


def check_fdr(fdr: float) -> None:
    """Refuses what is no rate.

    Raises:
        KinembedError: it is not above 0 and below 1.
    """
    if not 0 < fdr < 1:
        raise KinembedError(f"fdr: found {fdr:g}, wanted above 0 and below 1")


def posterior(even: Probabilities, prior: Probabilities) -> Probabilities:
    """(K, 3) probabilities where the three answers are as common as the prior says (Bayes).

    Args:
        even: (K, 3) probabilities where all are equally common.
        prior: (3,) the share of each.
    """
    joint = even * prior  # (K, 3)
    total = np.maximum(joint.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    result: Probabilities = joint / total
    return result


def estimate_prior(
    even: Probabilities, people: int, known: NDArray[np.intp] | None = None
) -> Probabilities:
    """(3,) shares of the same person, kin and unrelated people among an album's pairs.

    By expectation maximisation, with what is expected of any album as pairs seen before.

    Args:
        even: (K, 3) probabilities of its pairs where all are equally common.
        people: in the album.
        known: (K,) what is true of pairs that somebody answered, -1 for others.
    """
    least = min(LEAST, RELATIVES / max(1, people - 1))
    return _prior(max(least, _estimate(even, known)))


def _estimate(even: Probabilities, known: NDArray[np.intp] | None) -> float:
    """The likeliest share of kin."""
    answered = np.full(len(even), -1) if known is None else known
    open_pairs = even[answered < 0]
    each = 1 + SAME_FOR_KIN  # pairs that are not unrelated, for each of kin
    before = EXPECTED_PAIRS * EXPECTED * each + np.count_nonzero(answered == KIN)
    kin = EXPECTED
    for _ in range(STEPS):
        related = before + (1 - posterior(open_pairs, _prior(kin))[:, UNRELATED]).sum()
        now = float(related / (EXPECTED_PAIRS + len(even)) / each)
        if abs(now - kin) < CLOSE:
            return now
        kin = now
    return kin


def _prior(kin: float) -> Probabilities:
    """(3,) shares, of a share of kin."""
    prior = np.zeros(3)
    prior[[SAME, KIN]] = SAME_FOR_KIN * kin, kin
    prior[UNRELATED] = max(1 - prior.sum(), np.finfo(np.float64).tiny)
    return prior


def false_rates(probability: Probabilities) -> Probabilities:
    """(K,) the expected share of false links among each pair and all likelier ones.

    Pairs of equal probability have the same rate: that of all of them.

    Args:
        probability: (K,) of kin.
    """
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    means = np.cumsum(1 - ranked) / np.arange(1, len(ranked) + 1)
    last = np.searchsorted(-ranked, -ranked, "right") - 1  # of the pairs that are as likely
    rates = np.empty_like(probability)
    rates[order] = means[last]
    return rates


def choose_links(probability: Probabilities, fdr: float) -> Flags:
    """(K,) True for the largest set of pairs whose expected share of false links is at most `fdr`.

    Args:
        probability: (K,) of kin.
        fdr: the rate.
    """
    return false_rates(probability) <= fdr
