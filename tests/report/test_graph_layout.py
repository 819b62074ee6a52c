"""Where linked people stand in a drawing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.report.graph_layout import APART, components, lay_out

Links = list[tuple[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Links]:
    count = draw(st.integers(2, 20))
    ends = st.integers(0, count - 1)
    links = draw(st.lists(st.tuples(ends, ends).filter(lambda ab: ab[0] != ab[1]), max_size=30))
    return count, links


@given(graphs())
def test_components_are_those_of_the_reachable(graph: tuple[int, Links]) -> None:
    count, links = graph
    reach = np.eye(count, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    for _ in range(count):
        reach = reach @ reach
    expected = {tuple(np.flatnonzero(row).tolist()) for row in reach if row.sum() > 1}
    result = components(count, links)
    assert {tuple(people) for people in result} == expected and len(result) == len(expected)
    assert [len(people) for people in result] == sorted(map(len, result), reverse=True)


@given(st.integers(2, 24), st.integers(0, 2**32 - 1))
def test_people_stand_apart_and_always_at_the_same_places(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    links = [(int(generator.integers(0, b)), b) for b in range(1, count)]  # a tree
    links += [(int(a), int(b)) for a, b in generator.integers(0, count, (count // 2, 2)) if a != b]
    points = lay_out(count, links)
    assert np.array_equal(points, lay_out(count, links)) and np.isfinite(points).all()
    assert points.min(axis=0).tolist() == [0, 0]
    between = np.abs(points[:, None] - points)[np.triu_indices(count, 1)]
    assert ((between > np.array(APART) - 12).any(axis=1)).all()


@pytest.mark.parametrize(("count", "far"), [(3, 1), (6, 5), (9, 8)])
def test_a_chain_is_drawn_as_one(count: int, far: int) -> None:
    points = lay_out(count, [(k, k + 1) for k in range(count - 1)])
    ends = np.linalg.norm(points[0] - points[-1])
    assert ends > 0.9 * far * np.linalg.norm(points[0] - points[1])
    width, height = points.max(axis=0)
    assert height > width if count > 3 else width > height  # upright, but for three
