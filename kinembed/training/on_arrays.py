"""Training on arrays what the stage `head` trains from a cache."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Vectors, finite_or_raise
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.splits import HeldOut, Split
from kinembed.errors import DataError
from kinembed.progress import Progress, silent
from kinembed.recipes import HeadRecipe, find_head_recipe, override
from kinembed.training.fused_heads import FusedData, train_parts
from kinembed.training.heads import HeadData, TrainedHead, hold_out
from kinembed.views import JOIN


def train_head(
    vectors: Vectors | Sequence[Vectors],
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
        vectors: (N, D) float32 or float16: a view of a cache, or any array. Of a list of several
            each has a head of its own, fused late; the head takes them side by side.
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
    several = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    for each in several:
        _check_vectors(each, families)
    held_out = hold_out(
        families, chosen, folds=folds, split=split, fraction=validation_fraction, seed=seed
    )
    names = [view] if len(several) == 1 else [f"{n}.{view}" for n in range(1, len(several) + 1)]
    about = {"model": model, "knn_view": JOIN.join(names)}
    side_by_side = several[0] if len(several) == 1 else np.concatenate(several, 1)
    parts = [
        HeadData(
            vectors=each,
            families=families,
            held_out=held_out,
            widths=(each.shape[1],),
            as_is=False,
            tta_views=1,
            knn_vectors=side_by_side,
            about={**about, "view": name},
        )
        for name, each in zip(names, several, strict=True)
    ]
    data = FusedData(tuple((part,) for part in parts), about)
    (trained,) = train_parts(data, [(chosen, seed)], config, progress)
    return trained


def _check_vectors(vectors: Vectors, families: Families) -> None:
    """Refuses vectors that heads of these families cannot learn from."""
    if np.ndim(vectors) != 2 or 0 in np.shape(vectors):
        raise DataError(f"vectors: found shape {np.shape(vectors)}, wanted (photos, numbers)")
    wanted = int(families.rows.max(initial=-1)) + 1
    if wanted > len(vectors):
        raise DataError(
            f"vectors: found {len(vectors)} rows, wanted {wanted} or more for these families"
        )
    finite_or_raise(vectors, lambda row: DataError(f"vectors: row {row} is not finite"))
