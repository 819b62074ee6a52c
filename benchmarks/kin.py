"""Ingredients of recipe kin, one at a time: AUC of the people held out, alone, expanded and fused.

    kinembed embed --backbone mobilefacenet --weights mobilefacenet.pt --run runs/frozen
    kinembed head --run runs/frozen --folds 0 --split families --ensemble 2
    python benchmarks/kin.py --data DATA --weights mobilefacenet.pt --frozen runs/frozen

Each row trains MobileFaceNet by the same steps, on the people whom the head of the first --frozen
trained on; 20,000 pairs of the others judge: by cosine, each photo alone and expanded by the other
photos that this head takes for the same person's, and fused with the heads of all --frozen, as the
mean of standardised logits. What did not win lives here alone.
"""

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kinembed.arrays import Float, Rows
from kinembed.backbones import find_backbone
from kinembed.backbones.device import choose_precision
from kinembed.backbones.mobilefacenet import InvertedResidual
from kinembed.backbones.weights import load_trunk
from kinembed.cache.stacked import open_caches
from kinembed.config import FinetuneConfig
from kinembed.data.families import Families, cached_families, read_families
from kinembed.data.framings import choose_framings
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler, held_out_pairs
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.query_expansion import find_neighbours, vectors_at
from kinembed.progress import Progress, silent
from kinembed.training import contrastive_trainer
from kinembed.training.contrastive_losses import NEVER
from kinembed.training.contrastive_trainer import ContrastiveTrainer
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.frozen_maps import FrozenMaps, run_once
from kinembed.training.siamese import SiameseNetwork

PAIRS = 20_000
CPU = torch.device("cpu")
# By name: options of finetune, keys of the recipe, and what is tried.
ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, float]]] = {
    "recipe kin": ({"freeze_stages": 0}, (), {}),
    "8 of 21 stages frozen, photos mirrored alone": ({}, ("augment=mirror",), {}),
    "and learning rate 1e-3": ({}, ("augment=mirror", "learning_rate=1e-3"), {}),
    "mixup with another photo of the person": ({}, (), {"mixup": 0.5}),
    "view dropout": ({}, (), {"view_dropout": 0.3}),
    "stochastic depth": ({}, (), {"depth": 0.2}),
    "same person in a second term": ({}, (), {"person_weight": 0.5}),
    "rounds, with --steps 300": ({}, ("cycle_steps=100",), {"rounds": 1}),
    "layer decay .8": ({}, ("layer_decay=0.8",), {}),
}
USUAL = ("augment=mirror", "learning_rate=1e-3")  # of rows that try something


