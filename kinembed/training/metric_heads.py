"""Training metric heads from cached vectors: an ensemble of projections, by contrast."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kinembed.arrays import Float, Rows, Vectors
from kinembed.data.families import Families
from kinembed.data.samplers import KinSampler, PairSampler
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import roc_auc
from kinembed.heads.metric import MetricHead, Projection
from kinembed.progress import Progress, silent
from kinembed.recipes import METRIC, MetricRecipe
from kinembed.seeds import Stream, generator, torch_seed
from kinembed.threads import processors
from kinembed.training.contrastive_losses import in_batch_loss
from kinembed.training.schedules import one_cycle

JUDGED_PAIRS = 4_000  # by which a member is judged, half of them kin


@dataclass(frozen=True)
class MetricEpoch:
    """A row of `history-head.csv`: a member after some steps.

    Attributes:
        train_loss: mean over the steps since the row before.
        val_auc: over pairs of people that the member was not trained on, each photo for itself;
            empty where there are none.
        seconds: since the training of the member began.
    """

    member: int
    epoch: int
    train_loss: float
    val_auc: float | None
    seconds: float


@dataclass(frozen=True)
class Member:
    """Whom a member learns from, and by whom it is judged: rows of `Families.people`."""

    train: Rows
    judged: Rows


@dataclass
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


def train_members(
    vectors: Vectors,
    views: Sequence[int],
    looks: int,
    families: Families,
    members: Sequence[Member],
    recipe: MetricRecipe,
    *,
    patience: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[TrainedMember]:
    """Trains the members of a metric head, side by side, a thread for each processor.

    What a member becomes depends on the seed and its number alone, not on the threads.

    Args:
        vectors: (N, looks * D) float32 or float16.
        views: widths of the views side by side in a look, D together.
        looks: how many looks at a photo a vector holds.
        families: photos, people and relations.
        members: who trains and judges each.
        recipe: how they learn.
        patience: epochs without a better AUC after which a member stops, and is what it was at
            its best; None: it is what it is at the end, and its AUC is not chosen by.
        seed: of initial values, batches, noise and dropout.
        progress: shows how far it is.

    Returns:
        The members in their order.

    Raises:
        KinembedError: people cannot give batches, or a member diverges.
    """
    table = torch.from_numpy(np.array(vectors, np.float32)).reshape(len(vectors), looks, -1)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(processors()) as pool, progress("training", len(members)) as bar:
        torch.set_num_threads(1)
        try:
            work = [
                pool.submit(
                    _train,
                    table,
                    tuple(views),
                    families,
                    member,
                    number,
                    recipe,
                    (recipe.epochs, recipe.steps, patience, seed),
                )
                for number, member in enumerate(members)
            ]
            found = []
            for each in work:
                found.append(each.result())
                auc = found[-1].best_epoch.val_auc
                bar.advance(1, "" if auc is None else f"validation AUC {auc:.3f}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(before)
    return found


def as_it_is(vectors: Vectors, looks: int, families: Families, people: Rows) -> TrainedMember:
    """A member that takes vectors as they are, for networks that learnt by contrast themselves.

    Args:
        vectors: (N, looks * D) of such a network.
        looks: at a photo in a vector.
        families: photos, people and relations.
        people: (P,) rows of those by whom kin and others are as near as they are.
    """
    width = vectors.shape[1] // looks
    same = Projection(np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
    table = torch.from_numpy(np.array(vectors, np.float32)).reshape(len(vectors), looks, -1)
    judge = _Judge(table, families, people, (0, 0))
    return TrainedMember(same, [], *judge.means(same, METRIC))


def placed(projection: Projection, first: int, width: int) -> Projection:
    """The same projection of vectors `width` wide, of which its own begin at `first`."""

    def wider(kernel: Float) -> Float:
        room = np.zeros((width, kernel.shape[1]), np.float32)
        room[first : first + len(kernel)] = kernel
        return room

    hidden = projection.hidden
    if hidden:
        hidden = (wider(hidden[0]), *hidden[1:])
    return Projection(wider(projection.kernel), projection.bias, hidden)


def metric_head(
    trained: Sequence[TrainedMember], recipe: MetricRecipe, looks: int, /, **about: Any
) -> MetricHead:
    """The head of trained members.

    Its logit is 0 half way between the similarities of kin and strangers who trained it; what a
    logit says of others is for `kinembed calibrate` to tell.

    Args:
        trained: the members.
        recipe: how they learnt.
        looks: at a photo in a vector.
        about: the rest of what a `MetricHead` holds.
    """
    kin = float(np.mean([member.kin for member in trained]))
    others = float(np.mean([member.others for member in trained]))
    return MetricHead(
        members=tuple(member.projection for member in trained),
        looks=looks,
        similarity=recipe.similarity,
        scale=4 / max(kin - others, 1e-6),  # logits of 2 and -2 for the two means
        centre=(kin + others) / 2,
        neighbours=recipe.qe_k,
        **about,
    )


def _train(
    table: Tensor,
    views: tuple[int, ...],
    families: Families,
    member: Member,
    number: int,
    recipe: MetricRecipe,
    settings: tuple[int, int, int | None, int],
) -> TrainedMember:
    torch.set_num_threads(1)  # of this thread
    epochs, steps, patience, seed = settings
    began = time.perf_counter()
    learner = _Learner(table, views, families, member, recipe, (seed, number))
    judged = _Judge(table, families, member.judged, (seed, number))
    history: list[MetricEpoch] = []
    best: tuple[float, int, Projection] | None = None  # AUC, epoch from 0, what it was
    for epoch in range(epochs):
        loss = learner.learn(epoch, epochs, steps)
        projection = learner.projection()
        auc = judged.auc(projection, recipe)
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
    kin, others = _Judge(table, families, member.train, (seed, number)).means(projection, recipe)
    return TrainedMember(projection, history, kin, others)


class _Learner:
    """A projection as it learns."""

    def __init__(
        self,
        table: Tensor,
        views: tuple[int, ...],
        families: Families,
        member: Member,
        recipe: MetricRecipe,
        seed: tuple[int, int],
    ) -> None:
        self.recipe = recipe
        self.views = views
        self.table = table
        self.seed = seed
        self.sampler = KinSampler(families, member.train)
        self.families = families
        run_seed, number = seed
        self.chance = torch.Generator().manual_seed(
            torch_seed(run_seed, Stream.MEMBER, number) >> 1
        )
        own = families.photos_of(member.train)
        seen = table[torch.from_numpy(own)].flatten(0, 1)
        self.mean, self.spread = seen.mean(0), seen.std(0) + 1e-6
        wide = table.shape[2]
        self.kernel = self._drawn(wide, recipe.embed_dim)
        self.parameters = [self.kernel]
        if recipe.hidden_dim:
            self.inner = self._drawn(wide, recipe.hidden_dim)
            self.offset = torch.zeros(recipe.hidden_dim)
            # At first the map is linear.
            self.outer = torch.zeros(recipe.hidden_dim, recipe.embed_dim)
            self.parameters += [self.inner, self.offset, self.outer]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.means = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        self.count = 0

    def learn(self, epoch: int, epochs: int, steps: int) -> float:
        """Takes the steps of an epoch; their mean loss."""
        recipe = self.recipe
        rng = generator(self.seed[0], Stream.MEMBER_EPOCH, self.seed[1], epoch)
        rows, of = self.sampler.sample(steps, recipe.batch_pairs, rng, recipe.photos_per_person)
        losses = []
        for step in range(steps):
            share = (epoch * steps + step) / (epochs * steps)
            self.optimizer.param_groups[0]["lr"] = recipe.learning_rate * one_cycle(
                share, recipe.warmup_fraction
            )
            photos = rows[step].ravel()
            x = self._spoilt(self._mixed(photos, rng), rng)
            groups = torch.from_numpy(np.repeat(of[step], photos.size // len(of[step])))
            y = self._project(x)
            if recipe.similarity == "cosine":
                y = functional.normalize(y, dim=1)
            loss = self._loss(y, groups)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.item())
            self.count += 1
            kept = min(recipe.ema_decay, (self.count - 1) / (self.count + 9))
            with torch.no_grad():
                torch._foreach_lerp_(self.means, self.parameters, 1 - kept)
        if not np.isfinite(losses).all():
            raise KinembedError(
                f"recipe {recipe.name}: the loss is not finite at learning rate "
                f"{recipe.learning_rate:g}; try --set learning_rate={recipe.learning_rate / 10:g}"
            )
        return float(np.mean(losses))

    def projection(self) -> Projection:
        """The running mean of the weights, on vectors as they are in the cache."""
        kernel, *hidden = (value.numpy().astype(np.float32) for value in self.means)
        mean, spread = self.mean.numpy(), self.spread.numpy()

        def unscaled(weights: NDArray[Any], bias: Any) -> tuple[Float, Float]:
            scaled = (weights / spread[:, None]).astype(np.float32)
            return scaled, (bias - mean.astype(np.float64) @ scaled).astype(np.float32)

        kernel, bias = unscaled(kernel, np.zeros(kernel.shape[1]))
        if not hidden:
            return Projection(kernel, bias)
        inner, offset, outer = hidden
        inner, offset = unscaled(inner, offset)
        return Projection(kernel, bias, (inner, offset, outer.copy()))

    def _drawn(self, wide: int, out: int) -> Tensor:
        reach = (3 / wide) ** 0.5  # variance 1 / wide
        drawn: Tensor = (torch.rand(wide, out, generator=self.chance) * 2 - 1) * reach
        return drawn

    def _project(self, x: Tensor) -> Tensor:
        y = x @ self.kernel
        if self.recipe.hidden_dim:
            hidden = torch.relu(x @ self.inner + self.offset)
            if self.recipe.dropout:
                kept = torch.rand(hidden.shape, generator=self.chance) >= self.recipe.dropout
                hidden = hidden * kept / (1 - self.recipe.dropout)
            y = y + hidden @ self.outer
        return y

    def _loss(self, y: Tensor, groups: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.similarity == "l2":  # -|a - b|^2 = 2 ab - aa - bb, as a dot product
            squares = y.square().sum(1, keepdim=True)
            ones = torch.ones_like(squares)
            left = torch.cat([2 * y, -squares, -ones], 1)
            right = torch.cat([y, ones, squares], 1)
        else:
            left = right = y
        return in_batch_loss(
            recipe.contrast, left, groups, recipe.temperature, recipe.margin,
            smoothing=recipe.smoothing, others=right,
        )  # fmt: skip

    def _mixed(self, photos: Rows, rng: np.random.Generator) -> Tensor:
        """Standardised vectors of photos, a look each, moved towards others of the same person."""
        x = self._looked(photos, rng)
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
        return x + share * (self._looked(other, rng) - x)

    def _looked(self, photos: Rows, rng: np.random.Generator) -> Tensor:
        look = rng.integers(self.table.shape[1], size=len(photos))
        seen: Tensor = self.table[torch.from_numpy(photos), torch.from_numpy(look)]
        return (seen - self.mean) / self.spread

    def _spoilt(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        recipe = self.recipe
        if recipe.noise:
            x = x + recipe.noise * torch.randn(x.shape, generator=self.chance)
        if recipe.view_dropout and len(self.views) > 1:
            kept = torch.rand(len(x), len(self.views), generator=self.chance) >= recipe.view_dropout
            kept[~kept.any(1), 0] = True
            x = x * kept.repeat_interleave(torch.tensor(self.views), 1)
        return x


class _Judge:
    """Pairs of some people, and how a projection tells them."""

    def __init__(
        self, table: Tensor, families: Families, people: Rows, seed: tuple[int, int]
    ) -> None:
        self.rows: Rows | None = None
        if len(people):
            rng = generator(seed[0], Stream.MEMBER_VALIDATION, seed[1])
            rows, labels = PairSampler(families, people, 0.5).sample(1, JUDGED_PAIRS, rng)
            known, place = np.unique(rows[0], return_inverse=True)
            self.vectors = table[torch.from_numpy(known)].flatten(1).numpy()
            self.rows, self.labels = place.reshape(-1, 2), labels[0] > 0
            self.looks = table.shape[1]

    def auc(self, projection: Projection, recipe: MetricRecipe) -> float | None:
        """The area under the ROC curve; None where there is nobody to judge by."""
        if self.rows is None:
            return None
        return roc_auc(self.labels, self._alike(projection, recipe))

    def means(self, projection: Projection, recipe: MetricRecipe) -> tuple[float, float]:
        """Mean similarity of kin, and of others."""
        alike = self._alike(projection, recipe)
        return float(alike[self.labels].mean()), float(alike[~self.labels].mean())

    def _alike(self, projection: Projection, recipe: MetricRecipe) -> NDArray[np.float64]:
        head = MetricHead(
            "", "", (projection,), looks=self.looks, similarity=recipe.similarity, scale=1.0
        )
        assert self.rows is not None
        return head.scores(head.project(self.vectors), self.rows)
