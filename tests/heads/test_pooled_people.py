"""People pooled over their photos, against loops over photos and pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import people_vectors, random_directions, random_model, slow_ambient

from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.pooled_people import (
    PersonScores,
    PooledPeople,
    RepresentedPhotos,
    person_scores,
    person_view,
)

WIDTH = 12
RNG = np.random.default_rng(0)
PROJECTION = Projection(
    RNG.standard_normal((WIDTH, 5)).astype(np.float32), np.zeros(5, np.float32), ()
)
HEAD = MetricHead(
    "max", "m" * 64, (PROJECTION,), scale=7.0, centre=0.1, knn_view="native",
    same_person=random_model(RNG, WIDTH), held_out=("F1/A",),
)  # fmt: skip
PLAIN = MetricHead("max", "m" * 64, (PROJECTION,), scale=7.0, centre=0.1)


def represented(head: MetricHead, count: int, seed: int = 1) -> tuple[RepresentedPhotos, ...]:
    rng = np.random.default_rng(seed)
    vectors = people_vectors(rng, np.arange(count) // 3, WIDTH)
    knn = random_directions(rng, count, WIDTH) * 3
    return RepresentedPhotos.of(head, vectors, knn), vectors, knn


def slow_scores(
    head: MetricHead, vectors: np.ndarray, knn: np.ndarray, one: list[int], other: list[int]
) -> tuple[float, float, float]:
    def direction(photos: list[int]) -> np.ndarray:
        projected = []
        for photo in photos:
            y = vectors[photo].astype(float) @ PROJECTION.kernel.astype(float)
            projected.append(y / np.linalg.norm(y))
        mean = np.mean(projected, 0)
        return mean / np.linalg.norm(mean)

    ambient = [0.0] * len(knn)
    if head.same_person is not None:
        ambient = slow_ambient(head.same_person, knn, in_gallery=False)

    def towards(photos: list[int]) -> np.ndarray:
        mean = np.mean([knn[photo] / np.linalg.norm(knn[photo]) for photo in photos], 0)
        return mean / np.linalg.norm(mean)

    around = [np.mean([ambient[photo] for photo in photos]) for photos in (one, other)]
    likeness = float(towards(one) @ towards(other)) - sum(around) / 2
    logit = head.scale * (float(direction(one) @ direction(other)) - head.centre)
    return logit, likeness, (math.log(len(one)) + math.log(len(other))) / 2


@pytest.mark.parametrize("head", [HEAD, PLAIN], ids=["tells-people", "does-not"])
def test_scores_are_those_of_loops_over_photos(head: MetricHead) -> None:
    photos, vectors, knn = represented(head, 9)
    groups = [[0], [1, 2], [3, 4, 5, 6], [7, 8]]
    people = PooledPeople.of(head, photos, [np.array(group) for group in groups])
    pairs = np.array([(a, b) for a in range(4) for b in range(4)])
    scores = person_scores(head, people, pairs)
    assert len(scores) == 16 and len(people) == 4 and people.counts.tolist() == [1, 2, 4, 2]
    for number, (a, b) in enumerate(pairs.tolist()):
        wanted = slow_scores(head, vectors, knn, groups[a], groups[b])
        found = scores.logits[number], scores.likeness[number], scores.amount[number]
        assert found == pytest.approx(wanted, abs=2e-5)


def test_the_view_of_the_same_person_is_the_heads_own_where_it_tells_none() -> None:
    assert person_view(HEAD) == "native" and person_view(PLAIN) == "max"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 30))
def test_scores_are_symmetric_and_of_the_pair_alone_to_the_bit(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    photos, _, _ = represented(HEAD, size, seed)
    groups = np.array_split(rng.permutation(size), rng.integers(1, size + 1))
    people = PooledPeople.of(HEAD, photos, groups)
    pairs = rng.integers(0, len(groups), (40, 2))
    scores = person_scores(HEAD, people, pairs)
    turned = person_scores(HEAD, people, pairs[:, ::-1])
    alone = PooledPeople.of(HEAD, photos, [groups[pairs[7, 0]], groups[pairs[7, 1]]])
    single = person_scores(HEAD, alone, np.array([[0, 1]]))
    for name in ("logits", "likeness", "amount"):
        assert (getattr(scores, name) == getattr(turned, name)).all()
        assert getattr(single, name)[0] == getattr(scores, name)[7]


def test_a_single_photo_keeps_its_representation_to_the_bit() -> None:
    photos, _, _ = represented(HEAD, 6)
    people = PooledPeople.of(HEAD, photos, [np.array([4]), np.array([1, 2])])
    assert (people.representations[0] == photos.representations[4]).all()
    assert not (people.representations[1] == photos.representations[1]).all()


def test_nobody_and_no_pairs() -> None:
    photos, _, _ = represented(HEAD, 3)
    nobody = PooledPeople.of(HEAD, photos, [])
    assert len(nobody) == 0 and nobody.representations.shape == (0, 5)
    assert len(person_scores(HEAD, nobody, np.empty((0, 2), np.intp))) == 0
    with pytest.raises(IndexError):
        person_scores(HEAD, nobody, np.array([[0, 1]]))


def test_scores_are_joined_and_chosen_in_their_order() -> None:
    one = PersonScores(np.array([1.0]), np.array([2.0]), np.array([3.0]))
    two = PersonScores(np.array([4.0, 7.0]), np.array([5.0, 8.0]), np.array([6.0, 9.0]))
    both = PersonScores.joined([one, two])
    chosen = both.at(np.array([True, False, True]))
    assert chosen.logits.tolist() == [1, 7] and chosen.likeness.tolist() == [2, 8]
    assert chosen.amount.tolist() == [3, 9]
