"""Fits how likely two photos are of the same person, on people with several photos."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kinembed.arrays import Rows, Vectors
from kinembed.data.families import Families
from kinembed.data.samplers import held_out_pairs
from kinembed.data.splits import Split
from kinembed.evaluation.logistic import fit_logistic
from kinembed.evaluation.metrics import Flags
from kinembed.heads.exact import row_dots, unit
from kinembed.heads.metric import MetricHead
from kinembed.heads.query_expansion import Neighbours, expansion_of
from kinembed.heads.same_person import Likeness, SamePerson, bulk, spread_sample
from kinembed.heads.tail import Tail

log = logging.getLogger(__name__)

COHORT = 1000  # strangers to whom photos are compared
FEWEST_PEOPLE = 10  # with several photos
MOST_PHOTOS = 20_000  # compared with each other; more tell no better
MOST_KIN = 0.05  # share of the pairs of two people of a family that may look like one person's
FEWEST_FOUND = 0.1  # share of the pairs of one person that have to be told
SLOPE_PAIRS = 8_000  # by which an expansion slope is fitted, half of them kin
MOST_SLOPE = 10.0  # logits
BODY = 1e-3  # share of the pairs of strangers that are above the body of their likenesses
FEWEST_PAIRS = 10  # of strangers that tell a share


def fit_same_person(
    vectors: Vectors, families: Families, people: Rows, rng: np.random.Generator
) -> SamePerson | None:
    """Fits the probability that two photos are of the same person.

    It asks who is on the photos, not who is kin; kin are different people.

    Args:
        vectors: (N, D) by whose cosine photos are alike; their rows are those of the families.
        families: who is on which photo.
        people: (P,) the people to fit it on.
        rng: draws the cohort, and people where there are very many.

    Returns:
        None where too few people have several photos, or where the vectors hardly tell people
        apart; logs which.
    """
    photos = np.diff(families.photo_start)  # of each person
    if photos[people].sum() > MOST_PHOTOS:
        some = rng.permutation(people)
        people = np.sort(some[: np.searchsorted(photos[some].cumsum(), MOST_PHOTOS, "right")])
    owners = families.owner[np.isin(families.owner, people)]  # (n,)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(np.append(starts, len(owners)))
    if (counts > 1).sum() < FEWEST_PEOPLE:
        log.info(
            "no query expansion: %d of %d people have several photos, wanted %d",
            (counts > 1).sum(), len(counts), FEWEST_PEOPLE,
        )  # fmt: skip
        return None
    rows = families.photos_of(people)
    directions = unit(vectors[rows])  # (n, D)
    strangers = rng.permutation(starts)
    lengths = row_dots(directions[strangers], directions[strangers])
    if (has_direction := lengths > 0.5).any():  # else no two people differ
        strangers = strangers[has_direction]
    drawn = np.sort(strangers[:COHORT])
    model = SamePerson(directions[drawn], 1.0, 1.0, 0.0, 0.5, 0.5, 0.5)
    median, to_upper = bulk(directions @ spread_sample(directions))
    # The cohort of a small collection holds kin of its photos; of other photos it holds none.
    family = families.family[owners]  # (n,)
    known = family[:, None] == family[drawn]  # (n, C)
    ambient = model.ambient(directions, in_gallery=False, known=known)
    spread = float(np.median((ambient - median) / np.maximum(to_upper, 1e-6)))
    pairs_of_one = float((counts * (counts - 1) // 2).sum())
    pairs = len(owners) * (len(owners) - 1) / 2
    found = of_kin = 0.0
    tail = None
    if spread > 0:
        model = replace(model, spread=spread)
        alike = model.likenesses(directions, model.ambient(directions, known=known), 0.0)
        of_one = owners[alike.left] == owners[alike.right]
        if of_one.any() and not of_one.all():
            features = alike.likeness[:, None].astype(np.float64)
            slope, offset = fit_logistic(of_one, features).tolist()
            if slope > 0:
                model = replace(model, slope=slope, offset=offset, prior=pairs_of_one / pairs)
                likely = alike.likeness > model.cut
                found = float((likely & of_one).sum() / pairs_of_one)
                of_kin = _kin_taken(families, owners, alike, likely & ~of_one)
                mistaken = float((likely & ~of_one).sum() + 1) / (pairs - pairs_of_one + 1)
                tail = _fit_tail(model, families.family[owners], alike, of_one, pairs_of_one)
    if found >= FEWEST_FOUND and of_kin > MOST_KIN:
        log.info(
            "no query expansion: %.0f %% of the pairs of photos of a family's people look like one "
            "person's, wanted at most %.0f %%", 100 * of_kin, 100 * MOST_KIN,
        )  # fmt: skip
        return None
    if found < FEWEST_FOUND:
        log.info(
            "no query expansion: only %.0f %% of the pairs of one person's photos are told from "
            "others, wanted %.0f %%", 100 * found, 100 * FEWEST_FOUND,
        )  # fmt: skip
        return None
    return replace(model, found=found, mistaken=mistaken, tail=tail)


def _fit_tail(
    model: SamePerson, family: Rows, alike: Likeness, of_one: Flags, pairs_of_one: float
) -> Tail | None:
    """How often pairs of one person, and of people of two families, are above the cut and more.

    The levels above the cut are those that half, a quarter, an eighth ... of the strangers above it
    reach, as long as enough do, and enough pairs of one person. Kin are left out: in a large
    gallery their pairs grow as those of one person do, and not as those of strangers.

    Args:
        model: what is fitted so far.
        family: (n,) of each photo.
        alike: pairs of photos above a likeness of 0.
        of_one: (E,) True for those of one person.
        pairs_of_one: how many there are in all.

    Returns:
        None where there are too few pairs of strangers, or too many that look like one person's.
    """
    of_family = np.unique(family, return_counts=True)[1].astype(np.float64)
    strange = family[alike.left] != family[alike.right]  # (E,)
    pairs = float(len(family) ** 2 - (of_family**2).sum()) / 2
    strangers = np.sort(alike.likeness[strange].astype(np.float64))[::-1]
    one = alike.likeness[of_one].astype(np.float64)
    at_cut = int((strangers > model.cut).sum())
    in_body = int(BODY * pairs)
    if in_body < FEWEST_PAIRS or at_cut >= min(in_body, len(strangers)):
        return None
    body = float(strangers[in_body]) if in_body < len(strangers) else 0.0
    levels = [min(body, math.nextafter(model.cut, -1)), model.cut]
    while (count := at_cut >> (len(levels) - 1)) >= FEWEST_PAIRS:
        levels.append(max(float(strangers[count]), math.nextafter(levels[-1], 9)))
    found = [float((one > level).sum()) / pairs_of_one for level in levels]
    counts = [max(FEWEST_PAIRS, int((strangers > level).sum())) for level in levels]
    told = sum(share >= FEWEST_FOUND for share in found)  # the first ones
    slope, offset = model.slope, model.offset
    above = (alike.likeness > model.cut) & (of_one | strange)
    if at_cut >= FEWEST_PAIRS:
        features = alike.likeness[above, None].astype(np.float64)
        slope, offset = fit_logistic(of_one[above], features).tolist()
    if slope <= 0 or told < 2:
        return None
    shares = tuple(count / pairs for count in counts)
    return Tail(tuple(levels[:told]), tuple(found[:told]), shares[:told], slope, offset)


def _kin_taken(families: Families, owners: Rows, alike: Likeness, mistaken: Flags) -> float:
    """The share of the pairs of photos of two people of one family that are taken for one's.

    In a family's album nearly all pairs are of kin, so a rate that does not matter among all the
    pairs of a large collection would join its people.

    Args:
        families: who is of which family.
        owners: (n,) whose each photo is.
        alike: pairs of photos.
        mistaken: (E,) True for pairs of two people that look like one person's.
    """
    family = families.family[owners]  # (n,)

    def pairs_within(groups: Rows) -> float:
        counts = np.unique(groups, return_counts=True)[1]
        return float((counts * (counts - 1) // 2).sum())

    taken = (family[alike.left] == family[alike.right]) & mistaken
    return float(taken.sum()) / max(1.0, pairs_within(family) - pairs_within(owners))


def fit_expansion_slopes(
    head: MetricHead,
    vectors: Vectors,
    neighbours: Neighbours,
    families: Families,
    splits: Sequence[Split],
    rng: np.random.Generator,
) -> tuple[float, ...]:
    """The `expansion_slope` of each member, by pairs of the people that it was trained on.

    By logistic regression of kinship on a pair's logit and its expansion; 0 where the logit does
    not tell kin at all, or where all pairs have the same expansion.

    Args:
        head: the head, which has `same_person`.
        vectors: (N, width) that the head takes.
        neighbours: which photos of the families are of the same person, by `head.same_person`.
        families: photos, people and relations.
        splits: who trained each member; of members beyond these, the first.
        rng: draws the pairs.
    """
    row_of = np.full(len(vectors), -1)
    slopes = []
    for number, member in enumerate(head.members()):
        split = splits[number] if number < len(splits) else splits[0]
        people = tuple(families.people[row] for row in split.train.tolist())
        pairs = held_out_pairs(families, people, SLOPE_PAIRS, rng)
        asked = np.unique(pairs.rows)
        needed = neighbours.of(asked)
        represented = np.asarray(member.represent(vectors[needed]))  # (V, W)
        row_of[needed] = np.arange(len(needed))
        means = neighbours.expand(member, asked, represented, row_of)
        logits = member.score(means, np.searchsorted(asked, pairs.rows))
        others = neighbours.counts(pairs.rows.ravel()).reshape(-1, 2)
        amount = expansion_of(others)
        slope = 0.0
        if np.ptp(amount) > 0:
            features = np.stack([logits, amount], 1)
            of_logit, of_expansion, _ = fit_logistic(pairs.labels, features).tolist()
            slope = -of_expansion / of_logit if of_logit > 0 else 0.0
        slopes.append(float(np.clip(slope, 0, MOST_SLOPE)))
    return tuple(slopes)
