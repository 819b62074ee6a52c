"""What a head learns from, by the cache: whose vectors, which views, who is held out."""

from dataclasses import replace
from typing import Any, NamedTuple

from kinembed.arrays import finite_or_raise
from kinembed.cache import Embeddings
from kinembed.cache.provenance import Finetuned
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.splits import HeldOut, hold_out_validation, split_as_network
from kinembed.errors import DataError, RunError
from kinembed.heads.kept import KeptHead
from kinembed.heads.pair import PairHead
from kinembed.heads.views import HeadViews, choose_views
from kinembed.recipes import PairRecipe
from kinembed.training.heads import FOLDS, HeadData, HeadRecipe, hold_out


class PairTraining(NamedTuple):
    """How a network was fine-tuned together with a head that compares pairs."""

    recipe: PairRecipe
    view: str


def pair_training(cache: Embeddings) -> PairTraining | None:
    """How the network that made a cache was fine-tuned, where it learnt a head by that."""
    tuned = Finetuned.of(cache.provenance)
    if tuned is None or not isinstance(tuned.recipe, PairRecipe):
        return None
    return PairTraining(tuned.recipe, tuned.view)


def starting_head(before: KeptHead | None, data: HeadData, cache: Embeddings) -> PairHead:
    """The head whose weights a training begins with.

    Raises:
        RunError: there is none, or it compares other vectors.
    """
    if before is None or not isinstance(before.head, PairHead):
        raise RunError(
            f"warm_start: the run folder keeps no head that was fine-tuned with the network of "
            f"{cache.path}; leave out --warm-start, or run kinembed finetune and embed"
        )
    if before.head.view != data.about["view"]:
        raise RunError(
            f"warm_start: {before.name} compares view {before.head.view}, found "
            f"{data.about['view']}; leave out --warm-start or --view"
        )
    return before.head


def held_out_of_cache(
    config: HeadConfig, recipe: HeadRecipe, families: Families, cache: Embeddings
) -> HeldOut:
    """Who trains and who is held out: as from the network that made the cache, where it learnt.

    Raises:
        RunError: the network was trained on people who would be held out.
    """
    before = cache.provenance.get("split")
    if before is None:
        by = config.split or ("families" if config.validation_fraction is not None else None)
        folds = config.folds if config.folds is not None or by is not None else FOLDS
        if recipe.takes_folds and folds and config.ensemble not in (None, folds):
            raise RunError(
                f"ensemble: found {config.ensemble}, with {folds} folds, which have a member each; "
                f"wanted --folds {config.ensemble}, or --folds 0 with --ensemble"
            )
        return hold_out(
            families, recipe, folds=config.folds, split=by,
            fraction=config.validation_fraction or 0.2, seed=config.seed,
        )  # fmt: skip
    if config.folds:
        raise RunError(
            f"{cache.path}: its network was trained on people of all folds but those it held out; "
            "leave out --folds"
        )
    try:
        wanted = {"split": config.split, "validation_fraction": config.validation_fraction}
        for name, found in zip(wanted, (before["by"], before.get("fraction")), strict=True):
            if wanted[name] not in (None, found):
                raise RunError(
                    f"{cache.path}: its network was trained with {name} {found}, found "
                    f"{wanted[name]}; leave it out, so that the people held out are those it has "
                    "not seen"
                )
        split = split_as_network(families, before)
    except DataError as error:
        raise RunError(f"{cache.path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{cache.path}: does not say whom its network was trained on ({error}); run kinembed "
            "embed again"
        ) from None
    members = recipe.members if recipe.takes_folds else 1  # pair heads differ by their seeds
    return hold_out_validation(families, split, before["by"], members, config.seed)


def read_head_data(
    config: HeadConfig,
    recipe: HeadRecipe,
    families: Families,
    held_out: HeldOut,
    cache: Embeddings,
) -> HeadData:
    """The vectors that the head learns from, and what they are.

    Raises:
        RunError: the cache lacks a view, or some vectors are not finite.
    """
    if recipe.takes_folds:
        views = choose_views(cache, config.view, config.flip)
    else:
        views = HeadViews((cache.choose_view(config.view),), (), "", 1)
    view = views.view
    vectors = finite_or_raise(
        cache.vectors(view),
        lambda row: RunError(
            f"{cache.path}: vectors of view {view} are not finite; run kinembed embed"
        ),
    )
    about: dict[str, Any] = {"view": view, "model": cache.provenance["model"]}
    data = HeadData(
        vectors=vectors,
        families=families,
        held_out=held_out,
        learnt=tuple(cache.vectors(part).shape[1] for part in views.learnt),
        as_is=tuple(cache.vectors(part).shape[1] for part in views.as_is),
        tta_views=views.tta_views,
        knn_vectors=vectors,
        about={**about, "knn_view": views.knn_view},
    )
    if not views.knn_view:
        return data
    return replace(data, knn_vectors=cache.vectors(views.knn_view))