class Tried(ContrastiveTrainer):
    """A training with ingredients that recipe kin does not have.

    Attributes:
        mixup: how far, at most, the map of a photo moves towards another of the same person.
        view_dropout: share of a vector's numbers that are dropped, the same in all of a step.
        person_weight: of a second term, in which kin is only who is the same person; a step then
            takes two photos of each person, and half the pairs.
        depth: probability that the last residual block is left out in a step, of others less.
        rounds: cycles begin with the mean over those before, not with the first weights.
        families: who is on which photo.
    """

    mixup = view_dropout = person_weight = depth = rounds = 0.0
    families: Families

    def _inputs(self, rows: Rows, photo_rng: torch.Generator) -> Tensor:
        inputs = super()._inputs(rows, photo_rng)
        if self.mixup:
            others = super()._inputs(self._others(rows, photo_rng), photo_rng)
            far = torch.rand(len(rows), generator=photo_rng).view(-1, 1, 1, 1) * self.mixup
            inputs = torch.lerp(inputs.float(), others.float(), far)
        return inputs

    def _step(
        self, rows: Rows, families: Rows, photo_rng: torch.Generator
    ) -> tuple[float, Tensor, Tensor]:
        self.drawn = photo_rng
        if self.person_weight:
            rows, families = rows[: len(rows) // 2], families[: len(families) // 2]
            others = self._others(rows.ravel(), photo_rng).reshape(rows.shape)
            rows = np.concatenate([rows, others], 2)  # (P / 2, 2, 2)
            self.people = torch.from_numpy(self.families.owner_of(rows.ravel()))
        for block in self.learner.modules():
            if isinstance(block, Skipped):
                stays = float(torch.rand(1, generator=photo_rng)) >= block.share * self.depth
                block.factor.fill_(stays / (1 - block.share * self.depth))
        return super()._step(rows, families, photo_rng)

    def _begin_cycle(self, now: int) -> None:
        super()._begin_cycle(now)
        if self.rounds:
            with torch.no_grad():
                torch._foreach_copy_(list(self.learner.parameters()), self.soup.means)
            self.ema.restart(self.soup.means)

    def _loss(self, vectors: Tensor, groups: Tensor) -> Tensor:
        if self.view_dropout:
            drawn = torch.rand(vectors.shape[1], generator=self.drawn)
            vectors = vectors * (drawn >= self.view_dropout)
        loss = super()._loss(vectors, groups)
        if self.person_weight:
            z = functional.normalize(vectors, dim=1)
            logits = z @ z.T / self.recipe.temperature
            same = (self.people[:, None] == self.people).fill_diagonal_(False)
            counted = same | (groups[:, None] != groups)
            shares = logits - logits.masked_fill(~counted, NEVER).logsumexp(1, keepdim=True)
            loss = loss - self.person_weight * ((shares * same).sum(1) / same.sum(1)).mean()
        return loss

    def _others(self, rows: Rows, rng: torch.Generator) -> Rows:
        """Another photo, or the same, of the person on each of some photos (M,)."""
        owners = self.families.owner_of(rows)
        first, count = self.families.photo_start[owners], np.diff(self.families.photo_start)[owners]
        nth = (torch.rand(len(rows), generator=rng).numpy() * count).astype(np.intp)
        others: Rows = self.families.rows[first + nth]
        return others


class Skipped(nn.Module):
    """A residual block that is left out in some steps."""

    def __init__(self, block: InvertedResidual, share: float) -> None:
        super().__init__()
        self.conv, self.share = block.conv, share
        self.register_buffer("factor", torch.ones(()))
        self.factor: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) * self.factor


class Judge:
    """The people held out, and what the frozen heads say of their pairs."""

    def __init__(self, runs: list[Path], data: Path) -> None:
        self.logits: list[list[Float]] = [[], []]  # alone, expanded
        for number, run in enumerate(runs):
            head = load_head(run / "head.h5")
            assert isinstance(head, MetricHead) and head.same_person is not None
            with open_caches([run / "embeddings.h5"]) as cache:
                families = cached_families(cache, data)
                if number == 0:
                    self.held_out = head.held_out
                    rng = np.random.default_rng(5)
                    pairs = held_out_pairs(families, head.held_out, PAIRS, rng)
                    held = np.flatnonzero(np.isin(families.people, head.held_out))
                    rows = np.sort(families.photos_of(held))
                    names = np.asarray(cache.names)[rows]
                    self.pairs, self.labels = np.searchsorted(rows, pairs.rows), pairs.labels
                if set(head.held_out) != set(self.held_out):
                    raise SystemExit(f"{run}: its head holds out other people than {runs[0]}")
                near = vectors_at(cache, head.knn_view, rows)
                neighbours = find_neighbours(near, head.same_person, np.arange(len(rows)))
                values = np.asarray(head.represent(vectors_at(cache, head.view, rows)))
            if number == 0:
                self.names, self.neighbours = [name.decode() for name in names.tolist()], neighbours
            every = np.arange(len(rows))
            for which, each in enumerate((values, neighbours.expand(head, every, values, every))):
                self.logits[which].append(standard(head.score(each, self.pairs)))

    def figures(self, vectors: Float) -> list[float]:
        """AUC alone and expanded, by itself and fused."""
        alone = unit(vectors)
        every = np.arange(len(alone))
        expanded = unit(self.neighbours.means(every, alone, every))
        found = []
        for which, each in enumerate((alone, expanded)):
            a, b = each[self.pairs[:, 0]], each[self.pairs[:, 1]]
            cosines = standard((a * b).sum(1))
            fused = cosines + np.sum(self.logits[which], 0)
            found += [roc_auc(self.labels, cosines), roc_auc(self.labels, fused)]
        return found


