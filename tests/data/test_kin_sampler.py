"""Batches of kin of many families, and folds of people by their families."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from kinembed.data.families import Families, group_families
from kinembed.data.samplers import KinSampler
from kinembed.data.splits import family_folds
from kinembed.errors import DataError


def world(photos: Sequence[Sequence[int]], kin: Sequence[tuple[int, int, int]]) -> Families:
    """Person p of family f has `photos[f][p]` photos; kin are `(family, person, person)`."""
    names = [
        f"train/F{f:04}/MID{p}/P{number}.jpg"
        for f, people in enumerate(photos)
        for p, count in enumerate(people)
        for number in range(count)
    ]
    return group_families(names, [(f"F{f:04}/MID{a}", f"F{f:04}/MID{b}") for f, a, b in kin])


def person(families: Families, row: int) -> str:
    return families.photos[row].removeprefix("train/").rsplit("/", 1)[0]


def everybody(families: Families) -> np.ndarray:
    return np.arange(len(families.people))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Families, np.ndarray]:
    """Families, and some of their people."""
    photos = draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), max_size=6))
    kin = []
    for f, people in enumerate(photos):
        members = st.integers(0, len(people) - 1)
        for a, b in draw(st.lists(st.tuples(members, members), max_size=5)):
            if a != b:
                kin.append((f, a, b))
    families = world(photos, kin)
    people = [row for row in range(len(families.people)) if draw(st.integers(0, 5))]
    return families, np.array(people, np.intp)


@given(
    here=worlds(),
    batches=st.integers(1, 4),
    pairs=st.integers(1, 8),
    photos=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_every_batch_is_of_kin_of_as_many_families_as_it_has_pairs(
    here: tuple[Families, np.ndarray], batches: int, pairs: int, photos: int, seed: int
) -> None:
    families, people = here
    split = {families.people[row] for row in people}
    kin = {
        frozenset({families.people[a], families.people[b]})
        for a, b in families.relations.tolist()
        if {families.people[a], families.people[b]} <= split
    }
    known = {next(iter(two)).split("/")[0] for two in kin}
    if len(known) < 2:
        with pytest.raises(
            DataError, match=f"^kin of {len(known)} families among the {len(split)}"
        ):
            KinSampler(families, people)
        return
    sampler = KinSampler(families, people)
    rows, numbers = sampler.sample(batches, pairs, np.random.default_rng(seed), photos)
    size = min(pairs, len(known))
    assert rows.shape == (batches, size, 2, photos) and numbers.shape == (batches, size)
    names = sorted(set(families.family_names()))
    for batch, of in zip(rows.tolist(), numbers.tolist(), strict=True):
        assert len(set(of)) == size
        for pair, number in zip(batch, of, strict=True):
            owners = [{person(families, row) for row in side} for side in pair]
            assert [len(owner) for owner in owners] == [1, 1]
            assert frozenset.union(*map(frozenset, owners)) in kin
            assert {owner.pop().split("/")[0] for owner in owners} == {names[number]}


# Five families of 1, 2, 3, 6 and 10 relations, and one without any; two relations are listed
# again, one of them the other way round.
SIZES = {0: 1, 1: 2, 2: 3, 3: 6, 5: 10}
TWOS = [(a, b) for b in range(5) for a in range(b)]
UNEVEN = world(
    [[1, 2], [2, 1, 3], [1, 1, 2], [3, 1, 1, 2], [2, 2], [1, 2, 3, 1, 2]],
    [(f, *TWOS[k]) for f, size in SIZES.items() for k in range(size)] + [(1, 0, 1), (2, 2, 0)],
)
BATCHES = 4000


@pytest.fixture(scope="module")
def sampled() -> tuple[np.ndarray, np.ndarray]:
    sampler = KinSampler(UNEVEN, everybody(UNEVEN))
    rows, numbers = sampler.sample(BATCHES, 2, np.random.default_rng(0))
    return rows[..., 0], numbers


def test_all_families_come_equally_often_at_every_index(sampled: tuple) -> None:
    _, numbers = sampled
    shares = {f: (numbers == f).any(1).mean() for f in range(6)}
    assert shares.pop(4) == 0
    for fraction in shares.values():
        assert fraction == pytest.approx(2 / 5, abs=0.035)  # 4.5 deviations
    # and every two families meet as often as any other two
    meetings = Counter(frozenset(batch) for batch in numbers.tolist())
    assert len(meetings) == 10 and chisquare([*meetings.values()]).pvalue > 1e-4


def test_any_two_kin_of_a_family_are_as_likely_as_any_other_two(sampled: tuple) -> None:
    rows, _ = sampled
    pairs = Counter(tuple(person(UNEVEN, row) for row in pair) for pair in rows.reshape(-1, 2))
    for f, size in SIZES.items():
        own = [count for (one, _), count in pairs.items() if one.startswith(f"F{f:04}")]
        assert len(own) == 2 * size, "in either order"
        assert chisquare(own).pvalue > 1e-4


def test_any_photo_of_a_person_is_as_likely_as_any_other(sampled: tuple) -> None:
    rows, _ = sampled
    counts = Counter(rows.ravel().tolist())
    for row, name in enumerate(UNEVEN.people):
        own = [counts[photo] for photo in range(*UNEVEN.photo_start[row : row + 2].tolist())]
        if name.startswith("F0004"):
            assert not any(own)
        elif len(own) > 1:
            assert chisquare(own).pvalue > 1e-4


def test_photos_of_one_person_are_sampled_with_replacement() -> None:
    families = world([[4, 1], [1, 1]], [(0, 0, 1), (1, 0, 1)])
    sampler = KinSampler(families, everybody(families))
    rows, numbers = sampler.sample(2000, 2, np.random.default_rng(0), photos=2)
    one = rows[numbers == 0]
    both = Counter(map(tuple, one[np.isin(one, range(4)).all(-1)].tolist()))
    assert len(both) == 16 and chisquare([*both.values()]).pvalue > 1e-4


def test_fewer_families_than_pairs_make_smaller_batches() -> None:
    rows, numbers = KinSampler(UNEVEN, everybody(UNEVEN)).sample(9, 64, np.random.default_rng(0))
    assert rows.shape == (9, 5, 2, 1)
    assert (np.sort(numbers) == [0, 1, 2, 3, 5]).all()


def test_one_seed_gives_the_same_batches_and_another_gives_others() -> None:
    sampler = KinSampler(UNEVEN, everybody(UNEVEN))
    one, same, other = (sampler.sample(9, 4, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_rows_are_those_of_the_vectors() -> None:
    elsewhere = replace(UNEVEN, rows=1000 - 3 * np.arange(len(UNEVEN.photos)))
    plain, known = KinSampler(UNEVEN, everybody(UNEVEN)).sample(9, 4, np.random.default_rng(1), 2)
    placed, same = KinSampler(elsewhere, everybody(UNEVEN)).sample(
        9, 4, np.random.default_rng(1), 2
    )
    assert (placed == 1000 - 3 * plain).all() and (known == same).all()


@given(st.integers(0, 2**32))
def test_pairs_of_a_batch_are_strangers_across_families_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = [f"F{f:02}/MID{m}" for f in range(8) for m in (1, 2, 3)]
    kin = [(f"F{f:02}/MID1", f"F{f:02}/MID2", "fs") for f in range(8)]
    across = [
        (str(a), str(b), str(kind))
        for (a, b), kind in zip(rng.choice(people, (4, 2)), rng.choice(["fs", "tbd"], 4))
        if a[:3] != b[:3]
    ]
    families = group_families([f"{person}/1.jpg" for person in people], kin + across)
    reached: list[set[str]] = []  # a slow merging of families
    for f in sorted({person[:3] for person in people}):
        reached.append({f})
    for a, b, _ in across:
        one, other = (next(each for each in reached if x[:3] in each) for x in (a, b))
        if one is not other:
            reached.remove(other)
            one |= other
    if len(reached) < 2:
        return
    rows, numbers = KinSampler(families, everybody(families)).sample(50, 8, rng)
    assert rows.shape[1] == len(reached)
    related = {frozenset((a, b)) for a, b, _ in kin + across}
    for batch, of in zip(families.owner_of(rows[..., 0]).tolist(), numbers.tolist(), strict=True):
        names = [[families.people[row] for row in pair] for pair in batch]
        assert len(set(of)) == len(of)
        for i, one in enumerate(names):
            for other in names[:i]:
                assert not any(frozenset((a, b)) in related for a in one for b in other)
                assert {a[:3] for a in one}.isdisjoint(b[:3] for b in other)


@pytest.mark.parametrize(
    ("kin", "people", "problem"),
    [
        ([], 4, "^kin of 0 families among the 4 people of this split: wanted two families"),
        ([(0, 0, 1)], 4, "^kin of 1 families among the 4 people"),
        ([(0, 0, 1), (0, 1, 0)], 4, "^kin of 1 families among the 4 people"),
        ([(0, 0, 1), (1, 0, 1)], 3, "^kin of 1 families among the 3 people"),
        ([(0, 0, 1), (1, 0, 1)], 0, "^kin of 0 families among the 0 people"),
    ],
    ids=["no kin", "one family", "listed twice", "outside of the split", "nobody"],
)
def test_kin_of_one_family_are_too_few(
    kin: list[tuple[int, int, int]], people: int, problem: str
) -> None:
    families = world([[1, 2], [1, 1]], kin)
    with pytest.raises(DataError, match=problem) as error:
        KinSampler(families, np.arange(people))
    assert "\n" not in str(error.value)


# Folds


@given(here=worlds(), count=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_folds_split_people_by_family_as_evenly_as_possible(
    here: tuple[Families, np.ndarray], count: int, seed: int
) -> None:
    families, people = here
    names = {families.people[row].split("/")[0] for row in people}
    if len(names) < count:
        found = f"{len(names)} famil{'y' if len(names) == 1 else 'ies'}"
        cure = "--folds" if len(names) > 2 else "--head"
        with pytest.raises(DataError, match=f"^{found} .* {count} folds[,;] .*{cure}"):
            family_folds(families, people, count, seed)
        return
    folds = family_folds(families, people, count, seed)
    assert len(folds) == count
    assert sorted(row for fold in folds for row in fold.tolist()) == people.tolist()
    assert all((np.diff(fold) > 0).all() for fold in folds), "in their order"
    of = [{families.people[row].split("/")[0] for row in fold} for fold in folds]
    assert sum(map(len, of)) == len(names) and set().union(*of) == names
    assert max(map(len, of)) - min(map(len, of)) <= 1


def test_folds_depend_on_their_seed() -> None:
    families = world([[1, 1]] * 12, [])

    def parted(seed: int) -> list[list[int]]:
        return [fold.tolist() for fold in family_folds(families, everybody(families), 3, seed)]

    assert parted(4) == parted(4)
    assert len({str(parted(seed)) for seed in range(20)}) == 20
    # any family comes into any fold
    firsts = Counter(
        next(number for number, fold in enumerate(parted(seed)) if 0 in fold) for seed in range(300)
    )
    assert set(firsts) == {0, 1, 2} and chisquare([*firsts.values()]).pvalue > 1e-4
