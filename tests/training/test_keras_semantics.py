"""Training as Keras does it: optimisers, losses, L2 and initialisation against plain numpy.

The oracle is Keras 2.2 on TensorFlow written out by hand: it works on probabilities, as Keras'
losses do, and its gradients are derived on paper.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kinembed.recipes import RECIPES, REGULARIZED, PairRecipe
from kinembed.training.head_modules import KinHead
from kinembed.training.keras_losses import LOSSES, gradient_of, loss_of
from kinembed.training.keras_optimizers import KerasAdam
from kinembed.training.pair_trainer import build_optimizer

Array = NDArray[np.float64]

WIDTH, PAIRS, STEPS = 40, 32, 20
EPSILON = 1e-7
CEILING = float(1 - np.float32(EPSILON))  # what 1 - 1e-7 is in float32


def batches(seed: int = 0) -> Iterator[tuple[Array, Array, Array]]:
    """Fixed vectors a and b (PAIRS, WIDTH) and labels; columns of 1 down to 1e-8, and of 0.

    Small columns have small gradients, where epsilon decides how far Adam goes.
    """
    rng = np.random.default_rng(seed)
    scale = np.concatenate([10.0 ** -np.arange(9), [0], np.ones(WIDTH - 10)])
    for _ in range(STEPS):
        a, b = rng.standard_normal((2, PAIRS, WIDTH)) * scale
        yield a, b, (rng.random(PAIRS) < 0.6).astype(float)


@dataclass
class NumpyHead:
    """The head, its loss and its optimiser, from the recipe and nothing else of kinembed."""

    recipe: PairRecipe
    kernels: list[Array]  # (in, out) each
    biases: list[Array]
    step: int = 0
    moments: dict[tuple[str, int], tuple[Array, Array]] = field(default_factory=dict)

    def train(self, a: Array, b: Array, labels: Array) -> float:
        """One step; returns the loss before it."""
        inputs = [np.abs(a - b)]
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
        p = 1 / (1 + np.exp(-(inputs[-1] @ self.kernels[-1] + self.biases[-1])[:, 0]))
        loss, slope = keras_loss(self.recipe, p, labels)
        loss += self.recipe.l2 * sum(float((k**2).sum()) for k in self.kernels[:-1])
        back = (slope * p * (1 - p))[:, None]
        self.step += 1
        for layer in reversed(range(len(self.kernels))):
            kernel_gradient = inputs[layer].T @ back
            if layer < len(self.kernels) - 1:
                kernel_gradient += 2 * self.recipe.l2 * self.kernels[layer]
            bias_gradient = back.sum(0)
            back = (back @ self.kernels[layer].T) * (inputs[layer] > 0)
            self._update("kernel", layer, self.kernels, kernel_gradient)
            self._update("bias", layer, self.biases, bias_gradient)
        return loss

    def _update(self, kind: str, layer: int, arrays: list[Array], g: Array) -> None:
        """`keras/optimizers.py` of Keras 2.2: Adam and RMSprop with their default constants."""
        m, v = self.moments.get((kind, layer), (np.zeros_like(g), np.zeros_like(g)))
        rate, t = self.recipe.learning_rate, self.step
        if self.recipe.optimizer == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            rate *= np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            arrays[layer] = arrays[layer] - rate * m / (np.sqrt(v) + EPSILON)
        else:
            v = 0.9 * v + 0.1 * g**2
            arrays[layer] = arrays[layer] - rate * g / (np.sqrt(v) + EPSILON)
        self.moments[kind, layer] = m, v


def keras_loss(recipe: PairRecipe, p: Array, labels: Array) -> tuple[float, Array]:
    """The loss of a batch of probabilities (N,), and its slope by each of them.

    `binary_crossentropy` of Keras, and `binary_focal_loss(gamma, alpha)` of
    https://github.com/umbertogriffo/focal-loss-keras, which was a sum and became a mean.
    """
    inside = (p >= EPSILON) & (p <= CEILING)
    p = np.clip(p, EPSILON, CEILING)
    if recipe.loss == "bce":
        loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
        slope = -labels / p + (1 - labels) / (1 - p)
    else:
        g, alpha = recipe.gamma, recipe.alpha
        kin = -alpha * (1 - p) ** g * np.log(p)
        kin_slope = alpha * (g * (1 - p) ** (g - 1) * np.log(p) - (1 - p) ** g / p)
        not_kin = -(1 - alpha) * p**g * np.log(1 - p)
        not_kin_slope = (1 - alpha) * (-g * p ** (g - 1) * np.log(1 - p) + p**g / (1 - p))
        loss = np.where(labels == 1, kin, not_kin)
        slope = np.where(labels == 1, kin_slope, not_kin_slope)
    if recipe.reduction == "sum":
        return float(loss.sum()), slope * inside
    return float(loss.mean()), slope * inside / len(p)


def follow(recipe: PairRecipe, dtype: torch.dtype) -> tuple[float, float]:
    """Trains both for 20 steps; returns the largest difference of any weight and of any loss."""
    torch.manual_seed(4)
    head = KinHead(WIDTH, recipe).to(dtype)
    oracle = NumpyHead(
        recipe,
        [layer.weight.detach().double().numpy().T.copy() for layer in head.layers()],
        [layer.bias.detach().double().numpy().copy() for layer in head.layers()],
    )
    start = [kernel.copy() for kernel in oracle.kernels]
    optimizer = build_optimizer(head, torch.device("cpu"))  # type: ignore[arg-type]
    weights, losses = [0.0], [0.0]
    for a, b, labels in batches():
        left, right, target = (torch.from_numpy(x).to(dtype) for x in (a, b, labels))
        logits = head(left, right)
        loss = loss_of(recipe, PAIRS)(logits, target) + head.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(abs(loss.item() - oracle.train(a, b, labels)))
        for layer, kernel, bias in zip(head.layers(), oracle.kernels, oracle.biases, strict=True):
            weights.append(np.abs(layer.weight.detach().numpy().T - kernel).max())
            weights.append(np.abs(layer.bias.detach().numpy() - bias).max())
    for before, after in zip(start, oracle.kernels, strict=True):
        assert np.abs(after - before).max() > recipe.learning_rate  # there was a way to go
    return max(weights), max(losses)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_follows_keras_for_20_steps(name: str) -> None:
    recipe = replace(RECIPES[name], dropout=0.0)
    weights, losses = follow(recipe, torch.float64)
    assert weights < 1e-9 and losses < 1e-9
    weights, losses = follow(recipe, torch.float32)
    assert weights < 1e-5 and losses < (1e-4 if recipe.reduction == "sum" else 1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["bce", "focal"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_l2_and_every_loss_under_every_optimizer(loss: str, optimizer: str, reduction: str) -> None:
    recipe = replace(
        REGULARIZED,
        dropout=0.0,
        loss=loss,
        reduction=reduction,
        optimizer=optimizer,
        l2=0.1,
        learning_rate=1e-3,
    )
    weights, losses = follow(recipe, torch.float64)
    assert weights < 1e-9 and losses < 1e-9


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (1.0, 0.25), (3.5, 0.9)])
def test_the_focal_loss_has_any_gamma_and_alpha(gamma: float, alpha: float) -> None:
    recipe = replace(RECIPES["focal"], dropout=0.0, gamma=gamma, alpha=alpha)
    weights, losses = follow(recipe, torch.float64)
    assert weights < 1e-9 and losses < 1e-9
    same = replace(recipe, gamma=2.0, alpha=0.25)
    p, labels = np.array([0.3, 0.6]), np.array([1.0, 0.0])
    assert keras_loss(recipe, p, labels)[0] != pytest.approx(keras_loss(same, p, labels)[0])


def test_the_reports_focal_loss_is_the_sum_over_a_batch() -> None:
    """Of https://github.com/umbertogriffo/focal-loss-keras as it was in 2019."""
    recipe = RECIPES["focal"]
    assert (recipe.reduction, recipe.gamma, recipe.alpha) == ("sum", 2.0, 0.25)
    logits, labels = torch.zeros(PAIRS), torch.ones(PAIRS)
    summed = PAIRS * 0.25 * 0.5**2 * np.log(2)
    assert float(loss_of(recipe, PAIRS)(logits, labels)) == pytest.approx(summed)
    mean = replace(recipe, reduction="mean")
    assert float(loss_of(mean, PAIRS)(logits, labels)) == pytest.approx(summed / PAIRS)
    ratio = gradient_of(recipe)(logits, labels) / gradient_of(mean)(logits, labels)
    assert torch.equal(ratio, torch.full((PAIRS,), float(PAIRS)))


