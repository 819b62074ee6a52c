"""From faces to people and their links: what `relate` makes of an album's representations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.data.person_pairs import KIN, SAME, UNRELATED
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.base import Head
from kinembed.heads.exact import row_dots
from kinembed.heads.pooled_people import (
    PersonScores,
    PooledPeople,
    RepresentedPhotos,
    person_scores,
)
from kinembed.inference.album import Doubt, Link
from kinembed.inference.clusters import Clusters, Faces, Join, cluster, components
from kinembed.inference.confirmed import Answers
from kinembed.inference.links import (
    Probabilities,
    choose_links,
    estimate_prior,
    false_rates,
    posterior,
)

MANY = 500  # faces from which on those that hardly look alike are not compared
HARDLY = -0.1  # likeness below that of one half, from which on they do
BLOCK = 1 << 18  # pairs of people scored at a time
LISTED = 2000  # links below those shown, at most
LEAST = 0.02  # their probability, at least
FACES = 3  # pairs of faces of a link
SOME = 30  # of a person's faces, by which the confidence of another is told
QUESTIONS = 100  # doubts, at most
DOUBTFUL = 0.1  # probability of an error that makes a doubt


@dataclass(frozen=True)
class Judge:
    """What answers: a head, and the three answers that are fitted to it."""

    head: Head
    three_way: ThreeWay

    def people(self, photos: RepresentedPhotos, groups: Sequence[Faces]) -> PooledPeople:
        """People pooled over the photos of each."""
        return PooledPeople.of(self.head, photos, [np.array(group, np.intp) for group in groups])

    def scores(self, people: PooledPeople, pairs: Rows) -> PersonScores:
        """Of (K, 2) pairs of people."""
        return person_scores(self.head, people, pairs)

    def even(self, people: PooledPeople, pairs: Rows) -> Probabilities:
        """(K, 3) probabilities of pairs of people where the three answers are equally common."""
        return self.three_way.probabilities(self.scores(people, pairs))


class PooledGroups:
    """Groups of faces for `cluster`, each pooled over its faces.

    Args:
        judge: compares them.
        photos: the faces.
    """

    def __init__(self, judge: Judge, photos: RepresentedPhotos) -> None:
        self.judge, self.photos = judge, photos
        self.members: list[Faces] = [(face,) for face in range(len(photos))]
        self.people = judge.people(photos, self.members)

    def join(self, into: int, other: int) -> None:
        """As `Groups`."""
        self.members[into] = tuple(sorted(self.members[into] + self.members[other]))
        self.members[other] = ()
        row = self.judge.people(self.photos, [self.members[into]])
        self.people.representations[into] = row.representations[0]
        self.people.directions[into] = row.directions[0]
        self.people.ambient[into] = row.ambient[0]
        self.people.counts[into] = row.counts[0]

    def log_odds(self, pairs: Rows) -> NDArray[np.float64]:
        """As `Groups`."""
        even = self.judge.even(self.people, pairs)  # (K, 3)
        odds: NDArray[np.float64] = np.log(np.maximum(even[:, SAME], 1e-300))
        odds -= np.log(np.maximum(even[:, KIN] + even[:, UNRELATED], 1e-300))
        return odds


@dataclass(frozen=True)
class Related:
    """People of an album and their links.

    Attributes:
        people: the faces of each, the one nearest to all others first; those with the most first.
        confidence: (F,) probability that a face is of its person.
        links: as `Album.links`.
        doubts: as `Album.doubts`.
        pairs: of people compared.
        unlisted: of these, not among the links.
        kin_prior: the estimated share of kin among them.
    """

    people: tuple[Faces, ...]
    confidence: NDArray[np.float64]
    links: tuple[Link, ...]
    doubts: tuple[Doubt, ...]
    pairs: int
    unlisted: int
    kin_prior: float


def relate_faces(
    judge: Judge,
    faces: RepresentedPhotos,
    photos: Rows,
    answers: Answers,
    fdr: float,
    *,
    exact: bool = False,
) -> Related:
    """Who is the same person, and who may be kin.

    Args:
        judge: compares people.
        faces: the F faces.
        photos: (F,) the photograph of each.
        answers: what is known already.
        fdr: share of false links allowed among those shown.
        exact: compare all pairs of faces of a large album, too.
    """
    compared = compared_faces(judge, faces, exact=exact)
    clusters = cluster(
        PooledGroups(judge, faces), photos, compared,
        [*answers.together, *_of_one_name(judge, faces, photos, compared, answers)],
        answers.apart, answers.named,
    )  # fmt: skip
    found = [central_first(faces, person) for person in clusters.people]
    found.sort(key=lambda person: (-len(person), min(person)))
    people = tuple(found)
    links, pairs, prior, twice = link_people(judge, faces, people, photos, answers, fdr)
    return Related(
        people,
        confidences(judge, faces, people, answers),
        links,
        _first(twice, doubts(faces, clusters, answers)),
        pairs,
        pairs - len(links) - len(twice),
        prior,
    )


def _of_one_name(
    judge: Judge, faces: RepresentedPhotos, photos: Rows, compared: Rows, answers: Answers
) -> list[tuple[int, int]]:
    """Pairs of faces that put whole people of one name together, where answers name several so.

    Who names two people alike says that all of their faces are of one person, not just the two
    faces that the answers name. Faces that cannot be, since they are on one photograph or answers
    part them, stay out.
    """
    root = components(len(photos), answers.unnamed)
    of_name: dict[str, set[int]] = {}
    for face, name in enumerate(answers.named):
        if name:
            of_name.setdefault(name, set()).add(root[face])
    if all(len(roots) == 1 for roots in of_name.values()):
        return []
    alone = [f"{name}/{root[face]}" if name else "" for face, name in enumerate(answers.named)]
    before = cluster(
        PooledGroups(judge, faces), photos, compared, answers.unnamed, answers.apart, alone
    )
    parted = {frozenset(pair) for pair in answers.apart}
    people: dict[str, list[int]] = {}
    for face, name in enumerate(answers.named):
        if name:
            people.setdefault(name, []).append(face)
    pairs = []
    for person in before.people:
        name = next((answers.named[face] for face in person if answers.named[face]), "")
        for face in person:
            if not name or answers.named[face]:
                continue
            own = people[name]
            if all(photos[face] != photos[o] and {face, o} not in parted for o in own):
                own.append(face)
                pairs.append((min(own[0], face), max(own[0], face)))
    return pairs


def compared_faces(judge: Judge, faces: RepresentedPhotos, *, exact: bool = False) -> Rows:
    """(E, 2) pairs of faces that are compared: all, or in a large album those that look alike."""
    same_person = judge.head.same_person
    if len(faces) <= MANY or same_person is None:
        return np.stack(np.triu_indices(len(faces), 1), 1)
    find = same_person.likenesses if exact else same_person.found_likenesses
    near = find(faces.directions, faces.ambient, same_person.cut + HARDLY)
    return np.stack([near.left, near.right], 1)


def central_first(faces: RepresentedPhotos, person: Faces) -> Faces:
    """A person's faces, the nearest to all of them first."""
    rows = np.array(person)
    directions = faces.directions[rows]  # (n, D)
    near = directions @ directions.sum(0)
    return tuple(rows[np.argsort(-near, kind="stable")].tolist())


