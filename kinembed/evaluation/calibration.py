"""Calibration of a head's logits: threshold, map, prior, and their file."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from kinembed.checked import Bounds, Values, number, read_json, shown
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import (
    Flags,
    Numbers,
    RankedScores,
    Roc,
)
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.base import Head, sigmoid
from kinembed.heads.query_expansion import MakeUp
from kinembed.io import write_bytes

Map = Literal["none", "platt", "isotonic"]

SCHEMA = 4
LOGITS = Bounds(least=-1e12, most=1e12)
TIE_BREAK = 0.01  # how far within a step of an isotonic map, of the way to the next steps


@dataclass(frozen=True)
class Scale:
    """Turns the logits of a head into decisions and probabilities.

    Attributes:
        threshold: the lowest logit of a pair accepted as kin.
        target: the rule that chose the threshold: `accuracy`, `youden` or `far=RATE`.
        map: `none` (the logistic function), `platt` (with slope and offset), or `isotonic`.
        knots: for platt, slope and offset; for isotonic, logits and probabilities to interpolate.
        fitted_prior: fraction of kin pairs in the fitted sample.
        prior: fraction of kin pairs that the probabilities assume.
        estimates: figures and intervals to expect on other families.
    """

    threshold: float
    target: str
    map: Map
    knots: tuple[tuple[float, ...], tuple[float, ...]]
    fitted_prior: float
    prior: float
    estimates: dict[str, Any] | None = None

    @property
    def threshold_probability(self) -> float:
        """The probability at the threshold: rows of a submission from it on are accepted."""
        return float(self.probabilities(np.array([self.threshold]))[0])

    def accepts(self, logits: Numbers) -> Flags:
        """(N,) True for pairs accepted as kin."""
        return logits >= self.threshold

    def probabilities(self, logits: Numbers) -> Numbers:
        """(N,) kinship probabilities of (N,) logits; they have the order of the logits.

        A prior other than the fitted one multiplies the odds by that of the priors' odds (Bayes).
        """
        ratio = _odds(self.prior) / _odds(self.fitted_prior)
        ratio = min(max(ratio, 1e-30), 1e30)  # at 0 or infinity, a map's 1 or 0 became 0 / 0
        if self.map == "isotonic":
            mapped = _rising(logits, *self.knots)
            return mapped if ratio == 1 else mapped * ratio / (mapped * ratio + (1 - mapped))
        if self.map == "platt":
            (slope,), (offset,) = self.knots
            logits = slope * logits + offset
        return sigmoid(logits + math.log(ratio) if ratio != 1 else logits)


@dataclass(frozen=True)
class Calibration:
    """The scales of a head: one for pairs of two photos alone, one for expanded pairs.

    The first can be applied in any gallery, because the score of two photos alone does not depend
    on others. The second is of galleries like the one that it was fitted in. Both hold for photos
    like those that they were fitted on.

    Attributes:
        head: digest of the head; it covers the model.
        people: the people in the fitted sample.
        epoch_chosen_by: as of the head's record: whether they chose its epoch, too.
        alone: of scores without query expansion.
        expanded: of the scores of pairs of which a photo is expanded; None: the head does not
            expand, or too few pairs were expanded.
        make_up: of the gallery of `expanded`.
        three_way: the same person, kin or unrelated, for people of one photo or more; None: nobody
            held out has several.
    """

    head: str
    people: tuple[str, ...]
    epoch_chosen_by: str
    alone: Scale
    expanded: Scale | None = None
    make_up: MakeUp | None = None
    three_way: ThreeWay | None = None

    def scales(self, expansion: Numbers) -> list[tuple[Flags, Scale]]:
        """For each scale (N,) True for the pairs that it is of, and the scale.

        Raises:
            RunError: some pairs are expanded, and there is no scale for them.
        """
        expanded = expansion > 0
        if self.expanded is not None and expanded.any():
            return [(~expanded, self.alone), (expanded, self.expanded)]
        if expanded.any():
            raise RunError(
                f"{expanded.sum():,} of {len(expanded):,} pairs are scored with others of the same "
                "person, and the calibration is of photos alone; say --expand off or --raw, or run "
                "kinembed calibrate again, with more --pairs"
            )
        return [(~expanded, self.alone)]

    def accepts(self, logits: Numbers, expansion: Numbers) -> Flags:
        """(N,) True for pairs accepted as kin.

        Args:
            logits: (N,) of the head.
            expansion: (N,) of their pairs; 0 for two photos alone.
        """
        accepted = np.zeros(len(logits), np.bool_)
        for pairs, scale in self.scales(expansion):
            accepted[pairs] = scale.accepts(logits[pairs])
        return accepted

    def probabilities(self, logits: Numbers, expansion: Numbers) -> Numbers:
        """(N,) kinship probabilities.

        Args:
            logits: (N,) of the head.
            expansion: (N,) of their pairs; 0 for two photos alone.
        """
        result = np.empty(len(logits), np.float64)
        for pairs, scale in self.scales(expansion):
            result[pairs] = scale.probabilities(logits[pairs])
        return result


def fit(
    labels: Flags,
    logits: Numbers,
    target: str,
    kind: Map,
    prior: float | None = None,
    weights: Numbers | None = None,
) -> Scale:
    """Chooses a threshold and fits a map.

    Args:
        labels: (N,) True for kin.
        logits: (N,) the head's scores.
        target: `accuracy` (at the prior), `youden` (true minus false accept rate) or `far=RATE`
            (the most kin pairs at a false accept rate of at most RATE).
        kind: the map.
        prior: fraction of kin pairs in use; None: as among these pairs.
        weights: (N,) how often each pair counts.

    Raises:
        KinembedError: there is no such target, or there are no kin or no non-kin pairs.
    """
    curve = RankedScores(labels, logits).curve(weights)
    fitted_prior = float(np.average(labels, weights=weights))
    if prior is None:
        prior = fitted_prior
    knots: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if kind == "platt":
        slope, offset = fit_logistic(labels, logits[:, None], weights).tolist()
        knots = (slope,), (offset,)
    elif kind == "isotonic":
        knots = _fit_isotonic(labels, logits, weights)
    threshold = choose_threshold(curve, target, prior)
    return Scale(threshold, target, kind, knots, fitted_prior, prior)


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
    """The threshold of a target: midway between the lowest accepted and the highest rejected score.

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
    return write_bytes(path, content(calibration))


