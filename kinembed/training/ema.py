"""Averages of weights: exponential over the steps of a training, plain over its cycles.

Written here rather than taken from `torch.optim.swa_utils`: its `AveragedModel` holds a whole
module with a constant decay, while a metric head is a few tensors and the decay warms up.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

WARMUP = 9  # the first averages weigh all steps about alike, as timm's `ModelEmaV3` does


class Ema:
    """The exponential moving average of parameters as they learn.

    The decay of step n is at most (n - 1) / (n + 9), so that the first steps count as in a plain
    mean.

    Args:
        parameters: what learns.
        decay: share of the average that a step keeps.

    Attributes:
        means: the averages, in the order of the parameters.
        steps: taken since the last restart.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.means = copied(self.parameters)
        self.steps = 0

    def update(self) -> None:
        """Takes the parameters into the average, after a step of the optimiser."""
        self.steps += 1
        decay = min(self.decay, (self.steps - 1) / (self.steps + WARMUP))
        with torch.no_grad():
            torch._foreach_lerp_(self.means, self.parameters, 1 - decay)

    def restart(self, values: list[Tensor]) -> None:
        """Sets the averages to some values; the next step is the first again."""
        self.steps = 0
        with torch.no_grad():
            torch._foreach_copy_(self.means, values)


class Soup:
    """The plain mean of the weights at the ends of cycles.

    Izmailov et al., "Averaging Weights Leads to Wider Optima",
    https://arxiv.org/abs/1803.05407; Wortsman et al., "Model soups",
    https://arxiv.org/abs/2203.05482.

    Attributes:
        means: over the finished cycles; empty where there are none.
        count: of finished cycles.
    """

    def __init__(self) -> None:
        self.means: list[Tensor] = []
        self.count = 0

    def with_cycle(self, weights: list[Tensor]) -> list[Tensor]:
        """The mean over the finished cycles and one more that ends with these weights."""
        if not self.means:
            return weights
        with torch.no_grad():
            return list(torch._foreach_lerp(self.means, weights, 1 / (self.count + 1)))

    def finish_cycle(self, weights: list[Tensor]) -> None:
        """Counts the weights at the end of a cycle in."""
        self.means = copied(self.with_cycle(weights))
        self.count += 1


def copied(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Copies of parameters that do not learn."""
    return [parameter.detach().clone() for parameter in parameters]
