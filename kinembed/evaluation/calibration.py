"""From a head's score to a decision and a probability: threshold, map, prior, and their file."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.metrics import (
    Flags,
    Interval,
    Numbers,
    RankedScores,
    Roc,
    accuracy,
    brier,
    calibration_error,
    family_weights,
)
from kinembed.heads.pair import AnyHead, sigmoid
from kinembed.io import write_bytes

Map = Literal["none", "platt", "isotonic"]

SCHEMA = 1
FOLDS = 5
FEWEST = 6  # families
RESAMPLES = 500


@dataclass(frozen=True)
class Calibration:
    """What turns the logits of one head on one cache into decisions and probabilities.

    Attributes:
        threshold: the lowest logit of a pair accepted as kin.
        target: the rule that chose the threshold: `accuracy`, `youden` or `far=RATE`.
        map: `none` (the logistic function), `platt` (of slope and offset), or `isotonic`.
        knots: of platt, slope and offset; of isotonic, logits and probabilities to interpolate.
        fitted_prior: share of kin pairs in the fitted sample.
        prior: share of kin pairs for which the probabilities hold.
        cache: digest of the cache.
        head: digest of the head.
        people: the people in the fitted sample.
        estimates: figures and intervals to expect on other families.
    """

    threshold: float
    target: str
    map: Map
    knots: tuple[tuple[float, ...], tuple[float, ...]]
    fitted_prior: float
    prior: float
    cache: str = ""
    head: str = ""
    people: tuple[str, ...] = ()
    estimates: dict[str, Any] | None = None

    def accepts(self, logits: Numbers) -> Flags:
        """Which pairs (N,) are accepted as kin."""
        return logits >= self.threshold

    def probabilities(self, logits: Numbers) -> Numbers:
        """Kinship probabilities (N,) of logits (N,)."""
        if self.map == "isotonic":
            mapped = np.interp(logits, *self.knots)
        elif self.map == "platt":
            (slope,), (offset,) = self.knots
            mapped = sigmoid(slope * logits + offset)
        else:
            mapped = sigmoid(logits)
        if self.prior == self.fitted_prior:
            return mapped
        # Bayes: odds after = odds before x (odds of the prior / odds of the mix fitted on).
        shift = _odds(self.prior) / _odds(self.fitted_prior)
        raised = mapped * shift
        return raised / (raised + (1 - mapped))


def fit(
    labels: Flags,
    logits: Numbers,
    target: str,
    kind: Map,
    prior: float | None = None,
    weights: Numbers | None = None,
) -> Calibration:
    """Chooses a threshold and fits a map.

    Args:
        labels: (N,) True for kin.
        logits: (N,) the head's scores.
        target: `accuracy` (by the prior's mix), `youden` (true less false accept rate) or
            `far=RATE` (the most kin pairs at a false accept rate of at most that).
        kind: the map.
        prior: share of kin pairs in the world; None: as among these.
        weights: (N,) how often each pair counts.

    Raises:
        KinembedError: there is no such target, or there are no kin or no non-kin pairs.
    """
    curve = RankedScores(labels, logits).curve(weights)
    mix = float(np.average(labels, weights=weights))
    wanted = mix if prior is None else prior
    knots: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if kind == "platt":
        knots = _fit_platt(labels, logits, weights)
    elif kind == "isotonic":
        knots = _fit_isotonic(labels, logits, weights)
    return Calibration(choose_threshold(curve, target, wanted), target, kind, knots, mix, wanted)


def parse_target(target: str) -> float | None:
    """The rate of a target `far=RATE`; None for the others.

    Raises:
        KinembedError: there is no such target.
    """
    name, _, text = target.partition("=")
    try:
        rate = float(text) if name == "far" else None
    except ValueError:
        rate = math.nan
    if target not in ("accuracy", "youden") and (rate is None or not 0 < rate < 1):
        raise KinembedError(
            f"target: found {target!r}, wanted accuracy, youden, or far=RATE as in far=0.01"
        )
    return rate


def choose_threshold(curve: Roc, target: str, prior: float) -> float:
    """The threshold of a target: midway between the two scores at its sides.

    Raises:
        KinembedError: there is no such target.
    """
    far = parse_target(target)
    if far is not None:
        point = int(np.flatnonzero(curve.far <= far)[-1])
    elif target == "youden":
        point = int(np.argmax(curve.tar - curve.far))
    else:
        point = int(np.argmax(prior * curve.tar - (1 - prior) * curve.far))
    if point == 0:  # nothing is accepted
        return float(curve.thresholds[1]) + 1.0
    return float(np.mean(curve.thresholds[point : point + 2]))


def estimate(
    labels: Flags,
    logits: Numbers,
    families: Rows,
    target: str,
    kind: Map,
    prior: float | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What a calibration fitted on these families gives on others.

    Figures are cross-fitted: fitted on all folds of the families but one, judged on the pairs
    within that one. Intervals are by the bootstrap over families: fitted on a resample, judged on
    pairs of the families outside it. So they hold the uncertainty of few families twice: of the
    fit and of the judgement.

    Args:
        labels: (N,) True for kin.
        logits: (N,) the head's scores.
        families: (N, 2) the family of each side.
        target: of the threshold.
        kind: of the map.
        prior: of the threshold.
        rng: draws folds and resamples of the families.

    Raises:
        DataError: the families are too few.
    """
    mix = float(labels.mean())
    wanted = mix if prior is None else prior
    judged, accepted, predicted = cross_fit(labels, logits, families, target, kind, prior, rng)
    truth, accepted, predicted = labels[judged], accepted[judged], predicted[judged]
    # Within families there are few pairs of strangers: they count for as many as were drawn.
    as_drawn = mixed(truth, mix)
    figures: dict[str, Any] = {
        "accuracy": accuracy(truth, accepted, mixed(truth, wanted)),
        "far": float(accepted[~truth].mean()),
        "tar": float(accepted[truth].mean()),
        "brier": brier(truth, predicted, as_drawn),
        "ece": calibration_error(truth, predicted, weights=as_drawn),
        "pairs": len(truth),
    }
    ranked = RankedScores(labels, logits)
    found: dict[str, list[float]] = {"threshold": [], "accuracy": [], "far": [], "tar": []}
    for weights in _resamples(families, RESAMPLES, rng):
        outside = _outside(families, weights)
        if not outside.any() or labels[outside].all() or not labels[outside].any():
            continue
        try:
            curve = ranked.curve(weights)
        except DataError:
            continue
        threshold = choose_threshold(curve, target, wanted)
        accepted = logits >= threshold
        far, tar = (float(accepted[outside & side].mean()) for side in (~labels, labels))
        found["threshold"].append(threshold)
        found["accuracy"].append(wanted * tar + (1 - wanted) * (1 - far))
        found["far"].append(far)
        found["tar"].append(tar)
    if len(found["far"]) < RESAMPLES / 2:
        raise DataError(
            f"{len(np.unique(families))} families held out are too few to calibrate by; hold out "
            "more with kinembed head, or draw more with --pairs"
        )
    for name, values in found.items():
        low, high = np.quantile(values, [0.025, 0.975])
        figures[f"{name}_interval"] = asdict(Interval(float(low), float(high)))
    return figures


def cross_fit(
    labels: Flags,
    logits: Numbers,
    families: Rows,
    target: str,
    kind: Map,
    prior: float | None,
    rng: np.random.Generator,
) -> tuple[Flags, Flags, Numbers]:
    """Decisions and probabilities of pairs by calibrations fitted on other families.

    Returns:
        (N,) True for the pairs within a fold of families, which are the judged ones; (N,) True
        for the accepted pairs; (N,) probabilities. The rest are False and nan.

    Raises:
        DataError: the families are too few.
    """
    known, numbers = np.unique(families, return_inverse=True)
    if len(known) < FEWEST:
        raise DataError(
            f"{len(known)} families held out: wanted at least {FEWEST} to fit on some and "
            "judge by others; hold out more with kinembed head"
        )
    folds = min(FOLDS, len(known) // 2)  # pairs of strangers need two families in a fold
    fold = rng.permutation(len(known))[numbers.reshape(-1, 2)] % folds
    judged, accepted = np.zeros((2, len(labels)), bool)
    predicted = np.full(len(labels), np.nan)
    mix = float(labels.mean())
    for each in range(folds):
        inside, outside = (fold == each).all(1), (fold != each).all(1)
        try:
            weights = mixed(labels[outside], mix)
            fitted = fit(labels[outside], logits[outside], target, kind, prior, weights)
        except DataError as error:
            raise DataError(f"a fold of families held out: {error}; hold out more") from None
        fitted = replace(fitted, prior=fitted.fitted_prior)  # judged by the mix as drawn
        judged |= inside
        accepted[inside] = fitted.accepts(logits[inside])
        predicted[inside] = fitted.probabilities(logits[inside])
    if labels[judged].all() or not labels[judged].any():
        raise DataError("the folds of families held out lack kin or non-kin pairs; hold out more")
    return judged, accepted, predicted


def save_calibration(calibration: Calibration, path: Path) -> Path:
    """Writes a calibration as JSON."""
    about = {"schema": SCHEMA, **asdict(calibration)}
    return write_bytes(path, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())


def load_calibration(path: Path) -> Calibration:
    """Reads a calibration.

    Raises:
        RunError: the file is missing or is not a calibration.
    """
    try:
        about = json.loads(path.read_bytes())
        schema = about.pop("schema")
        if schema != SCHEMA:
            raise RunError(
                f"{path}: a calibration of schema {schema!r}, wanted {SCHEMA}; run kinembed "
                "calibrate again"
            )
        for name in ("threshold", "fitted_prior", "prior"):
            about[name] = float(about[name])
        first, second = (tuple(map(float, knots)) for knots in about.pop("knots"))
        people = tuple(map(str, about.pop("people")))
        found = Calibration(**about, knots=(first, second), people=people)
        _refuse_malformed(found)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; run kinembed calibrate") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path}: not a calibration ({error}); run kinembed calibrate") from None
    return found


def check_calibration(
    calibration: Calibration, cache: Embeddings, head: AnyHead, path: Path
) -> None:
    """Refuses a calibration of another head or cache.

    Raises:
        RunError: says which, and what to run.
    """
    for name, found, wanted in (
        ("head", head.digest, calibration.head),
        ("cache", cache.digest, calibration.cache),
    ):
        if found != wanted:
            raise RunError(
                f"{path}: was fitted with {name} {wanted[:12]}, now it is {found[:12]}; run "
                "kinembed calibrate again"
            )


def _refuse_malformed(found: Calibration) -> None:
    numbers = [found.threshold, found.fitted_prior, found.prior, *found.knots[0], *found.knots[1]]
    if not np.isfinite(numbers).all():
        raise ValueError("its numbers are not all finite")
    if not 0 < found.fitted_prior < 1 or not 0 < found.prior < 1:
        raise ValueError("a prior is not between 0 and 1")
    sizes = {"none": 0, "platt": 1}
    count = sizes.get(found.map, max(1, len(found.knots[0])))
    if (
        found.map not in ("none", "platt", "isotonic")
        or [len(k) for k in found.knots] != [count] * 2
    ):
        raise ValueError(f"map {found.map!r} has other numbers")
    if found.map == "isotonic" and any(np.diff(k).min(initial=0) < 0 for k in found.knots):
        raise ValueError("its map falls")
    if not all(isinstance(text, str) for text in (found.target, found.cache, found.head)):
        raise ValueError("its digests are no text")


def _fit_platt(
    labels: Flags, logits: Numbers, weights: Numbers | None
) -> tuple[tuple[float], tuple[float]]:
    """Slope and offset of the logistic function, by Newton's method on its two numbers.

    Not scikit-learn's `_sigmoid_calibration`: it is private, and its import takes longer than all
    of `calibrate`.

    Targets are Platt's, a little inside 0 and 1 ("Probabilistic outputs for support vector
    machines", 1999); a step is halved while it does not lower the loss (Lin et al., 2007).
    """
    counts = np.ones(len(labels)) if weights is None else weights
    kin, others = counts[labels].sum(), counts[~labels].sum()
    wanted = np.where(labels, (kin + 1) / (kin + 2), 1 / (others + 2))
    x = np.stack([logits, np.ones_like(logits)], 1)

    def loss(at: Numbers) -> float:
        z = x @ at
        return float(np.sum(counts * (np.logaddexp(0, z) - wanted * z)))

    at = np.array([0.0, math.log((kin + 1) / (others + 1))])
    now = loss(at)
    for _ in range(100):
        predicted = sigmoid(x @ at)
        slope = x.T @ (counts * (predicted - wanted))
        curve = (x.T * (counts * predicted * (1 - predicted))) @ x + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(curve, slope), 1.0
        while size > 1e-10 and loss(at - size * step) > now:
            size /= 2
        after = loss(at - size * step)
        if size <= 1e-10 or now - after < 1e-12 * abs(now):
            break
        at, now = at - size * step, after
    return (float(at[0]),), (float(at[1]),)


def _fit_isotonic(
    labels: Flags, logits: Numbers, weights: Numbers | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Logits and rising probabilities: the two ends of each level of an isotonic regression.

    Zadrozny and Elkan (2002). Levels keep a distance from 0 and 1 that falls with the pairs.
    """
    from scipy.optimize import isotonic_regression  # takes its time to import

    counts = np.ones(len(labels)) if weights is None else weights
    at, rows = np.unique(logits, return_inverse=True)
    mass = np.bincount(rows, counts, len(at)).astype(np.float64)
    kin = np.bincount(rows, counts * labels, len(at)).astype(np.float64)
    counted = mass > 0
    at, mass, kin = at[counted], mass[counted], kin[counted]
    edge = 1 / (mass.sum() + 2)
    levels = isotonic_regression(kin / mass, weights=mass).x.clip(edge, 1 - edge)
    steps = levels[1:] != levels[:-1]
    ends = np.append(True, steps) | np.append(steps, True)
    return tuple(at[ends].tolist()), tuple(levels[ends].tolist())


def _resamples(families: Rows, count: int, rng: np.random.Generator) -> Iterator[Numbers]:
    for _ in range(-(-count // 50)):
        yield from family_weights(families, 50, rng)


def _outside(families: Rows, weights: Numbers) -> Flags:
    """The pairs (N,) of families in no pair that counts."""
    counted = np.isin(families, np.unique(families[weights > 0]))
    return ~(counted[:, 0] | counted[:, 1])


def mixed(labels: Flags, share: float) -> Numbers:
    """Weights (N,) that give kin pairs this share."""
    kin = float(labels.mean())
    if kin in (0.0, 1.0):
        raise DataError("there are no kin or no non-kin pairs")
    return np.where(labels, share / kin, (1 - share) / (1 - kin))


def _odds(share: float) -> float:
    return share / (1 - share)
