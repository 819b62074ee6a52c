"""Who trains and who is held out: splits and folds of people or families."""

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
        by: `people` draws them one by one (the report's way: relatives may stand on both sides);
            `families` draws whole families (an honest estimate for strangers).
        validation_fraction: share of people, or families, in validation, in (0, 1).
        rng: what draws.

    Raises:
        DataError: there is nobody to split.
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
    """Parts people by their families into folds of as many families each, drawn by the seed.

    Args:
        families: the people.
        people: (P,) rows of those to part.
        count: how many folds.
        seed: what draws.

    Raises:
        DataError: there are fewer families than folds.
    """
    names = np.array(families.family_names())[people]
    known, family = np.unique(names, return_inverse=True)
    if len(known) < count:
        raise DataError(f"{len(known)} families cannot be parted in {count} folds")
    fold = generator(seed, Stream.FOLDS).permutation(len(known)) % count
    return [people[fold[family] == part] for part in range(count)]


def describe_split(
    families: Families, split: Split, by: str, fraction: float, seed: int
) -> dict[str, Any]:
    """What a file says of the people whom its network never saw, as JSON types.

    `held_out` is the sha256 of their names: whoever splits again can tell whether the same people
    are held out.
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
    """Who trains each member of a head, and who is held out from it.

    Attributes:
        splits: one of each member.
        by_folds: each member holds out another fold of the families; else all hold out the same
            people.
        by: what was split: `people` or `families`.
    """

    splits: tuple[Split, ...]
    by_folds: bool
    by: str

    def people(self, families: Families) -> dict[str, Any]:
        """The names that a head keeps of them: `held_out`, `trained` and `folds`, sorted."""

        def named(rows: Rows) -> tuple[str, ...]:
            return tuple(sorted(families.people[row] for row in rows))

        if self.by_folds:
            folds = tuple(named(split.validation) for split in self.splits)
            return {"trained": tuple(sorted(families.people)), "folds": folds}
        everybody = np.unique(np.concatenate([split.train for split in self.splits]))
        return {"held_out": named(self.splits[0].validation), "trained": named(everybody)}


def hold_out_folds(families: Families, folds: int, seed: int) -> HeldOut:
    """Parts the families in folds, one of which each member holds out.

    Raises:
        DataError: there are fewer families than folds.
    """
    everybody = np.arange(len(families.people))
    parts = family_folds(families, everybody, folds, seed)
    splits = tuple(Split(np.setdiff1d(everybody, part), part) for part in parts)
    return HeldOut(splits, True, "families")


def hold_out_part(families: Families, split: Split, by: str, members: int, seed: int) -> HeldOut:
    """Holds out one part of the people from all members.

    Each of several members leaves out another fold of those who train, too: members that differ
    err apart.

    Raises:
        DataError: fewer families train than there are members.
    """
    if members < 2:
        return HeldOut((split,), False, by)
    parts = family_folds(families, split.train, members, seed)
    splits = [Split(np.setdiff1d(split.train, part), split.validation) for part in parts]
    return HeldOut(tuple(splits), False, by)


def split_as_network(families: Families, before: dict[str, Any]) -> Split:
    """The split by which a network was fine-tuned, drawn again.

    Args:
        families: the people now.
        before: as of `describe_split`.

    Raises:
        DataError: it is drawn otherwise from the people there are now.
        KeyError, TypeError, ValueError: `before` does not describe a split.
    """
    rng = generator(before["seed"], Stream.SPLIT)
    split = split_people(families, before["by"], before["fraction"], rng)
    now = describe_split(families, split, before["by"], before["fraction"], before["seed"])
    if now != before:
        raise DataError(
            "its network was trained on other photos or relations than are there now, so nobody "
            "can be held out; run kinembed finetune and embed again"
        )
    return split


def people_of(families: Families, split: Split) -> dict[str, tuple[str, ...]]:
    """Names of the people `held_out` and `trained`, sorted, as a head keeps them."""
    sides = {"held_out": split.validation, "trained": split.train}
    return {
        side: tuple(sorted(families.people[row] for row in rows)) for side, rows in sides.items()
    }
