"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import csv
import io
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache, Vectors
from kinembed.config import HeadConfig
from kinembed.errors import KinembedError, RunError
from kinembed.families import (
    Families,
    Split,
    cached_families,
    describe_split,
    people_of,
    split_people,
)
from kinembed.files import write_bytes
from kinembed.heads import save_head
from kinembed.heads.training import HeadEpoch, train_heads
from kinembed.pairs import PairSampler
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)


def head(config: HeadConfig, data: Path, run: Path, *, progress: Progress = silent) -> Path:
    """Trains a head by the report's protocol on the vectors of the cache.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    that it was not trained on.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `history-head.csv` and `head.h5` are written.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    check_config(config)
    recipe = config.full_recipe()
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
        members = [(recipe, config.seed)]
        (trained,) = train_heads(vectors, train, validation, members, config, progress)
        model = cache.provenance["model"]
    people = people_of(families, split)
    found = replace(
        trained.head,
        view=view,
        model=model,
        held_out=people["held_out"],
        trained=people["trained"],
    )
    _write_history(run / "history-head.csv", trained.history)
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


def _write_history(path: Path, history: list[HeadEpoch]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(history[0])), lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow(
            {k: v if isinstance(v, int) else f"{v:.6g}" for k, v in asdict(row).items()}
        )
    return write_bytes(path, text.getvalue().encode())
