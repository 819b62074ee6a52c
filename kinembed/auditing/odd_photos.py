"""Photos unlike the others of their person."""

from __future__ import annotations

import numpy as np

from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.likeness import FLOOR, PhotoLikeness, likeness_to_group
from kinembed.auditing.surety import surety
from kinembed.evaluation.metrics import Numbers
from kinembed.printable import counted

MADE = 4000  # faults made on purpose
LIKE_ONE = 0.9  # quantile of the likeness to the own person from which on more says nothing


def odd_photos(likeness: PhotoLikeness, rng: np.random.Generator) -> list[Finding]:
    """Photos that are less like the others of their person than those are among each other.

    Told by the likeness to the others, and to the most alike photo of anybody else; beside photos
    put under another person on purpose, of the same family or of any.

    Args:
        likeness: of photos of known people.
        rng: draws the photos and people of these faults.
    """
    families, nearest = likeness.families, likeness.nearest
    counts = np.diff(families.photo_start)[families.owner]  # (P,) photos of each photo's person
    judged = np.flatnonzero(counts > 1)
    own = likeness.own  # (P,)
    best = nearest.likeness[:, 0].astype(np.float64)  # (P,)
    usual = float(np.median(own[judged])) if len(judged) else 0.0
    observed, faulty = np.column_stack([own, best])[judged], _put_elsewhere(likeness, rng)
    cap = float(np.quantile(own[judged], LIKE_ONE)) if len(judged) else 0.0
    for features in (observed, faulty):  # more is a copy, which says nothing against its original
        np.minimum(features[:, -1], cap, out=features[:, -1])
    sure = surety(observed, faulty)
    found = []
    for row, how_sure in zip(judged.tolist(), sure.tolist(), strict=True):
        person = families.people[families.owner[row]]
        other_row = int(nearest.rows[row, 0])
        other = families.people[families.owner[other_row]]
        elsewhere = best[row] > own[row]
        reason = (
            f"unlike the {counted(int(counts[row]) - 1, 'other photo')} of its person: likeness "
            f"{own[row]:.2f} to the nearest of them, of others {usual:.2f}"
        )
        if elsewhere:
            reason += f"; more like {other} ({best[row]:.2f})"
        cure = f"see whether it shows {other}" if elsewhere else "see whom it shows"
        photo = families.photos[row]
        found.append(
            Finding(
                "photo", how_sure, reason, f"{cure}; else leave it out",
                LeaveOut(photos=(photo,)),
                (person, other) if elsewhere else (person,),
                (photo, families.photos[other_row]) if elsewhere else (photo,),
            )
        )  # fmt: skip
    return found


def _put_elsewhere(likeness: PhotoLikeness, rng: np.random.Generator) -> Numbers:
    """(M, 2) features of photos put under another person, every other one of the same family."""
    families, nearest = likeness.families, likeness.nearest
    people, starts = len(families.people), families.photo_start
    family = families.family
    members = np.argsort(family, kind="stable")
    first = np.searchsorted(family[members], np.arange(family.max(initial=-1) + 2))
    result = []
    for number, row in enumerate(rng.permutation(len(families.photos))[:MADE].tolist()):
        person = int(families.owner[row])
        relatives = members[first[family[person]] : first[family[person] + 1]]
        choice = relatives if number % 2 and len(relatives) > 1 else None
        target = int(rng.integers(people) if choice is None else rng.choice(choice))
        if target == person:
            continue
        photos = np.arange(starts[target], starts[target + 1])
        (among,) = likeness_to_group(likeness.between(np.array([row]), photos))
        others = families.owner[nearest.rows[row]] != target
        best = float(nearest.likeness[row][others].max(initial=FLOOR))
        if starts[person + 1] - starts[person] > 1:
            best = max(best, float(likeness.own[row]))  # its own person is somebody else there
        result.append([among, best])
    return np.array(result).reshape(-1, 2)
