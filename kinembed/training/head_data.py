"""What a head learns from, by the cache: whose vectors, which views, who is held out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from kinembed.arrays import Vectors
from kinembed.cache import Embeddings
from kinembed.cache.lazy_rows import LazyRows
from kinembed.cache.provenance import Finetuned, networks_of
from kinembed.cache.schema import BLOCK
from kinembed.config import HeadConfig
from kinembed.data.families import Families
from kinembed.data.splits import HeldOut, Split, hold_out_validation, split_as_network
from kinembed.errors import DataError, RunError
from kinembed.heads.file import Chooser
from kinembed.heads.kept import KeptHead, all_heads
from kinembed.heads.pair import PairHead
from kinembed.heads.views import HeadViews, choose_views, people_views
from kinembed.printable import counted
from kinembed.recipes import PairRecipe
from kinembed.training.fused_heads import FusedData
from kinembed.training.heads import FOLDS, HeadData, HeadRecipe, TrainedHead, hold_out
from kinembed.views import JOIN, parts_of

log = logging.getLogger(__name__)


class PairTraining(NamedTuple):
    """How a network was fine-tuned together with a head that compares pairs."""

    recipe: PairRecipe
    view: str


def pair_training(cache: Embeddings) -> PairTraining | None:
    """How the network that made a cache was fine-tuned, where it learnt a head by that.

    Of stacked caches, how all of their networks were, where that is the same.
    """
    found = []
    for about in networks_of(cache.provenance):
        tuned = Finetuned.of(about)
        if tuned is None or not isinstance(tuned.recipe, PairRecipe):
            return None
        found.append(PairTraining(tuned.recipe, tuned.view))
    return found[0] if all(each == found[0] for each in found) else None


def tuned_views(cache: Embeddings, view: str) -> tuple[str, ...]:
    """The view that the network of a cache learnt to compare; of stacked caches that of each."""
    networks = len(cache.provenance.get("caches") or ())
    names = view.split(JOIN)
    return tuple(
        JOIN.join(f"{number}.{name}" for name in names) for number in range(1, networks + 1)
    ) or (view,)


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


def fine_tuned_head(data: HeadData, cache: Embeddings) -> TrainedHead:
    """The head that a network was fine-tuned with, from the folder of the network's cache.

    Raises:
        RunError: there is none.
    """
    view, caches = data.about["view"], getattr(cache, "caches", None)
    if caches is None:
        one, own_view = cache, view
    else:
        numbers, names = zip(*(part.split(".", 1) for part in parts_of(view)), strict=True)
        one, own_view = caches[int(numbers[0]) - 1], JOIN.join(names)
    for kept in all_heads(one.path.parent):
        is_own = kept.head.model == one.provenance["model"] and kept.record.stage == "finetune"
        if is_own and isinstance(kept.head, PairHead) and kept.head.view == own_view:
            head = replace(kept.head, view=view, model=data.about["model"])
            chooser = kept.record.epoch_chosen_by or "nobody"
            return TrainedHead(head, (), kept.record.epoch or 0, 0.0, chooser)
    raise RunError(
        f"{one.path}: its folder keeps no head that its network was fine-tuned with; leave out "
        "--fine-tuned, or run kinembed finetune and embed into one folder"
    )


def chosen_by(trained: TrainedHead, cache: Embeddings) -> Chooser:
    """Who chose the epoch of a head, or of a fine-tuned network whose vectors it takes.

    Those who judge it go before others, as they make its figures a little high.
    """
    taken = [cache.provenance]
    if networks := cache.provenance.get("caches"):
        numbers = {int(view.partition(".")[0]) for view in parts_of(trained.head.view)}
        taken = [networks[number - 1] for number in numbers]
    tuned = [Finetuned.of(about) for about in taken]
    by = {trained.epoch_chosen_by, *(each.epoch_chosen_by for each in tuned if each)}
    known: tuple[Chooser, ...] = ("held-out people", "validation people")
    return next((each for each in known if each in by), "nobody")


@dataclass(frozen=True)
class WhoLearns:
    """Who trains and who is held out.

    Attributes:
        common: of the whole head.
        by_network: of each network that held out a fold, by its number in the stack, where some
            held out another.
    """

    common: HeldOut
    by_network: Mapping[int, HeldOut] = field(default_factory=dict)


def who_learns(
    config: HeadConfig, recipe: HeadRecipe, families: Families, cache: Embeddings
) -> WhoLearns:
    """Who trains and who is held out: as from the networks that made the cache, where they learnt.

    Raises:
        RunError: a network was trained on people who would be held out.
    """
    caches = cache.provenance.get("caches") or []
    folds = {
        number: about["split"]
        for number, about in enumerate(caches, start=1)
        if (about.get("split") or {}).get("folds")
    }
    by_fold = {int(split["fold"]): number for number, split in folds.items()}
    if len(by_fold) < 2:  # none, or all held out the same people
        return WhoLearns(_of_one_split(config, recipe, families, cache))
    if config.folds or config.split or config.validation_fraction is not None:
        raise RunError(
            f"{cache.path}: its networks were trained by folds, which say who is held out; leave "
            "out --folds and --split"
        )
    splits = {
        number: _as_network(config, families, split, cache) for number, split in folds.items()
    }
    first = next(iter(folds.values()))
    if len(folds) < len(caches):
        if not recipe.takes_folds:
            raise RunError(
                f"{cache.path}: a head of recipe {recipe.name} has no folds, and the other "
                "networks were trained by folds; wanted --kind metric, or networks by folds alone"
            )
        if len(by_fold) < first["folds"]:
            raise RunError(
                f"{cache.path}: {len(by_fold)} of {first['folds']} networks by folds, wanted all "
                "beside a network without; name the others with --cache"
            )
    members = recipe.members if recipe.takes_folds else 1
    return WhoLearns(
        HeldOut(tuple(splits[by_fold[fold]] for fold in sorted(by_fold)), True, first["by"]),
        {
            number: hold_out_validation(families, split, first["by"], members, config.seed)
            for number, split in splits.items()
        },
    )


def _of_one_split(
    config: HeadConfig, recipe: HeadRecipe, families: Families, cache: Embeddings
) -> HeldOut:
    """Who trains and who is held out: of networks that held out the same people, or learnt not."""
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
    wanted = {"split": config.split, "validation_fraction": config.validation_fraction}
    for name, key in zip(wanted, ("by", "fraction"), strict=True):
        if wanted[name] not in (None, before.get(key)):
            raise RunError(
                f"{cache.path}: its network was trained with {name} {before.get(key)}, found "
                f"{wanted[name]}; leave it out, so that the people held out are those it has not "
                "seen"
            )
    split = _as_network(config, families, before, cache)
    members = recipe.members if recipe.takes_folds else 1  # pair heads differ by their seeds
    return hold_out_validation(families, split, before["by"], members, config.seed)


def _as_network(
    config: HeadConfig, families: Families, before: dict[str, Any], cache: Embeddings
) -> Split:
    """The split that a network was trained by."""
    try:
        return split_as_network(families, before)
    except DataError as error:
        if config.exclude is not None:
            raise RunError(
                f"{cache.path}: its network was trained before {config.exclude} left out people, "
                "so nobody is known to be held out; leave out photos alone, or leave out --exclude"
            ) from None
        raise RunError(f"{cache.path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{cache.path}: does not say whom its network was trained on ({error}); run kinembed "
            "embed again"
        ) from None


def read_head_data(
    config: HeadConfig, recipe: HeadRecipe, families: Families, who: WhoLearns, cache: Embeddings
) -> FusedData:
    """The vectors that the head learns from, and what they are.

    One view, or none of one network, is for one head; several are for a head each, fused late, and
    so are several networks.

    Raises:
        RunError: the cache lacks a view, or some vectors are not finite.
    """
    networks = cache.provenance.get("caches") or []
    asked: list[tuple[int | None, str | None]] = [(None, view) for view in config.views]
    if not asked:
        asked = [(number + 1, None) for number in range(len(networks))] or [(None, None)]
    chosen = []
    for number, wanted in asked:
        if not recipe.takes_folds:
            start = "" if number is None else f"{number}."
            view = cache.choose_view(wanted, start)
            chosen.append(HeadViews((view,), False, "", 1))
        else:
            chosen.append(choose_views(cache, wanted, config.flip, number))
    numbers = [_network_of(views, who, cache) for views in chosen]
    # Networks by folds know the people whom others of them held out, and would tell their photos.
    tell = [views for views, n in zip(chosen, numbers, strict=True) if n not in who.by_network]
    knn_view = _knn_view(tell)
    model = cache.provenance["model"]
    parts: list[tuple[HeadData, ...]] = []
    by_fold: dict[int, list[HeadData]] = {}
    for views, number in zip(chosen, numbers, strict=True):
        held_out = who.by_network.get(number, who.common)
        data = _read_vectors(views, families, held_out, cache, knn_view)
        if number in who.by_network:
            by_fold.setdefault(networks[number - 1]["split"]["fold"], []).append(data)
        else:
            parts.append((data,))
    _check_folds(by_fold, bool(parts), who, cache)
    if recipe.expand != "off" and not tell:
        log.info(
            "no query expansion: each network learnt from people whom another held out; the cache "
            "of a network that was not fine-tuned, too, tells photos of one person"
        )
    parts += zip(*(by_fold[fold] for fold in sorted(by_fold)), strict=True)
    _warn_of_equal(cache, [data for part in parts for data in part])
    return FusedData(tuple(parts), {"model": model, "knn_view": knn_view})


def _check_folds(
    by_fold: Mapping[int, Sequence[HeadData]], others: bool, who: WhoLearns, cache: Embeddings
) -> None:
    """Refuses views of networks by folds that leave people without one that held them out.

    Args:
        by_fold: what is learnt from the networks of each fold.
        others: other networks are learnt from, too.
        who: holds people out.
        cache: of all networks.

    Raises:
        RunError: naming how many views there are of each fold.
    """
    counts = {fold: len(each) for fold, each in sorted(by_fold.items())}
    lacking = bool(counts) and others and len(counts) < len(who.common.splits)
    if lacking or len(set(counts.values())) > 1:
        found = ", ".join(f"{counted(n, 'view')} of fold {fold}" for fold, n in counts.items())
        raise RunError(
            f"{cache.path}: found {found}; wanted equally many of the networks of all "
            f"{len(who.common.splits)} folds, or of none"
        )


def _warn_of_equal(cache: Embeddings, parts: Sequence[HeadData]) -> None:
    """Says where the same vectors come twice: a view named again, or a cache in another form."""
    origins = [_origin(data.about["view"], cache) for data in parts]
    for number, data in enumerate(parts):
        for which, before in enumerate(parts[:number]):
            is_equal = _equal(before.vectors, data.vectors)
            if is_equal or origins[which] == origins[number]:
                what = "the very vectors" if is_equal else "the same network's vectors, rounded,"
                log.warning(
                    "%s: view %s has %s of view %s, which count twice; unlike networks or views "
                    "are worth fusing", cache.path, data.about["view"], what, before.about["view"],
                )  # fmt: skip


def _origin(view: str, cache: Embeddings) -> list[tuple[Any, ...]]:
    """Network, preprocessing and own name of each part of a view, which tell what it holds."""
    found = []
    for name in parts_of(view):
        about, own = cache.provenance, name
        if networks := cache.provenance.get("caches"):
            number, _, own = name.partition(".")
            about = networks[int(number) - 1]
        found.append((about["model"], about.get("input"), own))
    return found


def _equal(one: Vectors, other: Vectors) -> bool:
    """Whether two tables are equal; the first rows of unlike ones tell."""
    blocks = (slice(start, start + BLOCK) for start in range(0, len(one), BLOCK))
    return one.shape == other.shape and all(
        np.array_equal(one[block], other[block]) for block in blocks
    )


def _knn_view(chosen: Sequence[HeadViews]) -> str:
    """The view by which photos of one person are told, of the views of all parts."""
    if len(chosen) == 1:
        return chosen[0].knn_view
    versions = {
        name: views.augmented(name).split(JOIN)
        for views in chosen
        for name in views.names
        if views.knn_view
    }
    told = people_views(list(versions))
    return JOIN.join(dict.fromkeys(version for name in told for version in versions[name]))


def _network_of(views: HeadViews, who: WhoLearns, cache: Embeddings) -> int:
    """The number of the network of some views; 0 of several that held out the same people.

    Raises:
        RunError: they are of several that held out different people.
    """
    if not who.by_network:
        return 0
    numbers = {int(name.partition(".")[0]) for name in views.view.split(JOIN)}
    if len(numbers) > 1:
        raise RunError(
            f"{cache.path}: view {views.view} joins networks that were trained on each other's "
            "held-out people; name the view of each with a --view of its own"
        )
    return numbers.pop()


def _read_vectors(
    views: HeadViews, families: Families, held_out: HeldOut, cache: Embeddings, knn_view: str
) -> HeadData:
    """What a head learns from some views."""
    view = views.view
    vectors = _at_hand(cache, view)
    cache.check_finite(view)
    return HeadData(
        vectors=vectors,
        families=families,
        held_out=held_out,
        widths=tuple(cache.vectors(name).shape[1] for name in views.names),
        as_is=views.as_is,
        tta_views=views.tta_views,
        knn_vectors=_at_hand(cache, knn_view) if knn_view else None,
        about={"view": view, "model": cache.provenance["model"], "knn_view": knn_view},
    )


def _at_hand(cache: Embeddings, view: str) -> Vectors:
    """(N, D) vectors of a view; of shards and of bytes in memory: each is read many times."""
    vectors = cache.vectors(view)
    return np.asarray(vectors) if isinstance(vectors, LazyRows) else vectors
