"""Who is likely of one person: against slow loops, in galleries of singles, and what is refused."""

import math
import tracemalloc
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
    slow_ambient,
    slow_cut,
    slow_likenesses,
    slow_neighbours,
)
from strangers import resealed

from kinembed.cache import EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.data.families import group_families
from kinembed.errors import KinembedError, RunError
from kinembed.heads import same_person
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head, save_head
from kinembed.heads.metric import MetricHead, Projection
from kinembed.heads.query_expansion import MakeUp, find_neighbours
from kinembed.heads.representations import Representations
from kinembed.heads.same_person import SamePerson
from kinembed.training.same_person import fit_same_person

WIDTH = 12
MODEL = random_model(np.random.default_rng(0), WIDTH)


def gallery_of(seed: int, size: int, people: int) -> np.ndarray:
    """(size, WIDTH) vectors of photos of at most so many people."""
    rng = np.random.default_rng(seed)
    return people_vectors(rng, rng.integers(people, size=size), WIDTH)


def neighbours_of(model: SamePerson, vectors: np.ndarray) -> list[list[int]]:
    neighbours = find_neighbours(vectors, model, np.arange(len(vectors)))
    return [each.tolist() for each in np.split(neighbours.others, neighbours.first[1:-1])]


def assume_no_tie(model: SamePerson, vectors: np.ndarray) -> None:
    """Leaves out galleries where rounding decides."""
    likenesses = slow_likenesses(model, vectors)
    cuts = [slow_cut(model, likenesses), max(0.0, -model.offset / model.slope)]
    assume(all(abs(each - cut) > 1e-5 for each in likenesses.values() for cut in cuts))


# Against slow loops


@given(st.integers(0, 10_000), st.integers(1, 16), st.integers(1, 8), st.sampled_from([1, 5, 60]))
@settings(max_examples=40)
def test_small_galleries_are_those_of_a_loop(
    seed: int, size: int, people: int, cohort: int
) -> None:
    model = replace(MODEL, cohort=MODEL.cohort[:cohort])
    vectors = gallery_of(seed, size, people)
    directions = unit(vectors)
    ambient = model.ambient(directions)
    assert ambient == pytest.approx(slow_ambient(model, vectors), abs=1e-6)
    found = model.likenesses(directions, ambient, -9.0)
    wanted = slow_likenesses(model, vectors)
    assert [*zip(found.left.tolist(), found.right.tolist(), strict=True)] == sorted(wanted)
    assert found.likeness == pytest.approx([wanted[pair] for pair in sorted(wanted)], abs=1e-6)
    assume_no_tie(model, vectors)
    assert neighbours_of(model, vectors) == slow_neighbours(model, vectors)


