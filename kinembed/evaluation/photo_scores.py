"""What a head says of single photos: who held them out, and how they go with their listed kin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.data.families import Families
from kinembed.heads.base import Head
from kinembed.heads.query_expansion import vectors_at


def photo_folds(head: Head, people: Sequence[str]) -> Rows:
    """(N,) which member held out the person on each photo; -1 where none did, or nobody is known.

    A head without folds that held people out held them out as fold 0.

    Args:
        head: the head.
        people: (N,) who is on each photo; empty: nobody.
    """
    fold_of = {
        person: fold for fold, (held_out, _) in enumerate(head.out_of_fold()) for person in held_out
    }
    return np.array([fold_of.get(person, -1) for person in people], np.intp)


def kin_scores(head: Head, cache: Embeddings, families: Families) -> NDArray[np.float64]:
    """(N,) how much each photo of a cache looks like a relative of its person's listed kin.

    The mean, over the kin that the same member held out, of the mean logit of the photo with each
    of their photos, by that member alone: it trained on none of them. NaN where nobody held the
    person out or no kin is listed. Without query expansion: a photo counts as it is.

    Args:
        head: of the cache's model.
        cache: with its views.
        families: of the cache.
    """
    scores = np.full(len(cache), np.nan)
    starts = families.photo_start
    for held_out, member in head.out_of_fold():
        names = set(held_out)
        inside = {row for row, person in enumerate(families.people) if person in names}
        kin: dict[int, set[int]] = {}
        for a, b in families.relations.tolist():
            if a in inside and b in inside:
                kin.setdefault(a, set()).add(b)
                kin.setdefault(b, set()).add(a)
        for group in _groups(kin):  # so that only the photos of some relatives are in memory
            first = dict(zip(group, np.cumsum([0, *np.diff(starts)[group][:-1]]), strict=True))
            rows = np.concatenate([families.rows[starts[p] : starts[p + 1]] for p in group])
            represented = member.represent(vectors_at(cache, member.view, rows))
            for person in group:
                own = first[person] + np.arange(starts[person + 1] - starts[person])
                means = []  # of each relative
                for other in sorted(kin[person]):
                    theirs = first[other] + np.arange(starts[other + 1] - starts[other])
                    pairs = np.stack(np.meshgrid(own, theirs, indexing="ij"), -1).reshape(-1, 2)
                    logits = member.score(represented, pairs, threads=1)
                    means.append(logits.reshape(len(own), len(theirs)).mean(1))
                scores[rows[own]] = np.mean(means, axis=0)
    return scores


def _groups(kin: dict[int, set[int]]) -> list[list[int]]:
    """People who are joined by relations, group by group."""
    found, seen = [], set()
    for person in kin:
        if person in seen:
            continue
        group, queue = set(), [person]
        while queue:
            one = queue.pop()
            if one not in group:
                group.add(one)
                queue += kin[one] - group
        seen |= group
        found.append(sorted(group))
    return found
