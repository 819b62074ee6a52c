"""Pairs of photos as rows: the report's sampling, and the pairs of a submission."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Labels, Rows
from kinembed.data.families import Families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.errors import DataError


class PairSampler:
    """Samples batches of kin and non-kin photo pairs among some people, as the report does.

    A kin pair is a random relation between two of the people and one random photo of each. A
    non-kin pair is two random people, neither related nor perhaps so (`Families.apart`), and one
    random photo of each. Every batch holds
    `int(batch_size * positive_fraction)` kin pairs, in random order.

    Args:
        families: photos, people and relations.
        people: (P,) rows of the people to sample from.
        positive_fraction: fraction of kin pairs, in [0, 1].
        exclude_family: no non-kin pair is of one family, in which relatives may be unlisted.

    Raises:
        DataError: these people cannot give such pairs.
    """

    def __init__(
        self,
        families: Families,
        people: Rows,
        positive_fraction: float = 0.6,
        exclude_family: bool = False,
    ) -> None:
        if not 0 <= positive_fraction <= 1:
            raise DataError(f"positive fraction: found {positive_fraction}, wanted 0 to 1")
        self.families = families
        self.people = np.asarray(people, np.intp)
        self.positive_fraction = positive_fraction
        self.exclude_family = exclude_family
        relations = families.relations
        self.relations = relations[np.isin(relations, self.people).all(1)]
        self._start = families.photo_start[:-1]
        self._count = np.diff(families.photo_start)
        self._stride = len(families.people)
        apart = families.apart[np.isin(families.apart, self.people).all(1)]
        # One sorted key per unordered pair that may be related: membership is a binary search, and
        # memory grows with the relations, not with the square of the people.
        related = np.concatenate([self.relations, apart])
        self._kin = np.unique(self._keys(related))
        if positive_fraction > 0 and not len(self.relations):
            raise DataError(
                f"no usable relation among the {len(self.people)} people of this split: no kin "
                "pair can be sampled; use more families, another --seed or --split people"
            )
        within, across = self._count_unrelated()
        if positive_fraction < 1 and not across + (0 if exclude_family else within):
            raise DataError(
                f"no two unrelated people among the {len(self.people)} of this split: no non-kin "
                "pair can be sampled; use more families or another --seed"
            )

    def sample(
        self, batches: int, batch_size: int, rng: np.random.Generator
    ) -> tuple[Rows, Labels]:
        """Samples batches of pairs.

        Returns:
            Rows of the vectors (batches, batch_size, 2), and labels (batches, batch_size), 1 for
            kin.
        """
        positives = int(batch_size * self.positive_fraction)
        people = np.empty((batches, batch_size, 2), np.intp)
        if positives:
            kin = rng.integers(len(self.relations), size=(batches, positives))
            people[:, :positives] = self.relations[kin]  # (batches, positives, 2)
        if positives < batch_size:
            negatives = batches * (batch_size - positives)
            people[:, positives:] = self.strangers(negatives, rng).reshape(batches, -1, 2)
        order = rng.permuted(np.tile(np.arange(batch_size), (batches, 1)), axis=1)
        people = np.take_along_axis(people, order[..., None], axis=1)  # (batches, batch_size, 2)
        labels = (order < positives).astype(np.float32)  # (batches, batch_size)
        # random() < 1, so the index is below the person's number of photos
        photo = (rng.random(people.shape) * self._count[people]).astype(np.intp)
        return self.families.rows[self._start[people] + photo], labels

    def same_family_share(self) -> float:
        """The share of non-kin pairs that are of one family, 0 to 1: relatives, perhaps unlisted.

        Raises:
            ZeroDivisionError: there is no non-kin pair.
        """
        within, across = self._count_unrelated()
        return 0.0 if self.exclude_family else within / (within + across)

    def _count_unrelated(self) -> tuple[int, int]:
        """How many unrelated pairs of people there are, within a family and across families."""
        family = self.families.family
        sizes = np.bincount(family[self.people]) if len(self.people) else np.zeros(1, int)
        pairs, same = len(self.people) * (len(self.people) - 1) // 2, (sizes * (sizes - 1)).sum()
        one, other = np.divmod(self._kin, self._stride)  # two different people each
        kin_within = int((family[one] == family[other]).sum())
        within = int(same) // 2 - kin_within
        return within, pairs - len(self._kin) - within

    def _keys(self, people: Rows) -> Rows:
        keys: Rows = people.min(-1) * self._stride + people.max(-1)
        return keys

    def strangers(self, count: int, rng: np.random.Generator) -> Rows:
        """(count, 2) unrelated people, by rejection sampling."""
        pairs = np.empty((count, 2), np.intp)
        missing = np.arange(count)
        while len(missing):
            first = rng.integers(len(self.people), size=len(missing))
            second = rng.integers(len(self.people) - 1, size=len(missing))
            second += second >= first  # uniform over everybody but the first
            sampled = self.people[np.stack([first, second], -1)]  # (missing, 2)
            pairs[missing] = sampled
            missing = missing[self._is_refused(sampled)]
        return pairs

    def _is_refused(self, people: Rows) -> NDArray[np.bool_]:
        """Which of some pairs (N, 2) of people are no non-kin pairs."""
        refused = np.zeros(len(people), np.bool_)
        if len(self._kin):
            keys = self._keys(people)
            nearest = np.searchsorted(self._kin, keys).clip(max=len(self._kin) - 1)
            refused = self._kin[nearest] == keys
        if self.exclude_family:
            family = self.families.family[people]  # (N, 2)
            refused |= family[:, 0] == family[:, 1]
        return refused


class KinSampler:
    """Samples batches of kin pairs, each pair from another family.

    Families that a relation joins, or people who may be related (`Families.apart`), count as one.
    All families are equally likely, whatever their size, and so are all kin pairs within a family.
    Photos of two different pairs are of strangers, as far as the listed relations say.

    Args:
        families: photos, people and relations.
        people: (P,) rows of the people to sample from.

    Raises:
        DataError: fewer than two families have a kin pair among these people.
    """

    def __init__(self, families: Families, people: Rows) -> None:
        relations = families.relations[np.isin(families.relations, people).all(1)]
        relations = np.unique(np.sort(relations, 1), axis=0)
        self._rows = families.rows
        self._start = families.photo_start[:-1]
        self._count = np.diff(families.photo_start)
        apart = families.apart[np.isin(families.apart, people).all(1)]
        joined = _joined(families.family, np.concatenate([relations, apart]))
        family = joined[families.family[relations[:, 0]]]
        order = np.argsort(family, kind="stable")
        self.relations = relations[order]
        self.families, self._first, self._size = np.unique(
            family[order], return_index=True, return_counts=True
        )
        if len(self.families) < 2:
            count = int((joined != np.arange(len(joined))).sum())
            raise DataError(
                f"kin of {len(self.families)} families among the {len(people)} people of this "
                "split: wanted two families or more; use more families or another --seed"
                + f" (relations join {count:,} families to others)"
                * bool(count)
            )

    def sample(
        self, batches: int, pairs: int, rng: np.random.Generator, photos: int = 1
    ) -> tuple[Rows, Rows]:
        """Samples batches.

        Args:
            batches: how many.
            pairs: kin pairs per batch, at most one per family.
            rng: the random generator.
            photos: photos per person, sampled with replacement.

        Returns:
            Rows of the vectors (batches, pairs, 2, photos), and the family number of each pair
            (batches, pairs).
        """
        pairs = min(pairs, len(self.families))
        keys = rng.random((batches, len(self.families)))
        chosen = np.argpartition(keys, pairs - 1, axis=1)[:, :pairs]  # (batches, pairs)
        nth = (rng.random(chosen.shape) * self._size[chosen]).astype(np.intp)
        people = self.relations[self._first[chosen] + nth]  # (batches, pairs, 2)
        is_swapped = rng.random(chosen.shape) < 0.5
        people = np.where(is_swapped[..., None], people[..., ::-1], people)
        photo = rng.random((*people.shape, photos)) * self._count[people][..., None]
        rows = self._start[people][..., None] + photo.astype(np.intp)  # (batches, pairs, 2, photos)
        return self._rows[rows], self.families[chosen]


def _joined(family: Rows, related: Rows) -> Rows:
    """(families,) the number of the first family that each is joined to, by related (R, 2) people.

    Args:
        family: (people,) the number of each person's family.
        related: people who are or may be related.
    """
    joined = np.arange(int(family.max(initial=-1)) + 1)
    pairs = family[related]  # (R, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    while (joined[pairs[:, 0]] != joined[pairs[:, 1]]).any():
        least = joined[pairs].min(1)  # (R,)
        for side in pairs.T:
            np.minimum.at(joined, joined[side], least)
        joined = joined[joined]
    return joined


def held_out_pairs(
    families: Families,
    people: Collection[str],
    count: int,
    rng: np.random.Generator,
    positive_fraction: float = 0.5,
) -> LabelledPairs:
    """Samples pairs among held-out people, as `PairSampler` does.

    Args:
        families: photos, people and relations.
        people: names of the people to sample from (`F0002/MID1`).
        count: how many pairs.
        rng: the random generator.
        positive_fraction: fraction of kin pairs.

    Raises:
        DataError: some of the people have no photos, or these people cannot give such pairs.
    """
    index = {person: row for row, person in enumerate(families.people)}
    absent = sorted(set(people) - set(index))
    if not people:
        raise DataError("held out from training: nobody; run kinembed head")
    if absent:
        raise DataError(
            f"held out from training: {len(absent):,} of {len(people):,} people have no photos in "
            f"the cache ({absent[0]}{', …' if len(absent) > 1 else ''}); run kinembed head, or "
            "kinembed embed with the photos that the head was judged by"
        )
    chosen = np.array(sorted(index[person] for person in people), np.intp)
    (rows,), (labels,) = PairSampler(families, chosen, positive_fraction).sample(1, count, rng)
    owners = families.owner_of(rows)  # (count, 2)
    return LabelledPairs(
        rows,
        labels > 0,
        families.family[owners],
        relations=_relations_of(families, owners) if families.kinds else (),
        unit=families.unit,
    )


def _relations_of(families: Families, people: Rows) -> tuple[str, ...]:
    """(K,) the relation of each pair of people, "" if it is not known."""
    kind_of = {
        frozenset(pair): kind
        for pair, kind in zip(families.relations.tolist(), families.kinds, strict=True)
    }
    return tuple(kind_of.get(frozenset(pair), "") for pair in people.tolist())
