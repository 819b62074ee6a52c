"""Logistic regression by Newton's method, for the few features of a calibration."""

from __future__ import annotations

import math

import numpy as np

from kinembed.evaluation.metrics import Flags, Numbers


def fit_logistic(labels: Flags, features: Numbers, weights: Numbers | None = None) -> Numbers:
    """(F + 1,) slopes and offset of a logistic regression, by Newton's method.

    Not scikit-learn's `_sigmoid_calibration`: it is private, and its import takes longer than all
    of `calibrate`.

    Targets are Platt's, slightly inside 0 and 1 ("Probabilistic outputs for support vector
    machines", 1999). Line search halves a step until it lowers the loss (Lin et al., 2007).

    Args:
        labels: (N,) True for kin.
        features: (N, F).
        weights: (N,) how often each row counts.
    """
    counts = np.ones(len(labels)) if weights is None else weights
    kin, others = counts[labels].sum(), counts[~labels].sum()
    targets = np.where(labels, (kin + 1) / (kin + 2), 1 / (others + 2))  # (N,)
    x = np.column_stack([features, np.ones(len(labels))])  # (N, F + 1)

    def loss_at(theta: Numbers) -> float:
        z = x @ theta  # (N,)
        return float(np.sum(counts * (np.logaddexp(0, z) - targets * z)))

    theta = np.zeros(x.shape[1])
    theta[-1] = math.log((kin + 1) / (others + 1))
    loss = loss_at(theta)
    for _ in range(100):
        predicted = _logistic(x @ theta)  # (N,)
        gradient = x.T @ (counts * (predicted - targets))  # (F + 1,)
        hessian = (x.T * (counts * predicted * (1 - predicted))) @ x  # (F + 1, F + 1)
        hessian += 1e-12 * np.eye(len(theta))
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-10 and loss_at(theta - size * step) > loss:
            size /= 2
        new_loss = loss_at(theta - size * step)
        if size <= 1e-10 or loss - new_loss < 1e-12 * abs(loss):
            break
        theta, loss = theta - size * step, new_loss
    return theta


def _logistic(logits: Numbers) -> Numbers:
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is right
        return 1 / (1 + np.exp(-logits))
