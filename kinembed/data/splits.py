"""Training and held-out people: splits and folds by person or by family."""

# numpy.random takes 17 ms to import: what only names its types in annotations must not.
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from kinembed.arrays import Rows
from kinembed.data.families import Families
from kinembed.errors import DataError
from kinembed.seeds import Stream, generator


@dataclass(frozen=True)
class Split:
    """Disjoint sets of people, as sorted rows of `Families.people`.

    Attributes:
        train: people to train on.
        validation: people to choose the epoch by and, without a test set, to judge by.
        test: people to judge by alone; empty without a test set.
    """

    train: Rows
    validation: Rows
    test: Rows = field(default_factory=lambda: np.empty(0, np.intp))

    @property
    def held_out(self) -> Rows:
        """The people to judge by."""
        return self.test if len(self.test) else self.validation


def split_people(
    families: Families,
    by: Literal["people", "families"],
    validation_fraction: float,
    rng: np.random.Generator,
    test_fraction: float = 0.0,
) -> Split:
    """Splits people into training, validation and, optionally, test sets.

    Args:
        families: the people.
        by: `people` splits person by person (the report's way: relatives may be on both sides);
            `families` splits whole families (an honest estimate for strangers).
        validation_fraction: fraction of people, or of families, in validation, in (0, 1).
        rng: the random generator.
        test_fraction: fraction in the test set, which is taken from the training people.

    Raises:
        DataError: there are no people, or none are left to train or to judge.
    """
    if not families.people:
        raise DataError("there are no people to split; are all their photos unreadable?")
    people = np.arange(len(families.people))
    if by == "people":
        units = people
    else:
        units = families.family
    order = rng.permutation(int(units.max()) + 1)
    end = int(len(order) * (1 - validation_fraction))
    start = int(len(order) * (1 - validation_fraction - test_fraction)) if test_fraction else end
    validation, test = np.isin(units, order[end:]), np.isin(units, order[start:end])
    if test_fraction and not 0 < start < end:
        raise DataError(
            f"{len(order)} {by} cannot be split in three with {validation_fraction:g} in "
            f"validation and {test_fraction:g} in the test part: one part is empty"
        )
    return Split(people[~validation & ~test], people[validation], people[test])


FEWEST_FAMILIES = 3  # two to learn on, so that there are strangers, and one to judge by


def family_folds(
    families: Families, people: Rows, count: int, seed: int, option: str = "folds"
) -> list[Rows]:
    """Splits people by their families into random folds of equally many families.

    Args:
        families: the people.
        people: (P,) rows of the people to split.
        count: how many folds.
        seed: of the random generator.
        option: what asks for so many folds, for messages.

    Raises:
        DataError: there are fewer families than folds.
    """
    names = np.array(families.family_names())[people]
    unique, family = np.unique(names, return_inverse=True)
    if len(unique) < count:
        found = f"{len(unique)} famil{'y' if len(unique) == 1 else 'ies'}"
        if len(unique) < FEWEST_FAMILIES:
            raise DataError(
                f"{found} cannot be split into {count} folds, nor into fewer: a head learns from "
                f"two families or more and is judged by others, so wanted {FEWEST_FAMILIES}; embed "
                "more families, or score with a head that was trained on others, --head"
            )
        raise DataError(
            f"{found} cannot be split into {count} folds; say --{option} {len(unique)} or fewer"
        )
    fold_of = generator(seed, Stream.FOLDS).permutation(len(unique)) % count  # (families,)
    return [people[fold_of[family] == fold] for fold in range(count)]


def describe_split(
    families: Families,
    split: Split,
    by: str,
    fraction: float,
    seed: int,
    test_fraction: float = 0.0,
) -> dict[str, Any]:
    """A split as a file records it, as JSON types.

    `held_out` is the sha256 of the held-out people's names, which shows whether a later split
    holds out the same people.
    """
    return {
        "by": by,
        "fraction": fraction,
        **({"test_fraction": test_fraction} if test_fraction else {}),
        "seed": seed,
        "held_out": _digest(families, split),
    }


def split_of_fold(families: Families, folds: int, fold: int, seed: int) -> Split:
    """Holds out one fold of the families; the folds are those of `hold_out_folds`.

    Args:
        families: the people.
        folds: how many there are.
        fold: which is held out, the first being 1.
        seed: of the folds.

    Raises:
        DataError: there are fewer families than folds.
    """
    return hold_out_folds(families, folds, seed).splits[fold - 1]


