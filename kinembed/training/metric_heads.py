"""Training metric heads from cached vectors: an ensemble of projections, by contrast."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kinembed.arrays import Float, Rows, Vectors
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.samplers import KinSampler, PairSampler
from kinembed.data.splits import Split
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.file import Chooser
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.score_norm import ScoreNorm
from kinembed.progress import Progress, silent
from kinembed.recipes import METRIC, MetricRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.threads import processors
from kinembed.training.contrastive_losses import in_batch_loss
from kinembed.training.ema import Ema
from kinembed.training.heads import HeadData, TrainedHead, Variant, epoch_chooser
from kinembed.training.schedules import one_cycle

LEAST_STD = 0.1  # of a number, in the root mean squares of its view's
JUDGED_PAIRS = 4_000  # by which a member is judged, half of them kin


@dataclass(frozen=True)
class MetricEpoch:
    """A row of `history-head.csv`: a member after some steps.

    Attributes:
        train_loss: mean over the steps since the row before.
        val_auc: over pairs of the member's held-out people, each photo alone; empty
            where there are none.
        seconds: since the training of the member began.
    """

    member: int
    epoch: int
    train_loss: float
    val_auc: float | None
    seconds: float


@dataclass(frozen=True)
class TrainedMember:
    """A projection, its history, and what its logits need."""

    projection: Projection
    history: list[MetricEpoch]
    kin: float  # mean similarity of kin who trained it
    others: float  # that of strangers

    @property
    def best_epoch(self) -> MetricEpoch:
        """The epoch whose projection this is."""
        return self.history[-1]


def train(
    data: HeadData, variants: Sequence[Variant], config: HeadConfig, progress: Progress
) -> list[TrainedHead]:
    """Trains a metric head for each recipe, as `training.heads.train_alone` says."""
    width = sum(data.widths)
    versions = np.reshape(data.vectors, (len(data.vectors), data.tta_views, width))  # (N, T, D)
    splits = data.held_out.splits
    chooser: Chooser = "nobody" if config.patience is None else epoch_chooser(data.held_out)
    heads = []
    for recipe, seed in cast(Sequence[tuple[MetricRecipe, int]], variants):
        began = time.perf_counter()
        count = len(splits) if data.held_out.by_folds else recipe.members
        if data.as_is:
            trained = [take_as_is(versions, data.families, splits[0].train)]
        else:
            trained = train_members(
                versions, data.widths, data.families,
                [splits[number % len(splits)] for number in range(count)], recipe,
                patience=config.patience, seed=seed, progress=progress,
            )  # fmt: skip
        about = {**data.about, **data.held_out.people(data.families)}
        head = metric_head(trained, recipe, data.tta_views, **about)
        if recipe.is_normed:
            people = [splits[number % len(splits)].train for number in range(len(trained))]
            head = replace(head, norms=fit_norms(head, data.vectors, data.families, people))
        heads.append(
            TrainedHead(
                head=head,
                history=[row for member in trained for row in member.history],
                epoch=0 if data.as_is else recipe.epochs,
                seconds=time.perf_counter() - began,
                epoch_chosen_by=chooser,
            )
        )
    return heads


def train_members(
    versions: Vectors,
    views: Sequence[int],
    families: Families,
    splits: Sequence[Split],
    recipe: MetricRecipe,
    *,
    patience: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[TrainedMember]:
    """Trains the members of a metric head, each by one thread of as many as there are processors.

    What a member becomes depends on the seed and its number alone, not on the threads.

    Args:
        versions: (N, T, D) float32 or float16: T versions of each photo, as of test-time
            augmentation.
        views: widths of the views that are stacked in D.
        families: photos, people and relations.
        splits: who trains and who judges each member.
        recipe: how they learn.
        patience: epochs without a better AUC after which a member stops, and is what it was at
            its best; None: it is what it is at the end, and its AUC chooses nothing.
        seed: of initial values, batches, noise and dropout.
        progress: shows how far it is.

    Returns:
        The members in their order.

    Raises:
        KinembedError: people cannot give batches, or a member diverges.
    """
    table = torch.from_numpy(np.array(versions, np.float32))  # (N, T, D)

    def train_one(number: int) -> TrainedMember:
        torch.set_num_threads(1)  # of this thread
        began = time.perf_counter()
        split = splits[number]
        learner = _Learner(table, views, families, split.train, recipe, (seed, number))
        validation = _Judge(table, families, split.validation, (seed, number))
        history: list[MetricEpoch] = []
        best: tuple[float, int, Projection] | None = None  # AUC, epoch from 0, what it was
        for epoch in range(recipe.epochs):
            loss = learner.learn(epoch)
            projection = learner.projection()
            auc = validation.auc(projection, recipe)
            seconds = time.perf_counter() - began
            history.append(MetricEpoch(number, epoch + 1, loss, auc, seconds))
            if patience is None or auc is None:
                continue
            if best is None or auc > best[0]:
                best = auc, epoch, projection
            elif epoch - best[1] >= patience:
                break
        if best is not None:
            _, epoch, projection = best
            history = history[: epoch + 1]
        own = _Judge(table, families, split.train, (seed, number))
        return TrainedMember(projection, history, *own.means(projection, recipe))

    before = torch.get_num_threads()
    with ThreadPoolExecutor(processors()) as pool, progress("training", len(splits)) as bar:
        torch.set_num_threads(1)
        try:
            members = []
            for future in [pool.submit(train_one, number) for number in range(len(splits))]:
                members.append(future.result())
                auc = members[-1].best_epoch.val_auc
                bar.advance(1, "" if auc is None else f"validation AUC {auc:.3f}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(before)
    return members


def fit_norms(
    head: MetricHead, vectors: Vectors, families: Families, people: Sequence[Rows]
) -> tuple[ScoreNorm, ...]:
    """What each member makes of the people that it was trained on, who count alike.

    Args:
        head: the head, whose scores are not normalised.
        vectors: (N, width) that it takes.
        families: photos and people.
        people: (P,) rows of those who trained each member.
    """
    norms = []
    for member, own in zip(head.members(), people, strict=True):
        rows = families.photos_of(own)
        owners = families.owner_of(rows)
        weights = 1 / np.bincount(owners)[owners]
        norms.append(ScoreNorm.fit(np.asarray(member.represent(vectors[rows])), weights))
    return tuple(norms)


def take_as_is(versions: Vectors, families: Families, people: Rows) -> TrainedMember:
    """A member that takes vectors as they are, of networks that learnt by contrast themselves.

    Args:
        versions: (N, T, D) vectors of such a network.
        families: photos, people and relations.
        people: (P,) rows of those whose similarities say how near kin and strangers are.
    """
    width = versions.shape[2]
    same = Projection(np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
    table = torch.from_numpy(np.array(versions, np.float32))
    return TrainedMember(same, [], *_Judge(table, families, people, (0, 0)).means(same, METRIC))


def metric_head(
    members: Sequence[TrainedMember], recipe: MetricRecipe, tta_views: int, /, **about: Any
) -> MetricHead:
    """The head of trained members.

    Its logit is 0 half way between the similarities of kin and strangers who trained it;
    `kinembed calibrate` makes it a probability for others.

    Args:
        members: the members.
        recipe: how they learnt.
        tta_views: versions of a photo in a vector.
        about: the rest of what a `MetricHead` holds.
    """
    kin = float(np.mean([member.kin for member in members]))
    others = float(np.mean([member.others for member in members]))
    return MetricHead(
        projections=tuple(member.projection for member in members),
        tta_views=tta_views,
        similarity=recipe.similarity,
        # logits of 2 and -2 for the two means; its file takes no larger scale
        scale=4 / max(kin - others, 4e-6),
        centre=(kin + others) / 2,
        **about,
    )


def _standard_deviations(seen: Tensor, views: Sequence[int]) -> Tensor:
    """(D,) by which numbers are divided: at least `LEAST_STD` of the root mean square of a view.

    A number that hardly varies among the training people may vary among others, who would
    otherwise fall on points far apart.

    Args:
        seen: (n, D) vectors of the training people.
        views: widths of the views that are stacked in D.
    """
    deviations = seen.std(0)
    parts = []
    for view in torch.split(deviations, list(views)):
        parts.append(view.clamp(min=LEAST_STD * float(view.square().mean().sqrt())))
    return torch.cat(parts) + 1e-6


class _Learner:
    """A projection as it learns."""

    def __init__(
        self,
        table: Tensor,
        views: Sequence[int],
        families: Families,
        people: Rows,
        recipe: MetricRecipe,
        seed: tuple[int, int],
    ) -> None:
        self.recipe = recipe
        self.views = tuple(views)
        self.table = table
        self.seed = seed
        self.sampler = KinSampler(families, people)
        self.families = families
        run_seed, number = seed
        # Shifted, as it has been from the first, so that a seed trains what it always trained.
        self.generator = torch.Generator().manual_seed(
            torch_seed(run_seed, Stream.MEMBER, number) >> 1
        )
        own = torch.from_numpy(families.photos_of(people))
        seen = table[own].flatten(0, 1)  # (photos * T, D)
        self.mean, self.std = seen.mean(0), _standard_deviations(seen, views)
        width = table.shape[2]
        self.kernel = self._draw(width, recipe.embed_dim)
        self.parameters = [self.kernel]
        if recipe.hidden_dim:
            self.inner = self._draw(width, recipe.hidden_dim)
            self.offset = torch.zeros(recipe.hidden_dim)
            self.outer = torch.zeros(recipe.hidden_dim, recipe.embed_dim)  # linear at first
            self.parameters += [self.inner, self.offset, self.outer]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.ema = Ema(self.parameters, recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )

    def learn(self, epoch: int) -> float:
        """Takes the steps of an epoch, counted from 0; their mean loss."""
        recipe = self.recipe
        steps = recipe.steps
        rng = generator(self.seed[0], Stream.MEMBER_EPOCH, self.seed[1], epoch)
        rows, of = self.sampler.sample(steps, recipe.batch_pairs, rng, recipe.photos_per_person)
        losses = []
        for step in range(steps):
            progress = (epoch * steps + step) / (recipe.epochs * steps)
            self.optimizer.param_groups[0]["lr"] = recipe.learning_rate * one_cycle(
                progress, recipe.warmup_fraction
            )
            photos = rows[step].ravel()  # (B,) of batch_pairs * 2 * photos_per_person
            x = self._add_noise(self._mix_up(photos, rng))  # (B, D)
            groups = torch.from_numpy(np.repeat(of[step], photos.size // len(of[step])))  # (B,)
            y = self._project(x)  # (B, d)
            if recipe.similarity == "cosine":
                y = functional.normalize(y, dim=1)
            loss = self._loss(y, groups)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.item())
            self.ema.update()
        if not np.isfinite(losses).all():
            raise KinembedError(
                f"recipe {recipe.name}: the loss is not finite at learning rate "
                f"{recipe.learning_rate:g}; try --set learning_rate={recipe.learning_rate / 10:g}"
            )
        return float(np.mean(losses))

    def projection(self) -> Projection:
        """The moving average of the weights, for vectors as they are in the cache."""
        kernel, *hidden = (value.numpy().astype(np.float32) for value in self.ema.means)
        mean, std = self.mean.numpy(), self.std.numpy()

        def unscaled(weights: NDArray[Any], bias: Any) -> tuple[Float, Float]:
            scaled = (weights / std[:, None]).astype(np.float32)
            return scaled, (bias - mean.astype(np.float64) @ scaled).astype(np.float32)

        kernel, bias = unscaled(kernel, np.zeros(kernel.shape[1]))
        if not hidden:
            return Projection(kernel, bias)
        inner, offset, outer = hidden
        inner, offset = unscaled(inner, offset)
        return Projection(kernel, bias, (inner, offset, outer.copy()))

    def _draw(self, width: int, out: int) -> Tensor:
        """A kernel (width, out) of uniform values with variance 1 / width."""
        bound = (3 / width) ** 0.5
        drawn: Tensor = (torch.rand(width, out, generator=self.generator) * 2 - 1) * bound
        return drawn

    def _project(self, x: Tensor) -> Tensor:
        y = x @ self.kernel  # (B, d)
        if self.recipe.hidden_dim:
            hidden = torch.relu(x @ self.inner + self.offset)  # (B, h)
            if self.recipe.dropout:
                kept = torch.rand(hidden.shape, generator=self.generator) >= self.recipe.dropout
                hidden = hidden * kept / (1 - self.recipe.dropout)
            y = y + hidden @ self.outer
        return y

    def _loss(self, y: Tensor, groups: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.similarity == "l2":  # -|a - b|^2 = 2 ab - aa - bb, as a dot product
            squares = y.square().sum(1, keepdim=True)  # (B, 1)
            ones = torch.ones_like(squares)
            left = torch.cat([2 * y, -squares, -ones], 1)  # (B, d + 2)
            right = torch.cat([y, ones, squares], 1)
        else:
            left = right = y
        return in_batch_loss(
            recipe.contrast, left, groups, recipe.temperature, recipe.margin,
            smoothing=recipe.smoothing, others=right,
        )  # fmt: skip

    def _mix_up(self, photos: Rows, rng: np.random.Generator) -> Tensor:
        """Standardised vectors (B, D), a version each, moved towards others of the same person."""
        x = self._take(photos, rng)
        if not self.recipe.mixup:
            return x
        people = self.families.owner_of(photos)
        if self.recipe.mixup_kin:
            relative = people.reshape(-1, 2, self.recipe.photos_per_person)[:, ::-1].ravel()
            people = np.where(rng.random(len(people)) < self.recipe.mixup_kin, relative, people)
        start = self.families.photo_start
        size = start[people + 1] - start[people]
        other = start[people] + (rng.random(len(people)) * size).astype(np.intp)
        other = self.families.rows[other]
        share = torch.from_numpy(rng.random((len(people), 1), np.float32) * self.recipe.mixup)
        return x + share * (self._take(other, rng) - x)

    def _take(self, photos: Rows, rng: np.random.Generator) -> Tensor:
        version = torch.from_numpy(rng.integers(self.table.shape[1], size=len(photos)))
        seen: Tensor = self.table[torch.from_numpy(photos), version]  # (B, D)
        return (seen - self.mean) / self.std

    def _add_noise(self, x: Tensor) -> Tensor:
        """Vectors (B, D) with noise, and without some of their views."""
        recipe = self.recipe
        if recipe.noise:
            x = x + recipe.noise * torch.randn(x.shape, generator=self.generator)
        if recipe.view_dropout and len(self.views) > 1:
            drawn = torch.rand(len(x), len(self.views), generator=self.generator)
            kept = drawn >= recipe.view_dropout  # (B, views)
            kept[~kept.any(1), 0] = True
            x = x * kept.repeat_interleave(torch.tensor(self.views), 1)
        return x


class _Judge:
    """Pairs of some people, and what a projection says of them."""

    def __init__(
        self, table: Tensor, families: Families, people: Rows, seed: tuple[int, int]
    ) -> None:
        self.pairs: Rows | None = None
        if len(people):
            rng = generator(seed[0], Stream.MEMBER_VALIDATION, seed[1])
            rows, labels = PairSampler(families, people, 0.5).sample(1, JUDGED_PAIRS, rng)
            known, places = np.unique(rows[0], return_inverse=True)
            self.vectors = table[torch.from_numpy(known)].flatten(1).numpy()  # (V, T * D)
            self.pairs, self.labels = places.reshape(-1, 2), labels[0] > 0
            self.tta_views = table.shape[1]

    def auc(self, projection: Projection, recipe: MetricRecipe) -> float | None:
        """The area under the ROC curve; None where there is nobody to judge by."""
        if self.pairs is None:
            return None
        return roc_auc(self.labels, self._similarities(projection, recipe))

    def means(self, projection: Projection, recipe: MetricRecipe) -> tuple[float, float]:
        """Mean similarity of kin, and of strangers."""
        similarities = self._similarities(projection, recipe)
        return float(similarities[self.labels].mean()), float(similarities[~self.labels].mean())

    def _similarities(self, projection: Projection, recipe: MetricRecipe) -> NDArray[np.float64]:
        assert self.pairs is not None
        head = MetricHead(
            view="",
            model="",
            projections=(projection,),
            tta_views=self.tta_views,
            similarity=recipe.similarity,
            scale=1.0,
        )
        return head.score(head.represent(self.vectors), self.pairs)
