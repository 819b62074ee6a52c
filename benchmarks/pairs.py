"""Pairs sampled per second by `PairSampler` and by a plain loop, on one core."""

import time

import numpy as np

from kinembed.data.families import Families, group_families
from kinembed.data.samplers import PairSampler

BATCH, FRACTION = 32, 0.6


def plain_batch(
    families: Families, photos: dict[str, list[int]], related: set, rng: np.random.Generator
) -> tuple[list[tuple[int, int]], list[int]]:
    """A batch sampled by a plain loop, pair by pair."""
    pairs, labels = [], []
    while len(pairs) < int(BATCH * FRACTION):
        a, b = families.relations[rng.integers(len(families.relations))]
        a, b = families.people[a], families.people[b]
        pairs.append((rng.choice(photos[a]), rng.choice(photos[b])))
        labels.append(1)
    while len(pairs) < BATCH:
        a, b = rng.choice(families.people, 2, replace=False)
        if (a, b) not in related and (b, a) not in related:
            pairs.append((rng.choice(photos[a]), rng.choice(photos[b])))
            labels.append(0)
    order = rng.permutation(BATCH)
    return [pairs[i] for i in order], [labels[i] for i in order]


def main() -> None:
    """As many people, photos and relations as Recognizing Faces in the Wild has."""
    rng = np.random.default_rng(0)
    people = [f"F{f:04}/MID{m}" for f in range(470) for m in range(1, 6)]
    names = [f"train/{p}/{i}.jpg" for p in people for i in range(int(rng.integers(1, 10)))]
    relations = [
        (f"F{f:04}/MID{a}", f"F{f:04}/MID{b}")
        for f in range(470)
        for a in range(1, 6)
        for b in range(a + 1, 6)
        if rng.random() < 0.7
    ]
    families = group_families(names, relations)
    sampler = PairSampler(families, np.arange(len(families.people)), FRACTION)
    photos = {
        person: list(range(families.photo_start[i], families.photo_start[i + 1]))
        for i, person in enumerate(families.people)
    }
    related = set(relations)
    fast, plain = [], []
    for _ in range(7):
        start = time.perf_counter()
        sampler.sample(10_000, BATCH, rng)
        fast.append(10_000 * BATCH / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in range(20):
            plain_batch(families, photos, related, rng)
        plain.append(20 * BATCH / (time.perf_counter() - start))
    print(f"PairSampler  {np.median(fast):12,.0f} pairs/s")
    print(f"plain loop   {np.median(plain):12,.0f} pairs/s")
    print(f"ratio        {np.median(np.divide(fast, plain)):12,.0f}")


if __name__ == "__main__":
    main()