@pytest.mark.parametrize(("people", "spread"), [(60, 3.0), (60, 0.5), (9, 3.0), (2, 3.0)])
def test_a_large_gallery_is_that_of_a_loop(people: int, spread: float) -> None:
    """There its own photos raise the ambient similarity."""
    model = replace(MODEL, spread=spread)
    vectors = gallery_of(1, 110, people)
    assert model.ambient(unit(vectors)) == pytest.approx(slow_ambient(model, vectors), abs=1e-5)
    alone = model.ambient(unit(vectors), in_gallery=False)
    assert alone == pytest.approx(slow_ambient(model, vectors, in_gallery=False), abs=1e-6)
    assert neighbours_of(model, vectors) == slow_neighbours(model, vectors)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_make_no_difference(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = gallery_of(2, 130, 40)
    directions = unit(vectors)
    ambient = MODEL.ambient(directions, in_gallery=False)
    whole = MODEL.likenesses(directions, ambient, 0.0)
    monkeypatch.setattr(same_person, "processors", lambda: threads)
    monkeypatch.setattr(same_person, "BLOCK", 17)
    monkeypatch.setattr(same_person, "PAIRS", 3)
    for cells in (1, 130 * 7, 1 << 24):
        monkeypatch.setattr(same_person, "CELLS", cells)
        assert (MODEL.ambient(directions, in_gallery=False) == ambient).all()
        parts = MODEL.likenesses(directions, ambient, 0.0)
        for name in ("left", "right", "likeness"):
            assert np.array_equal(getattr(parts, name), getattr(whole, name))


@given(st.integers(0, 10_000), st.integers(1, 150), st.integers(1, 40))
@settings(max_examples=25)
def test_the_order_of_photos_does_not_matter_and_neighbours_are_mutual(
    seed: int, size: int, people: int
) -> None:
    vectors = gallery_of(seed, size, people)
    order = np.random.default_rng(seed).permutation(size)
    before = neighbours_of(MODEL, vectors)
    after = neighbours_of(MODEL, vectors[order])
    for photo, others in enumerate(before):
        assert all(photo in before[other] for other in others) and photo not in others
    place = np.argsort(order)
    expected = [sorted(place[other] for other in before[photo]) for photo in order]
    likeness = MODEL.likenesses(unit(vectors), MODEL.ambient(unit(vectors)), 0.0).likeness
    if after != expected:  # only where rounding decides
        cuts = (MODEL.cut, *np.sort(likeness))
        assert min(np.abs(likeness - cut).min() for cut in cuts if cut not in likeness) < 1e-5


# Galleries of singles, of two, of the same photo


@pytest.mark.parametrize("size", [2, 6, 12, 100])
def test_a_gallery_of_singles_has_no_neighbours(size: int) -> None:
    """Strangers as alike as those of training, who reach the cut once in a thousand pairs."""
    rng = np.random.default_rng(size)
    names = [f"train/F{p}/MID1/{photo}.jpg" for p in range(300) for photo in range(3)]
    families = group_families(names, [])
    trained_on = people_vectors(rng, families.owner, 24)
    likely = fit_same_person(trained_on, families, np.arange(300), rng)
    assert likely is not None and 0 < likely.mistaken < 1e-3
    for _ in range(400 if size < 100 else 40):
        vectors = people_vectors(rng, np.arange(size), 24)
        assert not find_neighbours(vectors, likely, np.arange(size)).make_up.expanded


@pytest.mark.parametrize("size", [0, 1])
def test_no_photo_and_one_photo_have_no_neighbours(size: int) -> None:
    vectors = gallery_of(0, 1, 1)[:size]
    neighbours = find_neighbours(vectors, MODEL, np.arange(size))
    assert neighbours.make_up.photos == size and neighbours.make_up.expanded == 0
    assert (
        neighbours.make_up.describe() == f"0 of {size} photos likely have others of the same person"
    )
    assert neighbours.of(np.arange(size)).tolist() == [*range(size)]


def test_one_photo_many_times_is_a_neighbour_of_itself() -> None:
    vectors = np.repeat(gallery_of(3, 1, 1), 9, 0)
    assert neighbours_of(MODEL, vectors) == [[n for n in range(9) if n != i] for i in range(9)]
    assert neighbours_of(MODEL, vectors[:2]) == [[1], [0]]


@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from([0.0, 1.0]))
@settings(max_examples=25)
def test_the_same_photo_twice_is_of_one_person_in_any_gallery(
    seed: int, size: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = people_vectors(rng, np.arange(size), WIDTH)
    one, other = rng.choice(size, 2, replace=False)
    vectors[other] = vectors[one]
    before = slow_neighbours(MODEL, np.delete(vectors, other, 0))
    after = neighbours_of(MODEL, vectors)
    assert other in after[one] and one in after[other]
    assert after == slow_neighbours(MODEL, vectors)
    if not any(before):
        assert all(not others for n, others in enumerate(after) if n not in (one, other))
    vectors[other, 0] += 1e-2 + scale  # another photo
    assert neighbours_of(MODEL, vectors) == slow_neighbours(MODEL, vectors)


def test_a_vector_of_a_third_of_a_large_gallery_is_no_person() -> None:
    """Such as what a network makes of photos without a face."""
    strict = replace(MODEL, offset=-40.0)  # takes no two photos for one person's
    for copies, wanted in ((45, 0), (20, 20)):
        vectors = people_vectors(np.random.default_rng(0), np.arange(130), WIDTH)
        vectors[:copies] = vectors[0]
        found = neighbours_of(strict, vectors)
        assert found == slow_neighbours(strict, vectors)
        assert [len(others) for others in found[:20]] == [max(0, wanted - 1)] * 20


def test_photos_of_zeros_and_of_no_numbers_have_no_neighbours_and_take_none_away() -> None:
    model = replace(MODEL, spread=0.01)  # the cohort alone decides
    owners = np.concatenate([np.repeat(np.arange(39), 3), [39, 40, 41]])
    vectors = people_vectors(np.random.default_rng(4), owners, WIDTH)
    before = neighbours_of(model, vectors)
    assert sum(map(len, before)) > 100 and before[-2:] == [[], []]
    spoilt = vectors.copy()
    spoilt[-2], spoilt[-1] = 0.0, np.nan
    with np.errstate(invalid="ignore"):
        assert neighbours_of(model, spoilt) == before
        nothing = np.full((120, WIDTH), np.nan, np.float32)
        assert neighbours_of(model, nothing) == [[]] * 120
    assert neighbours_of(model, np.zeros((120, WIDTH), np.float32)) == [[]] * 120


def test_memory_does_not_grow_with_the_square_of_the_photos() -> None:
    """Nor with the vectors of the pairs that are found."""
    singles = random_directions(np.random.default_rng(0), 30_000, 4)
    model = replace(random_model(np.random.default_rng(0), 4), offset=-40.0)
    found = replace(MODEL, prior=0.9, mistaken=1e-9)
    twins = np.repeat(gallery_of(0, 1, 1), 1500, 0)
    for each, vectors, most in ((model, singles, 400), (found, twins, 200)):
        tracemalloc.start()
        each.neighbours(vectors)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most << 20


# What a pair scores


def head_of(model: SamePerson | None) -> MetricHead:
    rng = np.random.default_rng(9)
    kernel, bias = rng.standard_normal((WIDTH, 5)), rng.standard_normal(5)
    projection = Projection(kernel.astype(np.float32), bias.astype(np.float32), ())
    return MetricHead(
        "max", "m", (projection,), knn_view="max", same_person=model,
        expansion_slopes=() if model is None else (0.5,),
    )  # fmt: skip


def cache_of(folder: Path, vectors: np.ndarray) -> Path:
    names = np.array([f"train/F1/MID{n:04}/0.jpg".encode() for n in range(len(vectors))])
    digests = np.zeros((len(names), 32), np.uint8)
    path = folder / f"{len(vectors)}.h5"
    return write_cache(path, {"schema": 5, "model": "m"}, names, digests, {"max": [vectors]})


def test_singles_are_scored_as_alone_in_any_gallery_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    owners = np.concatenate([np.arange(6), np.repeat(np.arange(6, 36), 4)])
    vectors = people_vectors(rng, owners, WIDTH)
    pairs = np.array([(i, j) for i in range(6) for j in range(i)])
    scores = {}
    for size in (6, 12, 101, len(vectors)):
        with EmbeddingCache.open(cache_of(tmp_path, vectors[:size])) as cache:
            expanded = Representations(cache, head_of(MODEL))
            alone = Representations(cache, head_of(None))
            assert not expanded.expansion(pairs).any()
            table, rows = expanded.take(np.arange(6))
            plain, as_is = alone.take(np.arange(6))
            assert (table[rows] == plain[as_is]).all()
            scores[size] = expanded.score(pairs)
            assert (scores[size] == alone.score(pairs)).all()
            assert (expanded.found["photos"].expanded > 0) == (size > 100)
            rest = np.array([(i, j) for i in range(6, size) for j in range(6)])
            if size > 100:
                assert (expanded.score(rest) != alone.score(rest)).any()
    assert all((each == scores[6]).all() for each in scores.values())


def test_the_slope_is_of_expanded_pairs_alone(tmp_path: Path) -> None:
    vectors = gallery_of(5, 60, 20)
    pairs = np.array([(i, j) for i in range(60) for j in range(i)])
    with EmbeddingCache.open(cache_of(tmp_path, vectors)) as cache:
        flat = Representations(cache, replace(head_of(MODEL), expansion_slopes=(0.0,)))
        steep = Representations(cache, replace(head_of(MODEL), expansion_slopes=(0.75,)))
        expansion = flat.expansion(pairs)
        assert (expansion == steep.expansion(pairs)).all() and expansion.any()
        wanted = flat.score(pairs) - 0.75 * expansion
        assert steep.score(pairs) == pytest.approx(wanted, abs=1e-9)
        assert (steep.score(pairs, alone=True) == flat.score(pairs, alone=True)).all()


# The model in a head's file, and the cache that it is asked for


def test_a_model_comes_back_from_its_file(tmp_path: Path) -> None:
    again = load_head(save_head(head_of(MODEL), tmp_path / "head.h5")).same_person
    assert again is not None and again.settings() == MODEL.settings()
    assert (again.cohort == MODEL.cohort).all()


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"spread": 0.0}, "spread: found 0.0, wanted"),
        ({"spread": math.nan}, "found NaN"),
        ({"slope": 0.0}, "slope: found 0.0"),
        ({"slope": -1.0}, "slope: found -1.0"),
        ({"slope": 1e9}, "slope: found 1000000000.0"),
        ({"offset": 1e9}, "offset: found 1000000000.0"),
        ({"offset": True}, "offset: found True"),
        ({"prior": 0.0}, "prior: found 0.0, wanted between 0 and 1"),
        ({"prior": 1.0}, "prior: found 1.0, wanted between 0 and 1"),
        ({"prior": "0.5"}, "prior: found '0.5'"),
        ({"found": 0.0}, "found: found 0.0, wanted above 0"),
        ({"found": 1.5}, "found: found 1.5, wanted above 0, at most 1"),
        ({"mistaken": 0.0}, "mistaken: found 0.0, wanted above 0"),
        ({"mistaken": None}, "mistaken: found None"),
        ({"cohort": MODEL.cohort * 2}, "no table of unit vectors"),
        ({"cohort": MODEL.cohort * np.float32(1e30)}, "no table of unit vectors"),
        ({"cohort": np.zeros((3, WIDTH), np.float32)}, "no table of unit vectors"),
        ({"cohort": MODEL.cohort[0]}, "no table of unit vectors"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, numbers: dict[str, float], problem: str
) -> None:
    path = tmp_path / "head.h5"
    with pytest.raises(RunError, match=problem) as error:
        load_head(save_head(head_of(replace(MODEL, **numbers)), path))
    assert str(error.value).startswith(f"{path}: not a head") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, about: arrays.pop("same_person/cohort"),
        lambda arrays, about: about["settings"].update(same_person=None),
        lambda arrays, about: about["settings"].update(same_person=[1.0]),
        lambda arrays, about: about["settings"].update(same_person={}),
        lambda arrays, about: about["settings"].pop("same_person"),
        lambda arrays, about: about["settings"]["same_person"].update(more=1.0),
        lambda arrays, about: about["settings"]["same_person"].pop("prior"),
    ],
)
def test_a_file_with_half_a_model_is_refused(tmp_path: Path, change) -> None:
    path = save_head(head_of(MODEL), tmp_path / "head.h5")
    resealed(path, "head", change)
    with pytest.raises(RunError, match=r"head\.h5: not a head") as error:
        load_head(path)
    assert "\n" not in str(error.value) and "run kinembed" in str(error.value)


def test_a_view_of_another_width_is_refused_where_it_is_used(tmp_path: Path) -> None:
    path = cache_of(tmp_path, gallery_of(0, 9, 3))
    narrow = replace(head_of(MODEL), same_person=random_model(np.random.default_rng(0), 7))
    nowhere = replace(head_of(MODEL), knn_view="native")
    unnamed = replace(head_of(MODEL), knn_view="")
    with EmbeddingCache.open(path) as cache:
        with pytest.raises(RunError, match="view max has 12 numbers, .* by 7; run kinembed head"):
            Representations(cache, narrow)
        for head in (nowhere, unnamed):
            with pytest.raises(KinembedError) as error:
                Representations(cache, head)
            assert "\n" not in str(error.value)
        for head in (narrow, nowhere, unnamed):
            Representations(cache, head, expand=False).take(np.arange(9))


def test_a_make_up_is_said_without_a_range_of_one_number() -> None:
    assert MakeUp(9, 4, (1, 1, 1)).describe() == (
        "4 of 9 photos likely have others of the same person: 1 each (interquartile range)"
    )
