"""How much the faces of two people speak for kinship, by members of a head that saw neither."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Float, Rows
from kinembed.cache import Embeddings
from kinembed.data.families import Families
from kinembed.heads.base import Head
from kinembed.heads.exact import unit
from kinembed.heads.query_expansion import vectors_at
from kinembed.heads.representations import check_model

STRANGERS = 20_000  # pairs by which the scores of members are brought to one scale
SMALLEST = 1e-6


class KinEvidence:
    """Out-of-fold evidence of kinship between people, from all of their photos.

    A pair within a fold is scored by the member that holds it out; a pair across two folds by both
    members, each of which saw one of the two people, but not the pair. Scores are counted in
    standard deviations above the mean of strangers.

    Args:
        head: which says whom it held out.
        cache: of the head's model.
        families: who is on the photos.
        rng: draws the strangers.

    Attributes:
        member: (people,) which member holds out each; -1 for those that all trained on.
    """

    def __init__(
        self, head: Head, cache: Embeddings, families: Families, rng: np.random.Generator
    ) -> None:
        check_model(cache, head)
        row_of = {person: row for row, person in enumerate(families.people)}
        self.member: Rows = np.full(len(families.people), -1, np.intp)
        self._heads: list[Head] = []
        self._pooled: list[Float] = []
        self._scale: list[tuple[float, float]] = []
        vectors = vectors_at(cache, head.view, families.rows)
        everybody = np.arange(len(families.rows))
        for people, member in head.out_of_fold():
            known = [row_of[person] for person in people if person in row_of]
            if len(known) < 2:
                continue
            self.member[known] = len(self._heads)
            pooled = member.pool(
                np.asarray(member.represent(vectors)), everybody, families.photo_start[:-1]
            )
            self._heads.append(member)
            self._pooled.append(pooled)
            drawn = np.array(known)[rng.integers(len(known), size=(STRANGERS, 2))]
            drawn = drawn[families.family[drawn[:, 0]] != families.family[drawn[:, 1]]]
            logits = member.score(pooled, drawn) if len(drawn) else np.zeros(1)
            self._scale.append((float(logits.mean()), max(SMALLEST, float(logits.std()))))

    def __len__(self) -> int:
        return len(self._heads)

    def of_pairs(self, pairs: Rows) -> NDArray[np.float64]:
        """(K,) evidence of (K, 2) pairs of people; NaN where one trained all members."""
        total, count = np.zeros(len(pairs)), np.zeros(len(pairs))
        members = self.member[pairs]  # (K, 2)
        for number, head in enumerate(self._heads):
            own = (members == number).any(1)
            mean, std = self._scale[number]
            total[own] += (head.score(self._pooled[number], pairs[own]) - mean) / std
            count[own] += 1
        with np.errstate(invalid="ignore"):
            return np.where((members >= 0).all(1), total / count, np.nan)

    def nearest(self, number: int, count: int) -> tuple[Rows, Rows]:
        """The people whom a member's held-out people are most like, by their representations.

        Args:
            number: of the member.
            count: how many for each person.

        Returns:
            (Q,) the held-out people, and (Q, count) the others.
        """
        directions = unit(self._pooled[number])
        own = np.flatnonzero(self.member == number)
        alike = directions[own] @ directions.T
        alike[:, self.member < 0] = -np.inf
        alike[np.arange(len(own)), own] = -np.inf
        count = min(count, len(directions) - 1)
        return own, np.argpartition(-alike, count - 1, axis=1)[:, :count]
