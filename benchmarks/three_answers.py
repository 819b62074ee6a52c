"""The same person, kin or unrelated, for people whom neither head nor calibration saw.

    python benchmarks/three_answers.py --run runs/default --data data

For each fold of a head with folds, pairs of three kinds are drawn among the families that one
member held out, each side with one to six photos, none on both. That member scores them; the three
answers and the model of the same person are fitted again without these families. Judged by one
photo a side, and by all that were drawn.

Beside it stands the plain cosine of the network's own vectors, the mean of a person's photos: with
two thresholds that are the best on pairs of the other families, drawn alike, where the
probabilities are how often each kind lies between them there; and with the three answers' own
regression, on the cosine alone. Intervals: bootstrap over families.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from relate import judges  # beside this script

from kinembed.arrays import Float, Rows
from kinembed.cache import EmbeddingCache
from kinembed.data.families import Families, cached_families
from kinembed.data.person_pairs import KIN, SAME, UNRELATED, PersonPairs, sample_person_pairs
from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import calibration_error, family_bootstrap
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.pooled_people import PooledPeople, RepresentedPhotos, person_scores
from kinembed.heads.query_expansion import vectors_at

NAMES = ("same person", "kin", "unrelated")
Numbers = np.ndarray
FITTED = 8_000  # pairs of each kind by which thresholds are chosen


@dataclass(frozen=True)
class Sides:
    """Pairs as groups of photos: (2 K) groups, and the rows of all photos in them."""

    rows: Rows
    groups: list[Rows]

    @classmethod
    def of(cls, pairs: PersonPairs, most: int) -> "Sides":
        sides = [side[:most] for both in pairs.photos for side in both]
        rows, places = np.unique(np.concatenate(sides), return_inverse=True)
        return cls(rows, np.split(places, np.cumsum([len(side) for side in sides])[:-1]))

    @property
    def pairs(self) -> Rows:
        return np.arange(len(self.groups)).reshape(-1, 2)


def cosines(vectors: Float, sides: Sides) -> Numbers:
    """(K,) of both people's mean directions."""
    photos = unit(vectors[sides.rows])
    means = unit(np.stack([photos[group].mean(0) for group in sides.groups]).astype(np.float32))
    return (means[0::2] * means[1::2]).sum(1).astype(float)


def two_thresholds(kinds: Rows, cosine: Numbers) -> Callable[[Numbers], Numbers]:
    """(K, 3) shares of the kinds between the two thresholds of the highest accuracy."""
    cuts = np.quantile(cosine, np.linspace(0.01, 0.99, 197))
    below = np.stack([(cosine[kinds == kind][:, None] < cuts).mean(0) for kind in range(3)])
    # right: unrelated below the lower, kin between, the same person above the upper
    right = below[UNRELATED][:, None] + below[KIN] - below[KIN][:, None] + 1 - below[SAME]
    right[np.tril_indices(len(cuts), -1)] = 0
    low, high = (float(cuts[each]) for each in np.unravel_index(right.argmax(), right.shape))

    def zones(values: Numbers) -> Rows:
        return (values >= low).astype(int) + (values >= high)

    counts = np.zeros((3, 3))
    np.add.at(counts, (zones(cosine), kinds), 1)
    shares = (counts + 1) / (counts + 1).sum(1, keepdims=True)
    return lambda values: shares[zones(values)]


def by_regression(kinds: Rows, cosine: Numbers) -> Callable[[Numbers], Numbers]:
    """(K, 3) by the regression of the three answers, on the cosine alone."""
    fits = {}
    for one, other in ((KIN, UNRELATED), (SAME, KIN)):
        chosen = (kinds == one) | (kinds == other)
        fits[one] = fit_logistic(kinds[chosen] == one, cosine[chosen][:, None])

    def probabilities(values: Numbers) -> Numbers:
        logits = np.zeros((len(values), 3))
        for kind, after in ((KIN, UNRELATED), (SAME, KIN)):
            logits[:, kind] = logits[:, after] + fits[kind][0] * values + fits[kind][1]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    return probabilities


