"""Keras' optimisers, under which the report's recipes were tuned.

RMSprop is torch's own, with Keras' constants: both divide by sqrt(v) + epsilon. Formulas are those
of `keras/optimizers.py` in Keras 2.2, https://github.com/keras-team/keras/blob/2.2.4.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

EPSILON = 1e-7  # K.epsilon()


class KerasAdam(torch.optim.Adam):
    """Adam with Keras' epsilon, which is added before the bias of v is taken out.

    Keras steps by lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon), the "epsilon hat" of
    Kingma and Ba, https://arxiv.org/abs/1412.6980, section 2; torch adds epsilon to
    sqrt(v / (1 - b2^t)). Keras' is torch's with an epsilon of epsilon / sqrt(1 - b2^t): 32 times
    as large at the first step. It matters to gradients below 1e-4, as most of a trunk's are.

    Args:
        parameters: what learns.
        lr: the learning rate.
        fused: as of `torch.optim.Adam`.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, fused: bool | None = None
    ) -> None:
        super().__init__(parameters, lr=lr, eps=EPSILON, fused=fused)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; `iterations` of each group counts them, as Keras does."""
        for group in self.param_groups:
            group["iterations"] = group.get("iterations", 0) + 1
            group["eps"] = EPSILON / (1 - group["betas"][1] ** group["iterations"]) ** 0.5
        return super().step(closure)


def keras_rmsprop(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.RMSprop:
    """RMSprop with Keras' constants: rho .9, epsilon 1e-7."""
    return torch.optim.RMSprop(parameters, lr=lr, alpha=0.9, eps=EPSILON)
