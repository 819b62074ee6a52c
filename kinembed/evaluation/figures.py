"""The figures of `evaluation.json`, computed from labelled pairs and logits."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.protocols import photograph_of
from kinembed.errors import DataError
from kinembed.evaluation.calibration import Calibration, choose_threshold
from kinembed.evaluation.cross_fitting import Judged, cross_fit, prior_weights
from kinembed.evaluation.metrics import (
    Flags,
    Numbers,
    RankedScores,
    accuracy,
    average_precision,
    brier,
    calibration_error,
    delong_interval,
    equal_error_rate,
    family_bootstrap,
    reliability,
    tar_at_far,
)
from kinembed.evaluation.out_of_fold import ScoredPairs
from kinembed.evaluation.triples import TripleScore
from kinembed.heads.base import sigmoid
from kinembed.seeds import Stream, generator

FARS = (0.1, 0.01, 0.001)
BINS = 15  # of the reliability diagram
SHOWN = 12  # wrong pairs of each kind

Names = Sequence[tuple[str, ...]]  # both photos of each pair, or who is on them


def figures(
    scored: ScoredPairs,
    people: Names,
    calibration: Calibration | None,
    seed: int,
    triples: TripleScore | None = None,
) -> dict[str, Any]:
    """All figures of a head on labelled pairs, or on triples.

    Args:
        scored: K pairs with their labels, families and scores.
        people: (K,) who is on their photos.
        calibration: makes the decisions; None leaves them out.
        seed: of the bootstrap.
        triples: what scored triples; None for pairs.

    Returns:
        A dict of JSON types. An interval is None where too few families, or whatever else is
        resampled, have one, or where all resamples agree.

    Raises:
        DataError: there are no kin or no non-kin pairs.
    """
    pairs, logits = scored.pairs, scored.logits
    labels, families = pairs.labels, pairs.families
    ranked = RankedScores(labels, logits)
    curve = ranked.curve()
    rng = generator(seed, Stream.EVALUATION_BOOTSTRAP)
    interval = partial(_interval, families=families, rng=rng)
    result: dict[str, Any] = {
        "pairs": len(labels),
        "kin": int(labels.sum()),
        "families": len(np.unique(families)),
        "bootstrap": pairs.unit,
        "auc": ranked.auc(),
        "auc_delong": _delong(labels, logits),
        "auc_by_families": interval(ranked.auc),
        "average_precision": average_precision(labels, logits),
        "eer": equal_error_rate(curve),
        "tar_at_far": {
            str(far): {
                "value": tar_at_far(curve, far),
                "interval": interval(partial(_tar_at, far, ranked), count=200),
            }
            for far in FARS
        },
    }
    accepted: Flags | None = None
    if triples is not None:
        result["triples"] = asdict(triples)
        decision = _triple_decision(scored, triples, rng)
        if decision is not None:
            result["decision"], accepted = decision
    elif calibration is not None:
        decided = _decision(scored, people, calibration, rng)
        if isinstance(decided, str):
            result["undecided"] = decided
        else:
            result["decision"], accepted = decided
    result["relations"] = _by_relation(pairs, logits, accepted, rng)
    if pairs.folds is not None:
        result["folds"] = _by_fold(pairs, logits, pairs.folds, rng)
    return result


def same_photograph(
    pairs: LabelledPairs,
    names: Names,
    people: Names,
    logits: Numbers,
    digests: NDArray[np.uint8],
) -> dict[str, Any]:
    """Counts pairs of faces from one photograph: shared light and background reveal these.

    Args:
        pairs: K pairs.
        names: (K,) their photos.
        people: (K,) who is on these.
        logits: (K,) the head's scores.
        digests: (N, 32) of the cache's photos.

    Returns:
        `known`, whether the names identify photographs; `kin` and `non_kin`, pairs from one
        photograph; `same_file`, pairs of one file; `auc_without` all of these, or None.
    """
    shots = [
        [photograph_of(name, person) for name, person in zip(*photos, strict=True)]
        for photos in zip(names, people, strict=True)
    ]
    # A child with its parent; that the parents are on one photograph shows nothing.
    same = np.array([photos[-1] is not None and photos[-1] in photos[:-1] for photos in shots])
    *parents, child = (digests[rows] for rows in pairs.rows.T)  # (K, 32) each
    twins = np.any([(parent == child).all(1) for parent in parents], axis=0)
    rest = ~(same | twins)
    labels = pairs.labels[rest]
    both_kinds = rest.any() and 0 < labels.sum() < len(labels)
    return {
        "known": any(photos[-1] is not None for photos in shots),
        "kin": int((same & pairs.labels).sum()),
        "non_kin": int((same & ~pairs.labels).sum()),
        "same_file": int(twins.sum()),
        "auc_without": RankedScores(labels, logits[rest]).auc() if both_kinds else None,
    }


def surest(
    pairs: LabelledPairs, names: Names, people: Names, logits: Numbers, *, right: bool
) -> list[dict[str, Any]]:
    """The pairs whose scores are the farthest on one side, and their kinship.

    Wrong ones are the non-kin pairs with the highest scores, then the kin pairs with the lowest;
    right ones the non-kin pairs with the lowest, then the kin pairs with the highest.

    At most one pair of any two people, so that a single portrait does not fill the list.
    """
    predicted = sigmoid(logits)
    found: list[dict[str, Any]] = []
    for label in (False, True):
        rows = np.flatnonzero(pairs.labels == label)
        lowest_first = label != right
        rows = rows[np.argsort(logits[rows] if lowest_first else -logits[rows], kind="stable")]
        seen: set[frozenset[object]] = set()
        for row in rows.tolist():
            shown = frozenset(
                who or name for who, name in zip(people[row], names[row], strict=True)
            )
            if shown in seen:
                continue
            seen.add(shown)
            found.append(
                {
                    "photos": list(names[row]),
                    "kin": bool(label),
                    "probability": float(predicted[row]),
                    "relation": pairs.relations[row] if pairs.relations else "",
                }
            )
            if len(seen) == SHOWN:
                break
    return found


def _interval(
    statistic: Callable[[Numbers], float],
    *,
    families: Rows,
    rng: np.random.Generator,
    count: int = 1000,
) -> dict[str, float] | None:
    """The interval by the bootstrap over families; None where there is none."""
    try:
        found = family_bootstrap(statistic, families, rng, count)
    except DataError:
        return None
    return asdict(found) if found.low < found.high else None


def _delong(labels: Flags, logits: Numbers) -> dict[str, float] | None:
    try:
        found = delong_interval(labels, logits)
    except DataError:
        return None
    return asdict(found) if found.low < found.high else None


def _tar_at(far: float, ranked: RankedScores, weights: Numbers) -> float:
    return tar_at_far(ranked.curve(weights), far)


def _decision(
    scored: ScoredPairs,
    people: Names,
    calibration: Calibration,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], Flags | None] | str:
    """Figures at the threshold, and (K,) the accepted pairs, None if cross-fitted.

    Or why there are none: the pairs that are cross-fitted are too unlike all.

    A calibration for another share of kin than it was fitted on is judged at that share: pairs
    weigh as if so many were kin.
    """
    pairs, scale = scored.pairs, calibration.alone
    labels = pairs.labels
    fitted_on = set(calibration.people)
    if any(person in fitted_on for pair in people for person in pair):
        how = "cross-fitted"
        judged, accepted, predicted = _cross_fit(scored, calibration, rng)
        counts = Judged.of(labels, pairs.families, judged)
        if counts.skew:
            return counts.skew
        truth, share = labels[judged], float(labels.mean())
        decisions, probabilities, accepted_pairs = accepted[judged], predicted[judged], None
        weights: Numbers | None = prior_weights(truth, share)
        if scale.prior != scale.fitted_prior:  # what is cross-fitted is of the pairs' own share
            probabilities = at_prior(probabilities, share, scale.prior)
    else:
        how = "calibrated"
        truth, weights = labels, None
        decisions = accepted_pairs = calibration.accepts(scored.logits, scored.expansion)
        probabilities = calibration.probabilities(scored.logits, scored.expansion)
    if scale.prior != scale.fitted_prior:
        weights = prior_weights(truth, scale.prior)
    decision = {
        "how": how,
        "target": scale.target,
        "map": scale.map,
        "prior": scale.prior,
        "threshold": scale.threshold,
        "threshold_expanded": calibration.expanded and calibration.expanded.threshold,
        "pairs": len(truth),
        "pairs_expanded": int((scored.expansion > 0).sum()),
        **_judged(truth, decisions, probabilities, weights),
    }
    return decision, accepted_pairs


def _judged(
    truth: Flags, decisions: Flags, probabilities: Numbers, weights: Numbers | None
) -> dict[str, Any]:
    """Figures of decisions and probabilities."""
    counts, predicted_sums, observed = reliability(truth, probabilities, BINS, weights)
    return {
        "auc": RankedScores(truth, probabilities).auc(),
        "accuracy": accuracy(truth, decisions, weights),
        "tar": float(decisions[truth].mean()),
        "far": float(decisions[~truth].mean()),
        "non_kin": int((~truth).sum()),
        "brier": brier(truth, probabilities, weights),
        "ece": calibration_error(truth, probabilities, BINS, weights),
        "reliability": {
            "pairs": counts.tolist(),
            "predicted": predicted_sums.tolist(),
            "observed": observed.tolist(),
        },
    }


def _triple_decision(
    scored: ScoredPairs, triples: TripleScore, rng: np.random.Generator
) -> tuple[dict[str, Any], Flags | None] | None:
    """Figures of triples at even odds of the families they were weighed by, else cross-fitted."""
    pairs, logits = scored.pairs, scored.logits
    truth, families = pairs.labels, pairs.families
    accepted: Flags | None = logits >= 0
    threshold, weights = 0.0, None
    how, decisions, probabilities = "by held-out families", logits >= 0, sigmoid(logits)
    if not triples.families:
        try:
            judged, within, predicted = cross_fit(
                truth, logits, families, "accuracy", "platt", None, rng
            )
        except DataError:  # too few families
            return None
        share = float(truth.mean())
        weights = prior_weights(truth[judged], share)
        threshold = choose_threshold(RankedScores(truth, logits).curve(), "accuracy", share)
        how, accepted, truth, families = "cross-fitted", None, truth[judged], families[judged]
        decisions, probabilities = within[judged], predicted[judged]
    right = decisions == truth
    interval = _interval(partial(_share, right, weights), families=families, rng=rng)
    decision = {
        "how": how,
        "target": "accuracy",
        "map": "platt",
        "threshold": threshold,
        "prior": 0.5 if triples.families else float(pairs.labels.mean()),
        "pairs": len(truth),
        **_judged(truth, decisions, probabilities, weights),
        "accuracy_interval": interval,
    }
    return decision, accepted


def at_prior(probabilities: Numbers, before: float, after: float) -> Numbers:
    """Probabilities with the odds of another share of kin pairs (Bayes)."""
    ratio = after / (1 - after) * (1 - before) / before
    moved: Numbers = probabilities * ratio / (probabilities * ratio + (1 - probabilities))
    return moved


def _cross_fit(
    scored: ScoredPairs, calibration: Calibration, rng: np.random.Generator
) -> tuple[Flags, Flags, Numbers]:
    """As `cross_fit`, of the scale that each pair has."""
    pairs, scale = scored.pairs, calibration.alone
    judged, accepted, predicted = cross_fit(
        pairs.labels, scored.alone, pairs.families, scale.target, scale.map, scale.prior, rng
    )
    for expanded, scale in calibration.scales(scored.expansion)[1:]:
        try:
            judged[expanded], accepted[expanded], predicted[expanded] = cross_fit(
                pairs.labels[expanded], scored.logits[expanded], pairs.families[expanded],
                scale.target, scale.map, scale.prior, rng,
            )  # fmt: skip
        except DataError:  # too few to fit on some and judge others
            if not (judged & ~expanded & pairs.labels).any():
                raise
            judged[expanded] = False
    return judged, accepted, predicted


def _by_relation(
    pairs: LabelledPairs, logits: Numbers, accepted: Flags | None, rng: np.random.Generator
) -> dict[str, Any]:
    """Figures of each relation, against its own non-kin pairs if it has any, else all."""
    relations = np.array(pairs.relations)
    rows: dict[str, Any] = {}
    for name in sorted(set(pairs.relations) - {""}):
        own = relations == name
        has_both = (own & ~pairs.labels).any()
        chosen = own if has_both else own | ~pairs.labels
        labels = pairs.labels[chosen]
        row: dict[str, Any] = {
            "pairs": int(own.sum()),
            "against": "its own" if has_both else "all",
        }
        if 0 < labels.sum() < len(labels):
            ranked = RankedScores(labels, logits[chosen])
            row["auc"] = ranked.auc()
            row["interval"] = _interval(
                ranked.auc, families=pairs.families[chosen], rng=rng, count=300
            )
        if accepted is not None:
            row["accuracy"] = accuracy(labels, accepted[chosen])
        rows[name] = row
    return rows


def _by_fold(
    pairs: LabelledPairs, logits: Numbers, folds: NDArray[np.intp], rng: np.random.Generator
) -> dict[str, Any]:
    """KinFaceW's protocol: each fold at the threshold with the best accuracy on the other folds.

    Lu et al., "Neighborhood repulsed metric learning for kinship verification", 2014. Intervals
    are of the thresholds as they are: families are resampled, folds not.
    """
    relations = np.array(pairs.relations)
    right = np.zeros(len(pairs), np.bool_)
    rows: dict[str, Any] = {}
    for name in sorted(set(pairs.relations)):
        own = relations == name
        accuracies = []
        for fold in np.unique(folds[own]):
            inside, rest = own & (folds == fold), own & (folds != fold)
            curve = RankedScores(pairs.labels[rest], logits[rest]).curve()
            threshold = choose_threshold(curve, "accuracy", float(pairs.labels[rest].mean()))
            right[inside] = (logits[inside] >= threshold) == pairs.labels[inside]
            accuracies.append(accuracy(pairs.labels[inside], logits[inside] >= threshold))
        rows[name] = {
            "accuracy": float(np.mean(accuracies)),
            "folds": accuracies,
            "interval": _interval(
                partial(_share, right[own], None), families=pairs.families[own], rng=rng, count=500
            ),
        }
    mean = float(np.mean([row["accuracy"] for row in rows.values()]))
    interval = _interval(
        partial(_mean_share, right, np.unique(relations, return_inverse=True)[1]),
        families=pairs.families, rng=rng, count=500,
    )  # fmt: skip
    rows["mean"] = {"accuracy": mean, "folds": [], "interval": interval}
    return rows


def _share(right: Flags, own: Numbers | None, weights: Numbers) -> float:
    """The weighted share of the right decisions, by weights of their own and of a resample."""
    if not weights.any():
        raise DataError("no pair has a weight")
    return float(np.average(right, weights=weights if own is None else weights * own))


def _mean_share(right: Flags, groups: Rows, weights: Numbers) -> float:
    """The mean over groups, of equal weight, of the share of the right decisions."""
    totals = np.bincount(groups, weights)
    if not totals.all():
        raise DataError("a relation has no pair")
    return float(np.mean(np.bincount(groups, weights * right) / totals))
