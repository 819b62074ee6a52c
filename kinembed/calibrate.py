"""The stage `calibrate`: a threshold and probabilities, by people who never trained."""

import logging
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from kinembed.cache import Embeddings
from kinembed.cache.provenance import networks_of
from kinembed.cache.stacked import open_caches
from kinembed.config import CalibrateConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.person_pairs import MOST_PHOTOS
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.calibration import Calibration, Scale, fit, parse_target
from kinembed.evaluation.cross_fitting import RESAMPLES, Judged, estimate
from kinembed.evaluation.in_use import warn_of_framing
from kinembed.evaluation.kept_calibrations import (
    FOLDER,
    keep_calibration,
    keep_in_use,
    kept_calibrations,
    use_calibration,
)
from kinembed.evaluation.metrics import (
    Flags,
    Numbers,
    RankedScores,
    family_bootstrap,
    warn_of_few,
)
from kinembed.evaluation.out_of_fold import out_of_fold_scores
from kinembed.evaluation.three_way import PERSON_PAIRS, ThreeWay, held_out_three_way
from kinembed.heads.base import Head
from kinembed.heads.file import read_head
from kinembed.heads.kept import IN_USE, caches_of, find_name
from kinembed.printable import at_run
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)

FEWEST_PAIRS = 200  # expanded pairs that get a scale of their own
# Kin pairs, and others: of fewer than the first, shares of errors are a matter of luck; of fewer
# than the second, a rate of 1 % is that of four pairs.
FEWEST, FEW = 100, 400
MANY_TIMES = 5  # each pair is drawn on average, where hardly any is left: exp(-5) at random
CHANCE = 0.5  # AUC; a head whose interval reaches it is no better, as far as its families tell


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
        KinembedError: cache, head or relations are not as they have to be, nobody was held out, or
            the pairs are too few.
    """
    parse_target(config.target)
    if config.prior is not None and not 0 < config.prior < 1:
        raise KinembedError(f"prior: found {config.prior}, wanted between 0 and 1")
    if config.pairs < 2:
        raise KinembedError(f"pairs: found {config.pairs}, wanted 2 or more")
    with open_caches(caches_of(run, config.caches, run / IN_USE)) as cache:
        head, record = read_head(run / "head.h5")
        warn_of_framing(cache, record)
        people = head.held_out_people()
        families = cached_families(cache, data)
        rng = generator(config.seed, Stream.CALIBRATION)
        scored = out_of_fold_scores(head, cache, families, config.pairs, rng)
        pairs, is_expanded = scored.pairs, scored.expansion > 0
        _check_number(pairs)
        everything = np.ones(len(pairs), np.bool_)
        if config.prior is None:  # of all pairs, also for expanded ones, whose share differs
            config = replace(config, prior=float(pairs.labels.mean()))
        try:
            alone = _fitted(config, pairs, scored.alone, everything, rng, run)
        except DataError as error:
            raise DataError(f"{error}; {_holds_out_more(head, cache, run)}") from None
        expanded = None
        problem, advice = f"too few, wanted {FEWEST_PAIRS}", "; draw more with --pairs"
        if is_expanded.sum() >= FEWEST_PAIRS:
            try:
                expanded = _fitted(config, pairs, scored.logits, is_expanded, rng, run)
            except DataError as error:
                problem, advice = str(error), ""
        if is_expanded.any() and expanded is None:
            log.warning(
                "%s of %s pairs are of photos with others of the same person (%s), so there is no "
                "map for such pairs, and each photo is scored alone%s",
                f"{is_expanded.sum():,}", f"{len(pairs):,}", problem, advice,
            )  # fmt: skip
        found = Calibration(
            head=head.digest,
            people=people,
            epoch_chosen_by=record.epoch_chosen_by,
            alone=alone,
            expanded=expanded,
            make_up=None if expanded is None else scored.make_up,
            three_way=_three_way(config, head, cache, families),
        )
    path = keep_calibration(run, found)
    log.info("%s: %d people, %s pairs", path, len(people), f"{len(pairs):,}")
    warn_of_few(len(np.unique(pairs.families)), pairs.unit)
    log.info("photos alone, in any gallery: %s", _describe(alone))
    if expanded is not None and scored.make_up is not None:
        log.info(
            "with others of the same person, in galleries like this one (%s): %s",
            scored.make_up.describe(), _describe(expanded),
        )  # fmt: skip
    _say_three_way(found.three_way)
    if record.epoch_chosen_by == "held-out people":
        log.info(
            "the same people chose the head's epoch, or its network's, so these figures are a "
            "little high"
        )
    return path


def _holds_out_more(head: Head, cache: Embeddings, run: Path) -> str:
    """What would hold out more people than this head does."""
    if any(each.get("split") for each in networks_of(cache.provenance)):
        return (
            "the head holds out whom its fine-tuned network did: kinembed finetune --folds 5 holds "
            "out everybody, each by one of five networks"
        )
    if head.folds:
        return "it holds out all that the cache has"
    return f"{at_run('kinembed head', run)} --kind metric holds out all families, by folds"


def _three_way(
    config: CalibrateConfig, head: Head, cache: Embeddings, families: Families
) -> ThreeWay | None:
    """What tells the same person from kin and from unrelated people, if held-out people can."""
    rng = generator(config.seed, Stream.THREE_WAY)
    try:
        return held_out_three_way(head, cache, families, PERSON_PAIRS, rng)
    except DataError as error:
        log.warning("the same person is not told from kin: %s; compare and relate need that", error)
        return None


def _say_three_way(found: ThreeWay | None) -> None:
    if found is not None and found.estimates is not None:
        log.info(
            "the same person, kin or unrelated, by one to %d photos a person, kinds in equal "
            "shares; on families not fitted on: accuracy %.3f, log loss %.3f, ECE %.3f",
            MOST_PHOTOS, found.estimates["accuracy"], found.estimates["log_loss"],
            found.estimates["ece"],
        )  # fmt: skip


def _check_number(pairs: LabelledPairs) -> None:
    """Refuses too few pairs of a kind, and warns of few that differ: pairs may be drawn repeatedly.

    Raises:
        DataError: fewer than `FEWEST` are kin, or are not.
    """
    kinds = [pairs.rows[pairs.labels], pairs.rows[~pairs.labels]]
    kin, others = map(len, kinds)
    if min(kin, others) < FEWEST:
        raise DataError(
            f"{kin:,} kin pairs and {others:,} others are too few for a calibration, wanted "
            f"{FEWEST} of each; draw more with --pairs"
        )
    different = [len(np.unique(np.sort(rows, axis=1), axis=0)) for rows in kinds]
    if min(different) >= FEW:
        return
    fewer = int(np.argmin(different))
    advice = "draw more with --pairs, or hold out more people"
    if len(kinds[fewer]) > MANY_TIMES * different[fewer]:
        advice = "hardly any others can be drawn: more people are wanted"
    log.warning(
        "%s different kin pairs and %s others are few, wanted %d of each: error rates, and their "
        "intervals, rest on a handful of them; %s",
        *(f"{count:,}" for count in different), FEW, advice,
    )  # fmt: skip


def _fitted(
    config: CalibrateConfig,
    pairs: LabelledPairs,
    logits: Numbers,
    chosen: Flags,
    rng: np.random.Generator,
    run: Path,
) -> Scale:
    """The scale of some pairs, with figures to expect on other families.

    Raises:
        KinembedError: the head ranks them no better than chance, or their families are too few.
    """
    labels, logits = pairs.labels[chosen], logits[chosen]
    fitted = fit(labels, logits, config.target, config.map, config.prior)
    families = pairs.families[chosen]
    if fitted.map == "platt" and fitted.knots[0][0] <= 0:
        ranked = RankedScores(labels, logits)
        try:
            interval = asdict(family_bootstrap(ranked.auc, families, rng, RESAMPLES))
        except DataError:  # too few families
            interval = None
        raise RunError(
            f"{_no_better(run, ranked.auc(), interval)}, so a calibration would reverse its order; "
            f"train another with {at_run('kinembed head', run)}"
        )
    figures = estimate(labels, logits, families, config.target, config.map, config.prior, rng)
    if figures["auc_interval"]["low"] <= CHANCE:
        log.warning(
            "%s, as far as these families tell: probabilities say little, and the threshold is a "
            "matter of luck; train another with %s, or hold out more people",
            _no_better(run, figures["auc"], figures["auc_interval"]),
            at_run("kinembed head", run),
        )
    return replace(fitted, estimates=figures)


def _no_better(run: Path, auc: float, interval: dict[str, float] | None) -> str:
    """That a head ranks no better than chance, with the interval of its AUC."""
    shown = (
        "no interval" if interval is None else f"{interval['low']:.3f} to {interval['high']:.3f}"
    )
    return (
        f"{run / 'head.h5'}: ranks pairs of held-out people no better than chance (AUC {auc:.3f}; "
        f"95 % by families: {shown})"
    )


def _describe(scale: Scale) -> str:
    """A scale and what to expect of it, in a line."""
    assert scale.estimates is not None
    figures = scale.estimates
    judged = Judged(**{each.name: figures[each.name] for each in fields(Judged)})
    said = (
        f"threshold {scale.threshold:.4f} (probability {scale.threshold_probability:.4f}) by "
        f"{scale.target}, map {scale.map}, prior {scale.prior:.3g}; "
    )
    if judged.skew:
        return f"{said}no figures on families not fitted on: {judged.skew}"
    far = figures["far_interval"]
    return (
        f"{said}on families not fitted on ({judged.describe()}): "
        f"accuracy {figures['accuracy']:.3f} at this prior, TAR {figures['tar']:.3f} at FAR "
        f"{figures['far']:.4f} (95 %: {far['low']:.4f} to {far['high']:.4f}); of the pairs drawn, "
        f"a share of {scale.fitted_prior:.3g} kin: ECE {figures['ece']:.3f}, Brier "
        f"{figures['brier']:.3f}"
    )


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