def describe_fold(
    families: Families, split: Split, folds: int, fold: int, seed: int
) -> dict[str, Any]:
    """The split of a fold as a file records it; arguments as of `split_of_fold`."""
    about = {"by": "families", "folds": folds, "fold": fold, "seed": seed}
    return {**about, "held_out": _digest(families, split)}


def _digest(families: Families, split: Split) -> str:
    """The sha256 of the held-out people's names."""
    names = "\n".join(families.people[row] for row in split.held_out)
    return hashlib.sha256(names.encode()).hexdigest()


@dataclass(frozen=True)
class HeldOut:
    """Training and held-out people of each member of a head.

    Attributes:
        splits: one for each member.
        by_folds: each member holds out another fold of the families; else all hold out the same
            people.
        by: the unit of the split: `people` or `families`, or who made it.
    """

    splits: tuple[Split, ...]
    by_folds: bool
    by: str

    def describe(self) -> str:
        """How many people train each member and how many judge it, in a line."""
        train = _span([len(split.train) for split in self.splits])
        judges = _span([len(split.validation) for split in self.splits])
        if self.by_folds:
            return (
                f"split by {self.by} into {len(self.splits)} folds: a member for each trains on "
                f"{train} people of the other folds and is judged by the {judges} of its own"
            )
        if len(self.splits) == 1:
            return f"split by {self.by}: {train} people train the head and {judges} are held out"
        everybody = np.unique(np.concatenate([split.train for split in self.splits]))
        return (
            f"split by {self.by}: {judges} people are held out of all {len(self.splits)} members; "
            f"each trains on {train} of {len(everybody):,} others, so that members differ"
        )

    def people(self, families: Families) -> dict[str, Any]:
        """The sorted names that a head records as `held_out`, `trained` and `folds`."""

        def named(rows: Rows) -> tuple[str, ...]:
            return tuple(sorted(families.people[row] for row in rows))

        if self.by_folds:
            folds = tuple(named(split.validation) for split in self.splits)
            return {"trained": tuple(sorted(families.people)), "folds": folds}
        everybody = np.unique(np.concatenate([split.train for split in self.splits]))
        return {"held_out": named(self.splits[0].held_out), "trained": named(everybody)}


def _span(numbers: list[int]) -> str:
    """Numbers from the least to the most: `8`, `8 to 10`."""
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


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
    """Holds out the same people of one split from all members.

    Of several members, each also leaves out a fold of the training people, so that members differ
    and their errors average out.

    Raises:
        DataError: fewer families train than there are members.
    """
    if members < 2:
        return HeldOut((split,), False, by)
    splits = tuple(
        replace(split, train=np.setdiff1d(split.train, fold))
        for fold in family_folds(families, split.train, members, seed, "ensemble")
    )
    return HeldOut(splits, False, by)


def split_as_network(families: Families, before: dict[str, Any]) -> Split:
    """The split that a network was fine-tuned with, computed again.

    Args:
        families: the people of the data folder.
        before: the split as `describe_split` or `describe_fold` recorded it.

    Raises:
        DataError: these people give another split.
        KeyError, TypeError, ValueError: `before` does not describe a split.
    """
    seed = before["seed"]
    if "folds" in before:
        fold = (before["folds"], before["fold"], seed)
        split = split_of_fold(families, *fold)
        now = describe_fold(families, split, *fold)
    else:
        by, fraction, test = before["by"], before["fraction"], before.get("test_fraction", 0.0)
        split = split_people(families, by, fraction, generator(seed, Stream.SPLIT), test)
        now = describe_split(families, split, by, fraction, seed, test)
    if now != before:
        raise DataError(
            "its network was trained on photos or relations that have changed since, so nobody "
            "can be held out; run kinembed finetune and embed again"
        )
    return split


def people_of(families: Families, split: Split) -> dict[str, tuple[str, ...]]:
    """The sorted names that a head records as `held_out` and `trained`."""
    sides = {"held_out": split.held_out, "trained": split.train}
    return {
        side: tuple(sorted(families.people[row] for row in rows)) for side, rows in sides.items()
    }