def figures(kinds: Rows, told: Numbers, families: Rows, rng: np.random.Generator) -> list[str]:
    """Accuracy, log loss and ECE with intervals, the kinds in equal shares."""
    own = -np.log(np.maximum(told[np.arange(len(kinds)), kinds], 1e-300))
    right = told.argmax(1) == kinds

    def alike(weights: Numbers) -> Numbers:
        sums = np.bincount(kinds, weights, 3)
        return weights / np.maximum(sums, 1e-9)[kinds]

    def ece(weights: Numbers) -> float:
        return float(np.mean([
            calibration_error(kinds == kind, told[:, kind], weights=alike(weights))
            for kind in range(3)
        ]))  # fmt: skip

    result = []
    for statistic in (
        lambda weights: float(np.average(right, weights=alike(weights))),
        lambda weights: float(np.average(own, weights=alike(weights))),
        ece,
    ):
        value = statistic(np.ones(len(kinds)))
        interval = family_bootstrap(statistic, families, rng, count=300)
        result.append(f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})")
    return result


def confusion(kinds: Rows, told: Numbers) -> list[list[str]]:
    """What share of each kind is said to be what."""
    said = told.argmax(1)
    return [
        [NAMES[kind], *(f"{(said[kinds == kind] == each).mean():.3f}" for each in range(3))]
        for kind in range(3)
    ]


def fitted_pairs(
    families: Families, people: Sequence[str], rng: np.random.Generator
) -> PersonPairs:
    return sample_person_pairs(families, people, FITTED, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pairs", type=int, default=3_000, help="Of each kind.")
    parser.add_argument("--view", default="native", help="View of the plain cosine.")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    head = load_head(asked.run / "head.h5")
    assert isinstance(head, MetricHead), "a head with folds"
    ways = ("kinembed", "cosine, two thresholds", "cosine, regression")
    told: dict[tuple[str, str], list[Numbers]] = {}
    kinds, family = [], []
    with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
        families = cached_families(cache, asked.data)
        vectors = vectors_at(cache, asked.view, np.arange(len(cache)))
        names = np.array(families.people)
        for number, (judge, inside) in enumerate(judges(cache, families, head, rng)):
            size = asked.pairs * (number + 1) // len(head.folds)
            size -= asked.pairs * number // len(head.folds)
            pairs = sample_person_pairs(families, names[inside].tolist(), size, rng)
            others = np.setdiff1d(np.arange(len(names)), inside)
            known = fitted_pairs(families, names[others].tolist(), rng)
            kinds.append(pairs.kinds)
            family.append(families.family[pairs.people])
            for setting, most in (("one photo each", 1), ("one to six photos each", 6)):
                sides = Sides.of(pairs, most)
                photos = RepresentedPhotos.at(judge.head, cache, sides.rows)
                people = PooledPeople.of(judge.head, photos, sides.groups)
                scores = person_scores(judge.head, people, sides.pairs)
                cosine, before = cosines(vectors, sides), cosines(vectors, Sides.of(known, most))
                for way, found in zip(ways, (
                    judge.three_way.probabilities(scores),
                    two_thresholds(known.kinds, before)(cosine),
                    by_regression(known.kinds, before)(cosine),
                ), strict=True):  # fmt: skip
                    told.setdefault((setting, way), []).append(found)
    kind, owners = np.concatenate(kinds), np.concatenate(family)
    counts = ", ".join(f"{(kind == each).sum():,} {NAMES[each]}" for each in range(3))
    print(f"{counts}; {len(np.unique(owners))} families, none seen by head or calibration")
    for (setting, way), parts in told.items():
        found = np.concatenate(parts)
        accuracy, loss, ece = figures(kind, found, owners, rng)
        print(f"\n{setting}, {way}: accuracy {accuracy}, log loss {loss}, ECE {ece}")
        for row in [["is, said to be", *NAMES], *confusion(kind, found)]:
            print("  " + "".join(f"{cell:>16}" for cell in row))


if __name__ == "__main__":
    main()
