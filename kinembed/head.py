"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache, Vectors
from kinembed.config import HeadConfig, Recipe, expand_sweep
from kinembed.errors import KinembedError, RunError
from kinembed.families import (
    Families,
    Split,
    cached_families,
    describe_split,
    people_of,
    split_people,
)
from kinembed.files import write_bytes, write_csv
from kinembed.heads import save_head
from kinembed.heads.training import TrainedHead, train_heads
from kinembed.metrics import RankedScores, family_bootstrap
from kinembed.pairs import LabelledPairs, PairSampler, held_out_pairs
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

SWEEP_PAIRS = 4_000  # by which the heads of a sweep are compared


def head(config: HeadConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Trains a head by the report's protocol on the vectors of the cache.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    that it was not trained on.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `history-head.csv` and `head.h5` are written, of
            a sweep `sweep.csv` and `sweep.md` in their place.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`, or of `sweep.csv`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    check_config(config)
    recipe = config.full_recipe()
    members = expand_sweep(recipe, config.sweep, config.seed)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        view = cache.choose_view(config.view)
        vectors = finite_vectors(cache, view)
        families, places = cached_families([name.decode() for name in cache.names], data)
        log.info("%s", families.summary())
        split, by = choose_split(config, families, cache)
        train = PairSampler(families, split.train, config.positive_fraction, places)
        validation = PairSampler(families, split.validation, config.positive_fraction, places)
        log.info(
            "recipe %s on view %s (%d wide); split by %s: %s people train, %s are held out",
            recipe.name, view, vectors.shape[1], by, len(split.train), len(split.validation),
        )  # fmt: skip
        trained, *others = train_heads(vectors, train, validation, members, config, progress)
        model = cache.provenance["model"]
        if config.sweep:
            names = [families.people[row] for row in split.validation]
            pairs = held_out_pairs(
                families, places, names, SWEEP_PAIRS, np.random.default_rng([config.seed, 1])
            )
            return _write_sweep(members, [trained, *others], vectors, pairs, config, run)
    people = people_of(families, split)
    found = replace(
        trained.head,
        view=view,
        model=model,
        held_out=people["held_out"],
        trained=people["trained"],
    )
    write_csv(run / "history-head.csv", [asdict(row) for row in trained.history])
    path = save_head(found, run / "head.h5")
    best, last = trained.best_epoch, trained.history[-1]
    log.info(
        "%s: epoch %d of %d, validation AUC %.4f, accuracy %.3f; %.1f s",
        path, best.epoch, last.epoch, best.val_auc, best.val_accuracy, last.seconds,
    )  # fmt: skip
    return path


def check_config(config: HeadConfig) -> None:
    """Refuses settings that no head can be trained with.

    Raises:
        KinembedError: naming the setting.
    """
    for name in ("epochs", "steps", "val_steps", "batch_size"):
        if getattr(config, name) < 1:
            raise KinembedError(f"{name}: found {getattr(config, name)}, wanted 1 or more")
    fraction = config.validation_fraction
    if fraction is not None and not 0 < fraction < 1:
        raise KinembedError(f"validation_fraction: found {fraction}, wanted between 0 and 1")
    kin = config.batch_size * config.positive_fraction
    if not math.isfinite(kin) or not 0 < int(kin) < config.batch_size:
        raise KinembedError(
            f"{config.positive_fraction:g} of {config.batch_size} pairs are kin: wanted at least "
            "one kin and one non-kin pair in each batch, so that an AUC can be told"
        )


def choose_split(
    config: HeadConfig, families: Families, cache: EmbeddingCache
) -> tuple[Split, str]:
    """Who trains and who is held out, and by what they were split.

    Raises:
        RunError: the network that made the cache was trained on people who would be held out.
    """
    before = cache.provenance.get("split")
    if before is None:
        by, fraction = config.split or "families", config.validation_fraction or 0.2
        rng = np.random.default_rng(config.seed)
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
        rng = np.random.default_rng(before["seed"])
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


def finite_vectors(cache: EmbeddingCache, view: str) -> Vectors:
    """The vectors of a view.

    Raises:
        RunError: the cache lacks the view, or some are not finite.
    """
    vectors = cache.vectors(view)
    if not np.isfinite(vectors).all():
        raise RunError(f"{cache.path}: vectors of view {view} are not finite; run kinembed embed")
    return vectors


def _write_sweep(
    members: Sequence[tuple[Recipe, int]],
    heads: Sequence[TrainedHead],
    vectors: Vectors,
    pairs: LabelledPairs,
    config: HeadConfig,
    run: Path,
) -> Path:
    """Tabulates heads by their AUC on pairs of the people held out, the best first."""
    keys = [text.partition("=")[0].strip() for text in config.sweep]
    rows: list[dict[str, str]] = []
    for (recipe, seed), trained in zip(members, heads, strict=True):
        ranked = RankedScores(pairs.labels, trained.head.scores(vectors, pairs.rows))
        rng = np.random.default_rng(config.seed)  # the same resamples for all
        interval = family_bootstrap(ranked.auc, pairs.families, rng, 200)
        values = {**asdict(recipe), "seed": seed}
        rows.append(
            {
                **{key: _shown(values[key]) for key in keys},
                "auc": f"{ranked.auc():.4f}",
                "low": f"{interval.low:.4f}",
                "high": f"{interval.high:.4f}",
                "epoch": str(trained.best_epoch.epoch),
            }
        )
    rows.sort(key=lambda row: -float(row["auc"]))
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_bytes(run / "sweep.md", table.encode())
    path = write_csv(run / "sweep.csv", rows)
    log.info(
        "%s: %d heads in %.1f s; the best of many looks better than it is: the interval is of "
        "one; train it with --set", path, len(rows), heads[0].history[-1].seconds,
    )  # fmt: skip
    return path


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
