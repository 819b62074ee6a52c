"""Rankings of a gallery against plain sorting, whatever bounds rule out; screens against products."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinembed.data.person_pairs import KIN, SAME
from kinembed.evaluation.three_way import EQUAL, ThreeWay
from kinembed.heads.exact import unit
from kinembed.heads.fused import FusedHead
from kinembed.heads.metric import MetricHead, Projection, Similarity
from kinembed.heads.pair import PairHead
from kinembed.heads.pooled_people import PersonScores, PooledPeople, person_scores
from kinembed.heads.score_norm import ScoreNorm
from kinembed.inference import ranking
from kinembed.inference.gallery import Gallery, make_gallery
from kinembed.inference.ranking import rank
from kinembed.inference.screen import Screen, can_screen, find_axes, logit_bounds, shortened

WIDTH, DIRECTION, AXES = 24, 6, 5
PRIORS = (0.01, 0.05)


def some_head(similarity: Similarity = "cosine") -> MetricHead:
    eye = Projection(np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32))
    return MetricHead("max", "m", (eye,), similarity=similarity, scale=7.0, centre=0.1)


def some_people(seed: int, count: int, similarity: Similarity = "cosine") -> PooledPeople:
    """People whose representations lie mostly on a few axes, some of them twice."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((count, WIDTH)) * np.geomspace(3, 0.1, WIDTH)
    numbers[count // 2 :: 3] = numbers[: len(numbers[count // 2 :: 3])]
    representations = numbers.astype(np.float32)
    if similarity == "cosine":
        representations = unit(representations)
    directions = unit(rng.standard_normal((count, DIRECTION)).astype(np.float32))
    ambient = rng.uniform(0.2, 0.5, count).astype(np.float32)
    return PooledPeople(representations, directions, ambient, rng.integers(1, 9, count))


def some_three_way(seed: int) -> ThreeWay:
    rng = np.random.default_rng(seed)
    kin = (rng.normal(0.5), rng.normal(2), *rng.normal(0, 0.3, 3), rng.normal())
    same = (rng.normal(), rng.normal(4), *rng.normal(0, 0.3, 3), rng.normal())
    evidence = np.sort(rng.normal(0, 3, 20))[::-1]
    return ThreeWay(kin, same, tuple(evidence), tuple(np.geomspace(0.01, 1, 20)), (1, 1, 1), 3)


def some_gallery(
    people: PooledPeople, *, screened: bool, head: MetricHead | None = None
) -> Gallery:
    names = np.array([f"F{(7 * n) % len(people):04}/MID1".encode() for n in range(len(people))])
    order = np.argsort(names)
    people = PooledPeople(*(getattr(people, name)[order] for name in PARTS))
    head = head or some_head()
    axes = find_axes(head.products(people.representations)[0], AXES) if screened else None
    blocks = [people_at(people, rows) for rows in np.array_split(np.arange(len(people)), 3)]
    return make_gallery(
        None, {}, names[order], people.counts, (WIDTH, DIRECTION), lambda: blocks, head, axes
    )


def normed_head() -> MetricHead:
    """A head whose representations have one more number, of how near strangers are."""
    rng = np.random.default_rng(3)
    strangers = unit(rng.standard_normal((50, WIDTH)).astype(np.float32))
    return replace(some_head(), norms=(ScoreNorm.fit(strangers, np.ones(50)),))


def two_parts() -> FusedHead:
    """A fused head of a normalised part and one of distances."""
    parts = (normed_head(), some_head("l2"))
    return FusedHead("max+max", "m", parts, (0.7, 0.2))


PARTS = ("representations", "directions", "ambient", "counts")


def people_at(people: PooledPeople, rows: np.ndarray) -> PooledPeople:
    return PooledPeople(*(getattr(people, name)[rows] for name in PARTS))


def plain(
    head: MetricHead, three_way: ThreeWay, gallery: Gallery, probe: PooledPeople, top: int,
    known: set[int],
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Who is the same person and who is kin, by scoring everybody one by one."""
    rows = []
    for number in range(len(gallery)):
        both = people_at(gallery.people, np.array([number])).joined(probe)
        scores = person_scores(head, both, np.array([[0, 1]]))
        ((same, kin, _),) = three_way.probabilities(scores, PRIORS).tolist()
        ((even, _, unrelated),) = three_way.probabilities(scores, EQUAL).tolist()
        evidence = float(three_way.evidence(scores)[0])
        is_same = number in known or (same > kin and even > unrelated)
        rows.append((number, is_same, same, evidence, gallery.names[number]))
    kin_rows = sorted((row for row in rows if not row[1]), key=lambda row: (-row[3], row[4]))[:top]
    least = kin_rows[-1][3] if len(kin_rows) == top else -math.inf
    same_rows = [row for row in rows if row[1] and (row[0] in known or row[3] >= least)]
    same_rows.sort(key=lambda row: (row[0] not in known, -row[2], row[4]))
    return [row[0] for row in same_rows], [row[0] for row in kin_rows]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), top=st.integers(1, 30), known=st.sets(st.integers(0, 79)))
def test_a_ranking_is_that_of_everybody_scored_exactly(
    similarity: Similarity, seed: int, top: int, known: set[int]
) -> None:
    head, three_way = some_head(similarity), some_three_way(seed)
    people = some_people(seed, 80, similarity)
    probe = some_people(seed + 1, 1, similarity)
    known = set(sorted(known)[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FIRST", 3)
        results = [
            rank(
                head,
                three_way,
                some_gallery(people, screened=screened, head=head),
                probe,
                top,
                PRIORS,
                known,
            )
            for screened in (False, True)
        ]
    whole, some = results
    wanted = plain(head, three_way, some_gallery(people, screened=False), probe, top, known)
    assert (whole.same.people.tolist(), whole.kin.people.tolist()) == wanted
    assert whole.scored == 80 >= some.scored
    for one, other in ((whole.same, some.same), (whole.kin, some.kin)):
        for name in ("people", "probabilities", "far", "evidence"):
            assert np.array_equal(getattr(one, name), getattr(other, name))  # to the bit


def test_bounds_rule_people_out() -> None:
    people, probe = some_people(4, 3_000), some_people(5, 1)
    gallery = some_gallery(people, screened=True)
    found = rank(some_head(), some_three_way(1), gallery, probe, 10, PRIORS)
    assert len(found.kin) == 10 and found.scored < 3_000


def test_a_ranking_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    people, probe = some_people(4, 3_000), some_people(5, 1)
    results = []
    for threads in (1, 2, 5):
        for module in ("inference.screen", "heads.base"):
            monkeypatch.setattr(f"kinembed.{module}.processors", lambda threads=threads: threads)
        monkeypatch.setattr("kinembed.inference.screen.BLOCK", 700 // threads)
        gallery = some_gallery(people, screened=True)
        found = rank(some_head(), some_three_way(1), gallery, probe, 10, PRIORS)
        results.append((found.kin.people.tolist(), found.kin.evidence.tolist()))
    assert results[0] == results[1] == results[2]


def test_numbers_of_somebody_do_not_depend_on_the_others() -> None:
    people, probe = some_people(4, 50), some_people(5, 1)
    gallery = some_gallery(people, screened=False)
    found = rank(some_head(), some_three_way(1), gallery, probe, 50, PRIORS)
    for place, number in enumerate(found.kin.people.tolist()):
        one = Gallery(
            gallery.names[[number]], people_at(gallery.people, np.array([number])), None, None
        )
        alone = rank(some_head(), some_three_way(1), one, probe, 1, PRIORS)
        assert alone.kin.evidence[0] == found.kin.evidence[place]
        assert (alone.kin.probabilities[0] == found.kin.probabilities[place]).all()


def test_the_same_person_is_set_apart() -> None:
    head = some_head()
    three_way = ThreeWay((1.0, 0, 0, 0, 0, 0), (0.0, 9.0, 0, 0, 0, 0), (0.0,), (1.0,), (1, 1, 1), 3)
    people = some_people(4, 40)
    probe = people_at(people, np.array([3]))
    gallery = some_gallery(people, screened=True)
    found = rank(head, three_way, gallery, probe, 5, (0.02, 0.06))
    itself = np.flatnonzero((gallery.people.directions == probe.directions[0]).all(1))
    assert found.same.people[0] == itself[0] and itself[0] not in found.kin.people
    assert found.same.probabilities[0].argmax() != KIN
    assert (found.kin.probabilities[:, KIN] > found.kin.probabilities[:, SAME]).all()
    assert found.kin.probabilities.sum(1) == pytest.approx(np.ones(5))


def test_a_gallery_of_one_and_more_asked_for_than_there_are() -> None:
    people, probe = some_people(4, 1), some_people(5, 1)
    found = rank(some_head(), some_three_way(1), some_gallery(people, screened=False), probe, 10,
                 PRIORS)  # fmt: skip
    assert len(found.kin) + len(found.same) == 1


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
@given(seed=st.integers(0, 10_000), axes=st.integers(1, WIDTH))
def test_bounds_hold_what_a_head_scores(similarity: Similarity, seed: int, axes: int) -> None:
    head = some_head(similarity)
    people, probe = some_people(seed, 60, similarity), some_people(seed + 1, 1, similarity)
    rows, numbers = head.products(people.representations)
    found = find_axes(rows, axes)
    assert found.T @ found == pytest.approx(np.eye(axes), abs=1e-5)
    screen = Screen(found, *shortened(found, rows, numbers))
    near, slack = logit_bounds(head, screen, probe.representations[0])
    pairs = np.stack([np.arange(60), np.full(60, 60)], 1)
    exact = head.score(np.concatenate([people.representations, probe.representations]), pairs)
    assert (np.abs(exact - near) <= slack).all()
    if axes == WIDTH:
        assert near == pytest.approx(exact, rel=1e-4, abs=1e-3)


@given(seed=st.integers(0, 10_000))
def test_bounds_hold_for_fused_and_normalised_heads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for head in (normed_head(), two_parts()):
        vectors = rng.standard_normal((61, head.width)).astype(np.float32)
        represented = np.asarray(head.represent(vectors))
        form = head.products(represented[:60])
        assert form is not None and can_screen(head)
        screen = Screen(axes := find_axes(form[0], 7), *shortened(axes, *form))
        near, slack = logit_bounds(head, screen, represented[60])
        exact = head.score(represented, np.stack([np.arange(60), np.full(60, 60)], 1))
        assert (np.abs(exact - near) <= slack).all() and np.median(slack) < np.ptp(exact) * 2
        both = [*form[0]] @ form[0][0] - form[1] - form[1][0]
        plain = head.score(represented, np.stack([np.arange(60), np.zeros(60, np.intp)], 1))
        assert both == pytest.approx(plain, rel=1e-4, abs=1e-3)
    eye = np.eye(WIDTH, 1, dtype=np.float32)
    pairs = PairHead("max", "m", (eye,), (np.zeros(1, np.float32),))
    assert not can_screen(pairs)
    assert not can_screen(FusedHead("max+max", "m", (pairs, some_head()), (1.0, 1.0)))


def test_axes_lie_where_the_length_is() -> None:
    people = some_people(0, 500)
    axes = find_axes(people.representations, AXES)
    _, lengths = shortened(axes, people.representations, people.ambient)
    _, values, _ = np.linalg.svd(people.representations)
    least = np.sqrt((values[AXES:] ** 2).sum() / len(people))  # of any axes
    assert np.sqrt((lengths[:, 1] ** 2).mean()) == pytest.approx(least, rel=0.02)
    assert find_axes(people.representations, WIDTH).tolist() == np.eye(WIDTH).tolist()


def test_slopes_of_evidence_are_its_own() -> None:
    three_way, rng = some_three_way(3), np.random.default_rng(0)
    logits, likeness, amount = rng.standard_normal((3, 9))
    of_logit, of_likeness, rest = three_way.evidence_slopes(amount)
    wanted = three_way.evidence(PersonScores(logits, likeness, amount))
    assert of_logit * logits + of_likeness * likeness + rest == pytest.approx(wanted)
