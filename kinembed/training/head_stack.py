"""Many small heads trained as one, with their gradients written out: what makes sweeps cheap.

A sweep trains dozens of the report's heads, which autograd serves badly: in a batch of 32 pairs its
own work takes longer than the arithmetic. `benchmarks/head.py` measures 32 heads in one pass
against one head. Of its cases (1 and 32 heads, 128 and 2,048 wide, two processors),
`torch.func.vmap` of `torch.func.grad` with `torch.optim` takes 1.5 to 4.2 times as long as this,
and autograd over the stacked products 1.3 to 2.1 times; all three learn the same heads. Metric
heads and trunks, which compute more in each step, learn by autograd.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.pair import PairHead, untold_width
from kinembed.recipes import PairRecipe
from kinembed.training.head_modules import KinHead
from kinembed.training.keras_losses import gradient_of, loss_of
from kinembed.training.keras_optimizers import EPSILON


@contextmanager
def torch_for_heads() -> Iterator[None]:
    """No gradients, and the caller's random numbers stay as they are.

    Moments of units that have died fall below what floats hold in full, where processors take
    many times as long: they are rounded to zero.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)


class HeadStack:
    """Heads of one shape, loss, optimiser and mix of features, with their parameters stacked.

    All of them see the same vectors, so that gathering and features are shared, and each layer
    is one batched product. Parameters are kept divided by their head's learning rate: one
    optimiser of rate 1 then serves heads of any rate.

    Args:
        width: numbers in a vector.
        members: recipes and seeds of all heads.
        places: which of the members these are.
        seed: of dropout.
        batch_size: pairs in a batch.
        start: the head whose weights they begin with; None: those that each recipe draws.

    Raises:
        KinembedError: they have other layers than `start`.
    """

    def __init__(
        self,
        width: int,
        members: Sequence[tuple[PairRecipe, int]],
        places: Sequence[int],
        seed: int,
        batch_size: int,
        start: PairHead | None = None,
    ) -> None:
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.places = places
        self.recipes = [members[place][0] for place in places]
        self.features = self.recipes[0].features
        self.vector_width = untold_width(self.features, width)
        self.loss = loss_of(self.recipes[0], batch_size)
        self.gradient = gradient_of(self.recipes[0])
        heads = []
        for place in places:
            recipe, seed = members[place]
            torch.manual_seed(seed)
            heads.append(KinHead(width, recipe).layers())
            if start is not None:
                _begin_with(start, heads[-1], recipe)
        self.rate = _column([recipe.learning_rate for recipe in self.recipes])
        self.l2 = _column([recipe.l2 for recipe in self.recipes])
        self.decay = 2 * self.l2 * self.rate if self.l2.any() else None  # the L2 term's slope
        self.dropout = _column([recipe.dropout for recipe in self.recipes])
        layers = list(zip(*heads, strict=True))
        self.kernels = [
            torch.stack([one.weight.T for one in layer]) / self.rate for layer in layers
        ]
        self.biases = [
            torch.stack([one.bias[None] for one in layer]) / self.rate for layer in layers
        ]
        self.optimizer = _Optimizer(self.recipes[0].optimizer, [*self.kernels, *self.biases])
        slopes = self.optimizer.slopes
        self.kernel_slopes, self.bias_slopes = slopes[: len(layers)], slopes[len(layers) :]
        self._logits: list[Tensor] = []

    def learn(self, x: Tensor, labels: Tensor) -> None:
        """Takes a step for each of some batches.

        Args:
            x: (steps, batch, features * width), as `heads.distances` gives them.
            labels: (steps, batch) 1 for kin.
        """
        masks = [self._masks(len(x), x.shape[1], kernel.shape[2]) for kernel in self.kernels[:-1]]
        for step, batch in enumerate(x):
            kept = [mask[step] for mask in masks]
            inputs, logits = self._forward(batch, kept)
            self._logits.append(logits)
            self._backward(inputs, kept, self.gradient(logits, labels[step].expand_as(logits)))
            self.optimizer.step()

    def forget(self) -> None:
        """Drops what a summary would be of."""
        self._logits = []

    def summarise(self, labels: Tensor) -> list[tuple[float, float, float]]:
        """Loss, accuracy and AUC of each head over the steps since the last summary."""
        logits = torch.cat(self._logits, 1)
        self.forget()
        return self._summary(logits, labels)

    def judge(self, x: Tensor, labels: Tensor) -> list[tuple[float, float, float]]:
        """Loss, accuracy and AUC of each head, of features (N, F * width) and labels (N,)."""
        return self._summary(self._forward(x, [])[1], labels)

    def penalty(self) -> Tensor:
        """The L2 term (heads,) of each loss, over the hidden kernels only, as Keras counts it."""
        total = torch.zeros(len(self.places))
        if self.decay is not None:
            for kernel in self.kernels[:-1]:
                total += kernel.flatten(1).square().sum(1)
        return total * (self.l2 * self.rate**2).flatten()

    def head(self, place: int) -> PairHead:
        """One of the heads, as it is now."""
        rate = self.rate[place]
        return PairHead(
            view="",
            model="",
            kernels=tuple((kernel[place] * rate).numpy() for kernel in self.kernels),
            biases=tuple((bias[place] * rate)[0].numpy() for bias in self.biases),
            features=self.features,
            vector_width=self.vector_width,
        )

    def _forward(self, x: Tensor, masks: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Features (batch, F * width) to each layer's input, and logits (heads, batch).

        Without masks nothing is dropped.
        """
        inputs = [x.expand(len(self.places), *x.shape)]
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            out = torch.baddbmm(bias, inputs[-1], kernel).mul_(self.rate)
            if layer == len(self.kernels) - 1:
                break
            out.relu_()
            inputs.append(out.mul_(masks[layer]) if masks else out)
        return inputs, out.squeeze(-1)

    def _backward(self, inputs: list[Tensor], masks: Sequence[Tensor], gradient: Tensor) -> None:
        """The loss's slopes by all parameters, from those by the logits (heads, batch)."""
        slope = gradient.unsqueeze(-1)
        for layer in reversed(range(len(self.kernels))):
            torch.bmm(inputs[layer].mT, slope, out=self.kernel_slopes[layer])
            torch.sum(slope, 1, keepdim=True, out=self.bias_slopes[layer])
            if layer:
                slope = torch.bmm(slope.mul_(self.rate), self.kernels[layer].mT)
                slope.mul_(masks[layer - 1]).mul_(inputs[layer] > 0)
        if self.decay is not None:
            for kernel, slopes in zip(self.kernels[:-1], self.kernel_slopes, strict=False):
                slopes.addcmul_(kernel, self.decay)

    def _masks(self, steps: int, batch: int, width: int) -> Tensor:
        """Dropout of a layer: 0, or what keeps the mean."""
        # 16 bits are fine enough, and bytes are drawn far faster than floats.
        count = steps * len(self.places) * batch * width
        drawn = torch.frombuffer(bytearray(self.rng.bytes(2 * count)), dtype=torch.int16)
        drawn = drawn.view(steps, len(self.places), batch, width)
        dropped = (self.dropout * (1 << 16)).round() - (1 << 15)
        return (drawn >= dropped.to(torch.int16)).float().mul_(1 / (1 - self.dropout))

    def _summary(self, logits: Tensor, labels: Tensor) -> list[tuple[float, float, float]]:
        losses = self.loss(logits, labels.expand_as(logits)) + self.penalty()
        right = ((logits > 0) == labels).double().mean(1)
        scores = logits.double().numpy()
        if not np.isfinite(scores).all():
            worst = self.recipes[int(np.argmin(np.isfinite(scores).all(1)))]
            raise KinembedError(
                f"recipe {worst.name}: the head's output is not finite at learning rate "
                f"{worst.learning_rate:g}; try --set learning_rate={worst.learning_rate / 100:g}"
            )
        return [
            (loss, accuracy, roc_auc(labels.numpy(), row))
            for loss, accuracy, row in zip(losses.tolist(), right.tolist(), scores, strict=True)
        ]


def _begin_with(start: PairHead, layers: Sequence[nn.Linear], recipe: PairRecipe) -> None:
    """Gives layers the weights of a head that was trained already."""
    wanted = [layer.weight.T.shape for layer in layers]
    found = [kernel.shape for kernel in start.kernels]
    if found != wanted or start.features != recipe.features:
        raise KinembedError(
            f"warm_start: the fine-tuned head has layers {_shapes(found)} on features "
            f"{','.join(start.features)}, recipe {recipe.name} has {_shapes(wanted)} on "
            f"{','.join(recipe.features)}; wanted the same, so leave out --warm-start or what "
            "changes them"
        )
    for layer, kernel, bias in zip(layers, start.kernels, start.biases, strict=True):
        layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
        layer.bias.copy_(torch.from_numpy(bias))


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


class _Optimizer:
    """Adam or RMSprop of learning rate 1, with Keras' constants.

    The functions behind torch's optimisers: the classes take longer than the arithmetic here, and
    import torch's compiler.

    Args:
        kind: `adam` or `rmsprop`.
        parameters: what learns, in place.
    """

    def __init__(self, kind: str, parameters: list[Tensor]) -> None:
        self.kind = kind
        self.parameters = parameters
        self.slopes = [torch.zeros_like(parameter) for parameter in parameters]
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.zeros(()) for _ in parameters]
        self.count = 0

    def step(self) -> None:
        """Takes one step down the slopes."""
        self.count += 1
        if self.kind == "rmsprop":
            rmsprop(
                self.parameters, self.slopes, self.second, [], [], self.steps,
                lr=1.0, alpha=0.9, eps=EPSILON, weight_decay=0.0, momentum=0.0, centered=False,
                foreach=True,
            )  # fmt: skip
        else:
            adam(
                self.parameters, self.slopes, self.first, self.second, [], self.steps,
                lr=1.0, beta1=0.9, beta2=0.999, eps=EPSILON / (1 - 0.999**self.count) ** 0.5,
                weight_decay=0.0, amsgrad=False, maximize=False, fused=True,
            )  # fmt: skip


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
