"""The training of contrastive recipes: batches of kin of many families, each photo against all.

A network overfits the photos of 2,300 people after some hundred steps, so a longer training is
several cycles of about as many, each from the first weights and with batches of its own. The mean
of the weights at their ends is kept (stochastic weight averaging): as good as their ensemble, and
as quick as one network.
"""

import copy
import sys
import time
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.arrays import Rows
from kinembed.backbones.device import autocast, parallel_passes
from kinembed.config import FinetuneConfig, Precision
from kinembed.data.samplers import KinSampler, PairSampler
from kinembed.errors import KinembedError
from kinembed.progress import Progress
from kinembed.recipes import ContrastiveRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.training.augment import STRENGTHS, Draws, augment, mirror_some
from kinembed.training.contrastive_losses import in_batch_loss
from kinembed.training.cuda_graphs import can_record
from kinembed.training.ema import Ema, Soup, copied
from kinembed.training.forecast import VALIDATION
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.frozen_maps import FrozenMaps, run_once
from kinembed.training.head_modules import CosineHead
from kinembed.training.ranks import ALONE, Ranks
from kinembed.training.schedules import one_cycle
from kinembed.training.siamese import SiameseNetwork
from kinembed.training.trainer import Epoch, Figures, Trainer, TrainState, blocks, figures

BATCH = 32  # photos embedded at a time
TIMED_STEPS = 10  # after the first; the number of cycles is chosen by the time that they take


