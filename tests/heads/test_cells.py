"""Neighbours in large galleries by an index: against all pairs, deterministic, and what is said."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from neighbours import (
    people_vectors,
    random_directions,
    random_model,
    slow_cut,
    slow_likenesses,
    slow_neighbours,
)

from kinembed.heads import cells, same_person
from kinembed.heads.cells import Candidates, Cells
from kinembed.heads.exact import unit
from kinembed.heads.query_expansion import find_neighbours
from kinembed.heads.same_person import Likeness

WIDTH = 12
MODEL = random_model(np.random.default_rng(0), WIDTH)
LARGE = replace(
    random_model(np.random.default_rng(1), 32, prior=0.01, mistaken=1e-6, slope=30.0), spread=1.0
)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gallery counts as a large one."""
    monkeypatch.setattr(same_person, "INDEXED", 0)
    monkeypatch.setattr(same_person, "WORTH", 0)


def people_of(seed: int, photos: int, each: int, width: int, noise: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return people_vectors(rng, rng.integers(max(1, photos // each), size=photos), width, noise)


def as_dict(found: Likeness) -> dict[tuple[int, int], float]:
    pairs = zip(found.left.tolist(), found.right.tolist(), strict=True)
    return dict(zip(pairs, found.likeness.tolist(), strict=True))


# Which pairs are compared


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=60)
def test_each_candidate_comes_once(seed: int, size: int, looking: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    near = np.array([rng.permutation(count + looking)[:looking] for _ in range(size)], np.int32)
    candidates = Candidates(near)
    wanted = {
        (i, j)
        for j in range(size)
        for i in range(j)
        if near[i, 0] in near[j] or near[j, 0] in near[i]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "BLOCK", 3)
        patch.setattr(cells, "LOOKING", 4)
        found = []
        for photos, others in candidates.blocks():
            assert len(photos) <= 4 and len(others) <= 3
            left, right = (each.ravel() for each in np.meshgrid(photos, others, indexing="ij"))
            first = candidates.are_first(left, right)
            found += [tuple(sorted(p)) for p in np.stack([left, right], 1)[first].tolist()]
    assert sorted(found) == sorted(wanted)
    every = np.array([(i, j) for i in range(size) for j in range(size) if i != j], np.intp)
    have = candidates.have(*every.reshape(-1, 2).T)
    assert {tuple(sorted(pair)) for pair in every[have].tolist()} == wanted


def test_the_nearest_cells_are_those_of_a_loop_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directions = unit(people_of(3, 300, 4, WIDTH))
    found = Cells.of(directions)
    near = found.nearest(directions, 5)
    centres = found.kernel.row_scale[:, None] * found.kernel.numbers * found.kernel.scale
    cosines = directions.astype(np.float64) @ centres
    for photo, row in enumerate(near.tolist()):
        assert cosines[photo, row] == pytest.approx(sorted(cosines[photo], reverse=True)[:5])
    assert np.array_equal(found.nearest(directions, 1), near[:, :1])
    assert found.nearest(directions[:3], 10_000).shape == (3, len(found))
    for threads, block in ((1, 1024), (3, 7)):
        monkeypatch.setattr(cells, "processors", lambda threads=threads: threads)
        monkeypatch.setattr(cells, "BLOCK", block)
        assert np.array_equal(Cells.of(directions).nearest(directions, 5), near)


@pytest.mark.parametrize("spoil", [0.0, np.nan, "same"])
def test_galleries_without_directions_have_cells(spoil: object) -> None:
    vectors = people_of(4, 60, 3, WIDTH)
    vectors[:] = vectors[0] if spoil == "same" else spoil
    near = Cells.of(unit(vectors)).nearest(unit(vectors), 3)
    assert near.shape == (60, 1) and not near.any()


# What is found


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_what_is_found_are_some_of_all_pairs_with_the_same_likeness(
    seed: int, size: int, each: int, cells_near: int
) -> None:
    """By so few cells that many pairs are missed."""
    vectors = people_of(seed, size, each, WIDTH)
    directions = unit(vectors)
    ambient = MODEL.ambient(directions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same_person, "INDEXED", 0)
        patch.setattr(same_person, "WORTH", 0)
        patch.setattr(same_person, "CELLS_NEAR", (cells_near,))
        for least in (-9.0, 0.0, 0.4):
            found = as_dict(MODEL.found_likenesses(directions, ambient, least))
            every = as_dict(MODEL.likenesses(directions, ambient, least))
            assert found.items() <= every.items() and list(found) == sorted(found)
        found_too = MODEL.neighbours(vectors)
    pairs = {*zip(found_too.left.tolist(), found_too.right.tolist(), strict=True)}
    likenesses = slow_likenesses(MODEL, vectors)
    cuts = [slow_cut(MODEL, likenesses), MODEL.cut] if likenesses else []
    assume(all(abs(each - cut) > 1e-5 for each in likenesses.values() for cut in cuts))
    slow = slow_neighbours(MODEL, vectors)
    assert all(right in slow[left] for left, right in pairs)


def test_enough_cells_find_all_neighbours_of_a_loop(large: None) -> None:
    vectors = people_of(1, 110, 4, WIDTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same_person, "CELLS_NEAR", (1000,))
        neighbours = find_neighbours(vectors, MODEL, np.arange(110))
    found = [each.tolist() for each in np.split(neighbours.others, neighbours.first[1:-1])]
    assert found == slow_neighbours(MODEL, vectors) and any(found)


@pytest.mark.parametrize(("noise", "each"), [(0.5, 4), (0.9, 4), (0.9, 30)])
def test_nearly_all_neighbours_are_found_and_said(
    noise: float, each: int, large: None, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = people_of(5, 3000, each, 32, noise)
    with caplog.at_level(logging.INFO):
        found = as_dict(LARGE.neighbours(vectors))
    every = as_dict(LARGE.neighbours(vectors, exact=True))
    assert len(every) > 1000 and found.items() <= every.items()
    assert len(found) > 0.98 * len(every)
    (said,) = re.findall(
        r"^3,000 photos, too many to compare all pairs: neighbours: of the [\d,]+ of 500 sampled "
        r"photos (\S+) were found$", "\n".join(caplog.messages), re.M,
    )  # fmt: skip
    assert float(said) == pytest.approx(len(found) / len(every), abs=0.01)


def test_the_share_that_is_said_is_that_of_the_sample(large: None) -> None:
    """Where a sample is the whole gallery, it is the recall itself, also where that is small."""
    vectors = people_of(6, 400, 5, 32, 0.9)
    directions = unit(vectors)
    ambient = LARGE.ambient(directions)
    asked = LARGE._ask(directions, ambient, LARGE.cut)
    every = as_dict(LARGE.likenesses(directions, ambient, LARGE.cut))
    assert asked.most(LARGE.cut) >= len(every) == len(as_dict(asked.alike)) / 2
    assert asked.share(LARGE.cut) == pytest.approx(len(every) / (400 * 399 / 2))
    candidates = Candidates(Cells.of(directions).nearest(directions, 1))
    levels = (LARGE.cut, LARGE.cut + 0.1)
    counts, found = LARGE._compared(directions, ambient, candidates, levels, LARGE.cut)
    share = len(found.left) / len(every)
    assert counts.tolist() == [len(found.left), len(found.above(levels[1]).left)]
    assert 0.1 < share < 0.95
    said = asked.describe(candidates, LARGE.cut)
    assert said.startswith(f"of the {2 * len(every):,} of 400 sampled photos ")
    assert float(said.split()[-3]) == pytest.approx(share, abs=0.001)


def test_more_cells_are_looked_into_where_few_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = unit(people_of(7, 3000, 5, 32, 1.2))
    ambient = LARGE.ambient(directions)
    asked = LARGE._ask(directions, ambient, LARGE.cut)
    monkeypatch.setattr(same_person, "WORTH", 0)
    looked = {}
    for least in (0.3, 0.9, 0.99):
        monkeypatch.setattr(same_person, "RECALL", least)
        candidates = same_person._candidates(directions, asked.alike)
        assert candidates is not None
        looked[least] = candidates.near.shape[1]
        assert candidates.have(asked.alike.left, asked.alike.right).mean() >= least
    assert looked[0.3] < looked[0.99] and set(looked.values()) <= set(same_person.CELLS_NEAR)


def test_where_an_index_is_no_faster_all_pairs_are_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = people_of(7, 1000, 5, 32, 0.9)
    every = as_dict(LARGE.neighbours(vectors))
    directions = unit(vectors)
    ambient = LARGE.ambient(directions)
    alike = as_dict(LARGE.likenesses(directions, ambient, LARGE.cut))
    monkeypatch.setattr(same_person, "INDEXED", 0)
    monkeypatch.setattr(same_person, "CELLS_NEAR", (64,))
    with caplog.at_level(logging.INFO):
        assert as_dict(LARGE.neighbours(vectors)) == every != {}
        assert as_dict(LARGE.found_likenesses(directions, ambient, LARGE.cut)) == alike
    said = "1,000 photos: too scattered for an index, so all pairs are compared"
    assert caplog.messages == [said, said]


def test_strangers_have_no_neighbours_and_it_is_said(
    large: None, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = random_directions(np.random.default_rng(8), 1000, 32)
    vectors[7] = vectors[500]
    with caplog.at_level(logging.INFO):
        found = replace(LARGE, mistaken=1e-3).neighbours(vectors)
    assert (found.left.tolist(), found.right.tolist()) == ([7], [500])
    assert (
        "1,000 photos, too many to compare all pairs: by 500 sampled ones, strangers explain all "
        "pairs that look alike; only equal photos are neighbours; kinembed head, run again on 150 "
        "photos or more, learns to find more"
    ) in caplog.messages


def test_a_gallery_of_the_size_compares_all_pairs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = people_of(9, 200, 4, WIDTH)
    every = as_dict(MODEL.neighbours(vectors, exact=True))
    monkeypatch.setattr(same_person, "INDEXED", 200)
    with caplog.at_level(logging.INFO):
        assert as_dict(MODEL.neighbours(vectors)) == every
        assert not caplog.messages
        monkeypatch.setattr(same_person, "INDEXED", 199)
        find_neighbours(vectors, MODEL, np.arange(200), exact=True)
    assert len(caplog.messages) == 1 and re.fullmatch(
        r"comparing 200 photos with each other, once: about \d+ s; --expand auto finds nearly all "
        r"neighbours sooner", caplog.messages[0],
    )  # fmt: skip


def test_threads_and_blocks_make_no_difference(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = people_of(10, 1500, 5, 32, 0.9)
    once = LARGE.neighbours(vectors)
    assert len(once.left)
    for threads, block in ((1, 1024), (2, 50)):
        for module in (same_person, cells):
            monkeypatch.setattr(module, "processors", lambda threads=threads: threads)
        monkeypatch.setattr(cells, "BLOCK", block)
        again = LARGE.neighbours(vectors)
        for name in ("left", "right", "likeness"):
            assert getattr(again, name).tobytes() == getattr(once, name).tobytes()
