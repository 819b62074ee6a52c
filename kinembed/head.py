"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Vectors
from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import Split, describe_split, family_folds, people_of, split_people
from kinembed.errors import RunError
from kinembed.evaluation.head_log import FILE, log_head
from kinembed.evaluation.metrics import RankedScores, family_bootstrap
from kinembed.evaluation.out_of_fold import held_out_scores
from kinembed.heads.file import save_head
from kinembed.heads.metric import MetricHead, unit
from kinembed.heads.pair import AnyHead
from kinembed.io import write_bytes, write_csv
from kinembed.progress import Progress, silent
from kinembed.recipes import MetricRecipe, PairRecipe, expand_sweep, find_head_recipe
from kinembed.report.tables import markdown_table
from kinembed.seeds import Stream, generator
from kinembed.training.metric_heads import Member, as_it_is, metric_head, placed, train_members
from kinembed.training.pair_heads import train_heads
from kinembed.views import JOIN, TTA

log = logging.getLogger(__name__)

JUDGED_PAIRS = 8_000  # by which heads are compared
FOLDS = 5
ENOUGH = 0.5  # share of photos whose nearest is of the same person, for neighbours to speak


def head(config: HeadConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Trains a head on the vectors of the cache, and judges it by people it was not trained on.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    that it was not trained on.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `history-head.csv` and `head.h5` are written, of
            a sweep `sweep.csv` and `sweep.md` in their place; each head has a row in
            `heads.csv`.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`, or of `sweep.csv`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    config.check()
    recipe = config.full_recipe()
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        families = cached_families([name.decode() for name in cache.names], data)
        log.info("%s", families.summary())
        if isinstance(recipe, MetricRecipe):
            return _metric_head(config, recipe, cache, families, data, run, progress)
        return _pair_head(config, recipe, cache, families, data, run, progress)


def _pair_head(
    config: HeadConfig,
    recipe: PairRecipe,
    cache: Embeddings,
    families: Families,
    data: Path,
    run: Path,
    progress: Progress,
) -> Path:
    """Trains heads that compare pairs, by the report's protocol."""
    members = expand_sweep(recipe, config.sweep, config.seed)
    view = cache.choose_view(config.view)
    vectors = finite_vectors(cache, view)
    split, by = choose_split(config, families, cache)
    train = PairSampler(families, split.train, config.positive_fraction)
    validation = PairSampler(families, split.validation, config.positive_fraction)
    log.info(
        "recipe %s on view %s (%d wide); split by %s: %s people train, %s are held out",
        recipe.name, view, vectors.shape[1], by, len(split.train), len(split.validation),
    )  # fmt: skip
    trained, *others = train_heads(vectors, train, validation, members, config, progress)
    people = people_of(families, split)
    about = {"view": view, "model": cache.provenance["model"], **people}
    heads = [replace(each.head, **about) for each in (trained, *others)]
    seconds = trained.history[-1].seconds
    if config.sweep:
        epochs = [each.best_epoch.epoch for each in (trained, *others)]
        return _write_sweep(config, members, heads, epochs, seconds, cache, data, run)
    write_csv(run / "history-head.csv", [asdict(row) for row in trained.history])
    path = save_head(heads[0], run / "head.h5")
    _judge(config, recipe, config.seed, heads[0], seconds, cache, data, run)
    best, last = trained.best_epoch, trained.history[-1]
    log.info(
        "%s: epoch %d of %d, validation AUC %.4f, accuracy %.3f; %.1f s",
        path, best.epoch, last.epoch, best.val_auc, best.val_accuracy, last.seconds,
    )  # fmt: skip
    return path


def _metric_head(
    config: HeadConfig,
    recipe: MetricRecipe,
    cache: Embeddings,
    families: Families,
    data: Path,
    run: Path,
    progress: Progress,
) -> Path:
    """Trains metric heads: by folds of the families, or with one part of them held out."""
    variants = expand_sweep(recipe, config.sweep, config.seed)
    views = metric_views(cache, config.view, config.flip)
    looks, near = views.looks, views.near
    finite_vectors(cache, views.view)
    widths = [cache.vectors(part).shape[1] for part in views.learnt]
    total = cache.vectors(views.view).shape[1] // looks
    members, people, folds = _members(config, recipe, families, cache)
    log.info(
        "recipe %s on view %s (%d wide, looks at a photo: %d); %d members, each with %d people "
        "or fewer held out%s",
        recipe.name, views.view, total, looks, len(members),
        max(len(member.judged) for member in members),
        f"; as they are: {', '.join(views.kept)}" if views.kept else "",
    )  # fmt: skip
    own = [
        as_it_is(cache.vectors(views.looked(part)), looks, families, members[0].train)
        for part in views.kept
    ]
    starts = sum(widths) + np.cumsum([0, *(len(each.projection.kernel) for each in own)])
    told = told_apart(cache.vectors(near), families, generator(config.seed, Stream.SAME_PERSON))
    if told < ENOUGH:
        log.info(
            "the nearest photo by view %s is of the same person for %.0f %% of the photos only: "
            "neighbours stay out of it", near, 100 * told,
        )  # fmt: skip
    heads: list[AnyHead] = []
    began = time.perf_counter()
    for variant, seed in variants:
        chosen = members if folds else [members[n % len(members)] for n in range(variant.members)]
        trained = []
        if views.learnt:
            trained = train_members(
                cache.vectors(views.looked(*views.learnt)), widths, looks, families,
                chosen, variant, patience=config.patience, seed=seed, progress=progress,
            )  # fmt: skip
        about = {"view": views.view, "model": cache.provenance["model"], "near": near, **people}
        if own:  # each network that is taken as it is weighs as much as all that was learnt
            about["weights"] = (*[1.0] * len(trained), *[float(len(trained) or 1)] * len(own))
        speaking = variant if told >= ENOUGH else replace(variant, qe_k=0)
        all_of_them = [
            replace(each, projection=placed(each.projection, int(first), total))
            for each, first in [*((each, 0) for each in trained), *zip(own, starts, strict=False)]
        ]
        heads.append(metric_head(all_of_them, speaking, looks, folds=folds, **about))
    seconds = time.perf_counter() - began
    if config.sweep:
        epochs = [variant.epochs for variant, _ in variants]
        return _write_sweep(config, variants, heads, epochs, seconds, cache, data, run)
    rows = [asdict(row) for member in trained for row in member.history]
    if rows:
        write_csv(run / "history-head.csv", rows)
    path = save_head(heads[0], run / "head.h5")
    judged = _judge(config, recipe, config.seed, heads[0], seconds, cache, data, run)
    log.info(
        "%s: AUC %.4f (95 %% by families: %.4f to %.4f) on people that %s not trained on; %.1f s",
        path, judged.auc, judged.low, judged.high,
        "the member judged was" if folds else "it was", seconds,
    )  # fmt: skip
    return path


@dataclass(frozen=True)
class MetricViews:
    """What a metric head takes of a photo.

    Attributes:
        learnt: views that projections learn from, side by side.
        kept: views that are compared as they are, behind those: a network learnt them for it.
        near: the view by which neighbours are found.
        looks: at a photo: 2 where its mirror image is one.
    """

    learnt: tuple[str, ...]
    kept: tuple[str, ...]
    near: str
    looks: int

    def looked(self, *views: str) -> str:
        """The view of all looks at these views."""
        mirrored = [view + TTA for view in views] if self.looks == 2 else []
        return JOIN.join([*views, *mirrored])

    @property
    def view(self) -> str:
        """The view of all of it."""
        return self.looked(*self.learnt, *self.kept)


def metric_views(cache: Embeddings, wanted: str | None, flip: bool = True) -> MetricViews:
    """Which views a metric head takes, and how.

    Args:
        cache: of one network or several.
        wanted: views joined by `+`, to be learnt from. None: of each network `native` and `max`,
            as far as there are such, else all; of a network that learnt by contrast the view that
            it learnt, as it is.
        flip: take mirror images as a second look, where there are those of all its views.

    Raises:
        RunError: the cache lacks one that is wanted.
    """
    plain = [view for view in cache.views if not view.endswith(TTA)]
    several = cache.provenance.get("caches")
    kept: list[str] = []
    chosen: list[str] = []
    for place, about in enumerate(several or [cache.provenance], start=1):
        start = f"{place}." if several else ""
        own = [view for view in plain if view.startswith(start)]
        if about.get("contrastive_view") in [view.removeprefix(start) for view in own]:
            kept.append(f"{start}{about['contrastive_view']}")
        else:
            found = [start + name for name in ("native", "max") if start + name in own]
            chosen += found or own
    if wanted is not None:
        chosen, kept = wanted.split(JOIN), []
    parts = [*chosen, *kept]
    looks = 2 if flip and {part + TTA for part in parts} <= set(cache.views) else 1
    near = [part for part in parts if part.rpartition(".")[2] == "native"] or parts
    views = MetricViews(tuple(chosen), tuple(kept), "", looks)
    return replace(views, near=views.looked(*near))


def told_apart(
    near: Vectors, families: Families, rng: np.random.Generator, count: int = 1000
) -> float:
    """The share of photos whose nearest other photo is of the same person.

    Where vectors do not even tell people apart, neighbours are no help. Asks who is on the photos,
    not who is kin.

    Args:
        near: (N, D) vectors by whose cosine photos are near.
        families: who is on which photo.
        rng: draws the photos.
        count: how many, of people with several.

    Returns:
        0 to 1; 0 where nobody has several photos.
    """
    several = np.diff(families.photo_start)
    owner = families.owner
    asked = np.flatnonzero(several[owner] > 1)
    if not len(asked):
        return 0.0
    asked = rng.permutation(asked)[:count]
    directions = unit(np.asarray(near[families.rows], np.float32))
    cosines = directions[asked] @ directions.T
    cosines[np.arange(len(asked)), asked] = -2
    return float((owner[cosines.argmax(1)] == owner[asked]).mean())


def _members(
    config: HeadConfig, recipe: MetricRecipe, families: Families, cache: Embeddings
) -> tuple[list[Member], dict[str, Any], tuple[tuple[str, ...], ...]]:
    """Who trains and judges each member, and what the head says of people and folds."""
    asked = config.split is not None or config.validation_fraction is not None
    tuned = cache.provenance.get("split") is not None
    count = config.folds if config.folds is not None else 0 if asked or tuned else FOLDS
    if tuned and config.folds:
        raise RunError(
            f"{cache.path}: its network was trained on people of all folds but those it held out; "
            "leave out --folds"
        )
    if count == 0:
        split, _ = choose_split(config, families, cache)
        # Each member leaves out another part of those who train: members that differ err apart.
        parts = family_folds(families, split.train, recipe.members, config.seed)
        members = [Member(np.setdiff1d(split.train, part), split.validation) for part in parts]
        return members, people_of(families, split), ()
    everybody = np.arange(len(families.people))
    parts = family_folds(families, everybody, count, config.seed)
    members = [Member(np.setdiff1d(everybody, part), part) for part in parts]
    folds = tuple(tuple(sorted(families.people[row] for row in part)) for part in parts)
    return members, {"trained": tuple(sorted(families.people))}, folds


@dataclass(frozen=True)
class Judged:
    """AUC on people held out, and its 95 % interval by families."""

    auc: float
    low: float
    high: float


def _judge(
    config: HeadConfig,
    recipe: PairRecipe | MetricRecipe,
    seed: int,
    head: AnyHead,
    seconds: float,
    cache: Embeddings,
    data: Path,
    run: Path,
) -> Judged:
    """Judges a head by people held out, and adds it to the head log."""
    rng = generator(config.seed, Stream.HEAD_PAIRS)
    pairs, logits = held_out_scores(head, cache, data, JUDGED_PAIRS, rng)
    ranked = RankedScores(pairs.labels, logits)
    interval = family_bootstrap(
        ranked.auc, pairs.families, generator(config.seed, Stream.HEAD_BOOTSTRAP), 200
    )
    found = Judged(ranked.auc(), interval.low, interval.high)
    log_head(
        run / FILE,
        {
            "recipe": recipe.name,
            "settings": ";".join(
                f"{key}={_shown(value)}"
                for key, value in asdict(recipe).items()
                if value != getattr(find_head_recipe(recipe.name), key)
            ),
            "view": head.view,
            "seed": seed,
            "folds": len(head.folds) if isinstance(head, MetricHead) else 0,
            "pairs": len(pairs),
            **asdict(found),
            "seconds": seconds,
            "head": head.digest[:12],
        },
    )
    return found


def choose_split(config: HeadConfig, families: Families, cache: Embeddings) -> tuple[Split, str]:
    """Who trains and who is held out, and by what they were split.

    Raises:
        RunError: the network that made the cache was trained on people who would be held out.
    """
    before = cache.provenance.get("split")
    if before is None:
        by, fraction = config.split or "families", config.validation_fraction or 0.2
        rng = generator(config.seed, Stream.SPLIT)
        return split_people(families, by, fraction, rng), by
    try:
        wanted = (config.split, config.validation_fraction)
        for name, asked, found in zip(
            ("split", "validation_fraction"),
            wanted,
            (before["by"], before["fraction"]),
            strict=True,
        ):
            if asked not in (None, found):
                raise RunError(
                    f"{cache.path}: its network was trained with {name} {found}, found {asked}; "
                    "leave it out, so that the people held out are those it has not seen"
                )
        rng = generator(before["seed"], Stream.SPLIT)
        split = split_people(families, before["by"], before["fraction"], rng)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{cache.path}: does not say whom its network was trained on ({error}); run kinembed "
            "embed again"
        ) from None
    now = describe_split(families, split, before["by"], before["fraction"], before["seed"])
    if now != before:
        raise RunError(
            f"{cache.path}: its network was trained on other photos or relations than are there "
            "now, so nobody can be held out; run kinembed finetune and embed again"
        )
    return split, before["by"]


def finite_vectors(cache: Embeddings, view: str) -> Vectors:
    """The vectors of a view.

    Raises:
        RunError: the cache lacks the view, or some are not finite.
    """
    vectors = cache.vectors(view)
    if not np.isfinite(vectors).all():
        raise RunError(f"{cache.path}: vectors of view {view} are not finite; run kinembed embed")
    return vectors


def _write_sweep(
    config: HeadConfig,
    members: Sequence[tuple[PairRecipe | MetricRecipe, int]],
    heads: Sequence[AnyHead],
    epochs: Sequence[int],
    seconds: float,
    cache: Embeddings,
    data: Path,
    run: Path,
) -> Path:
    """Tabulates heads by their AUC on pairs of people held out, the best first."""
    keys = [text.partition("=")[0].strip() for text in config.sweep]
    rows: list[dict[str, str]] = []
    for (recipe, seed), head, epoch in zip(members, heads, epochs, strict=True):
        each = seconds / len(heads)
        judged = _judge(config, recipe, seed, head, each, cache, data, run)
        values = {**asdict(recipe), "seed": seed}
        rows.append(
            {
                **{key: _shown(values[key]) for key in keys},
                "auc": f"{judged.auc:.4f}",
                "low": f"{judged.low:.4f}",
                "high": f"{judged.high:.4f}",
                "epoch": str(epoch),
            }
        )
    rows.sort(key=lambda row: -float(row["auc"]))
    table = markdown_table([list(rows[0]), *(list(row.values()) for row in rows)], len(keys))
    write_bytes(run / "sweep.md", table.encode())
    path = write_csv(run / "sweep.csv", rows)
    log.info(
        "%s: %d heads in %.1f s; the best of many looks better than it is: the interval is of "
        "one; train it with --set", path, len(rows), seconds,
    )  # fmt: skip
    return path


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
