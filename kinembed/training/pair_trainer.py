"""The training loop: epochs of pairs through the siamese network."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.arrays import Labels, Rows
from kinembed.backbones.device import autocast, channels_last
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.samplers import PairSampler
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.progress import Progress
from kinembed.recipes import PairRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.training.keras_losses import LOSSES
from kinembed.training.keras_optimizers import KerasAdam, keras_rmsprop
from kinembed.training.schedules import rate_factor
from kinembed.training.siamese import SiameseNetwork


@dataclass(frozen=True)
class Epoch:
    """A row of `history.csv`: means over the epoch's batches; losses hold the L2 term.

    Attributes:
        learning_rate: that of the epoch's last step.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    train_auc: float
    val_loss: float
    val_accuracy: float
    val_auc: float
    seconds: float
    learning_rate: float


@dataclass
class Progressed:
    """Where a training stands after a whole epoch: all that `--resume` needs."""

    history: list[Epoch]
    last: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    listing: str  # digest of the photos' names and the relations

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the best validation AUC, the first of equals."""
        return max(self.history, key=lambda epoch: (epoch.val_auc, -epoch.epoch))


class Trainer:
    """The training loop's parts, on one device.

    Args:
        network: trained in place.
        config: the protocol.
        photos: uint8 RGB photos (N, side, side, 3), on the device where they fit there.
        device: where the network runs.
        precision: in what it computes.

    Raises:
        KinembedError: more stages are to be frozen than the trunk has.
    """

    def __init__(
        self,
        network: SiameseNetwork,
        config: FinetuneConfig,
        photos: Tensor,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.network = network.to(device)
        keras_batchnorm(network)
        channels_last(network)
        stages = len(network.trunk.stages())
        if config.freeze_stages > stages:
            raise KinembedError(
                f"freeze_stages: found {config.freeze_stages}, {network.backbone.name} has {stages}"
            )
        if config.save_memory:
            network.trunk.save_memory()
        self.config = config
        self.photos = photos
        self.device = device
        self.precision = precision
        self.loss = LOSSES["bce"]
        if isinstance(network.recipe, PairRecipe):
            self.optimizer = build_optimizer(network, device)
            self.loss = LOSSES[network.recipe.loss]
        # The view stays outside what is compiled: inductor would compare the maximum, rounded to
        # bf16, with a feature map that is not, find it nowhere, and divide by zero going back.
        self.feature_map: Callable[[Tensor], Tensor] = (
            torch.compile(network.feature_map) if config.compile else network.feature_map
        )

    def train(
        self, sampler: PairSampler, epoch: int, losses_before: list[float], progress: Progress
    ) -> tuple[float, float, float]:
        """Trains one epoch; returns its loss, accuracy and AUC.

        What is random in an epoch depends on the seed and the epoch's number alone, so an epoch
        is the same whether or not the training was interrupted before it.

        Args:
            sampler: draws the pairs.
            epoch: its number, from 0.
            losses_before: validation losses of the epochs before it, for the learning rate.
            progress: shows how far it is.
        """
        config = self.config
        torch.manual_seed(torch_seed(config.seed, Stream.EPOCH, epoch))  # dropout
        rng = generator(config.seed, Stream.EPOCH, epoch)
        rows, labels = sampler.sample(config.steps, config.batch_size, rng)
        self.network.train()
        thaws = config.freeze_epochs is not None and epoch >= config.freeze_epochs
        self.network.trunk.freeze(0 if thaws else config.freeze_stages)
        losses: list[float] = []
        logits: list[Tensor] = []
        began = time.perf_counter()
        with progress(f"epoch {epoch + 1}/{config.epochs}", config.steps) as bar:
            for step in range(config.steps):
                self._set_rate(epoch * config.steps + step, losses_before)
                output, loss = self._step(rows[step], labels[step])
                losses.append(loss)
                logits.append(output)
                accuracy = np.mean((output.numpy() > 0) == labels[step])
                rate = (step + 1) * 2 * config.batch_size / (time.perf_counter() - began)
                bar.advance(1, f"loss {loss:.3f} acc {accuracy:.2f} {rate:.0f} photos/s")
        return summary(float(np.mean(losses)), torch.stack(logits), labels)

    def validate(self, sampler: PairSampler) -> tuple[float, float, float]:
        """Loss, accuracy and AUC on validation pairs: the same pairs after every epoch."""
        config = self.config
        rng = generator(config.seed, Stream.VALIDATION)
        rows, labels = sampler.sample(config.val_steps, config.batch_size, rng)
        self.network.eval()
        unique, place = np.unique(rows, return_inverse=True)
        with torch.inference_mode():
            vectors = self._vectors(unique)
            a, b = vectors[torch.from_numpy(place.reshape(rows.shape)).to(self.device)].unbind(-2)
            logits = self.network.head(a, b)
            target = torch.from_numpy(labels).to(self.device)
            loss = self.loss(logits.flatten(), target.flatten())
            total = float(loss + self.network.head.penalty())
        return summary(total, logits.cpu(), labels)

    @property
    def epochs(self) -> int:
        """How many there are at most."""
        return self.config.epochs

    def is_done(self, state: Progressed) -> bool:
        """Whether the epochs took their time, so that no other begins."""
        seconds = sum(row.seconds for row in state.history)
        return self.config.minutes is not None and seconds >= 60 * self.config.minutes

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return cast(float, self.optimizer.param_groups[0]["lr"])

    def progressed(self, before: Progressed | None, row: Epoch, listing: str) -> Progressed:
        """Where the training stands after the epoch of `row`."""
        last = {key: value.detach().cpu().clone() for key, value in self._state().items()}
        after = Progressed(
            history=[*before.history, row] if before else [row],
            last=last,
            best=before.best if before else last,
            optimizer=self.optimizer.state_dict(),
            listing=listing,
        )
        if after.best_epoch is row:
            after.best = last
        return after

    def restore(self, state: Progressed) -> None:
        """Puts network and optimiser back to where a training stood.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it was of another network.
        """
        self.network.load_state_dict(state.last)
        self.optimizer.load_state_dict(state.optimizer)

    def _step(self, rows: Rows, labels: Labels) -> tuple[Tensor, float]:
        """One step of the optimiser; logits and loss of its pairs.

        The batch goes through in `accumulate` parts whose gradients add up to those of the whole
        batch's mean loss, but for BatchNorm, which sees one part at a time.
        """
        self.optimizer.zero_grad(set_to_none=True)
        logits: list[Tensor] = []
        total = 0.0
        for part in np.array_split(np.arange(len(rows)), self.config.accumulate):
            output, loss = self._forward(rows[part], labels[part])
            loss = loss * (len(part) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            logits.append(output.detach())
            total += loss.item()
        self.optimizer.step()
        return torch.cat(logits).cpu(), total

    def _forward(self, rows: Rows, labels: Labels) -> tuple[Tensor, Tensor]:
        try:
            with autocast(self.device, self.precision):
                # One tower after the other, as in Keras: BatchNorm sees one tower's photos at a
                # time.
                maps = (self.feature_map(self._take(side)) for side in rows.T)
                a, b = (self.network.vectors(feature_map) for feature_map in maps)
        except RuntimeError as error:
            if not self.config.compile or not _could_not_compile(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise KinembedError(f"compile: {reason}; train without --compile") from None
        logits = self.network.head(a, b)
        target = torch.from_numpy(labels).to(self.device)
        return logits, self.loss(logits, target) + self.network.head.penalty()

    def _set_rate(self, step: int, losses: list[float]) -> None:
        config = self.config
        factor = rate_factor(
            config.schedule, config.warmup, step, config.epochs * config.steps, losses
        )
        for group in self.optimizer.param_groups:
            group["lr"] = cast(PairRecipe, self.network.recipe).learning_rate * factor

    def _vectors(self, rows: Rows) -> Tensor:
        """Vectors (N, width) of photos."""
        with autocast(self.device, self.precision):
            return torch.cat([self.network.embed(self._take(part)) for part in blocks(rows)])

    def _take(self, rows: Rows) -> Tensor:
        index = torch.from_numpy(rows).to(self.photos.device)
        return self.photos[index].to(self.device, non_blocking=True)

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.network.state_dict()
        return state


def build_optimizer(network: SiameseNetwork, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser, with Keras' constants; fused on CUDA."""
    recipe = cast(PairRecipe, network.recipe)
    if recipe.optimizer == "rmsprop":
        return keras_rmsprop(network.parameters(), recipe.learning_rate)
    return KerasAdam(network.parameters(), recipe.learning_rate, fused=device.type == "cuda")


def keras_batchnorm(network: nn.Module) -> None:
    """Keras' BatchNorm keeps .99 of its running statistics at each step; torch says .01."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.01


def _could_not_compile(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # takes its time to import

    return isinstance(error, TorchDynamoException)


def blocks(rows: Rows, size: int = 64) -> Iterator[Rows]:
    """Rows, some at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def summary(loss: float, logits: Tensor, labels: Labels) -> tuple[float, float, float]:
    """Loss, accuracy and AUC of logits of pairs.

    Raises:
        KinembedError: a logit is not finite.
    """
    scores = logits.double().numpy().ravel()
    if not np.isfinite(scores).all():
        raise KinembedError(
            "the network's output is not finite: the learning rate is too high for these weights; "
            "try --recipe regularized"
        )
    return loss, float(np.mean((scores > 0) == labels.ravel())), roc_auc(labels.ravel(), scores)