class ContrastiveTrainer(Trainer):
    """Trains the trunk of a siamese network by a contrastive loss; arguments as of `Trainer`.

    `learner` is what the steps change, `ema` the average of its weights in this cycle; the mean
    over the cycles, this one among them, is what is validated and kept: `network`.

    Attributes:
        swa_cycles: how many cycles there will be; 0: not known yet.
        cycle: the number of this one, from 0.
        share_done: of the training.
    """

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
        self.recipe = cast(ContrastiveRecipe, network.recipe)
        ranks.check_share("batch_pairs", 2 * self.recipe.batch_pairs, "photos in a step")
        if config.freeze_stages == len(network.trunk.stages()):
            raise KinembedError(
                f"freeze_stages: found {config.freeze_stages}, all that {network.backbone.name} "
                "has; wanted fewer, as recipe kin trains nothing else"
            )
        self.earlier_seconds = 0.0  # that the epochs of earlier sessions took
        self.validation_seconds = 0.0  # that the last validation took
        self.first_step: float | None = None  # when this session had taken its first
        self.step_seconds: list[float] = []  # of this session's steps but the first, a slow one
        self.share_before = 0.0  # of the training, by earlier sessions
        self.share_done = 0.0
        self.learner = copy.deepcopy(network)
        self.optimizer = _optimizer(self.learner, self.recipe)
        for module in (self.learner, network):
            module.eval()  # BatchNorm keeps its statistics
        self.frozen = config.freeze_stages
        self.learner.trunk.freeze(self.frozen)
        self.learner_forward = self._replicated(self.learner)
        self.network_forward = self._replicated(network)
        self.first = copied(network.parameters())
        self.ema = Ema(self.learner.parameters(), self.recipe.ema_decay)
        self.soup = Soup()
        self.cycle = 0
        self.swa_cycles = 0
        self.maps: FrozenMaps | None = None

    def train(
        self, sampler: PairSampler, epoch: int, losses_before: list[float], progress: Progress
    ) -> Figures:
        """Trains one epoch, as `Trainer.train` says; its figures are of all pairs of its batches.

        The learning rate takes one cycle after another, whatever the losses before.
        """
        config = self.config
        rng = generator(config.seed, Stream.EPOCH, epoch)
        photo_rng = torch.Generator().manual_seed(torch_seed(config.seed, Stream.EPOCH, epoch))
        kin = KinSampler(sampler.families, sampler.people)
        rows, families = kin.sample(config.steps, self.recipe.batch_pairs, rng)  # (S, P, 2, 1)
        self._thaw(epoch)
        if self.first_step is None:
            self._run_frozen_once(progress)
        began = time.perf_counter()
        losses: list[float] = []
        cosines: list[Tensor] = []
        labels: list[Tensor] = []
        with progress(f"epoch {epoch + 1}", config.steps) as bar:
            for step in range(config.steps):
                now = time.perf_counter()
                self.share_done = self._share_done(epoch * config.steps + step)
                if self.share_done >= 1 and losses:
                    break
                if len(self.step_seconds) == TIMED_STEPS and self.swa_cycles == 0:
                    self._plan_cycles(epoch * config.steps + step)
                self._set_rate()
                loss, cosine, same = self._step(rows[step], families[step], photo_rng)
                if self.first_step is None:
                    self.first_step = time.perf_counter()
                else:
                    self.step_seconds.append(time.perf_counter() - now)
                losses.append(loss)
                cosines.append(cosine)
                labels.append(same)
                speed = (step + 1) * rows[step].size / (time.perf_counter() - began)
                self._count_step()
                bar.advance(1, f"loss {loss:.3f} {speed:.0f} photos/s")
        self.share_done = self._share_done(epoch * config.steps + config.steps)
        self._average_cycles()
        head = cast(CosineHead, self.network.head)
        predicted, is_kin = torch.cat(cosines), torch.cat(labels)
        head.centre.fill_((predicted[is_kin].mean() + predicted[~is_kin].mean()) / 2)
        logits = head.logits(predicted)
        return figures(float(np.mean(losses)), logits, is_kin.numpy().astype(np.float32))

    def vectors(self, rows: Rows) -> Tensor:
        """Vectors (N, width) of photos (N,), in evaluation."""
        parts = blocks(rows, BATCH)
        if self.maps is not None:
            batches = [self.maps.take(part) for part in parts]
        else:
            batches = [self.network.normalise(self._take(part)) for part in parts]
        return torch.cat(self.network_forward.embed(batches))

    def validate(self, sampler: PairSampler, epoch: int) -> Figures:
        """Loss, accuracy and AUC on validation pairs: the same pairs after every epoch."""
        began = time.perf_counter()
        result = super().validate(sampler, epoch)
        self.validation_seconds = time.perf_counter() - began
        return result

    def state_after(self, before: TrainState | None, row: Epoch, listing: str) -> TrainState:
        """Where the training stands after the epoch of `row`."""
        after = super().state_after(before, row, listing)
        after.optimizer = {
            "adamw": self.optimizer.state_dict(),
            "learner": {k: v.cpu().clone() for k, v in self.learner.state_dict().items()},
            "first": [each.cpu() for each in self.first],
            "ema": [each.cpu().clone() for each in self.ema.means],
            "ema_steps": self.ema.steps,
            "soup": [each.cpu().clone() for each in self.soup.means],
            "soup_count": self.soup.count,
            "cycle": self.cycle,
            "swa_cycles": self.swa_cycles,
            "seconds": self._seconds(),
            "share_done": self.share_done,
        }
        return after

    def restore(self, state: TrainState) -> None:
        """Puts networks and optimiser back to where a training stood.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it was of another network.
        """
        saved = state.optimizer
        self.network.load_state_dict(state.last)
        self.learner.load_state_dict(saved["learner"])
        self.optimizer.load_state_dict(saved["adamw"])
        self.first = self._on_device(saved["first"])
        self.ema.means = self._on_device(saved["ema"])
        self.ema.steps = int(saved["ema_steps"])
        self.soup.means = self._on_device(saved["soup"])
        self.soup.count = int(saved["soup_count"])
        self.cycle = int(saved["cycle"])
        self.swa_cycles = int(saved["swa_cycles"])
        self.earlier_seconds = float(saved["seconds"])
        self.share_before = float(saved["share_done"])
        self.share_done = self._share_done(len(state.history) * self.config.steps)

    @property
    def epochs(self) -> int:
        """As many as there is time for, where minutes are given."""
        return sys.maxsize if self.config.minutes is not None else self.config.epochs

    def is_done(self, state: TrainState) -> bool:
        """Whether the last cycle is at its end."""
        return self.share_done >= 1

    def _on_device(self, tensors: list[Tensor]) -> list[Tensor]:
        return [each.to(self.device) for each in tensors]

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.began

    def _share_done(self, step: int) -> float:
        """How much of the training is done: of the minutes where they are given, else of steps.

        Minutes count from the end of this session's first step, a slow one, so that no start-up is
        a part of a cycle; they count to their end, less the last validation.
        """
        config = self.config
        if config.minutes is None:
            return step / (config.epochs * config.steps)
        if self.first_step is None:
            return self.share_before
        start_up = self.earlier_seconds + self.first_step - self.began
        seconds = 60 * config.minutes - start_up - self.validation_seconds
        share = 1.0
        if seconds > 0:
            passed = (time.perf_counter() - self.first_step) / seconds
            share = self.share_before + (1 - self.share_before) * passed
        return self.ranks.agree(share)

    def _plan_cycles(self, done: int) -> None:
        """Chooses how many cycles there will be, after so many steps, from the pace of the last."""
        config = self.config
        if config.minutes is None:
            steps = float(config.epochs * config.steps)
        else:
            validation = config.val_steps * config.batch_size / self.recipe.batch_pairs
            of_training = config.steps / (config.steps + VALIDATION * validation)
            left = 60 * config.minutes - self._seconds()
            pace = float(np.median(self.step_seconds))
            steps = self.ranks.agree(done + of_training * left / pace)
        self.swa_cycles = max(1, round(steps / self.recipe.cycle_steps))

    def _set_rate(self) -> None:
        """Begins the next cycle where it is time to, and sets the learning rate."""
        if self.config.minutes is None and self.swa_cycles == 0:
            self._plan_cycles(0)
        cycles = max(1, self.swa_cycles)
        now = min(int(self.share_done * cycles), cycles - 1)
        if now > self.cycle:
            self._begin_cycle(now)
        share = min(self.share_done, 1.0) * cycles - now
        factor = one_cycle(share, self.recipe.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor * group.get("lr_scale", 1.0)

    def _step(
        self, rows: Rows, families: Rows, photo_rng: torch.Generator
    ) -> tuple[float, Tensor, Tensor]:
        """One step on M photos: its loss, and cosine and kinship of its M (M - 1) / 2 pairs.

        Args:
            rows: (P, 2, 1) photos of kin pairs; M = 2 P.
            families: (P,) the family of each pair.
            photo_rng: draws how photos are changed.
        """
        inputs = self._inputs(rows.ravel(), photo_rng)
        leaf = self.learner_forward.forward(inputs).requires_grad_()  # (M, D), or this rank's
        vectors = self.ranks.gather(leaf, rows.size)  # (M, D)
        groups = torch.from_numpy(np.repeat(families, rows[0].size)).to(self.device)  # (M,)
        loss = self._loss(vectors, groups)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.learner_forward.backward(cast(Tensor, leaf.grad))
        self.ranks.add_gradients(self.learner.trunk.parameters())
        self.optimizer.step()
        self.ema.update()
        z = functional.normalize(vectors.detach(), dim=1)  # (M, D)
        left, right = torch.triu_indices(len(z), len(z), 1)  # (M (M - 1) / 2,) each
        cosines = (z @ z.T)[left, right].cpu()
        same = (groups[left] == groups[right]).cpu()
        return loss.item(), cosines, same

    def _loss(self, vectors: Tensor, groups: Tensor) -> Tensor:
        """The loss of vectors (M, D) of the families (M,)."""
        recipe = self.recipe
        z = functional.normalize(vectors, dim=1)  # (M, D)
        return in_batch_loss(recipe.contrast, z, groups, recipe.temperature, recipe.margin)

    def _inputs(self, rows: Rows, photo_rng: torch.Generator) -> Tensor:
        """What the learner takes of photos (M,), changed at random as the recipe says.

        Of several ranks each takes its share, of what is drawn for all.
        """
        count, mine = len(rows), self.ranks.part(len(rows))
        rows = rows[mine]
        kind = self.recipe.augment
        mirrored = None
        if kind == "mirror":
            mirrored = torch.rand(count, generator=photo_rng)[mine] < 0.5
        if self.maps is not None:
            return self.maps.take(rows, mirrored)
        photos = self._take(rows).permute(0, 3, 1, 2).float()  # (M, 3, side, side)
        if mirrored is not None:
            photos = mirror_some(photos, mirrored)
        elif kind in STRENGTHS:
            photos = augment(photos, STRENGTHS[kind], Draws(photo_rng, count, mine))
        return self.network.normalise.pixels(photos)

    def _run_frozen_once(self, progress: Progress) -> None:
        """Keeps what frozen stages give of each photo, where it is the same in every step."""
        kind = self.recipe.augment
        is_fixed = self.frozen and self.config.freeze_epochs is None and kind not in STRENGTHS
        if not is_fixed or self.device.type != "cpu":
            return
        self.network.trunk.freeze(self.frozen)  # parted where the learner is
        passes = self._replicated(self.learner), self._replicated(self.network)
        for each in passes:
            if not each.skip_frozen():
                return

        def take(rows: Rows, mirror: bool) -> Tensor:
            photos = self._take(rows)  # (M, side, side, 3)
            return cast(Tensor, self.network.normalise(photos.flip(2) if mirror else photos))

        self.maps = run_once(passes[0], take, len(self.photos), kind == "mirror", progress)
        if self.maps is not None:
            self.learner_forward, self.network_forward = passes

    def _replicated(self, network: SiameseNetwork) -> ReplicatedForward:
        context = partial(autocast, self.device, self.precision)
        passes = max(1, parallel_passes(self.device) // self.ranks.local_size)
        records = network is self.learner and can_record(self.device, self.config, self.ranks)
        return ReplicatedForward(ViewOfTrunk(network), passes, context, records)

    def _thaw(self, epoch: int) -> None:
        """Lets frozen stages learn where it is time to."""
        thaws = self.config.freeze_epochs is not None and epoch >= self.config.freeze_epochs
        if self.frozen and thaws:
            self.frozen = 0
            self.learner.trunk.freeze(0)
            self.learner_forward.close()
            self.learner_forward = self._replicated(self.learner)

    def _average_cycles(self) -> None:
        """Makes the network the mean over the cycles, this one among them."""
        averaged = self.soup.with_cycle(self.ema.means)
        with torch.no_grad():
            torch._foreach_copy_(list(self.network.parameters()), averaged)

    def _begin_cycle(self, now: int) -> None:
        """Begins a cycle with the first weights; the end of the one before is kept."""
        self.soup.finish_cycle(self.ema.means)
        self.cycle = now
        with torch.no_grad():
            torch._foreach_copy_(list(self.learner.parameters()), self.first)
        self.ema.restart(self.first)
        self.optimizer.state.clear()


class ViewOfTrunk(nn.Module):
    """Normalised photos (N, 3, side, side) to the vectors (N, width) that are compared."""

    def __init__(self, network: SiameseNetwork) -> None:
        super().__init__()
        self.trunk = network.trunk
        self.name = network.view

    def forward(self, photos: Tensor) -> Tensor:
        """As the class says."""
        return self.trunk.vectors(self.name, self.trunk.feature_map(photos)).float()


def _optimizer(network: SiameseNetwork, recipe: ContrastiveRecipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101), a group for each stage.

    The `lr_scale` of a group falls by the layer decay from the last stage towards the photo.
    """
    stages = [list(stage.parameters()) for stage in network.trunk.stages()]
    groups = [
        {"params": stage, "lr_scale": recipe.layer_decay ** (len(stages) - 1 - number)}
        for number, stage in enumerate(stages)
    ]
    return torch.optim.AdamW(
        groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
