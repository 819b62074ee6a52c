"""Training heads from cached vectors: the report's protocol, many heads in one pass."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

from kinembed.arrays import Float, Rows, Vectors
from kinembed.config import HeadConfig
from kinembed.data.samplers import PairSampler
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.pair import PairHead, distances
from kinembed.progress import Progress, silent
from kinembed.recipes import Feature, PairRecipe
from kinembed.seeds import Stream, generator
from kinembed.training.head_modules import KinHead
from kinembed.training.heads import HeadData, TrainedHead, Variant
from kinembed.training.keras_losses import GRADIENTS, LOSSES
from kinembed.training.keras_optimizers import EPSILON

BLOCK = 8  # batches whose vectors are gathered at a time: 2 MB of 2048 floats

Mix = tuple[Feature, ...]  # the features that a head compares by


@dataclass(frozen=True)
class HeadEpoch:
    """A row of `history-head.csv`: over all pairs of the epoch; losses hold the L2 term."""

    epoch: int
    train_loss: float
    train_accuracy: float
    train_auc: float
    val_loss: float
    val_accuracy: float
    val_auc: float
    seconds: float  # since the training began


@dataclass
class TrainedPairHead:
    """A head after the epoch of its best validation AUC, the first of equals, and its history."""

    head: PairHead
    history: list[HeadEpoch]

    @property
    def best_epoch(self) -> HeadEpoch:
        """The epoch whose head this is."""
        return max(self.history, key=lambda row: (row.val_auc, -row.epoch))


def train(
    data: HeadData, variants: Sequence[Variant], config: HeadConfig, progress: Progress
) -> list[TrainedHead]:
    """Trains a pair head for each recipe, as `training.heads.train_heads` says."""
    (split,) = data.held_out.splits
    training, validation = (
        PairSampler(data.families, people, config.positive_fraction)
        for people in (split.train, split.validation)
    )
    recipes = [(cast(PairRecipe, recipe), seed) for recipe, seed in variants]
    trained = train_pair_heads(data.vectors, training, validation, recipes, config, progress)
    about = {name: data.about[name] for name in ("view", "model")}
    about |= data.held_out.people(data.families)
    return [
        TrainedHead(
            replace(each.head, **about),
            each.history,
            each.best_epoch.epoch,
            each.history[-1].seconds,
        )
        for each in trained
    ]


def train_pair_heads(
    vectors: Vectors,
    train: PairSampler,
    validation: PairSampler,
    members: Sequence[tuple[PairRecipe, int]],
    config: HeadConfig,
    progress: Progress = silent,
) -> list[TrainedPairHead]:
    """Trains many heads in one pass over the same pairs.

    Args:
        vectors: (N, D) float32 or float16.
        train: draws the pairs of rows to learn from.
        validation: draws the pairs to choose each head's epoch by.
        members: the recipe of each head, and the seed of its initial values.
        config: the protocol, and the seed of the pairs and of dropout.
        progress: shows how far it is.

    Returns:
        The heads in the order of `members`; they do not know their view, model and people.

    Raises:
        KinembedError: one of them diverges.
    """
    began = time.perf_counter()
    trained: list[TrainedPairHead | None] = [None] * len(members)
    with torch_for_heads(), ThreadPoolExecutor(1) as reader:
        stacks = _stacks(vectors.shape[1], members, config.seed)
        rows, labels = validation.sample(
            config.val_steps, config.batch_size, generator(config.seed, Stream.VALIDATION)
        )
        mixes = list(dict.fromkeys(stack.features for stack in stacks))
        judged_by = _gather(vectors, rows.reshape(-1, 2), mixes)
        judged_as = torch.from_numpy(labels).flatten()
        with progress("training", config.pair_epochs) as bar:
            for epoch in range(1, config.pair_epochs + 1):
                rng = generator(config.seed, Stream.EPOCH, epoch - 1)
                rows, labels = train.sample(config.pair_steps, config.batch_size, rng)
                targets = torch.from_numpy(labels)
                for start, block in _blocks(vectors, rows, mixes, reader):
                    for stack in stacks:
                        x = torch.from_numpy(block[stack.features])
                        stack.learn(x, targets[start : start + len(x)])
                for stack in stacks:
                    learnt = stack.summarise(targets.flatten())
                    judged = stack.judge(torch.from_numpy(judged_by[stack.features]), judged_as)
                    for place, member in enumerate(stack.places):
                        seconds = time.perf_counter() - began
                        row = HeadEpoch(epoch, *learnt[place], *judged[place], seconds)
                        trained[member] = _after(trained[member], row, stack, place)
                done = [each for each in trained if each is not None]
                bar.advance(
                    1, f"validation AUC {max(each.history[-1].val_auc for each in done):.3f}"
                )
                waited = min(epoch - each.best_epoch.epoch for each in done)
                if config.patience is not None and waited >= config.patience:
                    break
    return done


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


def _after(
    before: TrainedPairHead | None, row: HeadEpoch, stack: "HeadStack", place: int
) -> TrainedPairHead:
    """A head's training with one more epoch."""
    if before is None:
        return TrainedPairHead(stack.head(place), [row])
    if row.val_auc > before.best_epoch.val_auc:
        before.head = stack.head(place)
    before.history.append(row)
    return before


