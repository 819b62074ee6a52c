"""How likely something is a fault: what is observed, beside faults made on purpose.

What is observed is a mixture of right ones and an unknown share of faults. Faults made on purpose
show how faults look: a photo put under another person, a person divided in two, a relation between
strangers. So the ratio of the two is a classifier's, and the share of faults follows from it by
expectation maximisation (Elkan and Noto, "Learning classifiers from only positive and unlabeled
data", 2008). All kinds of findings get their surety so, which makes them comparable.
"""

from __future__ import annotations

import math

import numpy as np

from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import Numbers

LEAST_SHARE, MOST_SHARE = 0.001, 0.05  # of faults among what is observed
ROUNDS = 30
ENOUGH = 1e-5  # change of the share
FEWEST = 10  # of either, to tell anything


def surety(observed: Numbers, faulty: Numbers) -> Numbers:
    """(N,) how likely each of what is observed is a fault, 0 to 1.

    Args:
        observed: (N, F) features.
        faulty: (M, F) the same of faults made on purpose.

    Returns:
        All 0 if there are too few of either to tell.
    """
    if min(len(observed), len(faulty)) < FEWEST:
        return np.zeros(len(observed))
    labels = np.arange(len(observed) + len(faulty)) >= len(observed)
    features = np.concatenate([observed, faulty])
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    share, result = MOST_SHARE, np.full(len(observed), MOST_SHARE)
    for _ in range(ROUNDS):
        weights = np.append(1 - result, np.ones(len(faulty)))
        *slopes, offset = fit_logistic(labels, features, weights).tolist()
        ratio = features[: len(observed)] @ slopes + offset  # log odds
        ratio += math.log(weights[: len(observed)].sum() / len(faulty))
        result = 1 / (1 + np.exp(-np.clip(ratio + math.log(share / (1 - share)), -50, 50)))
        before, share = share, float(np.clip(result.mean(), LEAST_SHARE, MOST_SHARE))
        if abs(share - before) < ENOUGH:
            break
    return result