def confidences(
    judge: Judge, faces: RepresentedPhotos, people: Sequence[Faces], answers: Answers
) -> NDArray[np.float64]:
    """(F,) probabilities that a face is of one person with the others of its person.

    1 for a person's only face, and for faces that a name or an answer put there.
    """
    given = {face for pair in answers.together for face in pair}
    confidence = np.ones(len(faces))
    open_faces = [
        (face, tuple(other for other in person[: SOME + 1] if other != face)[:SOME])
        for person in people
        if len(person) > 1
        for face in person
        if face not in given
    ]
    if open_faces:
        groups = [side for face, others in open_faces for side in ((face,), others)]
        pooled = judge.people(faces, groups)
        even = judge.even(pooled, np.arange(len(groups)).reshape(-1, 2))
        confidence[[face for face, _ in open_faces]] = even[:, SAME]
    return confidence


def doubts(faces: RepresentedPhotos, clusters: Clusters, answers: Answers) -> tuple[Doubt, ...]:
    """Joins that may be wrong, and pairs of people who may be one; the least certain first."""
    limit = np.log((1 - DOUBTFUL) / DOUBTFUL)
    asked = [(join, True) for join in clusters.joins if join.log_odds < limit]
    asked += [(join, False) for join in clusters.apart if join.log_odds > -limit]
    asked.sort(key=lambda each: (abs(each[0].log_odds), each[0].left, each[0].right))

    def doubt(join: Join, is_merged: bool) -> Doubt:
        probability = 1 / (1 + np.exp(-join.log_odds))
        left, right = (central_first(faces, side) for side in (join.left, join.right))
        return Doubt(left, right, float(probability), is_merged)

    return tuple(doubt(join, is_merged) for join, is_merged in asked[:QUESTIONS])


