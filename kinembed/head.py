"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from kinembed.arrays import finite_or_raise
from kinembed.cache import Embeddings
from kinembed.cache.provenance import Finetuned
from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.splits import HeldOut, hold_out_validation, split_as_network
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.head_log import FILE, describe_head, log_head
from kinembed.evaluation.kept_calibrations import switch_calibration
from kinembed.evaluation.out_of_fold import OutOfFold, judge
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord
from kinembed.heads.kept import IN_USE, KeptHead, keep_head, keep_in_use, kept_heads, use_head
from kinembed.heads.pair import PairHead
from kinembed.heads.query_expansion import QueryExpansion
from kinembed.heads.views import HeadViews, choose_views
from kinembed.io import write_csv
from kinembed.progress import Progress, silent
from kinembed.recipes import METRIC, PairRecipe, changed_settings, expand_sweep
from kinembed.report.sweep import write_sweep
from kinembed.training.heads import HeadData, HeadRecipe, TrainedHead, hold_out, train_heads
from kinembed.views import JOIN

log = logging.getLogger(__name__)


class PairTraining(NamedTuple):
    """How a network was fine-tuned together with a head that compares pairs."""

    recipe: PairRecipe
    view: str


def head(config: HeadConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Trains a head on the vectors of the cache, and judges it by people it was not trained on.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    that it was not trained on; where that network learnt a head, as by the report's recipes, the
    head trained is by default of the same recipe and view.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `heads/NAME.h5`, its copy `head.h5` and
            `history-head.csv` are written, of a sweep `sweep.csv` and `sweep.md` in their place;
            each head has a row in `heads.csv`.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`, or of `sweep.csv`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        tuned = _pair_training(cache)
        default = tuned.recipe if tuned else METRIC
        config.check(default)
        recipe = config.full_recipe(default)
        variants = expand_sweep(recipe, config.sweep, config.seed)
        if tuned and not recipe.takes_folds:
            config = replace(config, view=config.view or tuned.view)
        earlier = _earlier_heads(run, cache)
        before = next((each for each in earlier if each.record.stage == "finetune"), None)
        before = before or next((each for each in earlier if each.in_use), None)
        families = cached_families([name.decode() for name in cache.names], data)
        log.info("%s", families.summary())
        held_out = _held_out(config, recipe, families, cache)
        material = _head_data(config, recipe, families, held_out, cache)
        if config.warm_start:
            material = replace(material, start=_start(before, material, cache))
        log.info(
            "recipe %s on view %s (%d wide); split by %s: %d member%s, each with at most %d "
            "people in training and %d held out", recipe.name, material.about["view"],
            material.vectors.shape[1], held_out.by, len(held_out.splits),
            "" if len(held_out.splits) == 1 else "s",
            *(max(len(getattr(split, side)) for split in held_out.splits)
              for side in ("train", "validation")),
        )  # fmt: skip
        trained = train_heads(material, variants, config, progress)
        expansions: dict[int, QueryExpansion] = {}  # by how many neighbours are asked
        results, records = [], []
        for each, (variant, seed) in zip(trained, variants, strict=True):
            qe_k = each.head.qe_k
            if qe_k > 1 and qe_k not in expansions:
                expansions[qe_k] = QueryExpansion(cache, each.head.knn_view, qe_k)
            result = judge(each.head, cache, families, config.seed, expansions.get(qe_k))
            results.append(result)
            records.append(_record(each, variant, result))
            row = describe_head(each.head, records[-1], seed, each.seconds, result)
            log_head(run / FILE, row)
        if config.sweep:
            return write_sweep(config.sweep, variants, trained, results, run)
        (one,), (result,), (record,) = trained, results, records
        rival = before.head if before and _same_people(before.head, one.head) else None
        if rival and set(rival.view.split(JOIN)) <= set(cache.views):
            followed = judge(rival, cache, families, config.seed, expansions.get(rival.qe_k))
        else:
            followed = None
    if one.history:
        write_csv(run / "history-head.csv", [asdict(row) for row in one.history])
    kept = keep_head(run, one.head, record)
    switch_calibration(run, one.head)
    path = run / IN_USE
    log.info(
        "%s: epoch %d, AUC %.4f (95 %% by families: %.4f to %.4f) on people that %s not trained "
        "on; %.1f s", path, one.epoch, result.auc, result.low, result.high,
        "the member judged was" if one.head.folds else "it was", one.seconds,
    )  # fmt: skip
    if before and followed:
        log.info("%s, which it follows: AUC %.4f on the same pairs", before.name, followed.auc)
    if record.epoch_chosen_by == "held-out people":
        log.info("the people who judge it chose its epoch, too, so its AUC is a little high")
    log.info("%s", _other_choice(recipe, default, result.auc, earlier))
    log.info("kept as %s; kinembed head --use NAME goes back to another", kept)
    return path


def use(run: Path, name: str) -> Path:
    """Makes a kept head the one in use, with the calibration that it was last used with.

    Args:
        run: the run folder.
        name: of the head, or the start of its name or digest.

    Returns:
        The path of `head.h5`.

    Raises:
        RunError: no head is kept by that name, or several begin so.
    """
    used = use_head(run, name)
    log.info("%s: is %s now", run / IN_USE, used.name)
    switch_calibration(run, used.head)
    return run / IN_USE


def _pair_training(cache: Embeddings) -> PairTraining | None:
    """How the network that made a cache was fine-tuned, where it learnt a head by that.

    Raises:
        RunError: what the cache says of it is not understood.
    """
    try:
        tuned = Finetuned.of(cache.provenance)
    except (KinembedError, KeyError, TypeError) as error:
        raise RunError(
            f"{cache.path}: does not say how its network was trained ({error}); run kinembed "
            "embed again"
        ) from None
    if tuned is None or not isinstance(tuned.recipe, PairRecipe):
        return None
    return PairTraining(tuned.recipe, tuned.view)


def _earlier_heads(run: Path, cache: Embeddings) -> list[KeptHead]:
    """The heads of the run folder that compare the vectors of a cache, the newest first."""
    keep_in_use(run)
    model = cache.provenance["model"]
    return [each for each in kept_heads(run) if each.head.model == model][::-1]


def _same_people(one: Head, other: Head) -> bool:
    """Whether two heads are judged by the same people."""
    first, second = ([people for people, _ in head.out_of_fold()] for head in (one, other))
    return first == second


def _start(before: KeptHead | None, data: HeadData, cache: Embeddings) -> PairHead:
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


def _record(trained: TrainedHead, recipe: HeadRecipe, result: OutOfFold) -> HeadRecord:
    return HeadRecord(
        stage="head",
        recipe=recipe.name,
        settings=changed_settings(recipe),
        auc=result.auc,
        epoch=trained.epoch or None,
        epoch_chosen_by=trained.epoch_chosen_by,
    )


def _other_choice(
    recipe: HeadRecipe, default: HeadRecipe, auc: float, earlier: list[KeptHead]
) -> str:
    """What would be trained by another option, and how well it did where it has been trained."""
    if recipe.kind == PairRecipe.kind:
        option, what = "--kind metric trains", "the best kind known"
    elif default.kind == PairRecipe.kind:
        option, what = "without --kind and --recipe it trains", f"the network's own, {default.name}"
    else:
        option, what = "--kind regularized trains", "the report's"
    others = (each for each in earlier if each.head.kind != recipe.kind)
    other = next((each for each in others if each.record.auc is not None), None)
    known = f", of AUC {other.record.auc:.4f} here ({other.name})" if other else ""
    return f"head {recipe.name}: AUC {auc:.4f}; {option} {what}{known}"


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
    members = recipe.members if recipe.takes_folds else 1  # pair heads differ by their seeds
    return hold_out_validation(families, split, before["by"], members, config.seed)


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
