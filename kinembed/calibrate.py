"""The stage `calibrate`: a threshold and probabilities, by people who never trained."""

import logging
from dataclasses import replace
from pathlib import Path

from kinembed.cache.stacked import open_caches
from kinembed.config import CalibrateConfig
from kinembed.data.families import cached_families
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.calibration import fit, parse_target
from kinembed.evaluation.cross_fitting import estimate
from kinembed.evaluation.kept_calibrations import (
    FOLDER,
    keep_calibration,
    keep_in_use,
    kept_calibrations,
    use_calibration,
)
from kinembed.evaluation.metrics import roc_auc
from kinembed.evaluation.out_of_fold import out_of_fold_scores
from kinembed.heads.file import read_head
from kinembed.heads.kept import find_name
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)


def calibrate(config: CalibrateConfig, data: Path, run: Path) -> Path:
    """Fits a threshold and a probability map on pairs of the people whom the head held out.

    Args:
        config: what to fit.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5` and `head.h5`; `calibration.json` is written, and
            kept as `calibrations/NAME.json`.

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
    with open_caches(config.caches or [run / "embeddings.h5"]) as cache:
        head, record = read_head(run / "head.h5")
        people = head.held_out_people()
        families = cached_families(cache, data)
        rng = generator(config.seed, Stream.CALIBRATION)
        pairs, logits = out_of_fold_scores(head, cache, families, config.pairs, rng)
        fitted = fit(pairs.labels, logits, config.target, config.map, config.prior)
        if fitted.map == "platt" and fitted.knots[0][0] <= 0:
            raise RunError(
                f"{run / 'head.h5'}: ranks pairs of held-out people no better than chance (AUC "
                f"{roc_auc(pairs.labels, logits):.3f}), so a calibration would reverse its order; "
                "train another with kinembed head"
            )
        figures = estimate(
            pairs.labels, logits, pairs.families, config.target, config.map, config.prior, rng
        )
        found = replace(
            fitted,
            cache=cache.digest,
            head=head.digest,
            people=people,
            epoch_chosen_by=record.epoch_chosen_by,
            estimates=figures,
        )
    path = keep_calibration(run, found)
    far = figures["far_interval"]
    log.info(
        "%s: threshold %.4f by %s, map %s, prior %.3g; on families not fitted on: accuracy %.3f "
        "at this prior, TAR %.3f at FAR %.4f (95 %%: %.4f to %.4f); of the pairs drawn, a share of "
        "%.3g kin: ECE %.3f, Brier %.3f; %d people, %s pairs",
        path, found.threshold, config.target, config.map, found.prior, figures["accuracy"],
        figures["tar"], figures["far"], far["low"], far["high"],
        found.fitted_prior, figures["ece"], figures["brier"],
        len(people), f"{len(pairs):,}",
    )  # fmt: skip
    if record.epoch_chosen_by == "held-out people":
        log.info("the same people chose the head's epoch, so these figures are a little high")
    return path


def use(run: Path, name: str) -> Path:
    """Makes a kept calibration the one in use.

    Args:
        run: the run folder.
        name: of the calibration, or the start of its name or digest.

    Returns:
        The path of `calibration.json`.

    Raises:
        RunError: none is kept by that name, or several begin so.
    """
    keep_in_use(run)
    known = [each.name for each in kept_calibrations(run)]
    found = find_name(known, name, run / FOLDER)
    path = use_calibration(run, found)
    log.info("%s: is %s now", path, found)
    return path
