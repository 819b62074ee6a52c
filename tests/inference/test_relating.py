"""From representations to people, questions and links, by a head and answers set by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pooled_people import RepresentedPhotos
from kinembed.heads.same_person import SamePerson
from kinembed.inference.album import Confirmed
from kinembed.inference.confirmed import Answers, resolve
from kinembed.inference.relating import (
    Judge,
    Related,
    central_first,
    compared_faces,
    relate_faces,
)

WIDTH = 24


def by_hand() -> Judge:
    """Likeness tells the same person, and the head's logit kin: cosines above .8, and above .4."""
    projection = Projection(np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32), ())
    head = MetricHead("v", "model", (projection,), scale=80.0, centre=0.35)
    three_way = ThreeWay(
        kin=(1.0, 0, 0, 0, 0, -1.0),
        same=(0, 30.0, 0, 0, 0, -24.0),
        evidence_of_unrelated=(5.0, -5.0),
        shares=(0.001, 1.0),
        pairs=(1, 1, 1),
        people=9,
    )
    return Judge(head, three_way)


JUDGE = by_hand()


def album(seed: int, people: int = 7, kin: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and people of faces: the first are kin of each other."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    vectors, owners = [], []
    for person in range(people):
        own = basis[person] + (1.1 * basis[-1] if person < kin else 0)
        for _ in range(int(rng.integers(1, 4))):
            near = own + 0.05 * rng.standard_normal(WIDTH)
            vectors.append(near / np.linalg.norm(near))
            owners.append(person)
    return np.array(vectors, np.float32), np.array(owners)


def related(
    vectors: np.ndarray, photos: np.ndarray | None = None, answers: Answers | None = None,
    fdr: float = 0.1,
) -> Related:  # fmt: skip
    faces = RepresentedPhotos.of(JUDGE.head, vectors, vectors)
    photos = np.arange(len(vectors)) if photos is None else photos
    return relate_faces(JUDGE, faces, photos, answers or Answers(), fdr)


def groups(result: Related) -> set[frozenset[int]]:
    return {frozenset(person) for person in result.people}


@pytest.mark.parametrize("seed", range(4))
def test_people_and_kin_are_found(seed: int) -> None:
    vectors, owners = album(seed)
    result = related(vectors)
    assert groups(result) == {frozenset(np.flatnonzero(owners == p).tolist()) for p in range(7)}
    assert result.pairs == 21 and len(result.links) + result.unlisted == 21
    (shown,) = [link for link in result.links if link.is_shown]
    who = {owners[result.people[each][0]] for each in (shown.left, shown.right)}
    assert who == {0, 1} and shown.probability > 0.9 and shown.false_rate < 0.1
    for left, right in shown.faces:
        assert left in result.people[shown.left] and right in result.people[shown.right]
    assert result.confidence.min() > 0.9
    assert 0 < result.kin_prior < 0.3


@given(st.integers(0, 99))
@settings(max_examples=15)
def test_the_order_of_faces_does_not_matter(seed: int) -> None:
    vectors, _ = album(seed)
    order = np.random.default_rng(seed).permutation(len(vectors))
    one, other = related(vectors), related(vectors[order])
    assert groups(one) == {frozenset(order[list(person)].tolist()) for person in other.people}

    def links(result: Related, names: np.ndarray) -> dict[frozenset[int], float]:
        of = [int(names[list(person)].min()) for person in result.people]
        return {
            frozenset((of[link.left], of[link.right])): round(link.probability, 4)
            for link in result.links if link.is_shown
        }  # fmt: skip

    assert links(one, np.arange(len(vectors))) == pytest.approx(links(other, order), abs=1e-3)


@given(st.integers(0, 99), st.integers(0, 99))
@settings(max_examples=25)
def test_faces_of_one_photograph_are_never_one_person(seed: int, other: int) -> None:
    vectors, _ = album(seed)
    photos = np.random.default_rng(other).integers(0, 5, len(vectors))
    result = related(vectors, photos)
    for person in result.people:
        assert len({int(photos[face]) for face in person}) == len(person)
    assert sorted(face for person in result.people for face in person) == [*range(len(vectors))]


@given(st.integers(0, 99))
@settings(max_examples=10)
def test_a_larger_rate_shows_a_superset(seed: int) -> None:
    vectors, _ = album(seed, people=9, kin=4)
    shown: set[tuple[int, int]] = set()
    for fdr in (0.01, 0.1, 0.3, 0.8):
        now = {(link.left, link.right) for link in related(vectors, fdr=fdr).links if link.is_shown}
        assert shown <= now
        shown = now
    assert shown


def test_links_shown_are_expected_to_be_false_at_most_at_the_rate() -> None:
    for seed in range(5):
        vectors, _ = album(seed, people=9, kin=4)
        result = related(vectors + 0.15 * np.random.default_rng(seed).standard_normal(WIDTH))
        shown = [link.probability for link in result.links if link.is_shown]
        assert not shown or np.mean([1 - each for each in shown]) <= 0.1


def test_answers_are_taken_as_given() -> None:
    vectors, owners = album(0)
    first = [int(np.flatnonzero(owners == person)[0]) for person in range(7)]
    pair = (min(first[3], first[4]), max(first[3], first[4]))
    kin = (min(first[0], first[1]), max(first[0], first[1]))
    answers = Answers(apart=[kin, pair], kin={kin: False, pair: True})
    result = related(vectors, answers=answers)
    said = {
        frozenset(int(owners[result.people[each][0]]) for each in (link.left, link.right)): link
        for link in result.links
    }
    confirmed, rejected = said[frozenset((3, 4))], said[frozenset((0, 1))]
    assert (confirmed.is_shown, confirmed.answer, confirmed.probability) == (True, "kin", 1)
    assert (rejected.is_shown, rejected.answer, rejected.probability) == (False, "not-kin", 0)
    together = Answers(together=[(first[5], first[6])])
    assert any(
        {first[5], first[6]} <= person for person in groups(related(vectors, answers=together))
    )


def test_two_people_of_one_name_are_one_with_all_of_their_faces() -> None:
    vectors, owners = album(0)
    counts = np.bincount(owners)
    one, other = (np.flatnonzero(owners == person).tolist() for person in np.argsort(-counts)[:2])
    assert len(one) > 2 and len(other) > 1
    names = [f"{face}.jpg#1" for face in range(len(owners))]
    rows = [Confirmed("name", names[one[0]], "Anna"), Confirmed("name", names[other[0]], "Anna")]
    answers = resolve(rows, names, [""] * len(names), Path("confirmed.csv"))
    assert frozenset(one + other) in groups(related(vectors, answers=answers))
    photos = np.arange(len(owners))
    photos[one[1]] = photos[other[0]]  # on which Anna is already
    found = groups(related(vectors, photos, answers))
    assert frozenset({*one, *other} - {one[1]}) in found
    rows.append(Confirmed("different", names[one[1]], names[one[0]]))
    answers = resolve(rows, names, [""] * len(names), Path("confirmed.csv"))
    (anna,) = [person for person in groups(related(vectors, answers=answers)) if one[0] in person]
    assert {one[0], *other} <= anna and one[1] not in anna


def test_somebody_twice_on_a_photograph_is_no_kin_but_a_question() -> None:
    vectors, owners = album(0)
    one = np.flatnonzero(owners == 5)[0]
    mirrored = np.concatenate([vectors, vectors[[one]]])
    photos = np.arange(len(mirrored))
    photos[-1] = photos[one]
    result = related(mirrored, photos)
    doubt = result.doubts[0]
    sides = [{*doubt.left}, {*doubt.right}]
    assert {len(vectors)} in sides and any(one in side for side in sides)
    assert not doubt.is_merged and doubt.probability > 0.9
    whose = [{*result.people[link.left], *result.people[link.right]} for link in result.links]
    assert not any({one, len(vectors)} <= both for both in whose)
    assert sum(link.is_shown for link in result.links) == 1  # the two who are kin
    assert result.pairs == len(result.links) + result.unlisted + 1
    pair = (int(one), len(vectors))
    same = related(mirrored, photos, Answers(together=[pair]))
    assert any({*pair} <= person for person in groups(same)) and not same.doubts
    two = related(mirrored, photos, Answers(apart=[pair]))  # a twin
    (twin,) = [link for link in two.links if {*pair} <= {
        *two.people[link.left], *two.people[link.right]}]  # fmt: skip
    assert twin.is_shown and not two.doubts


def test_doubtful_joins_are_asked() -> None:
    base = np.eye(WIDTH, dtype=np.float32)
    near = np.array([0.0, 0.62, 0.7])  # angles: the first two are nearly as alike as not
    vectors = np.array([np.cos(a) * base[0] + np.sin(a) * base[1] for a in near] + [base[5]])
    result = related(vectors.astype(np.float32))
    assert result.doubts
    doubt = result.doubts[0]
    assert {*doubt.left, *doubt.right} == {0, 1, 2} and 0.1 < doubt.probability < 0.9
    assert doubt.is_merged == (frozenset({0, 1, 2}) in groups(result))
    gaps = [abs(each.probability - 0.5) for each in result.doubts]
    assert gaps == sorted(gaps)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_albums(count: int) -> None:
    result = related(np.eye(WIDTH, dtype=np.float32)[:count])
    assert len(result.people) == count and result.pairs == count - 1
    assert not any(link.is_shown for link in result.links)
    assert (result.confidence == 1).all() and not result.doubts


@pytest.mark.parametrize("people", [2, 5, 12])
def test_strangers_have_no_links(people: int) -> None:
    for seed in range(5):
        vectors, _ = album(seed, people, kin=0)
        result = related(vectors)
        assert len(result.people) == people and result.kin_prior < 0.15
        assert not any(link.is_shown for link in result.links)


def test_the_face_nearest_to_all_others_stands_for_them() -> None:
    vectors, owners = album(1)
    faces = RepresentedPhotos.of(JUDGE.head, vectors, vectors)
    for person in range(7):
        own = np.flatnonzero(owners == person)
        found = central_first(faces, tuple(own.tolist()))
        mean = [np.mean([vectors[a] @ vectors[b] for b in own]) for a in found]
        assert sorted(found) == own.tolist() and mean == sorted(mean, reverse=True)


def test_a_large_album_compares_only_faces_that_look_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, owners = album(2, people=12)
    cohort = np.linalg.qr(np.random.default_rng(9).standard_normal((WIDTH, WIDTH)))[0]
    same_person = SamePerson(cohort.astype(np.float32), 1.0, 30.0, -6.0, 0.1, 0.5, 0.01)
    judge = replace(JUDGE, head=replace(JUDGE.head, same_person=same_person, knn_view="v"))
    faces = RepresentedPhotos.of(judge.head, vectors, vectors)
    every = compared_faces(judge, faces)
    assert len(every) == len(vectors) * (len(vectors) - 1) // 2
    monkeypatch.setattr("kinembed.inference.relating.MANY", 3)
    some = {tuple(sorted(pair)) for pair in compared_faces(judge, faces).tolist()}
    cosines = vectors @ vectors.T
    ambient = (faces.ambient[:, None] + faces.ambient) / 2
    near = np.argwhere(np.triu(cosines - ambient > same_person.cut - 0.1, 1))
    assert some == {tuple(pair) for pair in near.tolist()} and len(some) < len(every)
    own = {(i, j) for i, j in every.tolist() if owners[i] == owners[j]}
    assert own <= some
    monkeypatch.setattr("kinembed.heads.same_person.INDEXED", 3)
    monkeypatch.setattr("kinembed.heads.same_person.WORTH", 0)
    found = {tuple(pair) for pair in compared_faces(judge, faces).tolist()}
    assert found <= some and len(found) > 0.98 * len(some)
    exactly = compared_faces(judge, faces, exact=True)
    assert {tuple(pair) for pair in exactly.tolist()} == some
