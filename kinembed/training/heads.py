"""Training heads of any kind from vectors: `train_head`, on arrays or from the stage `head`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Vectors, finite_or_raise
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.splits import HeldOut, Split, hold_out_folds, hold_out_validation, split_people
from kinembed.errors import DataError, KinembedError
from kinembed.heads.base import Head
from kinembed.heads.file import Chooser, HeadRecord
from kinembed.heads.metric import MetricHead
from kinembed.heads.pair import PairHead
from kinembed.heads.query_expansion import Neighbours, find_neighbours
from kinembed.heads.same_person import SamePerson
from kinembed.progress import Progress, silent
from kinembed.recipes import MetricRecipe, PairRecipe, changed_settings, find_head_recipe, override
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
        vectors: (N, tta_views * D) float32 or float16, with D the widths of all views together.
        families: photos, people and relations; their rows are those of the vectors.
        held_out: who trains and who judges.
        learnt: widths of the views that are learnt from, stacked in a vector.
        as_is: widths of those behind them that are compared as they are.
        tta_views: versions of a photo that a vector holds, one after the other.
        knn_vectors: (N, K) by whose cosine photos of one person are found.
        about: what the head's file says: view, model, knn_view.
        start: the head whose weights a pair head begins with; None: those that its recipe draws.
        same_person: tells which photos are likely of one person, for query expansion.
    """

    vectors: Vectors
    families: Families
    held_out: HeldOut
    learnt: tuple[int, ...]
    as_is: tuple[int, ...]
    tta_views: int
    knn_vectors: Vectors
    about: dict[str, Any]
    start: PairHead | None = None
    same_person: SamePerson | None = None


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

    def record(self, recipe: HeadRecipe, auc: float, framings: tuple[str, ...]) -> HeadRecord:
        """What its file says of its training, with the AUC on held-out people and the frames."""
        return HeadRecord(
            stage="head",
            recipe=recipe.name,
            settings=changed_settings(recipe),
            auc=auc,
            epoch=self.epoch or None,
            epoch_chosen_by=self.epoch_chosen_by,
            framings=framings,
        )


def train_head(
    vectors: Vectors,
    families: Families,
    recipe: HeadRecipe | str = "metric",
    *,
    split: Split | HeldOut | Literal["people", "families"] | None = None,
    validation_fraction: float = 0.2,
    folds: int | None = None,
    overrides: tuple[str, ...] = (),
    seed: int = 0,
    view: str = "vectors",
    model: str = "",
    progress: Progress = silent,
    **settings: Any,
) -> TrainedHead:
    """Trains what `kinembed head` trains, on an array.

    Args:
        vectors: (N, D) float32 or float16: a view of a cache, or any array.
        families: who is on the photos, and who is related to whom: `read_families`,
            `cached_families` or `group_families`.
        recipe: what to learn and how, or its name: `metric`, `regularized`, `mix` and so on.
        split: who is held out: what to split by, the split itself, or one of each member. None: of
            a metric head five folds of the families, each held out by one member; else a part of
            the families.
        validation_fraction: share of the people, or families, that a split holds out.
        folds: of the families, of a metric head; 0: one part is held out from all members.
        overrides: values of the recipe, `key=value` each, as `--set` takes them.
        seed: of all that is random.
        view: what the vectors are called in a cache, for the head's file.
        model: digest of what made the vectors, for the head's file.
        progress: shows how far it is.
        settings: others of `HeadConfig`, such as `epochs` and `patience`.

    Raises:
        KinembedError: the recipe or a setting is unknown or out of range, the families cannot be
            split so, or the training diverges.

    Example:
        Twelve families of three, two photos each, whose vectors lie near their family's:

        >>> import numpy as np
        >>> from kinembed import group_families, score_pairs, train_head
        >>> photos = [f"F{f}/MID{m}/{p}.jpg" for f in range(12) for m in range(3) for p in (0, 1)]
        >>> relations = [(f"F{f}/MID0", f"F{f}/MID{m}") for f in range(12) for m in (1, 2)]
        >>> families = group_families(photos, relations)
        >>> rng = np.random.default_rng(0)
        >>> vectors = np.eye(12)[families.family[families.owner]] + rng.normal(0, 0.3, (72, 12))
        >>> small = ("embed_dim=8", "hidden_dim=0", "steps=5", "epochs=2")
        >>> trained = train_head(vectors, families, "metric", folds=3, overrides=small)
        >>> trained.head.kind, len(trained.head.folds)
        ('metric', 3)
        >>> kin, strangers = score_pairs(trained.head, vectors, np.array([[0, 2], [0, 30]]))
        >>> bool(kin > strangers)
        True
    """
    chosen = find_head_recipe(recipe) if isinstance(recipe, str) else recipe
    chosen = override(chosen, overrides)
    config = HeadConfig(recipe=None, seed=seed, folds=folds, **settings)
    config.check(chosen)
    chosen = config.full_recipe(chosen)
    if np.ndim(vectors) != 2 or 0 in np.shape(vectors):
        raise DataError(f"vectors: found shape {np.shape(vectors)}, wanted (photos, numbers)")
    wanted = int(families.rows.max(initial=-1)) + 1
    if wanted > len(vectors):
        raise DataError(
            f"vectors: found {len(vectors)} rows, wanted {wanted} or more for these families"
        )
    finite_or_raise(vectors, lambda row: DataError(f"vectors: row {row} is not finite"))
    held_out = hold_out(
        families, chosen, folds=folds, split=split, fraction=validation_fraction, seed=seed
    )
    data = HeadData(
        vectors=vectors,
        families=families,
        held_out=held_out,
        learnt=(vectors.shape[1],),
        as_is=(),
        tta_views=1,
        knn_vectors=vectors,
        about={"view": view, "model": model, "knn_view": view},
    )
    (trained,) = train_heads(data, [(chosen, seed)], config, progress)
    return trained


def train_heads(
    data: HeadData, variants: Sequence[Variant], config: HeadConfig, progress: Progress = silent
) -> list[TrainedHead]:
    """Trains a head for each of some recipes of one kind, on the same vectors.

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
    if any(recipe.expand == "auto" for recipe, _ in variants):
        people = np.unique(np.concatenate([split.train for split in data.held_out.splits]))
        rng = generator(config.seed, Stream.SAME_PERSON)
        model = fit_same_person(data.knn_vectors, data.families, people, rng)
        data = replace(data, same_person=model)
    module = import_module(f"kinembed.training.{variants[0][0].kind}_heads")
    trained: list[TrainedHead] = module.train(data, variants, config, progress)
    if all(each.head.same_person is None for each in trained):
        return trained
    assert data.same_person is not None
    rows = np.sort(data.families.rows)
    neighbours = find_neighbours(data.knn_vectors[rows], data.same_person, rows)
    return [_expanding(each, data, neighbours, config.seed) for each in trained]


def _expanding(
    trained: TrainedHead, data: HeadData, neighbours: Neighbours, seed: int
) -> TrainedHead:
    """The head with its expansion slopes and the neighbours of its photos, if it expands."""
    head = trained.head
    if head.same_person is None:
        return trained
    if isinstance(head, MetricHead):
        slopes = fit_expansion_slopes(
            head, data.vectors, neighbours, data.families, data.held_out.splits,
            generator(seed, Stream.EXPANSION),
        )  # fmt: skip
        head = replace(head, expansion_slopes=slopes)
    return replace(trained, head=head, neighbours=neighbours)


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
