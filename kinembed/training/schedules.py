"""Learning rates over a training, as factors of the recipe's."""

import math
from collections.abc import Sequence

from kinembed.config import Schedule

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 3  # epochs without a lower validation loss
PLATEAU_DELTA = 1e-4  # by how much it must be lower


def rate_factor(
    schedule: Schedule, warmup: int, step: int, total: int, losses: Sequence[float]
) -> float:
    """What the learning rate is multiplied with at a step.

    It depends on nothing but its arguments, so a resumed training goes on with the same rates.

    Args:
        schedule: `constant`; `cosine`, half a wave from 1 down to 0 after the warm-up (Loshchilov
            and Hutter, https://arxiv.org/abs/1608.03983, without restarts); `plateau`, halved
            whenever the validation loss has not fallen for three epochs.
        warmup: steps over which the rate rises linearly to its full height.
        step: the step, from 0, counted over all epochs.
        total: steps of the whole training.
        losses: validation losses of the epochs so far.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    if schedule == "plateau":
        return PLATEAU_FACTOR ** _reductions(losses)
    return 1.0


def one_cycle(share: float, warmup: float) -> float:
    """What the learning rate is multiplied with where `share` of a training is done.

    From a 25th up to 1 and down to 0, each by half a wave (Smith and Topin,
    https://arxiv.org/abs/1708.07120).

    Args:
        share: 0 to 1.
        warmup: the share over which it rises.
    """
    if share < warmup:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * share / warmup))
    return 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - warmup) / (1 - warmup)))


def _reductions(losses: Sequence[float]) -> int:
    """How often the validation loss stood still, as Keras' ReduceLROnPlateau counts it."""
    best, waited, reductions = math.inf, 0, 0
    for loss in losses:
        if loss < best - PLATEAU_DELTA:
            best, waited = loss, 0
        else:
            waited += 1
        if waited >= PLATEAU_PATIENCE:
            reductions, waited = reductions + 1, 0
    return reductions
