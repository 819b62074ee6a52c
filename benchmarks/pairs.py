"""Pairs sampled per second by `PairSampler` and by a plain loop, on one core."""

from collections.abc import Iterator

import numpy as np
from turns import Comparison, compared, in_turns

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


def compare(steps: int = 10_000, rounds: int = 7) -> Iterator[Comparison]:
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
    slow = max(1, steps // 500)

    def plain() -> None:
        for _ in range(slow):
            plain_batch(families, photos, related, rng)

    times = in_turns({"ours": lambda: sampler.sample(steps, BATCH, rng), "plain": plain}, rounds)
    yield compared(
        "drawing pairs",
        "plain loop",
        "pairs/s",
        *times.values(),
        amount=steps * BATCH,
        their_amount=slow * BATCH,
    )


def main() -> None:
    """Prints the ratio."""
    for row in compare():
        print(row)


if __name__ == "__main__":
    main()