def standard(values: Float) -> Float:
    """With mean 0 and deviation 1."""
    result: Float = (values - values.mean()) / values.std()
    return result


def main() -> None:
    """Prints a row for each ingredient."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True, help="of MobileFaceNet")
    parser.add_argument("--frozen", type=Path, action="append", required=True, help="run folders")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", help="names of rows")
    options = parser.parse_args()
    logging.disable()
    kept: dict[bool, FrozenMaps | None] = {}

    def keep(
        forward: ReplicatedForward,
        take: Callable[[Rows, bool], Tensor],
        count: int,
        mirrored: bool,
        progress: Progress,
    ) -> FrozenMaps | None:
        if mirrored not in kept:  # trainings freeze the same stages, and so share their maps
            kept[mirrored] = run_once(forward, take, count, mirrored, progress)
        return kept[mirrored]

    contrastive_trainer.run_once = keep
    judge = Judge(options.frozen, options.data)
    families = read_families(options.data)
    files = [options.data / name for name in families.photos]
    backbone = find_backbone("mobilefacenet")
    framing = choose_framings(backbone, {"train": files}, "auto")["train"]
    photos = torch.from_numpy(decode_all(files, framing)[0])
    index = {name: row for row, name in enumerate(families.photos)}
    judged = np.array([index[name] for name in judge.names])
    held = np.isin(families.people, judge.held_out)
    sampler = PairSampler(families, np.flatnonzero(~held), 0.5)
    print("| recipe | alone | expanded | fused, alone | fused, expanded | processor seconds |")
    print("|---|---|---|---|---|---|")
    for name in options.only or ROWS:
        settings, sets, tried = ROWS[name]
        rows = []
        for seed in range(options.seeds):
            config = FinetuneConfig(
                "mobilefacenet", weights=options.weights, recipe="kin", seed=seed, epochs=1,
                steps=options.steps, overrides=(*(USUAL if tried else ()), *sets),
                **{"freeze_stages": 8, **settings},
            )  # fmt: skip
            began = time.process_time()
            trunk = load_trunk(backbone, config.weights)
            if "depth" in tried:
                skipping(trunk)
            network = SiameseNetwork(backbone, trunk, config.view, config.full_recipe())
            trainer = Tried(network, config, photos, CPU, choose_precision("auto", CPU))
            trainer.families = families
            for key, value in tried.items():
                setattr(trainer, key, value)
            trainer.train(sampler, 0, [], silent)
            seconds = time.process_time() - began
            with torch.inference_mode():
                rows.append([*judge.figures(trainer.vectors(judged).numpy()), seconds])
        *aucs, seconds = np.mean(rows, 0)
        spread = np.std(rows, 0)
        cells = [f"{auc:.4f} ± {std:.4f}" for auc, std in zip(aucs, spread[:-1], strict=True)]
        order = [cells[0], cells[2], cells[1], cells[3]]
        print(f"| {name} | {' | '.join(order)} | {seconds:.0f} |", flush=True)


def skipping(trunk: nn.Module) -> None:
    """Makes residual blocks `Skipped`, the last one most often."""
    blocks = list(trunk.features.children())  # type: ignore[union-attr, operator]
    for number, block in enumerate(blocks):
        if isinstance(block, InvertedResidual) and block.skip:
            trunk.features[number] = Skipped(block, (number + 1) / len(blocks))  # type: ignore[index, operator, assignment]


if __name__ == "__main__":
    main()