def content(calibration: Calibration) -> bytes:
    """The bytes of a calibration's file."""
    return (json.dumps(as_json(calibration), indent=1, allow_nan=False) + "\n").encode()


def as_json(calibration: Calibration) -> dict[str, Any]:
    """The values of a calibration, with their seal."""
    about = {"schema": SCHEMA, **asdict(calibration)}
    return {**about, "sha256": seal(about)}


def seal(about: Mapping[str, Any]) -> str:
    """The sha256 of a calibration's values but that itself, by which damage shows."""
    values = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_calibration(path: Path) -> Calibration:
    """Reads a calibration.

    Raises:
        RunError: the file is missing or is no calibration of this version.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RunError(f"{path}: is no file; remove it, then run kinembed calibrate")
    try:
        calibration = read_calibration(Values(read_json(path.read_bytes())), path)
    except FileNotFoundError:
        if path.is_symlink():
            raise RunError(
                f"{path}: is a link to {path.readlink()}, which does not exist; delete it, or run "
                "kinembed calibrate"
            ) from None
        raise RunError(f"{path}: no such file; run kinembed calibrate") from None
    except (ValueError, KinembedError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(
            f"{path}: is no calibration of this version ({error}); run kinembed calibrate"
        ) from None
    return calibration


def read_calibration(about: Values, path: Path) -> Calibration:
    """The calibration of its values, as `as_json` returns them.

    Raises:
        ValueError: in a few words, what is wrong.
        RunError: it is of another schema; `path` is the file that has it.
    """
    schema = about.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise RunError(
            f"{path}: a calibration of schema {shown(schema)}, wanted {SCHEMA}; run kinembed "
            "calibrate again"
        )
    about.only(["schema", "sha256", *(field.name for field in fields(Calibration))])
    if about.text("sha256") != seal(about.content):
        raise ValueError("it was changed or damaged after it was written")
    if (about.get("expanded") is None) != (about.get("make_up") is None):
        raise ValueError("a scale without its make-up")
    has_expanded = about.get("expanded") is not None
    return Calibration(
        alone=_read_scale(about.object("alone")),
        expanded=_read_scale(about.object("expanded")) if has_expanded else None,
        make_up=MakeUp.read(about.object("make_up")) if has_expanded else None,
        three_way=_read_three_way(about),
        people=about.texts("people"),
        head=about.text("head"),
        epoch_chosen_by=about.text("epoch_chosen_by"),
    )


def check_calibration(calibration: Calibration, head: Head, path: Path) -> None:
    """Refuses a calibration of another head.

    Raises:
        RunError: says which, and what to run.
    """
    if calibration.head != head.digest:
        raise RunError(
            f"{path}: is of head {calibration.head[:12]}, found head {head.digest[:12]}; run "
            "kinembed calibrate again, or name the head that it is of with --head"
        )


def _read_scale(about: Values) -> Scale:
    about.only([field.name for field in fields(Scale)])
    parse_target(about.text("target"))
    kind = about.choice("map", get_args(Map))
    first, second = (
        tuple(float(number("knots", value, LOGITS)) for value in knots)
        for knots in about.lists("knots", 2)
    )
    fits = {"none": (0, 0), "platt": (1, 1), "isotonic": (len(second) or 1, len(first) or 1)}
    if (len(first), len(second)) != fits[kind]:
        raise ValueError(f"map {kind} has {len(first)} and {len(second)} numbers")
    if kind == "isotonic":
        if not all(0 <= level <= 1 for level in second):
            raise ValueError("its map leaves 0 to 1")
        falls = any(np.diff(knots).min(initial=0) < 0 for knots in (first, second))
    else:
        falls = kind == "platt" and first[0] <= 0
    if falls:
        raise ValueError("its map falls")
    share = Bounds(above=0, below=1)
    return Scale(
        threshold=about.number("threshold", LOGITS),
        target=about.text("target"),
        map=cast(Map, kind),
        knots=(first, second),
        fitted_prior=about.number("fitted_prior", share),
        prior=about.number("prior", share),
        estimates=None if about.get("estimates") is None else _read_figures(about),
    )


def _read_three_way(about: Values) -> ThreeWay | None:
    if about.get("three_way") is None:
        return None
    return ThreeWay.read(about.object("three_way"))


def _read_figures(about: Values) -> dict[str, Any]:
    """Figures, which are numbers, and their intervals."""
    figures = about.object("estimates")
    for name, value in figures.content.items():
        if isinstance(value, dict):
            interval = figures.object(name)
            interval.only(["low", "high"])
            interval.number("low")
            interval.number("high")
        else:
            figures.number(name)
    return dict(figures.content)


def _rising(logits: Numbers, at: Sequence[float], levels: Sequence[float]) -> Numbers:
    """(N,) probabilities of (N,) logits by an isotonic map, rising within its steps, too.

    Each step begins `TIE_BREAK` of the way back to the level before, and ends as much of the way
    to the next; below the first and above the last, the level approaches, by d / (1 + d) of as
    much of the way, 0 and 1, d being the logit's distance. So pairs that the map makes equal keep
    the order of their logits, and no step reaches another.

    Args:
        logits: what is mapped.
        at: (L,) logits at the ends of the steps, one or two of each.
        levels: (L,) their probabilities.
    """
    x, y = np.array(at), np.array(levels)
    gaps = np.diff(y, prepend=0.0, append=1.0) * TIE_BREAK  # (L + 1,)
    # Of a step's two ends the first goes down, the second up; gaps within a step are 0.
    down, up = gaps[:-1] * (gaps[1:] == 0), gaps[1:] * (gaps[:-1] == 0)  # (L,)
    mapped: Numbers = np.interp(logits, x, y - down + up)
    below, above = logits < x[0], logits > x[-1]
    for beyond, start, gap in ((below, x[0], -gaps[0]), (above, x[-1], gaps[-1])):
        distance = np.abs(logits[beyond] - start)
        mapped[beyond] += gap * distance / (1 + distance)
    return mapped


def _fit_isotonic(
    labels: Flags, logits: Numbers, weights: Numbers | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Logits and increasing probabilities: both ends of each level of an isotonic regression.

    Zadrozny and Elkan (2002). Levels stay inside 0 and 1, by a margin that falls with the pairs.
    """
    from scipy.optimize import isotonic_regression  # slow to import

    counts = np.ones(len(labels)) if weights is None else weights
    knots, rows = np.unique(logits, return_inverse=True)  # (L,) distinct logits, (N,)
    mass = np.bincount(rows, counts, len(knots)).astype(np.float64)  # (L,)
    kin = np.bincount(rows, counts * labels, len(knots)).astype(np.float64)  # (L,)
    counted = mass > 0
    knots, mass, kin = knots[counted], mass[counted], kin[counted]
    margin = 1 / (mass.sum() + 2)
    levels = isotonic_regression(kin / mass, weights=mass).x.clip(margin, 1 - margin)
    steps = levels[1:] != levels[:-1]
    ends = np.append(True, steps) | np.append(steps, True)
    return tuple(knots[ends].tolist()), tuple(levels[ends].tolist())


def _odds(probability: float) -> float:
    return probability / (1 - probability)
