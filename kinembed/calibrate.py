"""The stage `calibrate`: a threshold and probabilities, by people who never trained."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.calibration import estimate, fit, parse_target, save_calibration
from kinembed.config import CalibrateConfig
from kinembed.errors import KinembedError, RunError
from kinembed.families import cached_families
from kinembed.heads import load_head, matching_vectors
from kinembed.pairs import held_out_pairs

log = logging.getLogger(__name__)


def calibrate(config: CalibrateConfig, data: Path, run: Path) -> Path:
    """Fits a threshold and a probability map on pairs of the people whom the head held out.

    Args:
        config: what to fit.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5` and `head.h5`.

    Returns:
        The path of `calibration.json`.

    Raises:
        KinembedError: cache, head or relations are not as they have to be, or nobody was held out.
    """
    parse_target(config.target)
    if config.prior is not None and not 0 < config.prior < 1:
        raise KinembedError(f"prior: found {config.prior}, wanted between 0 and 1")
    if config.pairs < 2:
        raise KinembedError(f"pairs: found {config.pairs}, wanted 2 or more")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        head = load_head(run / "head.h5")
        vectors = matching_vectors(cache, head)
        if not head.held_out:
            raise RunError(
                f"{run / 'head.h5'}: does not say who was held out from its training, so nobody "
                "is known to calibrate by; run kinembed head"
            )
        names = [name.decode() for name in cache.names]
        families, places = cached_families(names, data)
        rng = np.random.default_rng(config.seed)
        pairs = held_out_pairs(families, places, head.held_out, config.pairs, rng)
        logits = head.scores(vectors, pairs.rows)
        if not np.isfinite(logits).all():
            raise RunError(f"{cache.path}: vectors are not finite; run kinembed embed again")
        fitted = fit(pairs.labels, logits, config.target, config.map, config.prior)
        figures = estimate(
            pairs.labels, logits, pairs.families, config.target, config.map, config.prior, rng
        )
        found = replace(
            fitted,
            cache=cache.digest,
            head=head.digest,
            people=head.held_out,
            estimates=figures,
        )
    path = save_calibration(found, run / "calibration.json")
    far = figures["far_interval"]
    log.info(
        "%s: threshold %.4f by %s, map %s, prior %.3g; on families not fitted on: accuracy %.3f, "
        "TAR %.3f at FAR %.4f (95 %%: %.4f to %.4f), ECE %.3f, Brier %.3f; %d people, %s pairs",
        path, found.threshold, config.target, config.map, found.prior, figures["accuracy"],
        figures["tar"], figures["far"], far["low"], far["high"], figures["ece"], figures["brier"],
        len(head.held_out), f"{len(pairs):,}",
    )  # fmt: skip
    return path
