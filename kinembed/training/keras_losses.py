"""Losses over logits of pairs, as Keras computes them from the probabilities.

Keras 2.2 clips a probability to [epsilon, 1 - epsilon] before it takes the logarithm
(`K.binary_crossentropy` of its TensorFlow backend). Pairs beyond send no gradient: a network that
has gone there stays there, at a loss of 16.12 for each kin pair that it rejects. The report's VGG16
did: 19 kin pairs in a batch of 32 make the 9.57 of its figure 9.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kinembed.recipes import PairRecipe

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (…, N) and labels (…, N)

# Logits of epsilon and of 1 - epsilon in float32, whose nearest number is 1 - 2^-23.
LOWEST = math.log(1e-7 / (1 - 1e-7))
HIGHEST = math.log((1 - 2**-23) / 2**-23)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (…, N) against labels (…, N) in {0, 1}: (…)."""
    return _cross_entropy(logits, labels).mean(-1)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Mean focal loss of logits (…, N) against labels (…, N) in {0, 1}: (…).

    Lin et al., "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002, with
    the gamma and alpha of https://github.com/umbertogriffo/focal-loss-keras, the report's source.
    """
    cross_entropy = _cross_entropy(logits, labels)
    missed = 1 - torch.exp(-cross_entropy)  # 1 - p of the true class
    return (_weight(labels, alpha) * missed**gamma * cross_entropy).mean(-1)


def binary_cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The derivative of `binary_cross_entropy` by each of its logits."""
    slope = torch.sigmoid(logits).sub_(labels).div_(logits.shape[-1])
    return slope.mul_(_sends_gradient(logits))


def focal_loss_gradient(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """The derivative of `focal_loss` by each of its logits."""
    cross_entropy = _cross_entropy(logits, labels)
    right = torch.exp(-cross_entropy)
    missed = 1 - right
    slope = gamma * missed ** (gamma - 1) * right * cross_entropy + missed**gamma
    slope *= _weight(labels, alpha)
    return slope.mul_(binary_cross_entropy_gradient(logits, labels))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    clipped = logits.clamp(LOWEST, HIGHEST)
    return functional.binary_cross_entropy_with_logits(clipped, labels, reduction="none")


def _sends_gradient(logits: Tensor) -> Tensor:
    return (logits >= LOWEST) & (logits <= HIGHEST)


def _weight(labels: Tensor, alpha: float) -> Tensor:
    return alpha * labels + (1 - alpha) * (1 - labels)


def loss_of(recipe: PairRecipe, batch_size: int) -> Loss:
    """A recipe's loss (…) of a batch: of logits (…, N) and labels (…, N) of some of its pairs.

    Of several batches it is the mean over them; of a part of one, what the whole would have were
    the rest alike.

    Args:
        recipe: names the loss, its values and its reduction.
        batch_size: pairs in a batch.
    """
    mean, scale = LOSSES[recipe.loss], _scale(recipe, batch_size)
    values = _values(recipe)
    return lambda logits, labels: scale * mean(logits, labels, **values)


def gradient_of(recipe: PairRecipe) -> Loss:
    """The derivative of a recipe's loss by each of the logits (…, N) of a batch."""
    gradient, values = GRADIENTS[recipe.loss], _values(recipe)

    def slopes(logits: Tensor, labels: Tensor) -> Tensor:
        return gradient(logits, labels, **values).mul_(_scale(recipe, logits.shape[-1]))

    return slopes


def _values(recipe: PairRecipe) -> dict[str, float]:
    return {"gamma": recipe.gamma, "alpha": recipe.alpha} if recipe.loss == "focal" else {}


def _scale(recipe: PairRecipe, batch_size: int) -> float:
    """What the mean over a batch is multiplied by."""
    return {"mean": 1.0, "sum": float(batch_size)}[recipe.reduction]


LOSSES: dict[str, Callable[..., Tensor]] = {"bce": binary_cross_entropy, "focal": focal_loss}
GRADIENTS: dict[str, Callable[..., Tensor]] = {
    "bce": binary_cross_entropy_gradient,
    "focal": focal_loss_gradient,
}