def test_torch_adam_would_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KerasAdam, "step", torch.optim.Adam.step)
    assert follow(replace(RECIPES["base"], dropout=0.0), torch.float64)[0] > 1e-4


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_slopes_at_any_logit(name: str, dtype: torch.dtype) -> None:
    steps = np.array([-200, -17, -16.2, -16, -9, -1, -0.1, 0, 0.1, 1, 9, 15, 16, 17, 200])
    for label in (0.0, 1.0):
        labels = np.full(len(steps), label)
        logits = torch.tensor(steps, dtype=dtype, requires_grad=True)
        loss = LOSSES[name](logits, torch.tensor(labels, dtype=dtype))
        loss.backward()
        p = 1 / (1 + np.exp(-steps))
        wanted, slope = keras_loss(replace(RECIPES["dense"], loss=name), p, labels)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        assert logits.grad is not None
        np.testing.assert_allclose(logits.grad.numpy(), slope * p * (1 - p), atol=1e-6)


def test_a_network_that_denies_all_has_the_loss_of_the_reports_vgg16() -> None:
    kin = int(32 * 0.6)
    labels = torch.tensor([1.0] * kin + [0.0] * (32 - kin))
    logits = torch.full((32,), -50.0, requires_grad=True)
    loss = LOSSES["bce"](logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(9.57, abs=0.005)
    assert logits.grad is not None and not logits.grad.any()  # and it cannot get away


def test_adam_goes_on_as_if_it_had_not_stopped() -> None:
    def trained(stop: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
        optimizer = KerasAdam([weight], 1e-3)
        for number in range(6):
            if stop and number == 3:
                state = optimizer.state_dict()
                optimizer = KerasAdam([weight], 1e-3)
                optimizer.load_state_dict(state)
            weight.grad = 10.0 ** -torch.arange(9, dtype=torch.float64)
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(stop=True), trained(stop=False))


def drawn(recipe: PairRecipe, count: int = 8) -> list[list[tuple[Array, Array]]]:
    """Kernel and bias of each layer of some heads, fresh from their initialisation."""
    torch.manual_seed(7)
    return [
        [
            (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
            for layer in KinHead(512, recipe).layers()
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_initial_weights_are_drawn_as_keras_draws_them(name: str) -> None:
    recipe = RECIPES[name]
    for index, layers in enumerate(zip(*drawn(recipe), strict=True)):
        kernels = np.stack([kernel for kernel, _ in layers])
        biases = np.stack([bias for _, bias in layers])
        few = 5 / kernels.size**0.5  # five standard errors of a mean, in standard deviations
        last = index == len(recipe.hidden)
        if name == "regularized" and not last:  # the report gives the output no kernel of its own
            std = 0.01
            assert np.abs(kernels).max() > 3 * std  # a whole normal distribution, not cut off
        else:
            limit = (6 / sum(kernels.shape[1:])) ** 0.5  # Glorot uniform
            std = limit / 3**0.5
            assert 0.97 * limit < np.abs(kernels).max() <= limit
        assert abs(kernels.mean()) < few * std
        assert abs(kernels.std() / std - 1) < few
        if name == "regularized":
            near = 5 * 0.01 / biases.size**0.5
            assert abs(biases.mean() - 0.5) < near
            assert abs(biases.std() - 0.01) < near
        else:
            assert not biases.any()
