"""From a head's score to a decision and a probability: threshold, map, prior, and their file."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kinembed.cache import Embeddings
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.metrics import (
    Flags,
    Numbers,
    RankedScores,
    Roc,
)
from kinembed.heads.base import Head, sigmoid
from kinembed.io import write_bytes

Map = Literal["none", "platt", "isotonic"]

SCHEMA = 1


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


def check_calibration(calibration: Calibration, cache: Embeddings, head: Head, path: Path) -> None:
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


def _odds(share: float) -> float:
    return share / (1 - share)
