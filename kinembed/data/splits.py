"""Training and held-out people: splits and folds by person or by family."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.families import Families
from kinembed.errors import DataError
from kinembed.seeds import Stream, generator


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of people, as sorted rows of `Families.people`."""

    train: Rows
    validation: Rows


def split_people(
    families: Families,
    by: Literal["people", "families"],
    validation_fraction: float,
    rng: np.random.Generator,
) -> Split:
    """Splits people into training and validation.

    Args:
        families: the people.
        by: `people` splits person by person (the report's way: relatives may be on both sides);
            `families` splits whole families (an honest estimate for strangers).
        validation_fraction: fraction of people, or of families, in validation, in (0, 1).
        rng: the random generator.

    Raises:
        DataError: there are no people.
    """
    if not families.people:
        raise DataError("there are no people to split; are all their photos unreadable?")
    people = np.arange(len(families.people))
    if by == "people":
        units = people
    else:
        units = families.family
    order = rng.permutation(int(units.max()) + 1)
    held_out = order[int(len(order) * (1 - validation_fraction)) :]
    validation = np.isin(units, held_out)
    return Split(train=people[~validation], validation=people[validation])


def family_folds(families: Families, people: Rows, count: int, seed: int) -> list[Rows]:
    """Splits people by their families into random folds of equally many families.

    Args:
        families: the people.
        people: (P,) rows of the people to split.
        count: how many folds.
        seed: of the random generator.

    Raises:
        DataError: there are fewer families than folds.
    """
    names = np.array(families.family_names())[people]
    unique, family = np.unique(names, return_inverse=True)
    if len(unique) < count:
        raise DataError(f"{len(unique)} families cannot be split into {count} folds")
    fold_of = generator(seed, Stream.FOLDS).permutation(len(unique)) % count  # (families,)
    return [people[fold_of[family] == fold] for fold in range(count)]


def describe_split(
    families: Families, split: Split, by: str, fraction: float, seed: int
) -> dict[str, Any]:
    """A split as a file records it, as JSON types.

    `held_out` is the sha256 of the held-out people's names, which shows whether a later split
    holds out the same people.
    """
    names = "\n".join(families.people[row] for row in split.validation)
    return {
        "by": by,
        "fraction": fraction,
        "seed": seed,
        "held_out": hashlib.sha256(names.encode()).hexdigest(),
    }


@dataclass(frozen=True)
class HeldOut:
    """Training and held-out people of each member of a head.

    Attributes:
        splits: one for each member.
        by_folds: each member holds out another fold of the families; else all hold out the same
            people.
        by: the unit of the split: `people` or `families`.
    """

    splits: tuple[Split, ...]
    by_folds: bool
    by: str

    def people(self, families: Families) -> dict[str, Any]:
        """The sorted names that a head records as `held_out`, `trained` and `folds`."""

        def named(rows: Rows) -> tuple[str, ...]:
            return tuple(sorted(families.people[row] for row in rows))

        if self.by_folds:
            folds = tuple(named(split.validation) for split in self.splits)
            return {"trained": tuple(sorted(families.people)), "folds": folds}
        everybody = np.unique(np.concatenate([split.train for split in self.splits]))
        return {"held_out": named(self.splits[0].validation), "trained": named(everybody)}


def hold_out_folds(families: Families, folds: int, seed: int) -> HeldOut:
    """Splits the families into folds; each member holds out one of them.

    Raises:
        DataError: there are fewer families than folds.
    """
    everybody = np.arange(len(families.people))
    splits = tuple(
        Split(np.setdiff1d(everybody, fold), fold)
        for fold in family_folds(families, everybody, folds, seed)
    )
    return HeldOut(splits, True, "families")


def hold_out_validation(
    families: Families, split: Split, by: str, members: int, seed: int
) -> HeldOut:
    """Holds out the validation people of one split from all members.

    Of several members, each also leaves out a fold of the training people, so that members differ
    and their errors average out.

    Raises:
        DataError: fewer families train than there are members.
    """
    if members < 2:
        return HeldOut((split,), False, by)
    splits = tuple(
        Split(np.setdiff1d(split.train, fold), split.validation)
        for fold in family_folds(families, split.train, members, seed)
    )
    return HeldOut(splits, False, by)


def split_as_network(families: Families, before: dict[str, Any]) -> Split:
    """The split that a network was fine-tuned with, computed again.

    Args:
        families: the people of the data folder.
        before: the split as `describe_split` recorded it.

    Raises:
        DataError: these people give another split.
        KeyError, TypeError, ValueError: `before` does not describe a split.
    """
    rng = generator(before["seed"], Stream.SPLIT)
    split = split_people(families, before["by"], before["fraction"], rng)
    now = describe_split(families, split, before["by"], before["fraction"], before["seed"])
    if now != before:
        raise DataError(
            "its network was trained on photos or relations that have changed since, so nobody "
            "can be held out; run kinembed finetune and embed again"
        )
    return split


def people_of(families: Families, split: Split) -> dict[str, tuple[str, ...]]:
    """The sorted names that a head records as `held_out` and `trained`."""
    sides = {"held_out": split.validation, "trained": split.train}
    return {
        side: tuple(sorted(families.people[row] for row in rows)) for side, rows in sides.items()
    }
