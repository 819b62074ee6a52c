"""Training heads of any kind from vectors: what kinds share, and who is held out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Vectors
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.splits import HeldOut, Split, hold_out_folds, hold_out_validation, split_people
from kinembed.errors import KinembedError
from kinembed.heads.base import Head
from kinembed.heads.file import Chooser, HeadRecord
from kinembed.heads.metric import MetricHead
from kinembed.heads.pair import PairHead
from kinembed.heads.query_expansion import Neighbours, find_neighbours
from kinembed.heads.same_person import SamePerson
from kinembed.progress import Progress
from kinembed.recipes import MetricRecipe, PairRecipe, changed_settings
from kinembed.seeds import Stream, generator
from kinembed.training.same_person import fit_expansion_slopes, fit_same_person

log = logging.getLogger(__name__)

HeadRecipe = PairRecipe | MetricRecipe
Variant = tuple[HeadRecipe, int]  # a recipe and the seed of its initial values

FOLDS = 5


@dataclass(frozen=True)
class HeadData:
    """What heads learn from.

    Attributes:
        vectors: (N, tta_views * D) float32 or float16, with D the sum of `widths`.
        families: photos, people and relations; their rows are those of the vectors.
        held_out: who trains and who judges.
        widths: of the views that are stacked in a vector.
        as_is: they are compared as they are.
        tta_views: versions of a photo that a vector holds, one after the other.
        knn_vectors: (N, K) by whose cosine photos of one person are found; None: by nothing, so
            that heads do not expand.
        about: what the head's file says: view, model, knn_view.
        start: the head whose weights a pair head begins with; None: those that its recipe draws.
        same_person: tells which photos are likely of one person, for query expansion.
        ready: a head of these vectors that needs no training; None: one is trained.
    """

    vectors: Vectors
    families: Families
    held_out: HeldOut
    widths: tuple[int, ...]
    as_is: bool
    tta_views: int
    knn_vectors: Vectors | None
    about: dict[str, Any]
    start: PairHead | None = None
    same_person: SamePerson | None = None
    ready: "TrainedHead | None" = None


@dataclass(frozen=True)
class TrainedHead:
    """A head, and how it came about.

    Attributes:
        head: the head.
        history: rows of `history-head.csv`: dataclasses of numbers.
        epoch: the epoch that it is of, the first being 1; 0 where nothing was learnt.
        seconds: that its training took; of several trained in one pass, of all of them.
        epoch_chosen_by: whom that epoch did best on.
        neighbours: which of its photos are of one person, if it expands.
    """

    head: Head
    history: Sequence[Any]
    epoch: int
    seconds: float
    epoch_chosen_by: Chooser = "nobody"
    neighbours: Neighbours | None = None

    def record(
        self,
        recipe: HeadRecipe,
        auc: float,
        framings: tuple[str, ...],
        caches: tuple[str, ...] = (),
    ) -> HeadRecord:
        """What its file says of its training: AUC on held-out people, frames, and caches."""
        return HeadRecord(
            stage="head",
            recipe=recipe.name,
            settings=changed_settings(recipe),
            auc=auc,
            epoch=self.epoch or None,
            epoch_chosen_by=self.epoch_chosen_by,
            framings=framings,
            caches=caches,
        )


def know_people(
    parts: Sequence[HeadData], variants: Sequence[Variant], seed: int
) -> tuple[list[HeadData], Neighbours | None]:
    """Learns which photos are likely of one person, if heads are to expand.

    Args:
        parts: what heads learn from, with the same families and `knn_vectors`.
        variants: their recipes.
        seed: draws strangers.

    Returns:
        The same with `same_person`, and the neighbours of each photo; None without expansion.
    """
    first = parts[0]
    if first.knn_vectors is None or all(recipe.expand == "off" for recipe, _ in variants):
        return list(parts), None
    splits = [split.train for data in parts for split in data.held_out.splits]
    people = np.unique(np.concatenate(splits))
    rng = generator(seed, Stream.SAME_PERSON)
    model = fit_same_person(first.knn_vectors, first.families, people, rng)
    if model is None:
        return list(parts), None
    rows = np.sort(first.families.rows)
    exact = any(recipe.expand == "exact" for recipe, _ in variants)
    neighbours = find_neighbours(first.knn_vectors[rows], model, rows, exact=exact)
    return [replace(data, same_person=model) for data in parts], neighbours


def train_alone(
    data: HeadData, variants: Sequence[Variant], config: HeadConfig, progress: Progress
) -> list[TrainedHead]:
    """Trains a head for each of some recipes of one kind, on the same vectors, without expansion.

    Args:
        data: what they learn from.
        variants: recipes and seeds.
        config: the protocol, and the seed of pairs and folds.
        progress: shows how far it is.

    Returns:
        The heads in the order of the variants.

    Raises:
        KinembedError: one of them diverges, or people cannot give batches.
    """
    module = import_module(f"kinembed.training.{variants[0][0].kind}_heads")
    trained: list[TrainedHead] = module.train(data, variants, config, progress)
    return trained


def expanding(
    trained: TrainedHead,
    recipe: HeadRecipe,
    data: HeadData,
    neighbours: Neighbours | None,
    seed: int,
) -> TrainedHead:
    """The head with query expansion, if its recipe and its photos have it.

    Args:
        trained: by `train_alone`.
        recipe: by which it was.
        data: what it learnt from, with what tells photos of one person.
        neighbours: of each photo.
        seed: draws the pairs that tell what expansion is worth.
    """
    head = trained.head
    if neighbours is None or recipe.expand == "off" or not isinstance(head, MetricHead):
        return trained
    head = replace(head, same_person=data.same_person)
    slopes = fit_expansion_slopes(
        head, data.vectors, neighbours, data.families, data.held_out.splits,
        generator(seed, Stream.EXPANSION),
    )  # fmt: skip
    return replace(trained, head=replace(head, expansion_slopes=slopes), neighbours=neighbours)


def hold_out(
    families: Families,
    recipe: HeadRecipe,
    *,
    folds: int | None,
    split: Split | HeldOut | Literal["people", "families"] | None,
    fraction: float,
    seed: int,
    by: str = "families",
) -> HeldOut:
    """Who trains, and who is held out, where nothing was fine-tuned on any of them.

    Args:
        families: the people.
        recipe: of the head.
        folds: as of `train_head`; so are the others.
        split: what to split by, or the split itself.
        fraction: share that a split holds out.
        seed: draws folds and split.
        by: what a given split was drawn by, for messages.

    Raises:
        KinembedError: a pair head is asked for folds, or there are too few families.
    """
    if folds and not recipe.takes_folds:
        raise KinembedError(f"folds: recipe {recipe.name} has none; wanted --kind metric with them")
    if isinstance(split, HeldOut):
        return split
    if folds is None:
        folds = FOLDS if recipe.takes_folds and split is None else 0
    if folds:
        return hold_out_folds(families, folds, seed)
    if not isinstance(split, Split):
        by = split or "families"
        rng = generator(seed, Stream.SPLIT)
        split = split_people(families, split or "families", fraction, rng)
    members = recipe.members if recipe.takes_folds else 1  # pair heads differ by their seeds
    return hold_out_validation(families, split, by, members, seed)


def epoch_chooser(held_out: HeldOut) -> Chooser:
    """Who chooses an epoch by validation pairs: those held out, or a part that does not judge."""
    return "validation people" if len(held_out.splits[0].test) else "held-out people"
