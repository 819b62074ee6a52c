"""What all trainings of the siamese network share: epochs, validation, state, learning rate."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kinembed.arrays import Labels, Rows
from kinembed.backbones.device import channels_last
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.samplers import PairSampler
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.progress import Progress
from kinembed.recipes import KeptEpoch
from kinembed.seeds import Stream, generator
from kinembed.training.forecast import VALIDATION, Forecast
from kinembed.training.keras_losses import Loss, binary_cross_entropy
from kinembed.training.ranks import ALONE, Ranks
from kinembed.training.siamese import SiameseNetwork

Figures = tuple[float, float, float]  # loss, accuracy, AUC


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
class TrainState:
    """Where a training stands after a whole epoch: all that `--resume` needs."""

    history: list[Epoch]
    last: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    listing: str  # digest of the photos' names, the people and the relations

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the best validation AUC, the first of equals."""
        return max(self.history, key=lambda epoch: (epoch.val_auc, -epoch.epoch))

    def kept(self, keep: KeptEpoch) -> tuple[Epoch, dict[str, Tensor]]:
        """The best or the last epoch, and the network after it."""
        return (self.best_epoch, self.best) if keep == "best" else (self.history[-1], self.last)


class Trainer:
    """A training on one device; subclasses say what an epoch is and how photos become vectors.

    Args:
        network: the network to train; in the end it holds what is kept.
        config: the protocol.
        photos: uint8 RGB photos (N, side, side, 3), on the device where they fit there.
        device: where the network runs.
        precision: in what it computes.
        began: `time.perf_counter()` of the command's start, for `config.minutes`; None: now.
        ranks: the processes of the training.

    Raises:
        KinembedError: more stages are to be frozen than the trunk has.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        network: SiameseNetwork,
        config: FinetuneConfig,
        photos: Tensor,
        device: torch.device,
        precision: Precision,
        began: float | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        stages = len(network.trunk.stages())
        if config.freeze_stages > stages:
            raise KinembedError(
                f"freeze_stages: found {config.freeze_stages}, {network.backbone.name} has {stages}"
            )
        self.network = network.to(device)
        channels_last(network)
        if config.save_memory:
            network.trunk.save_memory()
        self.config = config
        self.photos = photos
        self.device = device
        self.precision = precision
        self.ranks = ranks
        self.began = time.perf_counter() if began is None else began
        self.loss: Loss = binary_cross_entropy
        self.forecast: Forecast | None = None  # how long it takes

    def train(
        self, sampler: PairSampler, epoch: int, losses_before: list[float], progress: Progress
    ) -> Figures:
        """Trains one epoch; returns its loss, accuracy and AUC.

        Args:
            sampler: whose families and people are drawn from.
            epoch: its number, from 0.
            losses_before: validation losses of the epochs before it, for the learning rate.
            progress: shows how far it is.
        """
        raise NotImplementedError

    def vectors(self, rows: Rows) -> Tensor:
        """Vectors (N, width) of photos (N,), in evaluation."""
        raise NotImplementedError

    def fit(
        self,
        train: PairSampler,
        validation: PairSampler,
        state: TrainState | None,
        listing: str,
        progress: Progress,
    ) -> Iterator[TrainState]:
        """Trains the epochs that are left.

        Args:
            train: whose families and people learn.
            validation: draws the pairs that choose the epoch.
            state: where the training stands; None: at its start.
            listing: digest of what is trained on.
            progress: shows how far it is.

        Yields:
            Where the training stands after each epoch.
        """
        first = len(state.history) if state else 0
        if self.config.minutes is None:
            left = self.epochs - first
            steps = left * (self.config.steps + VALIDATION * self.config.val_steps)
            self.forecast = Forecast(self.device, steps, left)
        for epoch in range(first, self.epochs):
            if state is not None and self._should_stop(state):
                break
            began = time.perf_counter()
            losses = [row.val_loss for row in state.history] if state else []
            trained = self.train(train, epoch, losses, progress)
            validated = self.validate(validation, epoch)
            seconds = time.perf_counter() - began
            row = self._row(epoch + 1, trained, validated, seconds)
            state = self.state_after(state, row, listing)
            yield state

    def _row(self, number: int, trained: Figures, validated: Figures, seconds: float) -> Epoch:
        """The row of an epoch: the writer's on all ranks, as they may stop by its figures."""
        row = Epoch(number, *trained, *validated, seconds, self.learning_rate)
        return Epoch(**self.ranks.from_writer(lambda: asdict(row)))

    def validate(self, sampler: PairSampler, epoch: int) -> Figures:
        """Loss, accuracy and AUC on validation pairs: the same pairs after every epoch.

        Where the recipe says so, they are others after each, by its number, from 0.
        """
        config = self.config
        if getattr(self.network.recipe, "validation", "same") == "fresh":
            rng = generator(config.seed, Stream.FRESH_VALIDATION, epoch)
        else:
            rng = generator(config.seed, Stream.VALIDATION)
        rows, labels = sampler.sample(config.val_steps, config.batch_size, rng)  # (S, B, 2), (S, B)
        self.network.eval()
        unique, inverse = np.unique(rows, return_inverse=True)  # (U,)
        with torch.inference_mode():
            vectors = self.ranks.shared_out(unique, self.vectors)  # (U, D)
            index = torch.from_numpy(inverse.reshape(rows.shape)).to(self.device)  # (S, B, 2)
            a, b = vectors[index].unbind(-2)  # (S, B, D) each
            logits = self.network.head(a, b)  # (S, B)
            target = torch.from_numpy(labels).to(self.device)
            loss = self.loss(logits.flatten(), target.flatten())
            total = float(loss + self.network.head.penalty())
        return figures(total, logits.cpu(), labels)

    def _count_step(self) -> None:
        """After each step of training."""
        if self.forecast is not None:
            self.forecast.step()

    @property
    def epochs(self) -> int:
        """How many there are at most."""
        return self.config.epochs

    def is_done(self, state: TrainState) -> bool:
        """Whether the epochs took their time, so that no other begins."""
        seconds = sum(row.seconds for row in state.history)
        return self.config.minutes is not None and seconds >= 60 * self.config.minutes

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return cast(float, self.optimizer.param_groups[0]["lr"])

    def state_after(self, before: TrainState | None, row: Epoch, listing: str) -> TrainState:
        """Where the training stands after the epoch of `row`."""
        network = self.network.state_dict()
        last = {key: value.detach().cpu().clone() for key, value in network.items()}
        after = TrainState(
            history=[*before.history, row] if before else [row],
            last=last,
            best=before.best if before else last,
            optimizer=self.optimizer.state_dict(),
            listing=listing,
        )
        if after.best_epoch is row:
            after.best = last
        return after

    def restore(self, state: TrainState) -> None:
        """Puts network and optimiser back to where a training stood.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it was of another network.
        """
        self.network.load_state_dict(state.last)
        self.optimizer.load_state_dict(state.optimizer)

    def _should_stop(self, state: TrainState) -> bool:
        waited = len(state.history) - state.best_epoch.epoch
        patience = self.config.patience
        return (patience is not None and waited >= patience) or self.is_done(state)

    def _take(self, rows: Rows) -> Tensor:
        """Photos of rows (N,): uint8 (N, side, side, 3) on the device."""
        index = torch.from_numpy(rows).to(self.photos.device)
        return self.photos[index].to(self.device, non_blocking=True)


def blocks(rows: Rows, size: int = 64) -> Iterator[Rows]:
    """Rows, some at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def figures(loss: float, logits: Tensor, labels: Labels) -> Figures:
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