def _first(twice: Sequence[Doubt], others: Sequence[Doubt]) -> tuple[Doubt, ...]:
    """People who are likely one go first: but for the question they would count as kin."""
    asked = {frozenset((*each.left, *each.right)) for each in twice}
    rest = (each for each in others if frozenset((*each.left, *each.right)) not in asked)
    return (*twice, *rest)[:QUESTIONS]


def link_people(
    judge: Judge,
    faces: RepresentedPhotos,
    people: Sequence[Faces],
    photos: Rows,
    answers: Answers,
    fdr: float,
) -> tuple[tuple[Link, ...], int, float, tuple[Doubt, ...]]:
    """Links between people: those to show, and some below; how many pairs; the share of kin.

    Last come pairs that are likelier one person than kin, which are no links: somebody in a mirror
    or a collage is on one photograph twice.

    Args:
        judge: compares people.
        faces: the F faces.
        people: the faces of each person.
        photos: (F,) the photograph of each face.
        answers: what is known already.
        fdr: share of false links allowed among those shown.
    """
    pairs = np.stack(np.triu_indices(len(people), 1), 1)  # (K, 2)
    pooled = judge.people(faces, people)
    blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
    if not blocks:
        return (), 0, float(estimate_prior(np.empty((0, 3)), len(people))[KIN]), ()
    even = np.concatenate([judge.even(pooled, block) for block in blocks])
    parted, on_photo = _two(people, pairs, photos, answers)
    even[parted, SAME] = 0
    likely_two = even.copy()
    likely_two[on_photo, SAME] = 0
    known = _known(people, pairs, answers)
    prior = estimate_prior(likely_two, len(people), known)
    same, kin = posterior(even, prior)[:, [SAME, KIN]].T
    twice = np.flatnonzero((known < 0) & (same > kin) & (same > DOUBTFUL))
    doubted = tuple(
        Doubt(people[pairs[row, 0]], people[pairs[row, 1]], float(same[row]), is_merged=False)
        for row in twice[np.argsort(-same[twice], kind="stable")]
    )
    if len(twice):
        known[twice] = SAME
        prior = estimate_prior(likely_two, len(people), known)
    even = likely_two
    probability = posterior(even, prior)[:, KIN]
    rates, shown = np.zeros(len(pairs)), known == KIN
    is_open = known < 0
    rates[is_open] = false_rates(probability[is_open])
    shown[is_open] = choose_links(probability[is_open], fdr)
    probability[known == KIN], probability[np.isin(known, (SAME, UNRELATED))] = 1, 0
    rates[known == UNRELATED] = 1
    far = np.concatenate([judge.three_way.far(judge.scores(pooled, block)) for block in blocks])
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -probability, ~shown))
    below = order[~shown[order]]
    below = below[(probability[below] >= LEAST) | (known[below] == UNRELATED)][:LISTED]
    words: dict[int, Literal["kin", "not-kin", ""]] = {KIN: "kin", UNRELATED: "not-kin", -1: ""}
    links = tuple(
        Link(
            left=int(pairs[row, 0]),
            right=int(pairs[row, 1]),
            probability=float(probability[row]),
            false_rate=float(rates[row]),
            far=float(far[row]),
            is_shown=bool(shown[row]),
            answer=words[int(known[row])],
            faces=_alike(faces, *(people[number] for number in pairs[row])),
        )
        for row in [*order[shown[order]], *below]
    )
    return links, len(pairs), float(prior[KIN]), doubted


