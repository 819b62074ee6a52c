"""What a large gallery is told by: against slow loops, among strangers, and what is refused."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from neighbours import (
    people_vectors,
    random_directions,
    random_model,
    random_tail,
    slow_cut,
    slow_likenesses,
    slow_neighbours,
    slow_tail_prior,
)

from kinembed.data.families import group_families
from kinembed.errors import RunError
from kinembed.heads import same_person
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import find_neighbours
from kinembed.heads.same_person import SamePerson
from kinembed.heads.tail import Tail
from kinembed.training.same_person import fit_same_person

WIDTH = 12
PLAIN = random_model(np.random.default_rng(0), WIDTH, prior=0.05, mistaken=1e-2)
TAIL = Tail(
    (0.05, PLAIN.cut, 0.4, 0.5), (0.98, 0.9, 0.8, 0.5), (0.05, 1e-2, 1e-3, 1e-4), 20.0, -5.0
)
MODEL = replace(PLAIN, tail=TAIL)
SHARES = st.floats(1e-9, 0.1)


@st.composite
def tails(draw: st.DrawFn) -> Tail:
    return random_tail(
        np.random.default_rng(draw(st.integers(0, 10_000))), PLAIN.cut, draw(st.integers(2, 9))
    )


def neighbours_of(model: SamePerson, vectors: np.ndarray) -> list[list[int]]:
    neighbours = find_neighbours(vectors, model, np.arange(len(vectors)))
    return [each.tolist() for each in np.split(neighbours.others, neighbours.first[1:-1])]


# Against slow loops


@given(tails(), st.integers(0, 10_000), st.integers(1, 300))
def test_the_prior_is_that_of_a_loop(tail: Tail, seed: int, count: int) -> None:
    likenesses = np.random.default_rng(seed).normal(tail.levels[1], 0.3, count)
    above = [(likenesses > level).sum() for level in tail.levels[1:]]
    found = tail.prior(above, count, (likenesses > tail.body).mean())
    assert found == pytest.approx(slow_tail_prior(tail, likenesses.tolist()), abs=1e-12)


@pytest.mark.parametrize("large", [False, True])
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_neighbours_are_those_of_a_loop(large: bool, seed: int, size: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = people_vectors(rng, rng.integers(people, size=size), WIDTH)
    likenesses = slow_likenesses(MODEL, vectors)
    cuts = [slow_cut(MODEL, likenesses, large), *TAIL.levels]
    assume(all(abs(each - cut) > 1e-5 for each in likenesses.values() for cut in cuts))
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(same_person, "INDEXED", 0)
            patch.setattr(same_person, "WORTH", 0)
            patch.setattr(same_person, "CELLS_NEAR", (1000,))
        assert neighbours_of(MODEL, vectors) == slow_neighbours(MODEL, vectors, large)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=25)
def test_where_a_small_gallery_tells_without_it_the_tail_changes_nothing(
    seed: int, size: int, people: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = people_vectors(rng, rng.integers(people, size=size), WIDTH)
    before = PLAIN.neighbours(vectors)
    assume(slow_cut(PLAIN, slow_likenesses(PLAIN, vectors)) < math.inf)
    after = MODEL.neighbours(vectors)
    for name in ("left", "right", "likeness"):
        assert getattr(before, name).tobytes() == getattr(after, name).tobytes()


# Strangers


@given(tails(), st.floats(0, 0.1), st.integers(2, 10_000_000))
def test_strangers_as_of_training_or_wider_are_nobodys(
    tail: Tail, body: float, photos: int
) -> None:
    """Of whom up to twice as many are above the cut, and more than that further out."""
    pairs = photos * (photos - 1) / 2
    most = tail.most_strangers(body)
    assert most[0] >= 2 * tail.strangers[1] * (1 - 1e-9)
    assert (most >= 2 * np.array(tail.strangers[1:]) * (1 - 1e-9)).all()
    assert (np.diff(most) <= 0).all()
    assert tail.prior(pairs * most, pairs, body) == 0
    assert tail.prior(np.zeros(len(most)), pairs, body) == 0
    assert tail.prior(np.full(len(most), 9), pairs, body) == 0  # nine of any likeness are chance


@given(
    tails(), st.lists(st.floats(0, 1), min_size=8, max_size=8), SHARES, SHARES, st.integers(0, 7)
)
def test_more_pairs_tell_of_more_and_a_wider_body_of_less(
    tail: Tail, shares: list[float], body: float, wider: float, level: int
) -> None:
    pairs = 1e6
    counts = np.sort(shares)[::-1][: len(tail.levels) - 1] * pairs
    more = counts.copy()
    more[: level + 1] += 1000
    assert 0 <= tail.prior(counts, pairs, body) <= tail.prior(more, pairs, body)
    low, high = sorted((body, wider))
    assert tail.prior(counts, pairs, high) <= tail.prior(counts, pairs, low)


@given(tails(), st.lists(st.floats(0, 1), min_size=8, max_size=8), st.integers(0, 7))
def test_more_pairs_never_make_the_cut_higher(tail: Tail, shares: list[float], level: int) -> None:
    """Nor does it lie where training tells nothing: below the cut, or above the last level."""
    pairs = 1e6
    counts = np.sort(np.power(shares, 8))[::-1][: len(tail.levels) - 1] * pairs
    more = counts.copy()
    more[: level + 1] += 1000
    before, after = (tail.cut(each, pairs, 0.0, 0.01) for each in (counts, more))
    assert after <= before
    assert after == math.inf or tail.levels[1] <= after <= tail.levels[-1]


def photos_of(seed: int, owners: np.ndarray) -> np.ndarray:
    """Vectors of photos of people, some of them good and some bad."""
    rng = np.random.default_rng(seed)
    noise = 0.5 * np.exp(0.8 * rng.standard_normal((len(owners), 1)))
    return people_vectors(rng, owners, 24, noise)  # type: ignore[arg-type]


def with_singles(pairs: int, singles: int) -> np.ndarray:
    """Whose each photo is: of some people two, of all others one."""
    return np.concatenate([np.repeat(np.arange(pairs), 2), np.arange(pairs, pairs + singles)])


@pytest.fixture(scope="module")
def fitted() -> SamePerson:
    """A head whose strangers look alike often enough to explain all in a gallery of 8,000."""
    names = [f"train/F{p:04}/MID1/{photo}.jpg" for p in range(1500) for photo in range(3)]
    families = group_families(names, [])
    vectors = photos_of(0, families.owner)
    likely = fit_same_person(vectors, families, np.arange(1500), np.random.default_rng(0))
    assert likely is not None and likely.tail is not None and len(likely.tail.levels) > 4
    return likely


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gallery of more than 1,000 counts as a large one."""
    monkeypatch.setattr(same_person, "INDEXED", 1000)
    monkeypatch.setattr(same_person, "WORTH", 0)


