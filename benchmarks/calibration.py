"""Calibration on generated families: do its estimates hold on held-out families?

    python benchmarks/calibration.py --seeds 20

No timing. For each seed: families are generated (people near their family, photos near their
person), a head is trained on some, calibrated on others at a target of 1 % false accepts, and
judged by a third set, larger, so that what is measured is the calibration and not the judges.
"""

import argparse

import numpy as np

from kinembed.config import HeadConfig
from kinembed.data.families import Families, group_families
from kinembed.data.samplers import PairSampler, held_out_pairs
from kinembed.evaluation.calibration import fit
from kinembed.evaluation.cross_fitting import estimate
from kinembed.evaluation.metrics import calibration_error, roc_auc
from kinembed.recipes import RECIPES
from kinembed.training.pair_heads import train_pair_heads

WIDTH, TARGET, PAIRS = 64, 0.01, 20_000


def generated(families: int, rng: np.random.Generator) -> tuple[Families, np.ndarray]:
    """Families of four people of five photos: more alike within than between, in groups."""
    groups = rng.standard_normal((8, WIDTH))  # families are alike in groups
    names, relations, rows = [], [], []
    for family in range(families):
        centre = 0.5 * groups[rng.integers(8)] + rng.standard_normal(WIDTH)
        for person in range(4):
            own = centre + 1.2 * rng.standard_normal(WIDTH)
            for photo in range(5):
                names.append(f"train/F{family:04}/MID{person}/{photo}.jpg")
                rows.append(own + 0.8 * rng.standard_normal(WIDTH))
        relations += [(f"F{family:04}/MID{a}", f"F{family:04}/MID{b}") for a, b in
                      ((0, 1), (0, 2), (0, 3), (1, 2))]  # fmt: skip
    return group_families(names, relations), np.array(rows, np.float32)


def main() -> None:
    """Prints each seed's metrics, and the coverage of the intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--train", type=int, default=300, help="Families.")
    parser.add_argument("--calibrate", type=int, default=100, help="Families.")
    parser.add_argument("--judge", type=int, default=500, help="Families.")
    options = parser.parse_args()
    recipe = RECIPES["base"]
    held, errors = 0, []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        known, vectors = generated(options.train + options.calibrate + options.judge, rng)
        sizes = np.cumsum([options.train, options.calibrate]) * 4  # people in a family
        learn, *rest = np.split(np.arange(len(known.people)), sizes)
        samplers = [PairSampler(known, learn)] * 2  # no epoch selection
        (trained,) = train_pair_heads(vectors, *samplers, [(recipe, seed)], HeadConfig(seed=seed))
        sides = []
        for part in rest:
            names = [known.people[row] for row in part]
            pairs = held_out_pairs(known, names, PAIRS, rng)
            sides.append((pairs.labels, trained.head.score(vectors, pairs.rows), pairs.families))
        (labels, logits, families), (new_labels, new_logits, _) = sides
        target = f"far={TARGET}"
        fitted = fit(labels, logits, target, "platt")
        said = estimate(labels, logits, families, target, "platt", None, rng)["far_interval"]
        far = float(fitted.accepts(new_logits)[~new_labels].mean())
        error = calibration_error(new_labels, fitted.probabilities(new_logits))
        inside = said["low"] <= far <= said["high"]
        held += inside
        errors.append(error)
        print(
            f"seed {seed:2}: AUC {roc_auc(new_labels, new_logits):.3f}, ECE {error:.4f}, FAR "
            f"{far:.4f}, stated {said['low']:.4f} to {said['high']:.4f}{'' if inside else '  out'}"
        )
    print(
        f"{held} of {options.seeds} within their interval; ECE at most {max(errors):.4f}, "
        f"{np.mean(errors):.4f} on average"
    )


if __name__ == "__main__":
    main()