def _two(
    people: Sequence[Faces], pairs: Rows, photos: Rows, answers: Answers
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(K,) True for pairs of people whom names or answers part, and (K,) for those on one photo."""
    person_of = np.empty(len(photos), np.intp)
    for number, person in enumerate(people):
        person_of[list(person)] = number
    apart = [(person_of[left], person_of[right]) for left, right in answers.apart]
    on_photo: dict[int, list[int]] = {}
    for face, photo in enumerate(photos.tolist()):
        on_photo.setdefault(photo, []).append(int(person_of[face]))
    together = [
        (left, right)
        for several in on_photo.values()
        for i, left in enumerate(several)
        for right in several[:i]
    ]
    is_named = np.zeros(len(people), np.bool_)
    for face, name in enumerate(answers.named):
        is_named[person_of[face]] |= bool(name)
    left, right = pairs.T
    parted: NDArray[np.bool_] = _among(apart, len(people), pairs)
    parted |= is_named[left] & is_named[right]
    return parted, _among(together, len(people), pairs)


def _among(two: Sequence[tuple[int, int]], people: int, pairs: Rows) -> NDArray[np.bool_]:
    """(K,) whether pairs of people are among some."""
    table = np.zeros((people, people), np.bool_)
    if two:
        left, right = np.array(two).T
        table[left, right] = table[right, left] = True
    result: NDArray[np.bool_] = table[pairs[:, 0], pairs[:, 1]]
    return result


def _known(people: Sequence[Faces], pairs: Rows, answers: Answers) -> Rows:
    """(K,) `KIN` or `UNRELATED` for pairs of people that somebody answered, else -1."""
    known = np.full(len(pairs), -1)
    person_of = {face: number for number, person in enumerate(people) for face in person}
    count = len(people)
    for (left, right), kin in answers.kin.items():
        a, b = sorted((person_of[left], person_of[right]))
        # The place of a pair in the upper triangle, row by row.
        known[a * (2 * count - a - 1) // 2 + b - a - 1] = KIN if kin else UNRELATED
    return known


def _alike(faces: RepresentedPhotos, left: Faces, right: Faces) -> tuple[tuple[int, int], ...]:
    """Pairs of two people's faces, the most alike first, each face at most once."""
    one, other = np.array(left[:SOME]), np.array(right[:SOME])
    i, j = (each.ravel() for each in np.meshgrid(one, other, indexing="ij"))
    alike = row_dots(faces.directions[i], faces.directions[j])
    return tuple(_once(zip(i, j, strict=True), np.argsort(-alike, kind="stable").tolist()))


def _once(pairs: zip[tuple[int, int]], order: list[int]) -> Iterator[tuple[int, int]]:
    listed, used = list(pairs), set()
    for place in order:
        left, right = (int(face) for face in listed[place])
        if left not in used and right not in used:
            used |= {left, right}
            yield left, right
            if len(used) == 2 * FACES:
                return