def _stacks(width: int, members: Sequence[tuple[PairRecipe, int]], seed: int) -> list["HeadStack"]:
    """Members that can be computed as one, together."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, (recipe, _) in enumerate(members):
        kind = (recipe.hidden, recipe.optimizer, recipe.loss, recipe.features)
        kinds.setdefault(kind, []).append(place)
    return [HeadStack(width, members, places, seed) for places in kinds.values()]


class HeadStack:
    """Heads of one shape, loss, optimiser and mix of features, with their parameters stacked.

    All of them see the same vectors, so that gathering and features are shared, and each layer
    is one batched product. Parameters are kept divided by their head's learning rate: one
    optimiser of rate 1 then serves heads of any rate. Gradients are written out, as autograd
    takes as long again for layers of this size.

    Args:
        width: numbers in a vector.
        members: recipes and seeds of all heads.
        places: which of the members these are.
        seed: of dropout.
    """

    def __init__(
        self,
        width: int,
        members: Sequence[tuple[PairRecipe, int]],
        places: Sequence[int],
        seed: int,
    ) -> None:
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.places = places
        self.recipes = [members[place][0] for place in places]
        self.features = self.recipes[0].features
        heads = []
        for place in places:
            recipe, seed = members[place]
            torch.manual_seed(seed)
            heads.append(KinHead(width, recipe).layers())
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
        gradient = GRADIENTS[self.recipes[0].loss]
        for step, batch in enumerate(x):
            kept = [mask[step] for mask in masks]
            inputs, logits = self._forward(batch, kept)
            self._logits.append(logits)
            self._backward(inputs, kept, gradient(logits, labels[step].expand_as(logits)))
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
        losses = LOSSES[self.recipes[0].loss](logits, labels.expand_as(logits)) + self.penalty()
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


def _gather(vectors: Vectors, rows: Rows, mixes: Sequence[Mix]) -> dict[Mix, Float]:
    """Features (…, F * D) of pairs of rows (…, 2), by their mix; each is computed once for all."""
    every = tuple(dict.fromkeys(name for mix in mixes for name in mix))
    found = distances(vectors, rows.reshape(-1, 2), every)
    found = found.reshape(*rows.shape[:-1], len(every), -1)
    parts = {
        mix: found if mix == every else found[..., [every.index(name) for name in mix], :]
        for mix in mixes
    }
    return {mix: part.reshape(*rows.shape[:-1], -1) for mix, part in parts.items()}


def _blocks(
    vectors: Vectors, rows: Rows, mixes: Sequence[Mix], reader: ThreadPoolExecutor
) -> Iterator[tuple[int, dict[Mix, Float]]]:
    """Features of some batches, with the first one's number; the next are gathered meanwhile."""
    starts = range(0, len(rows), BLOCK)
    ahead = reader.submit(_gather, vectors, rows[:BLOCK], mixes)
    for start in starts:
        block = ahead.result()
        if start + BLOCK < len(rows):
            ahead = reader.submit(_gather, vectors, rows[start + BLOCK : start + 2 * BLOCK], mixes)
        yield start, block
