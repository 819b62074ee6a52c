"""Late fusion: what the logits of several heads are divided by, and how they are weighted."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kinembed.arrays import Rows, Vectors
from kinembed.data.families import Families
from kinembed.data.samplers import held_out_pairs
from kinembed.errors import KinembedError
from kinembed.evaluation.metrics import (
    Flags,
    Interval,
    Numbers,
    RankedScores,
    family_bootstrap,
)
from kinembed.heads.base import Head, People
from kinembed.heads.fused import FusedHead
from kinembed.views import JOIN

PAIRS = 8_000  # of held-out people, half of them kin
FOLDS = 5  # of families, by which the weights are cross-fitted
FEWEST = 40  # families, below which no weights are fitted
RESAMPLES = 200
MOST_RATIO = 1e9  # of the standard deviations of two parts' logits


@dataclass(frozen=True)
class Part:
    """What is fused: a head, or the heads of networks that each held out another fold.

    Attributes:
        heads: one, with a member for each fold; or one for each fold.
        vectors: of each head, (N, width).
    """

    heads: tuple[Head, ...]
    vectors: tuple[Vectors, ...]

    def holding_out(self, fold: int) -> tuple[int, Head]:
        """Which of the heads holds out a fold, and its member that does."""
        if len(self.heads) > 1:
            return fold, self.heads[fold]
        members = self.heads[0].members()
        return 0, members[fold] if len(members) > 1 else self.heads[0]


@dataclass(frozen=True)
class Weighting:
    """How the standardised logits of the parts are weighted.

    Attributes:
        weights: (P,) that sum to 1.
        fitted: those that were fitted; None where there were too few families.
        gain: interval of what the fitted weights add to the AUC of equal ones, on other families.
        chosen: the fitted ones are used.
    """

    weights: tuple[float, ...]
    fitted: tuple[float, ...] | None = None
    gain: Interval | None = None
    chosen: bool = False

    def describe(self) -> str:
        """In a few words."""
        if self.fitted is None or self.gain is None:
            return "equal weights"
        fitted = ", ".join(f"{weight:.2f}" for weight in self.fitted)
        gain = f"{self.gain.low:+.4f} to {self.gain.high:+.4f} of AUC on other families"
        if self.chosen:
            return f"weights {fitted}, which add {gain}"
        return f"equal weights; fitted ones ({fitted}) add {gain}"


def fuse(
    parts: Sequence[Part],
    judges: Sequence[People],
    families: Families,
    rng: np.random.Generator,
    **about: Any,
) -> tuple[FusedHead, Weighting]:
    """Fuses heads by the mean of their logits, each divided by its standard deviation.

    Standard deviations are of the logits of unrelated people, held out. Weights are fitted by
    logistic regression without negative slopes, on the same held-out people, and used only where
    they are better than equal ones on families that they were not fitted on, by more than the 95 %
    interval.

    Args:
        parts: what to fuse.
        judges: the people whom each fold held out; without folds all who were, alone.
        families: photos, people and relations; their rows are those of the vectors.
        rng: draws pairs, folds and resamples.
        about: the rest of what a `FusedHead` holds.

    Raises:
        KinembedError: the logits of a part do not differ, or are next to nothing beside another's.
    """
    spreads: list[Numbers] = [np.ones(len(part.heads)) for part in parts]
    counts = np.diff(np.linspace(0, PAIRS, len(judges) + 1).astype(int))
    scored: dict[tuple[int, int], list[Numbers]] = {}  # of each part and head
    labels, sides, logits = [], [], []
    for fold, (people, count) in enumerate(zip(judges, counts.tolist(), strict=True)):
        pairs = held_out_pairs(families, people, max(2, count), rng)
        labels.append(pairs.labels)
        sides.append(pairs.families)
        rows, places = np.unique(pairs.rows, return_inverse=True)
        of_fold = []
        for number, part in enumerate(parts):
            which, head = part.holding_out(fold)
            represented = head.represent(part.vectors[which][rows])
            found = head.score(np.asarray(represented), places.reshape(-1, 2))
            scored.setdefault((number, which), []).append(found[~pairs.labels])
            of_fold.append((which, found))
        logits.append(of_fold)
    for (number, which), each in scored.items():
        spread = float(np.concatenate(each).std())
        # Members that see nothing give all pairs of their folds one logit each.
        differ = spread > 0 and any(np.ptp(fold) > 0 for fold in each if len(fold))
        if not differ or not np.isfinite(spread):
            view = parts[number].heads[which].view
            raise KinembedError(f"view {view}: the logits of its head do not differ; leave it out")
        spreads[number][which] = spread
    _check_scales(parts, spreads)
    columns = np.concatenate(
        [
            np.stack([found / spreads[i][which] for i, (which, found) in enumerate(fold)], 1)
            for fold in logits
        ]
    )  # (K, P)
    weighting = weigh(np.concatenate(labels), columns, np.concatenate(sides), rng)
    return _fused(parts, spreads, weighting, about), weighting


def _check_scales(parts: Sequence[Part], spreads: Sequence[Numbers]) -> None:
    """Refuses logits next to which those of another part are rounding errors.

    Raises:
        KinembedError: naming both views.
    """
    views = [head.view for part in parts for head in part.heads]
    all_spreads = np.concatenate(list(spreads))
    least, most = int(all_spreads.argmin()), int(all_spreads.argmax())
    if all_spreads[most] / all_spreads[least] > MOST_RATIO:
        raise KinembedError(
            f"view {views[most]}: the logits of its head differ by {all_spreads[most]:.1e}, those "
            f"of view {views[least]} by {all_spreads[least]:.1e}; leave out the one whose vectors "
            "are out of range"
        )


def weigh(labels: Flags, logits: Numbers, families: Rows, rng: np.random.Generator) -> Weighting:
    """Equal weights, unless fitted ones are better on families that they were not fitted on.

    Args:
        labels: (K,) True for kin.
        logits: (K, P) standardised logits of each part.
        families: (K, 2) the family of each side.
        rng: draws folds and resamples.
    """
    parts = logits.shape[1]
    equal = np.full(parts, 1 / parts)
    unique, numbers = np.unique(families, return_inverse=True)
    if parts < 2 or len(unique) < FEWEST:
        return Weighting(tuple(equal.tolist()))
    fold_of = (rng.permutation(len(unique)) % FOLDS)[numbers.reshape(families.shape)]  # (K, 2)
    judged, by_weights = np.zeros(len(labels), bool), np.zeros(len(labels))
    for fold in range(FOLDS):
        inside, outside = (fold_of == fold).all(1), (fold_of != fold).all(1)
        by_weights[inside] = logits[inside] @ fit_weights(labels[outside], logits[outside])
        judged |= inside
    truth, sides = labels[judged], families[judged]
    ours = RankedScores(truth, by_weights[judged])
    plain = RankedScores(truth, (logits @ equal)[judged])
    gain = family_bootstrap(lambda w: ours.auc(w) - plain.auc(w), sides, rng, RESAMPLES)
    fitted = tuple(fit_weights(labels, logits).tolist())
    better = gain.low > 0
    return Weighting(fitted if better else tuple(equal.tolist()), fitted, gain, better)


def fit_weights(labels: Flags, logits: Numbers) -> Numbers:
    """(P,) weights that sum to 1, by logistic regression whose slopes are not negative.

    Args:
        labels: (K,) True for kin.
        logits: (K, P).
    """
    from scipy.optimize import minimize  # slow to import

    x = np.column_stack([logits, np.ones(len(logits))])  # (K, P + 1)
    signs = np.where(labels, 1.0, -1.0)

    def loss(theta: Numbers) -> tuple[float, Numbers]:
        margins = signs * (x @ theta)  # (K,)
        slopes = -signs * np.exp(-np.logaddexp(0, margins))  # (K,)
        return float(np.logaddexp(0, -margins).mean()), x.T @ slopes / len(x)

    parts = logits.shape[1]
    bounds = [(0, None)] * parts + [(None, None)]
    start = np.append(np.full(parts, 1 / parts), 0.0)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[:parts]
    total = found.sum()
    weights: Numbers = found / total if total > 0 else np.full(parts, 1 / parts)
    return weights


def _fused(
    parts: Sequence[Part],
    spreads: Sequence[Numbers],
    weighting: Weighting,
    about: dict[str, Any],
) -> FusedHead:
    """The head of parts, with the scale of the parts' logits."""
    scale = float(np.mean(np.concatenate(list(spreads))))
    heads: list[Head] = []
    gains = []
    for part, spread, weight in zip(parts, spreads, weighting.weights, strict=True):
        if len(part.heads) == 1:
            heads.append(part.heads[0])
            gains.append(weight * scale / float(spread[0]))
            continue
        inner = tuple((1 / (spread * len(spread))).tolist())
        view = JOIN.join(head.view for head in part.heads)
        heads.append(FusedHead(view, about["model"], part.heads, inner, by_fold=True))
        gains.append(weight * scale)
    if len(heads) == 1 and isinstance(group := heads[0], FusedHead):
        return replace(group, gains=tuple(gain * gains[0] for gain in group.gains), **about)
    view = JOIN.join(head.view for head in heads)
    return FusedHead(view=view, parts=tuple(heads), gains=tuple(gains), **about)
