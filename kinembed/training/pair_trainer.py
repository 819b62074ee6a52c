"""The training of pair recipes: batches of labelled pairs, kin and others, as in the report."""

import time
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from kinembed.arrays import Labels, Rows
from kinembed.backbones.device import autocast, could_not_compile, fuses_keras_adam
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.samplers import PairSampler
from kinembed.errors import KinembedError
from kinembed.progress import Progress
from kinembed.recipes import PairRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.training.cuda_graphs import InContext, RecordedPass, can_record
from kinembed.training.keras_losses import loss_of
from kinembed.training.keras_optimizers import KerasAdam, keras_rmsprop
from kinembed.training.ranks import ALONE, Ranks
from kinembed.training.schedules import rate_factor
from kinembed.training.siamese import SiameseNetwork
from kinembed.training.synced_batchnorm import running_statistics, sync_batchnorm
from kinembed.training.towers import ParallelTowers, Towers, can_run_parallel
from kinembed.training.trainer import Figures, Trainer, blocks, figures


class PairTrainer(Trainer):
    """Trains a siamese network, trunk and head, on labelled pairs; arguments as of `Trainer`."""

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
        super().__init__(network, config, photos, device, precision, began, ranks)
        ranks.check_share("batch_size", config.batch_size // config.accumulate, "pairs in a pass")
        self.recipe = cast(PairRecipe, network.recipe)
        self.loss = loss_of(self.recipe, config.batch_size)
        self.optimizer = build_optimizer(network, device)
        keras_batchnorm(network)
        if config.sync_batchnorm:
            sync_batchnorm(network, ranks)
        # The view stays outside what is compiled: inductor would compare the maximum, rounded to
        # bf16, with a feature map that is not, find it nowhere, and divide by zero going back.
        feature_map = torch.compile(network.feature_map) if config.compile else network.feature_map
        context = partial(autocast, device, precision)
        self.towers: Callable[..., tuple[Tensor, ...]]
        if can_run_parallel(network, device, config, ranks):
            self.towers = ParallelTowers(network, context)
        else:
            towers = InContext(Towers(network, feature_map), context)
            self.towers = RecordedPass(towers) if can_record(device, config, ranks) else towers

    def train(
        self, sampler: PairSampler, epoch: int, losses_before: list[float], progress: Progress
    ) -> Figures:
        """Trains one epoch, as `Trainer.train` says; the sampler draws its pairs.

        What is random in an epoch depends on the seed and the epoch's number alone, so an epoch
        is the same whether or not the training was interrupted before it.
        """
        config = self.config
        torch.manual_seed(torch_seed(config.seed, Stream.EPOCH, epoch))  # dropout
        rng = generator(config.seed, Stream.EPOCH, epoch)
        rows, labels = sampler.sample(config.steps, config.batch_size, rng)  # (S, B, 2), (S, B)
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
                speed = (step + 1) * 2 * config.batch_size / (time.perf_counter() - began)
                self._count_step()
                bar.advance(1, f"loss {loss:.3f} acc {accuracy:.2f} {speed:.0f} photos/s")
        self.ranks.average(running_statistics(self.network))
        return figures(float(np.mean(losses)), torch.stack(logits), labels)

    def vectors(self, rows: Rows) -> Tensor:
        """Vectors (N, width) of photos (N,), in evaluation."""
        with autocast(self.device, self.precision):
            return torch.cat([self.network.embed(self._take(part)) for part in blocks(rows)])

    def _step(self, rows: Rows, labels: Labels) -> tuple[Tensor, float]:
        """One step of the optimiser: rows (B, 2) and labels (B,) to logits (B,) and loss.

        The batch goes through in `accumulate` parts whose gradients add up to those of the whole
        batch's mean loss, but for BatchNorm, which sees one part at a time. Of each part, the
        ranks take their shares through the trunk.
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
        head = list(self.network.head.parameters())
        self.ranks.add_gradients(self.network.trunk.parameters(), head)
        self.optimizer.step()
        return torch.cat(logits).cpu(), total

    def _forward(self, rows: Rows, labels: Labels) -> tuple[Tensor, Tensor]:
        mine = self.ranks.part(len(rows))
        try:
            a, b = self.towers(*(self._take(side) for side in rows[mine].T))  # (B, D) each
        except RuntimeError as error:
            if not self.config.compile or not could_not_compile(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise KinembedError(f"compile: {reason}; train without --compile") from None
        a, b = (self.ranks.gather(vectors, len(rows)) for vectors in (a, b))
        logits = self.network.head(a, b)  # (B,)
        target = torch.from_numpy(labels).to(self.device)
        return logits, self.loss(logits, target) + self.network.head.penalty()

    def _set_rate(self, step: int, losses: list[float]) -> None:
        config = self.config
        factor = rate_factor(
            config.schedule, config.warmup, step, config.epochs * config.steps, losses
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor


def build_optimizer(network: SiameseNetwork, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a pair recipe, with Keras' constants."""
    recipe = cast(PairRecipe, network.recipe)
    if recipe.optimizer == "rmsprop":
        return keras_rmsprop(network.parameters(), recipe.learning_rate)
    fused = fuses_keras_adam(device)
    return KerasAdam(network.parameters(), recipe.learning_rate, fused=fused)


def keras_batchnorm(network: nn.Module) -> None:
    """Keras' BatchNorm keeps .99 of its running statistics at each step; torch says .01."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.01
