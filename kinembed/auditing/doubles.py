"""Two people who look like one."""

from __future__ import annotations

import numpy as np

from kinembed.arrays import Float, Rows
from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.likeness import PhotoLikeness, nearest_of_others
from kinembed.auditing.surety import surety
from kinembed.heads.exact import row_dots, unit

LEAST = 4  # photos of a person who is divided in two on purpose
MADE = 4000  # such people


def doubles(likeness: PhotoLikeness, rng: np.random.Generator) -> list[Finding]:
    """People whose photos look like those of another, as if both were one.

    Told by the likeness of their mean directions, of each person to whoever is most alike; beside
    people divided in two on purpose.

    Args:
        likeness: of photos of known people.
        rng: draws who is divided, and how.
    """
    families = likeness.families
    counts = np.diff(families.photo_start)
    if len(counts) < 2:
        return []
    everybody = np.arange(len(families.photos))
    pooled, ambient = _pooled(likeness, everybody, families.photo_start[:-1])
    nearest = nearest_of_others(pooled, ambient, np.arange(len(counts)))
    best = nearest.likeness[:, 0].astype(np.float64)  # (people,)
    halves = _divided(likeness, counts, rng)
    sure = surety(best[:, None], halves[:, None])
    usual = float(np.median(best))
    halved = f"{np.median(halves):.2f}" if len(halves) else "unknown"
    found: dict[tuple[int, int], Finding] = {}
    for person in range(len(counts)):
        other = int(nearest.rows[person, 0])
        one, two = sorted((person, other))
        names = families.people[one], families.people[two]
        fewer = names[0] if counts[one] < counts[two] else names[1]
        found[one, two] = Finding(
            "double", float(sure[person]),
            f"likeness {best[person]:.2f}, of a person and whoever is most alike usually "
            f"{usual:.2f}, of photos of one person {halved}",
            "join them if they are one; twins look so, too",
            LeaveOut(people=(fewer,)), names,
        )  # fmt: skip
    return list(found.values())


def _pooled(likeness: PhotoLikeness, photos: Rows, starts: Rows) -> tuple[Float, Float]:
    """Mean directions of groups of photos, and how near each is to strangers."""
    sums = np.add.reduceat(likeness.directions[photos], starts, dtype=np.float32)
    directions = unit(sums)
    return directions, likeness.model.ambient(directions, in_gallery=False)


def _divided(likeness: PhotoLikeness, counts: Rows, rng: np.random.Generator) -> np.ndarray:
    """(M,) likeness of both halves of people divided in two."""
    large = np.flatnonzero(counts >= LEAST)
    large = np.sort(rng.permutation(large)[:MADE])
    if not len(large):
        return np.empty(0)
    groups = []
    for person in large.tolist():
        start, stop = likeness.families.photo_start[[person, person + 1]].tolist()
        photos = rng.permutation(np.arange(start, stop))
        groups += [photos[: len(photos) // 2], photos[len(photos) // 2 :]]
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    directions, ambient = _pooled(likeness, np.concatenate(groups), starts)
    cosines = row_dots(directions[::2], directions[1::2])
    return (cosines - (ambient[::2] + ambient[1::2]) / 2).astype(np.float64)