@pytest.mark.parametrize("indexed", [1000, 10_000])
def test_people_are_found_where_strangers_explain_all_pairs_above_the_cut(
    indexed: int, fitted: SamePerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large gallery and in a small one."""
    monkeypatch.setattr(same_person, "INDEXED", indexed)
    monkeypatch.setattr(same_person, "WORTH", 0)
    owners = with_singles(1300, 6000)
    vectors = photos_of(1, owners)
    found = fitted.neighbours(vectors)
    right = owners[found.left] == owners[found.right]
    assert right.sum() > 0.35 * 1300 and right.mean() > 0.9
    assert not len(replace(fitted, tail=None).neighbours(vectors).left)


@pytest.mark.parametrize(("groups", "share", "alike"), [(0.0, 0.0, 0.7), (1.0, 0.1, 1.5)])
def test_strangers_have_no_neighbours_however_many(
    groups: float, share: float, alike: float, fitted: SamePerson, large: None
) -> None:
    """Even if some photos are of a kind, so that about twice as many as in training look alike."""
    rng = np.random.default_rng(0)
    vectors = random_directions(rng, 4000, 24)
    some = int(share * 4000)
    kinds = random_directions(rng, 10, 24)
    vectors[:some] += np.float32(groups) * kinds[rng.integers(10, size=some)]
    directions = unit(vectors)
    assert fitted.tail is not None
    above = fitted.likenesses(directions, fitted.ambient(directions), fitted.cut)
    assert len(above.left) > alike * fitted.tail.strangers[1] * 4000 * 3999 / 2
    assert not len(fitted.neighbours(vectors).left)
    assert not len(fitted.neighbours(vectors, exact=True).left)


def test_a_head_of_before_says_that_another_would_do_better(
    fitted: SamePerson, large: None, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = random_directions(np.random.default_rng(0), 1500, 24)
    with caplog.at_level(logging.INFO):
        assert not len(replace(fitted, tail=None).neighbours(vectors).left)
        assert "; kinembed head, run again on 150 photos or more" in caplog.messages[-1]
        caplog.clear()
        assert not len(fitted.neighbours(vectors).left)
    assert "strangers explain all pairs" in caplog.messages[-1]
    assert "again" not in caplog.text


# Files


def head_of(model: SamePerson) -> MetricHead:
    projection = Projection(np.ones((WIDTH, 5), np.float32), np.zeros(5, np.float32), ())
    return MetricHead(
        "max", "m", (projection,), knn_view="max", same_person=model, expansion_slopes=(0.5,)
    )


@given(tails())
def test_a_tail_comes_back_from_its_text(tail: Tail) -> None:
    model = replace(PLAIN, tail=tail)
    again = SamePerson.of(json.loads(json.dumps(model.settings())), model.cohort)
    assert again.tail == tail and again.settings() == model.settings()


def test_heads_with_and_without_a_tail_come_back_from_their_files(tmp_path: Path) -> None:
    digests = set()
    for model in (PLAIN, MODEL):
        head = head_of(model)
        again = load_head(save_head(head, tmp_path / "head.h5"))
        assert again.same_person is not None and again.same_person.tail == model.tail
        assert ("tail" in model.settings()) == (model.tail is not None)
        assert again.digest == head.digest
        digests.add(head.digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"levels": (0.05, 0.25)}, "not equally many"),
        ({"levels": (0.05,), "found": (1.0,), "strangers": (0.1,)}, "at least 2"),
        ({"levels": (), "found": (), "strangers": ()}, "at least 2"),
        ({"levels": (0.05, 0.25, 0.25, 0.5)}, "do not rise"),
        ({"levels": (0.05, 0.25, 0.24, 0.5)}, "do not rise"),
        ({"levels": (0.05, 0.25, 0.4, math.nan)}, "found NaN"),
        ({"levels": (0.05, 0.25, 0.4, 3.0)}, "levels: found 3.0, wanted -2 to 2"),
        ({"levels": (0.05, 0.2, 0.4, 0.5)}, "second level is 0.2, and the cut 0.25"),
        ({"levels": (0.3, 0.35, 0.4, 0.5)}, "second level is 0.35, and the cut 0.25"),
        ({"levels": tuple(np.linspace(0, 2, 65).tolist())}, "found 65 values, wanted at most 64"),
        ({"levels": "high"}, "levels: found 'high', wanted a list"),
        ({"found": (0.98, 0.9, 0.91, 0.5)}, "its shares found rise"),
        ({"found": (0.98, 0.9, 0.8, 1e-300)}, "found: found 1e-300, wanted 1e-06"),
        ({"found": (1.1, 0.9, 0.8, 0.5)}, "found: found 1.1"),
        ({"strangers": (0.05, 1e-2, 1e-3, 2e-3)}, "its shares strangers rise"),
        ({"strangers": (0.05, 1e-2, 1e-3, 0.0)}, "strangers: found 0.0, wanted above 0"),
        ({"strangers": (0.2, 1e-2, 1e-3, 1e-4)}, "strangers: found 0.2"),
        ({"strangers": (0.05, True, 1e-3, 1e-4)}, "strangers: found True"),
        ({"slope": 0.0}, "slope: found 0.0"),
        ({"offset": 1e9}, "offset: found 1000000000.0"),
    ],
)
def test_a_tail_out_of_range_is_refused(
    tmp_path: Path, numbers: dict[str, object], problem: str
) -> None:
    path = tmp_path / "head.h5"
    tail = replace(TAIL, **numbers)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=problem) as error:
        load_head(save_head(head_of(replace(PLAIN, tail=tail)), path))
    assert str(error.value).startswith(f"{path}: not a head") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "found", [None, [1.0], {}, {"levels": [0.0, 1.0]}, {**TAIL.settings(), "x": 1}]
)
def test_half_a_tail_is_refused(found: object) -> None:
    with pytest.raises(ValueError, match="."):
        SamePerson.of({**PLAIN.settings(), "tail": found}, PLAIN.cohort)
