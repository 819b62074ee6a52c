"""Training heads from cached vectors: the report's protocol, many heads in one pass."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kinembed.arrays import Float, Rows, Vectors
from kinembed.config import HeadConfig
from kinembed.data.samplers import PairSampler
from kinembed.heads.ensemble import EnsembleHead
from kinembed.heads.pair import PairHead, distances
from kinembed.progress import Progress, silent
from kinembed.recipes import Feature, PairRecipe, feature_widths
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.training.head_stack import HeadStack, torch_for_heads
from kinembed.training.heads import HeadData, TrainedHead, Variant, epoch_chooser

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


@dataclass(frozen=True)
class MemberEpoch(HeadEpoch):
    """A row of an ensemble: of one of its members, by number from 0."""

    member: int


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
    """Trains a pair head for each recipe, as `training.heads.train_alone` says."""
    (split,) = data.held_out.splits
    training, validation = (
        PairSampler(data.families, people, config.positive_fraction, config.exclude_family)
        for people in (split.train, split.validation)
    )
    recipes = [
        (cast(PairRecipe, recipe), each)
        for recipe, seed in variants
        for each in member_seeds(recipe.members, seed)
    ]
    trained = train_pair_heads(
        data.vectors, training, validation, recipes, config, progress, start=data.start
    )
    about = {name: data.about[name] for name in ("view", "model")}
    people = data.held_out.people(data.families)
    heads, rest = [], iter(trained)
    for recipe, _ in variants:
        members = list(islice(rest, recipe.members))
        one, *others = (replace(each.head, **about) for each in members)
        heads.append(
            TrainedHead(
                EnsembleHead(**about, heads=(one, *others), **people)
                if others
                else replace(one, **people),
                _history(members),
                0 if others else members[0].best_epoch.epoch,
                members[0].history[-1].seconds,
                epoch_chooser(data.held_out),
            )
        )
    return heads


def member_seeds(members: int, seed: int) -> list[int]:
    """The seeds of the heads of an ensemble; of one alone the seed itself."""
    if members == 1:
        return [seed]
    return [torch_seed(seed, Stream.MEMBER, number) for number in range(members)]


def _history(members: Sequence[TrainedPairHead]) -> Sequence[HeadEpoch]:
    """The rows of all members, which say whose they are where there are several."""
    if len(members) == 1:
        return members[0].history
    return [
        MemberEpoch(**asdict(row), member=number)
        for number, each in enumerate(members)
        for row in each.history
    ]


def train_pair_heads(
    vectors: Vectors,
    train: PairSampler,
    validation: PairSampler,
    members: Sequence[tuple[PairRecipe, int]],
    config: HeadConfig,
    progress: Progress = silent,
    *,
    start: PairHead | None = None,
) -> list[TrainedPairHead]:
    """Trains many heads in one pass over the same pairs.

    Args:
        vectors: (N, D) float32 or float16.
        train: draws the pairs of rows to learn from.
        validation: draws the pairs to choose each head's epoch by.
        members: the recipe of each head, and the seed of its initial values.
        config: the protocol, and the seed of the pairs and of dropout.
        progress: shows how far it is.
        start: the head whose weights they begin with; None: those that each recipe draws.

    Returns:
        The heads in the order of `members`; they do not know their view, model and people.

    Raises:
        KinembedError: one of them diverges, or has other layers than `start`.
    """
    began = time.perf_counter()
    trained: list[TrainedPairHead | None] = [None] * len(members)
    with torch_for_heads(), ThreadPoolExecutor(1) as reader:
        stacks = _stacks(vectors.shape[1], members, config, start)
        mixes = list(dict.fromkeys(stack.features for stack in stacks))

        def pairs(stream: Stream, *numbers: int) -> tuple[dict[Mix, Float], Tensor]:
            """Validation pairs: their features, and labels (P,)."""
            rng = generator(config.seed, stream, *numbers)
            rows, labels = validation.sample(config.val_steps, config.batch_size, rng)
            return _gather(vectors, rows.reshape(-1, 2), mixes), torch.from_numpy(labels).flatten()

        same = pairs(Stream.VALIDATION)
        has_fresh = any(stack.recipes[0].validation == "fresh" for stack in stacks)
        with progress("training", config.pair_epochs) as bar:
            for epoch in range(1, config.pair_epochs + 1):
                rng = generator(config.seed, Stream.EPOCH, epoch - 1)
                rows, labels = train.sample(config.pair_steps, config.batch_size, rng)
                targets = torch.from_numpy(labels)
                for step, block in _blocks(vectors, rows, mixes, reader):
                    for stack in stacks:
                        x = torch.from_numpy(block[stack.features])
                        stack.learn(x, targets[step : step + len(x)])
                fresh = pairs(Stream.FRESH_VALIDATION, epoch - 1) if has_fresh else same
                for stack in stacks:
                    learnt = stack.summarise(targets.flatten())
                    features, truth = fresh if stack.recipes[0].validation == "fresh" else same
                    judged = stack.judge(torch.from_numpy(features[stack.features]), truth)
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


def _after(
    before: TrainedPairHead | None, row: HeadEpoch, stack: HeadStack, place: int
) -> TrainedPairHead:
    """A head's training with one more epoch."""
    if before is None:
        return TrainedPairHead(stack.head(place), [row])
    if row.val_auc > before.best_epoch.val_auc:
        before.head = stack.head(place)
    before.history.append(row)
    return before


def _stacks(
    width: int,
    members: Sequence[tuple[PairRecipe, int]],
    config: HeadConfig,
    start: PairHead | None,
) -> list[HeadStack]:
    """Members that can be computed as one, together."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, (recipe, _) in enumerate(members):
        loss = (recipe.loss, recipe.gamma, recipe.alpha, recipe.reduction)
        kind = (recipe.hidden, recipe.optimizer, loss, recipe.features, recipe.validation)
        kinds.setdefault(kind, []).append(place)
    return [
        HeadStack(width, members, places, config.seed, config.batch_size, start)
        for places in kinds.values()
    ]


def _gather(vectors: Vectors, rows: Rows, mixes: Sequence[Mix]) -> dict[Mix, Float]:
    """Features (…, F * D) of pairs of rows (…, 2), by their mix; each is computed once for all."""
    every = tuple(dict.fromkeys(name for mix in mixes for name in mix))
    found = distances(vectors, rows.reshape(-1, 2), every).reshape(*rows.shape[:-1], -1)
    ends = np.cumsum(feature_widths(every, vectors.shape[1])).tolist()
    columns = dict(zip(every, map(slice, [0, *ends], ends), strict=False))
    return {
        mix: found
        if mix == every
        else np.concatenate([found[..., columns[name]] for name in mix], -1)
        for mix in mixes
    }


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
