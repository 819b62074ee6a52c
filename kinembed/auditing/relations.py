"""Relations that nothing supports, people whose relations fit nobody, and unlisted kin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from kinembed.arrays import Rows
from kinembed.auditing.evidence import KinEvidence
from kinembed.auditing.finding import Finding, LeaveOut
from kinembed.auditing.surety import surety
from kinembed.data.families import Families
from kinembed.evaluation.metrics import Numbers
from kinembed.printable import counted

MADE = 4000  # strangers taken for kin on purpose
NEAREST = 10  # people of other families that each is compared with


class Kinship:
    """Who is listed as kin, and how much their faces say so.

    Args:
        families: people and relations.
        evidence: of a head.
        rng: draws strangers.

    Attributes:
        kin: the listed relatives of each person.
        photos: (people,) logarithm of how many photos each has.
        listed: (L, 2) relations that can be judged, each once; the smaller row first.
        unlisted: (U, 2) all other pairs of a family that can be judged.
        strangers: (S, 2) random pairs of two families that can be judged.
    """

    def __init__(self, families: Families, evidence: KinEvidence, rng: np.random.Generator) -> None:
        self.families, self.evidence = families, evidence
        self.photos = np.log(np.diff(families.photo_start))
        relations = np.sort(families.relations, axis=1)
        self.kin: list[set[int]] = [set() for _ in families.people]
        for one, other in relations.tolist():
            self.kin[one].add(other)
            self.kin[other].add(one)
        judged = np.flatnonzero(evidence.member >= 0)
        self.listed = self._judged(np.unique(relations, axis=0).reshape(-1, 2))
        self.unlisted = self._judged(_within(families, relations))
        drawn = judged[rng.integers(len(judged), size=(MADE, 2))] if len(judged) else relations[:0]
        across = families.family[drawn[:, 0]] != families.family[drawn[:, 1]]
        self.strangers = np.sort(drawn[across], axis=1)

    def _judged(self, pairs: Rows) -> Rows:
        return pairs[(self.evidence.member[pairs] >= 0).all(1)]

    def across(self, pairs: Rows) -> np.ndarray:
        """(K,) which pairs are of two families."""
        family = self.families.family[pairs]
        result: np.ndarray = family[:, 0] != family[:, 1]
        return result

    def features(self, pairs: Rows) -> Numbers:
        """(K, 8) what speaks for or against a relation, whether or not it is listed.

        The evidence of the faces, photos of both, the product of the two; how many relatives both
        have in common, how many either has, the share of the former, how many pairs of common
        relatives are not kin of each other, and that share where there are none: parents of
        siblings are not kin, children of a couple are.
        """
        faces = self.evidence.of_pairs(pairs)
        photos = self.photos[pairs].sum(1)
        common, others, unrelated = self.relatives(pairs).T
        share = common / np.maximum(others, 1)
        clan = share * (unrelated == 0)
        columns = [faces, photos, faces * photos, common, others, share, np.log1p(unrelated), clan]
        return np.column_stack(columns)

    def by_blood(self, pairs: Rows) -> Numbers:
        """(K, 4) what makes two people kin by blood, whoever their children are.

        The evidence of the faces, photos of both, the product of the two, and whether they share
        two parents.
        """
        faces = self.evidence.of_pairs(pairs)
        photos = self.photos[pairs].sum(1)
        parents = [bool(self.parents(*pair)) for pair in pairs.tolist()]
        return np.column_stack([faces, photos, faces * photos, parents])

    def parents(self, one: int, other: int) -> tuple[int, ...]:
        """Two relatives in common who may be the parents of both; none if there are none.

        Parents are no kin of each other, while the children of a couple are. Where neither pair is
        listed, as two parents and two children of whom nobody says that they are siblings, the
        children are those who look more like kin.
        """
        common = sorted((self.kin[one] - {other}) & (self.kin[other] - {one}))
        pairs = [(a, b) for a in common for b in common if a < b and b not in self.kin[a]]
        if not pairs:
            return ()
        if other in self.kin[one]:
            return pairs[0]
        own, *faces = self.evidence.of_pairs(np.array([(one, other), *pairs])).tolist()
        couples = [pair for pair, face in zip(pairs, faces, strict=True) if not face >= own]
        return couples[0] if couples else ()

    def shared(self, one: int, other: int) -> str:
        """The relatives that two people have in common, and what these say, in words."""
        common = (self.kin[one] - {other}) & (self.kin[other] - {one})
        parents = [self.families.people[row] for row in self.parents(one, other)]
        if parents:
            return f"both are kin of {' and '.join(parents)}, who may be their parents"
        if common:
            return f"{counted(len(common), 'relative')} in common, who may be their children"
        return "no relatives in common"

    def relatives(self, pairs: Rows) -> Rows:
        """(K, 3) relatives in common, those of either, and pairs of the former who are no kin."""
        counts = np.empty((len(pairs), 3), np.intp)
        for number, (one, other) in enumerate(pairs.tolist()):
            a, b = self.kin[one] - {other}, self.kin[other] - {one}
            common = a & b
            known = sum(len(self.kin[each] & common) for each in common) // 2
            counts[number] = len(common), len(a | b), len(common) * (len(common) - 1) // 2 - known
        return counts

    @cached_property
    def doubt(self) -> Numbers:
        """(L,) how sure it is that each listed relation is none, beside strangers.

        Of two families the more, the fewer of the listed relations are of two families.
        """
        result = surety(self.features(self.listed), self.features(self.strangers))
        across = self.across(self.listed)
        rarity = max(1.0, (len(across) + 1) / (2 * (across.sum() + 1)))
        result[across] *= rarity / (1 - result[across] + result[across] * rarity)
        return result

    @cached_property
    def usual(self) -> float:
        """The median evidence of listed relations."""
        return float(np.median(self.evidence.of_pairs(self.listed))) if len(self.listed) else 0.0


def unsupported(kinship: Kinship) -> list[Finding]:
    """Relations that faces and relatives speak against, beside what kin have."""
    pairs = kinship.listed
    faces, relatives = kinship.evidence.of_pairs(pairs), kinship.relatives(pairs)
    found = []
    for number, across in enumerate(kinship.across(pairs).tolist()):
        names = _names(kinship.families, pairs[number])
        common, others, _ = relatives[number].tolist()
        reason = (
            f"evidence of the faces {faces[number]:.1f}, of kin usually {kinship.usual:.1f}; "
            f"{common} of {others} other relatives in common"
        )
        found.append(
            Finding(
                "relation", float(kinship.doubt[number]),
                reason + ("; of two families" if across else ""),
                "see where the relation comes from; else leave it out",
                LeaveOut(pairs=(names,)), names,
            )
        )  # fmt: skip
    return found


def misplaced(kinship: Kinship, rng: np.random.Generator) -> list[Finding]:
    """People whom none of their relations fits, as if their names were exchanged with another's.

    Beside people put in the place of another on purpose.

    Args:
        kinship: relations and evidence.
        rng: draws these.
    """
    people = np.unique(kinship.listed)
    if len(people) < 2:
        return []
    relatives = [np.array(sorted(kinship.kin[person])) for person in people.tolist()]
    relatives = [each[kinship.evidence.member[each] >= 0] for each in relatives]
    observed = _fit(kinship, people.tolist(), relatives)
    others = rng.permutation(len(people))
    put = [
        (int(people[other]), relatives[at])
        for at, other in enumerate(others.tolist())
        if people[other] != people[at] and people[other] not in relatives[at]
    ]
    sure = surety(observed, _fit(kinship, [who for who, _ in put], [at for _, at in put]))
    found = []
    for person, own, fit, how_sure in zip(people.tolist(), relatives, observed, sure, strict=True):
        name = kinship.families.people[person]
        pairs = tuple(_names(kinship.families, np.sort([person, other])) for other in own.tolist())
        several = f"its {len(own)} relations have on average"
        number = "its only relation has" if len(own) == 1 else several
        found.append(
            Finding(
                "person", float(how_sure),
                f"{number} evidence {fit[0]:.1f} by the faces, of kin usually {kinship.usual:.1f}",
                "see whether it is somebody else's name",
                LeaveOut(pairs=pairs), (name,),
            )
        )  # fmt: skip
    return found


def _fit(kinship: Kinship, people: Sequence[int], relatives: Sequence[Rows]) -> Numbers:
    """(P, 3) how well people fit relatives: mean and best evidence, and how many there are."""
    if not people:
        return np.empty((0, 3))
    counts = np.array([len(each) for each in relatives])
    pairs = np.column_stack([np.repeat(people, counts), np.concatenate(relatives)])
    faces = kinship.evidence.of_pairs(pairs)
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(faces, starts) / counts
    return np.column_stack([means, means * np.sqrt(counts), np.maximum.reduceat(faces, starts)])


def unlisted_kin(kinship: Kinship, rng: np.random.Generator) -> list[Finding]:
    """Pairs of people without a relation who may be kin, within families and across.

    Within a family by the faces and shared parents, beside listed relations. Shared children say
    nothing: couples have them. Across families each person with whoever there looks most like kin;
    beside people who have one of their relatives there.

    Args:
        kinship: relations and evidence.
        rng: draws which relative.
    """
    within = surety(kinship.by_blood(kinship.unlisted), kinship.by_blood(kinship.listed))
    across, likely = _across(kinship, rng)
    pairs, sure = np.concatenate([kinship.unlisted, across]), np.concatenate([within, likely])
    apart = {tuple(sorted(pair)) for pair in kinship.families.apart.tolist()}
    told = np.array([tuple(pair) not in apart for pair in pairs.tolist()], np.bool_)
    pairs, sure = pairs[told], sure[told]
    faces = kinship.evidence.of_pairs(pairs)
    found = []
    for number, is_across in enumerate(kinship.across(pairs).tolist()):
        names = _names(kinship.families, pairs[number])
        reason = (
            f"evidence of the faces {faces[number]:.1f}, of listed kin usually {kinship.usual:.1f}"
        )
        shared = "of two families" if is_across else kinship.shared(*pairs[number].tolist())
        found.append(
            Finding(
                "unlisted", float(sure[number]), f"{reason}; {shared}",
                "add the relation if there is one; else leave the pair out of training",
                LeaveOut(pairs=(names,)), names,
            )
        )  # fmt: skip
    return found


def _across(kinship: Kinship, rng: np.random.Generator) -> tuple[Rows, Numbers]:
    """Pairs of two families who look like kin, each person with one, and how sure that is."""
    evidence = kinship.evidence
    best: dict[int, tuple[float, int]] = {}
    for number in range(len(evidence)):
        own, others = evidence.nearest(number, NEAREST)
        pairs = np.column_stack([np.repeat(own, others.shape[1]), others.ravel()])
        pairs = pairs[kinship.across(pairs)]
        pairs = pairs[[other not in kinship.kin[one] for one, other in pairs.tolist()]]
        faces = evidence.of_pairs(pairs)
        for (one, other), face in zip(pairs.tolist(), faces.tolist(), strict=True):
            best[one] = max(best.get(one, (-np.inf, other)), (face, other))
    people = np.array(sorted(best), np.intp)
    faces = np.array([best[person][0] for person in people.tolist()])
    photos = kinship.photos[people]
    listed = kinship.listed[rng.permutation(len(kinship.listed))[:MADE]]
    ones = np.where(rng.random(len(listed)) < 0.5, listed[:, 0], listed[:, 1])
    top = np.array([best.get(person, (-np.inf, 0))[0] for person in ones.tolist()])
    made = np.maximum(evidence.of_pairs(listed), top)
    has = np.isfinite(made)
    sure = surety(
        np.column_stack([faces, photos, faces * photos]),
        np.column_stack([made, kinship.photos[ones], made * kinship.photos[ones]])[has],
    )
    surest: dict[tuple[int, int], float] = {}
    for person, how_sure in zip(people.tolist(), sure.tolist(), strict=True):
        other = best[person][1]
        pair = min(person, other), max(person, other)
        surest[pair] = max(surest.get(pair, 0.0), how_sure)
    ordered = sorted(surest)
    return np.array(ordered, np.intp).reshape(-1, 2), np.array([surest[each] for each in ordered])


def _within(families: Families, relations: Rows) -> Rows:
    """All pairs of people of a family who have no relation, the smaller row first."""
    order = np.argsort(families.family, kind="stable")
    starts = np.flatnonzero(np.diff(families.family[order], prepend=-1))
    groups = np.split(order, starts[1:])
    pairs = [np.array(np.triu_indices(len(group), 1)).T for group in groups]
    within = np.concatenate(
        [np.sort(group[pair], axis=1) for group, pair in zip(groups, pairs, strict=True)]
    )
    count = len(families.people)
    keys = within[:, 0] * count + within[:, 1]
    return within[~np.isin(keys, relations[:, 0] * count + relations[:, 1])]


def _names(families: Families, pair: Rows) -> tuple[str, str]:
    return families.people[int(pair[0])], families.people[int(pair[1])]
