"""The training loop of recipe `kin`: batches of kin of many families, each photo against all.

Photos of 2,300 people are learnt by heart after some hundred steps, so a longer training is several
rounds of about as many, each from the weights it all began with and with batches of its own. What
is kept is the mean of their weights (Wortsman et al., "Model soups",
https://arxiv.org/abs/2203.05482): as good as their ensemble, and as quick as one.
"""

import copy
import sys
import time
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.arrays import Rows
from kinembed.backbones.device import autocast
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.samplers import KinSampler, PairSampler
from kinembed.progress import Progress
from kinembed.recipes import ContrastiveRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.threads import processors
from kinembed.training.augment import STRENGTHS, augment
from kinembed.training.contrastive_losses import in_batch_loss
from kinembed.training.frozen_batchnorm import Towers
from kinembed.training.head_modules import CosineHead
from kinembed.training.pair_trainer import Epoch, Progressed, Trainer, blocks, summary
from kinembed.training.schedules import one_cycle
from kinembed.training.siamese import SiameseNetwork

BATCH = 32  # photos embedded at a time
PACE = 10  # steps by whose time the rounds are counted


class ContrastTrainer(Trainer):
    """The parts of a training by contrast, on one device.

    `learner` is what the steps change, `mean` the running mean of its weights in this round; the
    mean over the rounds, this one among them, is what is validated and kept: `network`.

    Args:
        network: the network to train.
        config: the protocol; its recipe is a `ContrastiveRecipe`.
        photos: uint8 RGB photos (N, side, side, 3), on the device where they fit there.
        device: where the network runs.
        precision: in what it computes.
        began: `time.perf_counter()` of the command's start, which `config.minutes` counts from.
    """

    def __init__(
        self,
        network: SiameseNetwork,
        config: FinetuneConfig,
        photos: Tensor,
        device: torch.device,
        precision: Precision,
        began: float,
    ) -> None:
        super().__init__(network, config, photos, device, precision)
        self.recipe = cast(ContrastiveRecipe, network.recipe)
        self.began = began
        self.before = 0.0  # seconds that the epochs of earlier sessions took
        self.validating = 0.0  # seconds that the last validation took
        self.share = 0.0  # of the training that is done
        self.learner = copy.deepcopy(network)
        self.optimizer = _optimizer(self.learner, self.recipe)
        for module in (self.learner, network):
            module.eval()  # BatchNorm keeps its statistics
        count = processors() if device.type == "cpu" else 1
        context = partial(autocast, device, precision)
        self.towers = Towers(_Tower(self.learner), count, context)
        self.judged = Towers(_Tower(network), count, context)
        self.first = _copied(network)
        self.mean = _copied(network)
        self.finished: list[Tensor] = []  # the mean over the rounds before
        self.ended = 0  # how many those are
        self.round = 0
        self.rounds = 0  # 0: not known yet
        self.steps = 0  # in this round

    def train(
        self, sampler: PairSampler, epoch: int, losses_before: list[float], progress: Progress
    ) -> tuple[float, float, float]:
        """Trains one epoch; its loss, and accuracy and AUC over all pairs of its batches.

        Args:
            sampler: of whose families and people kin are drawn.
            epoch: its number, from 0.
            losses_before: not used: the rate is one cycle a round.
            progress: shows how far it is.
        """
        config = self.config
        rng = generator(config.seed, Stream.EPOCH, epoch)
        chance = torch.Generator().manual_seed(torch_seed(config.seed, Stream.EPOCH, epoch))
        kin = KinSampler(sampler.families, sampler.people)
        rows, families = kin.sample(config.steps, self.recipe.batch_pairs, rng)
        began = time.perf_counter()
        losses: list[float] = []
        cosines: list[Tensor] = []
        labels: list[Tensor] = []
        with progress(f"epoch {epoch + 1}", config.steps) as bar:
            for step in range(config.steps):
                self.share = self._share(epoch * config.steps + step)
                if self.share >= 1 and losses:
                    break
                if step == PACE and self.rounds == 0:
                    self._plan((time.perf_counter() - began) / PACE)
                self._cycle()
                loss, found, same = self._contrast(rows[step], families[step], chance)
                losses.append(loss)
                cosines.append(found)
                labels.append(same)
                speed = (step + 1) * rows[step].size / (time.perf_counter() - began)
                bar.advance(1, f"loss {loss:.3f} {speed:.0f} photos/s")
        self.share = self._share(epoch * config.steps + config.steps)
        self._blend()
        head = cast(CosineHead, self.network.head)
        said, truth = torch.cat(cosines), torch.cat(labels)
        head.centre.fill_((said[truth].mean() + said[~truth].mean()) / 2)
        logits = head.logits(said)
        return summary(float(np.mean(losses)), logits, truth.numpy().astype(np.float32))

    def validate(self, sampler: PairSampler) -> tuple[float, float, float]:
        """Loss, accuracy and AUC on validation pairs: the same pairs after every epoch."""
        began = time.perf_counter()
        found = super().validate(sampler)
        self.validating = time.perf_counter() - began
        return found

    def progressed(self, before: Progressed | None, row: Epoch, listing: str) -> Progressed:
        """Where the training stands after the epoch of `row`."""
        after = super().progressed(before, row, listing)
        after.optimizer = {
            "adamw": self.optimizer.state_dict(),
            "learner": {k: v.cpu().clone() for k, v in self.learner.state_dict().items()},
            "first": [each.cpu() for each in self.first],
            "mean": [each.cpu().clone() for each in self.mean],
            "finished": [each.cpu().clone() for each in self.finished],
            "ended": self.ended,
            "round": self.round,
            "rounds": self.rounds,
            "steps": self.steps,
            "seconds": self._seconds(),
        }
        return after

    def restore(self, state: Progressed) -> None:
        """Puts networks and optimiser back to where a training stood.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it was of another network.
        """
        self.network.load_state_dict(state.last)
        self.learner.load_state_dict(state.optimizer["learner"])
        self.optimizer.load_state_dict(state.optimizer["adamw"])
        for name in ("first", "mean", "finished"):
            setattr(self, name, [each.to(self.device) for each in state.optimizer[name]])
        self.ended = int(state.optimizer["ended"])
        self.round = int(state.optimizer["round"])
        self.rounds = int(state.optimizer["rounds"])
        self.steps = int(state.optimizer["steps"])
        self.before = float(state.optimizer["seconds"])
        self.share = self._share(len(state.history) * self.config.steps)

    @property
    def epochs(self) -> int:
        """As many as there is time for, where minutes are given."""
        return sys.maxsize if self.config.minutes is not None else self.config.epochs

    def is_done(self, state: Progressed) -> bool:
        """Whether the last round is at its end."""
        return self.share >= 1

    def _vectors(self, rows: Rows) -> Tensor:
        batches = [self.network.normalise(self._take(part)) for part in blocks(rows, BATCH)]
        return torch.cat(self.judged.embed(batches))

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def _share(self, step: int) -> float:
        """How much of the training is done: of the minutes where they are given, else of steps."""
        config = self.config
        if config.minutes is None:
            return step / (config.epochs * config.steps)
        return (self._seconds() + self.validating) / (60 * config.minutes)

    def _plan(self, seconds: float) -> None:
        """Says how many rounds there will be, from the seconds that a step takes."""
        config = self.config
        if config.minutes is None:
            steps = float(config.epochs * config.steps)
        else:
            steps = (60 * config.minutes - self._seconds()) / seconds
        self.rounds = max(1, round(steps / self.recipe.cycle_steps))

    def _cycle(self) -> None:
        """Begins the next round where it is time to, and sets the rate."""
        if self.config.minutes is None and self.rounds == 0:
            self._plan(0.0)
        rounds = max(1, self.rounds)
        now = min(int(self.share * rounds), rounds - 1)
        if now > self.round:
            self._begin(now)
        factor = one_cycle(min(self.share, 1.0) * rounds - now, self.recipe.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor * group.get("share", 1.0)

    def _contrast(
        self, rows: Any, families: Any, chance: torch.Generator
    ) -> tuple[float, Tensor, Tensor]:
        """One step; its loss, and cosine and kinship of all pairs of its batch."""
        photos = self._take(rows.ravel()).permute(0, 3, 1, 2).float()
        if self.recipe.augment != "none":
            photos = augment(photos, STRENGTHS[self.recipe.augment], chance)
        photos = self.network.normalise.pixels(photos)
        leaf = self.towers.forward(photos).requires_grad_()
        z = functional.normalize(leaf, dim=1)
        groups = torch.from_numpy(np.repeat(families, rows[0].size)).to(self.device)
        recipe = self.recipe
        loss = in_batch_loss(recipe.contrast, z, groups, recipe.temperature, recipe.margin)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.towers.backward(cast(Tensor, leaf.grad))
        self.optimizer.step()
        self.steps += 1
        self._average()
        z = z.detach()
        upper = torch.triu_indices(len(z), len(z), 1)
        cosines = (z @ z.T)[upper[0], upper[1]].cpu()
        same = (groups[upper[0]] == groups[upper[1]]).cpu()
        return loss.item(), cosines, same

    def _average(self) -> None:
        """Takes the step into the running mean, which begins as a plain one."""
        kept = min(self.recipe.ema_decay, (self.steps - 1) / (self.steps + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, list(self.learner.parameters()), 1 - kept)

    def _blend(self) -> None:
        """Makes the network the mean over the rounds, this one among them."""
        blended = self._over_rounds()
        with torch.no_grad():
            torch._foreach_copy_(list(self.network.parameters()), blended)

    def _over_rounds(self) -> list[Tensor]:
        if not self.finished:
            return self.mean
        with torch.no_grad():
            return list(torch._foreach_lerp(self.finished, self.mean, 1 / (self.ended + 1)))

    def _begin(self, now: int) -> None:
        """Begins a round with the first weights; what the one before came to is kept."""
        self.finished = [each.clone() for each in self._over_rounds()]
        self.ended += 1
        self.round, self.steps = now, 0
        with torch.no_grad():
            torch._foreach_copy_(list(self.learner.parameters()), self.first)
            torch._foreach_copy_(self.mean, self.first)
        self.optimizer.state.clear()


def _copied(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


class _Tower(nn.Module):
    """Normalised photos (N, 3, side, side) to the vectors (N, width) that are compared."""

    def __init__(self, network: SiameseNetwork) -> None:
        super().__init__()
        self.trunk = network.trunk
        self.name = network.view

    def forward(self, photos: Tensor) -> Tensor:
        return self.trunk.view(self.name, self.trunk.feature_map(photos)).float()


def _optimizer(network: SiameseNetwork, recipe: ContrastiveRecipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101), a group for each stage.

    The `share` of the rate that a group has falls from the last stage towards the photo.
    """
    stages = [list(stage.parameters()) for stage in network.trunk.stages()]
    groups = [
        {"params": stage, "share": recipe.layer_decay ** (len(stages) - 1 - number)}
        for number, stage in enumerate(stages)
    ]
    return torch.optim.AdamW(
        groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
