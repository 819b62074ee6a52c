"""Whether photos that are given as one person's fall into two people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.person_pairs import SAME
from kinembed.evaluation.metrics import Numbers
from kinembed.heads.pooled_people import RepresentedPhotos, photo_likeness
from kinembed.inference.answerer import Answerer

# Of RFIW's people, with SFace, 1.5 % of those of two photos are below, and 1 to 5 % of those of
# four to eight; of two photos of two strangers 79 %, of 2 + 2 to 4 + 4 photos 97 to 100 %.
UNLIKE = 0.05  # probability of the same person of both parts
MOST = 500  # photos that are compared with each other


def mixed_note(
    answerer: Answerer, photos: RepresentedPhotos, rows: Sequence[int], names: Sequence[str]
) -> str:
    """Says where photos fall into two parts that are hardly one person; else is empty.

    A single photo among several is not a part: people have an odd photo.

    Args:
        answerer: what compares.
        photos: represented.
        rows: the (P,) numbers there of one person's photos.
        names: what to call each.
    """
    count = len(rows)
    if count != 2 and not 4 <= count <= MOST:
        return ""
    order = sorted(range(count), key=lambda each: rows[each])  # names decide nothing
    each = np.array(rows, np.intp)[order]
    parts = two_parts(photo_likeness(photos, each))
    if count > 2 and min(map(len, parts)) < 2:
        return ""
    both = answerer.people(photos, [each[part] for part in parts])
    same = answerer.probabilities(answerer.scores(both, np.array([[0, 1]], np.intp)))[0, SAME]
    if same >= UNLIKE:
        return ""
    few, many = sorted(
        ([names[order[number]] for number in part.tolist()] for part in parts),
        key=lambda part: (len(part), min(part)),
    )
    which = f"{len(few):,} photos such as {min(few)}, and {len(many):,} such as {min(many)}"
    if count == 2:
        which = f"{few[0]} and {many[0]}"
    return f"its photos may show two people: {which}; if so, the answer is of a mixture"


def two_parts(likeness: Numbers) -> tuple[Rows, Rows]:
    """Two parts of things, by average linkage.

    Args:
        likeness: (P, P), symmetric, of two things or more.

    Returns:
        The numbers of each part, sorted.
    """
    sums = np.array(likeness, np.float64)
    members: list[list[int]] = [[number] for number in range(len(sums))]
    sizes = np.ones(len(sums))
    np.fill_diagonal(sums, -np.inf)
    for _ in range(len(sums) - 2):
        one, other = sorted(divmod(int(np.argmax(sums / np.outer(sizes, sizes))), len(sums)))
        sums[one] += sums[other]
        sums[:, one] = sums[one]
        sums[one, one] = sums[other] = sums[:, other] = -np.inf
        sizes[one] += sizes[other]
        members[one] += members[other]
        members[other] = []
    first, second = (np.array(sorted(each), np.intp) for each in members if each)
    return first, second
