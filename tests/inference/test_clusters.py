"""Clusters: against a slow way that looks at all pairs each time, and what never may happen."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.inference.clusters import Clusters, cluster, components


class Points:
    """Faces as points of a line: the nearer two groups' means, the likelier they are of one person."""

    def __init__(self, points: list[float], reach: float = 1.0) -> None:
        self.members = {face: [point] for face, point in enumerate(points)}
        self.reach = reach

    def log_odds(self, pairs: np.ndarray) -> np.ndarray:
        means = {face: sum(sorted(some)) / len(some) for face, some in self.members.items()}
        return np.array([self.reach - abs(means[a] - means[b]) for a, b in pairs.tolist()])

    def join(self, into: int, other: int) -> None:
        assert into < other
        self.members[into] = self.members[into] + self.members.pop(other)


def slow(
    points: list[float],
    photos: list[int],
    together: list[tuple[int, int]],
    apart: list[tuple[int, int]],
    reach: float = 1.0,
) -> set[frozenset[int]]:
    """Looks at all pairs of groups, and at all pairs of their faces, for each join."""
    groups = [{face} for face in range(len(points))]
    for pair in together:
        one = [group for group in groups if set(pair) & group]
        groups = [group for group in groups if group not in one] + [set().union(*one)]
    start = [set(group) for group in groups]

    def may(left: set[int], right: set[int]) -> bool:
        for i in left:
            for j in right:
                pair = {(i, j), (j, i)}
                if pair & set(apart) or photos[i] == photos[j]:
                    return False
        return True

    def mean(group: set[int]) -> float:
        return sum(sorted(points[face] for face in group)) / len(group)

    while True:
        best, found = 0.0, None
        for left, right in combinations(groups, 2):
            odds = reach - abs(mean(left) - mean(right))
            if odds > best and may(left, right):
                best, found = odds, (left, right)
        if found is None:
            break
        groups = [group for group in groups if group not in found] + [found[0] | found[1]]
    assert all(any(group <= now for now in groups) for group in start)
    return {frozenset(group) for group in groups}


def found(clusters: Clusters) -> set[frozenset[int]]:
    return {frozenset(person) for person in clusters.people}


def all_pairs(count: int) -> np.ndarray:
    return np.array(list(combinations(range(count), 2)), np.intp).reshape(-1, 2)


@st.composite
def albums(draw: st.DrawFn) -> tuple[list[float], list[int], list, list]:
    """Faces at places with no two distances alike, photographs, answers that agree."""
    count = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 10_000))
    points = np.random.default_rng(seed).uniform(0, 5, count).tolist()
    photos = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    face = st.integers(0, count - 1)
    together = [p for p in draw(st.lists(st.tuples(face, face), max_size=2)) if p[0] != p[1]]
    root = components(count, together)
    apart = draw(st.lists(st.tuples(face, face), max_size=4))
    return points, photos, together, [(i, j) for i, j in apart if root[i] != root[j]]


@given(albums())
def test_against_a_slow_way(album: tuple[list[float], list[int], list, list]) -> None:
    points, photos, together, apart = album
    result = cluster(Points(points), np.array(photos), all_pairs(len(points)), together, apart)
    assert found(result) == slow(points, photos, together, apart)


@given(albums())
def test_what_is_apart_stays_apart(album: tuple[list[float], list[int], list, list]) -> None:
    points, photos, together, apart = album
    result = cluster(Points(points, 9), np.array(photos), all_pairs(len(points)), together, apart)
    given = {frozenset(pair) for pair in together}
    root = components(len(points), together)
    for person in result.people:
        for i, j in combinations(person, 2):
            assert (i, j) not in apart and (j, i) not in apart
            assert photos[i] != photos[j] or root[i] == root[j]
    for pair in given:
        assert any(pair <= set(person) for person in result.people)
    assert sorted(face for person in result.people for face in person) == list(range(len(points)))


@given(albums(), st.integers(0, 99))
def test_the_order_of_faces_does_not_matter(
    album: tuple[list[float], list[int], list, list], seed: int
) -> None:
    points, photos, together, apart = album
    order = np.random.default_rng(seed).permutation(len(points))
    place = np.argsort(order)

    def moved(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(int(place[i]), int(place[j])) for i, j in pairs]

    one = cluster(Points(points), np.array(photos), all_pairs(len(points)), together, apart)
    other = cluster(
        Points([points[i] for i in order]), np.array(photos)[order], all_pairs(len(points)),
        moved(together), moved(apart),
    )  # fmt: skip
    assert found(one) == {frozenset(order[list(person)].tolist()) for person in other.people}


def test_joins_and_who_stayed_apart_are_told() -> None:
    result = cluster(Points([0.0, 0.1, 1.04, 9.0]), np.arange(4), all_pairs(4))
    assert result.people == ((0, 1, 2), (3,))
    assert [(join.left, join.right) for join in result.joins] == [((0,), (1,)), ((0, 1), (2,))]
    assert result.joins[1].log_odds == pytest.approx(0.01)
    assert [(join.left, join.right) for join in result.apart] == [((0, 1, 2), (3,))]


def test_what_is_not_compared_is_not_joined() -> None:
    result = cluster(Points([0.0, 0.1, 0.2]), np.arange(3), np.array([[0, 1]]))
    assert result.people == ((0, 1), (2,)) and result.apart == ()


def test_answers_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="one person, and are not"):
        cluster(Points([0, 1, 2]), np.arange(3), all_pairs(3), [(0, 1), (1, 2)], [(0, 2)])


def test_faces_of_one_photograph_that_somebody_says_are_one_person() -> None:
    result = cluster(Points([0.0, 0.5, 0.4]), np.array([7, 7, 8]), all_pairs(3), [(0, 1)])
    assert result.people == ((0, 1, 2),)


@given(albums(), st.integers(0, 99))
def test_faces_of_one_name_are_one_person_and_of_two_names_are_not(
    album: tuple[list[float], list[int], list, list], seed: int
) -> None:
    points, photos, _, _ = album
    named = np.random.default_rng(seed).choice(["", "", "Ann", "Bob"], len(points)).tolist()
    pairs = all_pairs(len(points))
    result = cluster(Points(points, 3), np.array(photos), pairs, named=named)
    by_name = {n: {i for i, each in enumerate(named) if each == n} for n in ("Ann", "Bob")}
    for faces in filter(None, by_name.values()):
        assert sum(faces <= set(person) for person in result.people) == 1
    for person in result.people:
        assert len({named[face] for face in person} - {""}) <= 1
    apart = [(i, j) for i in by_name["Ann"] for j in by_name["Bob"]]
    together = [(i, j) for some in by_name.values() for i, j in combinations(sorted(some), 2)]
    assert found(result) == slow(points, photos, together, apart, 3)
