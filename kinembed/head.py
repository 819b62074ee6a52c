"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kinembed.arrays import finite_or_raise
from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.splits import HeldOut, hold_out_validation, split_as_network
from kinembed.errors import DataError, RunError
from kinembed.evaluation.head_log import FILE, describe_head, log_head
from kinembed.evaluation.out_of_fold import judge
from kinembed.heads.file import save_head
from kinembed.heads.query_expansion import QueryExpansion
from kinembed.heads.views import HeadViews, choose_views
from kinembed.io import write_csv
from kinembed.progress import Progress, silent
from kinembed.recipes import expand_sweep
from kinembed.report.sweep import write_sweep
from kinembed.training.heads import HeadData, HeadRecipe, hold_out, train_heads

log = logging.getLogger(__name__)


def head(config: HeadConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Trains a head on the vectors of the cache, and judges it by people it was not trained on.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    that it was not trained on.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `history-head.csv` and `head.h5` are written, of
            a sweep `sweep.csv` and `sweep.md` in their place; each head has a row in `heads.csv`.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`, or of `sweep.csv`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    config.check()
    recipe = config.full_recipe()
    variants = expand_sweep(recipe, config.sweep, config.seed)
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        families = cached_families([name.decode() for name in cache.names], data)
        log.info("%s", families.summary())
        held_out = _held_out(config, recipe, families, cache)
        material = _head_data(config, recipe, families, held_out, cache)
        log.info(
            "recipe %s on view %s (%d wide); split by %s: %d members, each with at most %d people "
            "in training and %d held out", recipe.name, material.about["view"],
            material.vectors.shape[1], held_out.by, len(held_out.splits),
            *(max(len(getattr(split, side)) for split in held_out.splits)
              for side in ("train", "validation")),
        )  # fmt: skip
        trained = train_heads(material, variants, config, progress)
        expansions: dict[int, QueryExpansion] = {}  # by how many neighbours are asked
        results = []
        for each, (variant, seed) in zip(trained, variants, strict=True):
            qe_k = each.head.qe_k
            if qe_k > 1 and qe_k not in expansions:
                expansions[qe_k] = QueryExpansion(cache, each.head.knn_view, qe_k)
            result = judge(each.head, cache, families, config.seed, expansions.get(qe_k))
            results.append(result)
            log_head(run / FILE, describe_head(each.head, variant, seed, each.seconds, result))
    if config.sweep:
        return write_sweep(config.sweep, variants, trained, results, run)
    (one,), (result,) = trained, results
    if one.history:
        write_csv(run / "history-head.csv", [asdict(row) for row in one.history])
    path = save_head(one.head, run / "head.h5")
    log.info(
        "%s: epoch %d, AUC %.4f (95 %% by families: %.4f to %.4f) on people that %s not trained "
        "on; %.1f s", path, one.epoch, result.auc, result.low, result.high,
        "the member judged was" if one.head.folds else "it was", one.seconds,
    )  # fmt: skip
    return path


def _held_out(
    config: HeadConfig, recipe: HeadRecipe, families: Families, cache: Embeddings
) -> HeldOut:
    """Who trains and who is held out: as from the network that made the cache, where it learnt.

    Raises:
        RunError: the network was trained on people who would be held out.
    """
    before = cache.provenance.get("split")
    if before is None:
        by = config.split or ("families" if config.validation_fraction is not None else None)
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
        for name, found in zip(wanted, (before["by"], before["fraction"]), strict=True):
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
    return hold_out_validation(families, split, before["by"], recipe.members, config.seed)


def _head_data(
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
