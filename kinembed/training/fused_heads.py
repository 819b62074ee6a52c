"""Training heads whose logits are fused: of several networks, views or folds."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kinembed.config import HeadConfig
from kinembed.data.splits import HeldOut
from kinembed.evaluation.fusion import Part, fuse
from kinembed.heads.base import Head
from kinembed.heads.metric import MetricHead
from kinembed.heads.query_expansion import Neighbours
from kinembed.progress import Progress, silent
from kinembed.recipes import HeadRecipe
from kinembed.seeds import Stream, generator
from kinembed.training.heads import (
    HeadData,
    TrainedHead,
    Variant,
    expanding,
    know_people,
    train_alone,
)
from kinembed.training.pair_heads import HeadEpoch, MemberEpoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusedData:
    """What a fused head learns from.

    Attributes:
        parts: what each part learns from: once, or once for each of the networks that held out a
            fold each. All have the same families and `knn_vectors`.
        about: what the head's file says of the whole: model and knn_view.
    """

    parts: tuple[tuple[HeadData, ...], ...]
    about: dict[str, Any]

    @property
    def all(self) -> list[HeadData]:
        """What is learnt from, of all parts."""
        return [data for part in self.parts for data in part]

    @property
    def held_out(self) -> HeldOut:
        """Who trains and who judges: by the folds of networks, where those held out one each."""
        for part in self.parts:
            if len(part) > 1:
                splits = tuple(data.held_out.splits[0] for data in part)
                return HeldOut(splits, True, part[0].held_out.by)
        return self.parts[0][0].held_out

    def each(self, change: Callable[[HeadData], HeadData]) -> "FusedData":
        """The same, with a change to what each head learns from."""
        return replace(self, parts=tuple(tuple(map(change, part)) for part in self.parts))


def train_parts(
    data: FusedData, variants: Sequence[Variant], config: HeadConfig, progress: Progress = silent
) -> list[TrainedHead]:
    """Trains a head of each part for each of some recipes, and fuses those of a recipe.

    Args:
        data: what they learn from; of one part, that part's head is not fused with anything.
        variants: recipes and seeds.
        config: the protocol, and the seed of pairs and folds.
        progress: shows how far it is.

    Returns:
        The heads in the order of the variants.

    Raises:
        KinembedError: one of them diverges, or people cannot give batches.
    """
    trained = [
        [each.ready] if each.ready else train_alone(each, variants, config, progress)
        for each in data.all
    ]
    known, neighbours = know_people(data.all, variants, config.seed)
    return [
        fused_of(data, known, [heads[number] for heads in trained], recipe, neighbours, config.seed)
        for number, (recipe, _) in enumerate(variants)
    ]


def fused_of(
    data: FusedData,
    known: Sequence[HeadData],
    trained: Sequence[TrainedHead],
    recipe: HeadRecipe,
    neighbours: Neighbours | None,
    seed: int,
) -> TrainedHead:
    """The heads of all parts as one; of one part its head.

    Args:
        data: what they learnt from.
        known: the same of each head, with what tells photos of one person.
        trained: the heads, by `train_alone`.
        recipe: by which they were.
        neighbours: of each photo; None without query expansion.
        seed: draws pairs.
    """
    trained = [
        expanding(each, recipe, own, neighbours, seed)
        for each, own in zip(trained, known, strict=True)
    ]
    if len(trained) == 1:
        return trained[0]
    heads = iter([_bare(each.head) for each in trained])
    parts = [
        Part(tuple(next(heads) for _ in part), tuple(each.vectors for each in part))
        for part in data.parts
    ]
    families = data.all[0].families
    people = data.held_out.people(families)
    expands = any(each.neighbours for each in trained)
    head, weighting = fuse(
        parts, people.get("folds") or [people["held_out"]], families,
        generator(seed, Stream.FUSION), model=data.about["model"],
        knn_view=data.about["knn_view"] if expands else "",
        same_person=known[0].same_person if expands else None, **people,
    )  # fmt: skip
    log.info("%d heads fused late: %s", len(trained), weighting.describe())
    return TrainedHead(
        head=head,
        history=_history(trained),
        epoch=trained[0].epoch if len({each.epoch for each in trained}) == 1 else 0,
        seconds=sum(each.seconds for each in trained),
        epoch_chosen_by=trained[0].epoch_chosen_by,
        neighbours=neighbours if expands else None,
    )


def _bare(head: Head) -> Head:
    """A head without people and expansion, which the fused head has."""
    bare = replace(head, held_out=(), trained=(), folds=())  # type: ignore[type-var]
    return replace(bare, same_person=None, knn_view="") if isinstance(bare, MetricHead) else bare


def _history(trained: Sequence[TrainedHead]) -> list[Any]:
    """The rows of all parts; their members are numbered on through the parts."""
    rows: list[Any] = []
    before = 0
    for each in trained:
        numbers = [getattr(row, "member", 0) for row in each.history]
        for row, number in zip(each.history, numbers, strict=True):
            if isinstance(row, HeadEpoch) and not isinstance(row, MemberEpoch):
                rows.append(MemberEpoch(**asdict(row), member=before + number))
            else:
                rows.append(replace(row, member=before + number))
        before += max(numbers, default=-1) + 1
    return rows
