"""What is fitted on made-up people: who is likely of one person, and what query expansion is worth."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from neighbours import people_vectors, random_directions, slow_neighbours
from scipy.optimize import minimize

from kinembed.data.families import Families, group_families
from kinembed.data.samplers import held_out_pairs
from kinembed.data.splits import Split
from kinembed.evaluation.logistic import fit_logistic
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import find_neighbours
from kinembed.heads.same_person import Likeness, SamePerson
from kinembed.heads.tail import Tail
from kinembed.training import same_person
from kinembed.training.same_person import fit_expansion_slopes, fit_same_person

WIDTH = 64


def made_up_people(count: int, photos: int = 3) -> tuple[np.ndarray, Families]:
    """Vectors of people with so many photos each, two a family, and who they are."""
    names = [
        f"train/F{person // 2:04}/MID{person % 2}/{photo}.jpg"
        for person in range(count)
        for photo in range(photos)
    ]
    relations = [(f"F{f:04}/MID0", f"F{f:04}/MID1") for f in range(count // 2)]
    families = group_families(names, relations)
    return people_vectors(np.random.default_rng(3), families.owner, WIDTH), families


def fit(vectors: np.ndarray, families: Families, seed: int = 0):
    people = np.arange(len(families.people))
    return fit_same_person(vectors, families, people, np.random.default_rng(seed))


@pytest.mark.parametrize("count", [12, 40, 200])
def test_photos_of_one_person_are_told_from_others(count: int) -> None:
    vectors, families = made_up_people(count)
    model = fit(vectors, families)
    assert model is not None and len(model.cohort) == count
    assert model.found > 0.5 and model.mistaken < 0.02 and model.slope > 0 and model.spread > 0
    pairs = len(vectors) * (len(vectors) - 1) / 2
    assert model.prior == pytest.approx(3 * count / pairs)
    # In a gallery of other people, of whom some have several photos.
    rng = np.random.default_rng(5)
    owners = np.concatenate([np.repeat(np.arange(10), 3), np.arange(10, 40)])
    neighbours = slow_neighbours(model, people_vectors(rng, owners, WIDTH))
    right = [
        owners[other] == owners[photo] for photo, them in enumerate(neighbours) for other in them
    ]
    assert len(right) > 30 and np.mean(right) > 0.9
    assert not any(neighbours[30:]) or np.mean([len(each) for each in neighbours[30:]]) < 0.1


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5])
def test_a_model_of_people_who_are_easily_told_apart_comes_back_from_its_file(noise: float) -> None:
    """Whose every pair is found; one photo many times, too."""
    _, families = made_up_people(40)
    vectors = people_vectors(np.random.default_rng(3), families.owner, WIDTH, noise)
    model = fit(vectors, families)
    assert model is not None and model.found > 0.99
    again = SamePerson.of(json.loads(json.dumps(model.settings())), model.cohort)
    assert again.settings() == model.settings()


def test_a_photo_without_a_direction_is_no_stranger() -> None:
    vectors, families = made_up_people(40)
    vectors[:9] = 0  # those of three people
    model = fit(vectors, families)
    assert model is not None and len(model.cohort) == 37
    again = SamePerson.of(json.loads(json.dumps(model.settings())), model.cohort)
    assert again.settings() == model.settings()
    assert fit(np.zeros_like(vectors), families) is None


def test_the_seed_decides_and_not_the_people_left_out() -> None:
    vectors, families = made_up_people(60)
    people = np.arange(40)
    first = fit_same_person(vectors, families, people, np.random.default_rng(0))
    spoilt = vectors.copy()
    spoilt[families.owner >= 40] = 7.0
    again = fit_same_person(spoilt, families, people, np.random.default_rng(0))
    assert first is not None and again is not None
    assert first.settings() == again.settings() and (first.cohort == again.cohort).all()


def test_too_few_people_with_several_photos_are_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert fit(*made_up_people(80, photos=1)) is None
    assert "no query expansion: 0 of 80 people have several photos, wanted 10" in caplog.text
    caplog.clear()
    assert fit(*made_up_people(8)) is None
    assert "no query expansion: 8 of 8 people have several photos, wanted 10" in caplog.text


@pytest.mark.parametrize("kind", ["noise", "equal", "zeros", "of families"])
def test_vectors_that_tell_nobody_apart_are_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vectors, families = made_up_people(60)
    rng = np.random.default_rng(0)
    of_family = random_directions(rng, 30, WIDTH)[families.owner // 2]
    made = {
        "noise": random_directions(rng, len(vectors), WIDTH),
        "equal": np.ones_like(vectors),
        "zeros": np.zeros_like(vectors),
        "of families": of_family + 0.3 * random_directions(rng, len(vectors), WIDTH),
    }
    assert fit(made[kind].astype(np.float32), families) is None
    assert "% of the pairs of one person's photos are told from others" in caplog.text


def test_of_very_many_photos_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, families = made_up_people(200)
    whole = fit(vectors, families)
    monkeypatch.setattr(same_person, "MOST_PHOTOS", 150)
    some = fit(vectors, families)
    assert whole is not None and some is not None
    assert (len(whole.cohort), len(some.cohort)) == (200, 50)
    assert some.found > 0.5 and some.cut == pytest.approx(whole.cut, abs=0.15)


PLAIN = SamePerson(np.eye(2, dtype=np.float32), 1.0, 20.0, -5.0, 0.01, 0.9, 1e-3)


def made_up_likeness(
    seed: int, photos: int, strangers: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(E,) likenesses of all pairs, whether of one person and of kin, and (photos,) families."""
    rng = np.random.default_rng(seed)
    people = np.sort(rng.integers(photos // 3, size=photos))
    left, right = np.triu_indices(photos, 1)
    of_one, of_kin = people[left] == people[right], people[left] // 4 == people[right] // 4
    likeness = rng.normal(np.where(of_one, 0.5, np.where(of_kin, 0.2, strangers)), 0.2)
    return likeness.astype(np.float32), of_one, of_kin, people // 4


def tail_of(likeness: np.ndarray, of_one: np.ndarray, family: np.ndarray) -> Tail | None:
    alike = Likeness(*np.triu_indices(len(family), 1), likeness).above(0.0)
    return same_person._fit_tail(PLAIN, family, alike, of_one[likeness > 0], float(of_one.sum()))


@pytest.mark.parametrize("seed", range(2))
def test_the_tail_is_that_of_a_loop_and_leaves_kin_out(seed: int) -> None:
    likeness, of_one, of_kin, family = made_up_likeness(seed, 900, -0.42)
    tail = tail_of(likeness, of_one, family)
    assert tail is not None and tail.levels[1] == PLAIN.cut == 0.25
    one, strangers = likeness[of_one].tolist(), likeness[~of_kin].tolist()
    counts = []
    for level, found, share in zip(tail.levels, tail.found, tail.strangers, strict=True):
        assert found == sum(each > level for each in one) / len(one) >= 0.1
        counts.append(sum(each > level for each in strangers))
        assert share == counts[-1] / len(strangers) and counts[-1] >= 10
    assert counts[0] == len(strangers) // 1000
    halves = [counts[1] >> halvings for halvings in range(len(counts) - 1)]
    assert counts[1:] == halves and len(halves) > 3 and halves[-1] // 2 < 10
    above = (likeness > 0.25) & (of_one | ~of_kin)
    slope, offset = slow_logistic(of_one[above], likeness[above, None].astype(float))
    assert (tail.slope, tail.offset) == pytest.approx((slope, offset), rel=1e-3)


def test_without_strangers_above_the_cut_ten_are_taken_to_be() -> None:
    likeness, of_one, of_kin, family = made_up_likeness(0, 300, -0.9)
    tail = tail_of(likeness, of_one, family)
    assert tail is not None and tail.levels == (0.0, 0.25)
    assert tail.strangers == (10 / (~of_kin).sum(),) * 2
    assert (tail.slope, tail.offset) == (PLAIN.slope, PLAIN.offset)


@pytest.mark.parametrize(("photos", "strangers"), [(100, -0.42), (300, -0.2)])
def test_too_few_strangers_or_too_many_above_the_cut_make_no_tail(
    photos: int, strangers: float
) -> None:
    likeness, of_one, _, family = made_up_likeness(0, photos, strangers)
    assert tail_of(likeness, of_one, family) is None


# What query expansion is worth


def slow_logistic(labels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Slopes and offset with Platt's targets, by scipy."""
    kin, others = labels.sum(), (~labels).sum()
    targets = np.where(labels, (kin + 1) / (kin + 2), 1 / (others + 2))

    def loss(theta: np.ndarray) -> float:
        z = features @ theta[:-1] + theta[-1]
        return float(np.mean(np.logaddexp(0, z) - targets * z))

    result = minimize(loss, np.zeros(features.shape[1] + 1), method="BFGS", tol=1e-10)
    return np.asarray(result.x)


def test_a_logistic_regression_on_two_numbers_is_scipys() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 2))
    labels = features @ [1.5, -0.5] + rng.logistic(size=500) > 0.3
    found = fit_logistic(labels, features)
    assert found == pytest.approx(slow_logistic(labels, features), abs=1e-4)


def expanding_head(vectors: np.ndarray, families: Families) -> MetricHead:
    rng = np.random.default_rng(1)
    members = tuple(
        Projection(rng.standard_normal((WIDTH, 8)).astype(np.float32), np.zeros(8, np.float32), ())
        for _ in range(2)
    )
    model = fit(vectors, families)
    return MetricHead("max", "m", members, knn_view="max", same_person=model)


def test_slopes_are_those_of_a_loop_over_the_training_people() -> None:
    rng = np.random.default_rng(2)
    names = [
        f"train/F{family:04}/MID{member}/{photo}.jpg"
        for family in range(40) for member in range(2) for photo in range(1 + (family + member) % 4)
    ]  # fmt: skip
    relations = [(f"F{f:04}/MID0", f"F{f:04}/MID1") for f in range(40)]
    families = group_families(names, relations)
    vectors = people_vectors(rng, families.owner, WIDTH, noise=0.8)
    vectors += 0.7 * random_directions(rng, 40, WIDTH)[families.owner // 2]  # kin are alike
    head = expanding_head(vectors, families)
    assert head.same_person is not None
    everybody = np.arange(len(families.people))
    splits = (Split(everybody[:60], everybody[60:]), Split(everybody[20:], everybody[:20]))
    neighbours = find_neighbours(vectors, head.same_person, np.arange(len(vectors)))
    draws = np.random.default_rng(5)
    found = fit_expansion_slopes(head, vectors, neighbours, families, splits, draws)
    by_loop = slow_neighbours(head.same_person, vectors)
    draws = np.random.default_rng(5)
    for slope, member, split in zip(found, head.members(), splits, strict=True):
        people = tuple(families.people[row] for row in split.train)
        pairs = held_out_pairs(families, people, same_person.SLOPE_PAIRS, draws)
        alone = np.asarray(member.represent(vectors)).astype(float)
        means = np.stack([alone[[photo, *others]].mean(0) for photo, others in enumerate(by_loop)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        left, right = pairs.rows.T
        assert isinstance(member, MetricHead)
        logits = member.scale * ((means[left] * means[right]).sum(1) - member.centre)
        others = np.array([len(each) for each in by_loop])
        amount = (np.log(1 + others[left]) + np.log(1 + others[right])) / 2
        of_logit, of_expansion, _ = slow_logistic(pairs.labels, np.stack([logits, amount], 1))
        assert of_logit > 0
        assert slope == pytest.approx(np.clip(-of_expansion / of_logit, 0, 10), abs=2e-3)
    assert len(set(found)) == 2


def test_where_all_or_none_have_neighbours_the_slope_is_none() -> None:
    vectors, families = made_up_people(60)
    head = expanding_head(vectors, families)
    everybody = np.arange(len(families.people))
    nobody = head.same_person
    assert nobody is not None
    unlikely = replace(head, same_person=replace(nobody, offset=-50.0 * nobody.slope))
    assert unlikely.same_person is not None
    neighbours = find_neighbours(vectors, unlikely.same_person, np.arange(len(vectors)))
    found = fit_expansion_slopes(
        unlikely, vectors, neighbours, families, (Split(everybody, everybody[:0]),),
        np.random.default_rng(0),
    )  # fmt: skip
    assert found == (0.0, 0.0)


def family_vectors(
    rng: np.random.Generator, families: int, alike: float, photos: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of families of four people, who are so much alike, and whose each is."""
    people = np.repeat(np.arange(families * 4), photos)
    shared = rng.normal(size=(families, WIDTH))[people // 4]
    own = rng.normal(size=(families * 4, WIDTH))[people]
    noise = 0.8 * rng.normal(size=(len(people), WIDTH))
    return (alike * shared + own + noise).astype(np.float32), people


def of_families(people: np.ndarray) -> Families:
    names = [f"F{p // 4:03}/MID{p % 4}/{photo:04}.jpg" for photo, p in enumerate(people)]
    return group_families(names, [])


def test_in_a_small_collection_kin_in_the_cohort_do_not_join_other_families() -> None:
    """Each photo's nearest strangers there are its kin; of photos of other families none are."""
    rng = np.random.default_rng(0)
    vectors, people = family_vectors(rng, 8, 0.7)
    model = fit(vectors, of_families(people))
    assert model is not None
    others, owners = family_vectors(rng, 3, 0.7)
    pairs = model.neighbours(others)
    assert len(pairs.left) > 10
    assert (owners[pairs.left] == owners[pairs.right]).mean() > 0.8


def test_where_kin_are_taken_for_one_person_there_is_no_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    vectors, people = family_vectors(np.random.default_rng(0), 30, 3.0, 8)
    families = of_families(people)
    assert fit(vectors, families) is None
    assert "of a family's people look like one person's, wanted at most 5 %" in caplog.text
    # Counted by a loop.
    model = SamePerson(np.eye(2, dtype=np.float32), 1.0, 1.0, 0.0, 0.5, 0.5, 0.5)
    alike = model.likenesses(
        np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32), np.zeros(4, np.float32), 0.5
    )
    owner = np.array([0, 1, 2, 9])  # the first three are of one family
    found = same_person._kin_taken(families, owner, alike, np.ones(len(alike.left), bool))
    assert found == pytest.approx(1 / 3)
