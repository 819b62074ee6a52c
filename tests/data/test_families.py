"""Families: reading people, photos and relations, and splitting people."""

import itertools
import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.writer import write_cache
from kinembed.data.families import (
    Families,
    cached_families,
    checked,
    group_families,
    read_families,
)
from kinembed.data.samplers import PairSampler
from kinembed.data.splits import describe_split, people_of, split_people
from kinembed.errors import DataError

PHOTOS = (
    "train/F0002/MID1/P2_face1.jpg",
    "train/F0002/MID1/P1_face1.jpg",
    "train/F0002/MID10/P3_face1.jpg",
    "train/F0002/MID2/P4_face1.JPEG",
    "train/F0001/MID1/P5_face1.png",
)


def lay_out(data: Path, photos: tuple[str, ...] = PHOTOS, relations: bytes = b"") -> Path:
    """Empty files named like photos, and the relations."""
    for name in photos:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    (data / "train_relationships.csv").write_bytes(
        relations or b"p1,p2\nF0002/MID1,F0002/MID2\nF0002/MID10,F0002/MID1\n"
    )
    return data


# Families


def test_families_are_read_in_one_order(tmp_path: Path) -> None:
    families = read_families(lay_out(tmp_path))
    assert families.photos == (
        "train/F0001/MID1/P5_face1.png",
        "train/F0002/MID1/P1_face1.jpg",
        "train/F0002/MID1/P2_face1.jpg",
        "train/F0002/MID10/P3_face1.jpg",
        "train/F0002/MID2/P4_face1.JPEG",
    )
    assert families.people == ("F0001/MID1", "F0002/MID1", "F0002/MID10", "F0002/MID2")
    assert families.family_names() == ("F0001", "F0002", "F0002", "F0002")
    assert families.photo_start.tolist() == [0, 1, 3, 4, 5]
    assert families.relations.tolist() == [[1, 3], [2, 1]]


def test_the_order_of_the_folder_listing_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path)
    wanted = read_families(tmp_path)
    scan = os.scandir
    listings = []

    @contextmanager
    def shuffled(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scan(path) as entries:
            listing = sorted(entries, key=lambda entry: entry.name, reverse=True)
        listings.append([entry.name for entry in listing])
        yield iter(listing)

    monkeypatch.setattr("kinembed.data.folders.os.scandir", shuffled)
    found = read_families(tmp_path)
    assert ["F0002", "F0001"] in listings
    assert (found.photos, found.people) == (wanted.photos, wanted.people)
    assert found.relations.tolist() == wanted.relations.tolist()


@given(seed=st.integers(0, 10_000), names=st.sets(st.text("ab/", min_size=1, max_size=4)))
def test_grouping_agrees_with_a_dict_whatever_the_order(seed: int, names: set[str]) -> None:
    photos = [f"train/F{len(n) % 3}/{n.replace('/', '.')} /p{i}.jpg" for i, n in enumerate(names)]
    photos += [f"train/F{len(n) % 3}/{n.replace('/', '.')}/q.jpg" for n in names]
    photos = list(dict.fromkeys(photos))
    random.Random(seed).shuffle(photos)
    owned: dict[str, list[str]] = {}
    for photo in photos:
        _, family, person, _ = photo.split("/")
        owned.setdefault(f"{family}/{person}", []).append(photo)
    families = group_families(photos, [])
    assert sorted(families.people) == sorted(owned)
    for row, person in enumerate(families.people):
        start, stop = families.photo_start[row : row + 2]
        assert list(families.photos[start:stop]) == sorted(owned[person])


def test_unusable_relations_are_counted_by_reason(tmp_path: Path) -> None:
    relations = b"""p1,p2
F0002/MID1,F0002/MID2
F0002/MID1,F0002/MID9
F0002/MID2,F0002/MID2
F0002/MID9,F0002/MID9
F0003/MID1,F0003/MID2
F0002/MID2,F0002/MID1
"""
    families = read_families(lay_out(tmp_path, relations=relations))
    assert families.relations.tolist() == [[1, 3], [3, 1]]
    assert families.listed == 6
    assert families.unusable.counts == {
        "name people without photos": 2,
        "relate a person to itself": 2,
    }
    assert families.summary() == (
        "2 families, 4 people, 5 photos, 6 relations, 2 usable (2 name people without photos "
        "(F0002/MID9; nearest: F0002/MID2); 2 relate a person to itself (F0002/MID2))"
    )


def test_a_summary_of_usable_relations_gives_no_reasons(tmp_path: Path) -> None:
    summary = read_families(lay_out(tmp_path)).summary()
    assert summary == "2 families, 4 people, 5 photos, 2 relations"


def test_the_folder_may_be_called_train_faces(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "train").rename(tmp_path / "train-faces")
    families = read_families(tmp_path)
    assert families.people == ("F0001/MID1", "F0002/MID1", "F0002/MID10", "F0002/MID2")
    assert {name.split("/")[0] for name in families.photos} == {"train-faces"}


def test_only_photos_of_people_are_taken(tmp_path: Path) -> None:
    lay_out(tmp_path)
    for stray in ("train/a.jpg", "train/F0002/b.jpg", "train/F0002/MID1/c.txt"):
        (tmp_path / stray).touch()
    (tmp_path / "train" / "F0002" / "MID1" / "more").mkdir()
    deeper = "train/F0002/MID1/more/d.jpg"
    (tmp_path / deeper).touch()
    families = read_families(tmp_path)
    assert families.photos == tuple(sorted([*PHOTOS, deeper]))
    assert families.people[families.owner[families.photos.index(deeper)]] == "F0002/MID1"


def test_a_wrong_data_folder_is_named_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; wanted Kaggle's files"):
        read_families(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds nothing; wanted Kaggle's files"):
        read_families(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds notes\.txt, test; wanted .*--data DIR"):
        read_families(tmp_path)


def test_a_folder_without_families_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, ("train/a.jpg", "train/F0001/b.jpg"))
    with pytest.raises(DataError, match="train: no photos named FAMILY/PERSON"):
        read_families(tmp_path)


def test_families_without_relations_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "train_relationships.csv").unlink()
    with pytest.raises(DataError, match=r"train_relationships\.csv: no such file"):
        read_families(tmp_path)


@pytest.mark.shared
def test_the_real_families_are_counted(shared: Callable[[str], Path]) -> None:
    families = read_families(shared("rfiw"))
    assert len(set(families.family_names())) == 470
    assert len(families.people) == 2_316
    assert len(families.photos) == 12_379
    assert families.listed == 3_598
    assert len(families.relations) == 3_362
    assert families.unusable.counts == {"name people without photos": 236}
    assert families.summary().startswith(
        "470 families, 2,316 people, 12,379 photos, 3,598 relations, 3,362 usable "
        "(236 name people without photos ("
    )


# The split


def people_in(sizes: list[int]) -> Families:
    """Families of given sizes, one photo a person."""
    return group_families(
        [f"train/F{f:04}/MID{p}/a.jpg" for f, size in enumerate(sizes) for p in range(size)], []
    )


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=30)
seeds = st.integers(0, 2**32)
fractions = st.floats(0.01, 0.99)


@pytest.mark.parametrize("by", ["people", "families"])
@given(sizes=sizes, seed=seeds, fraction=fractions)
def test_a_split_holds_everybody_once(
    by: str, sizes: list[int], seed: int, fraction: float
) -> None:
    families = people_in(sizes)
    split = split_people(families, by, fraction, np.random.default_rng(seed))
    assert sorted([*split.train, *split.validation]) == list(range(sum(sizes)))
    assert split.train.tolist() == sorted(split.train)
    assert split.validation.tolist() == sorted(split.validation)
    again = split_people(families, by, fraction, np.random.default_rng(seed))
    assert again.train.tolist() == split.train.tolist()


@given(sizes=sizes, seed=seeds, fraction=fractions)
def test_people_are_split_as_the_report_does(sizes: list[int], seed: int, fraction: float) -> None:
    split = split_people(people_in(sizes), "people", fraction, np.random.default_rng(seed))
    assert len(split.train) == int(sum(sizes) * (1 - fraction))


@given(sizes=sizes, seed=seeds, fraction=fractions)
def test_no_family_is_on_both_sides(sizes: list[int], seed: int, fraction: float) -> None:
    families = people_in(sizes)
    split = split_people(families, "families", fraction, np.random.default_rng(seed))
    names = families.family_names()
    train = {names[row] for row in split.train}
    validation = {names[row] for row in split.validation}
    assert not train & validation
    assert len(train) == int(len(sizes) * (1 - fraction))
    assert len(train) + len(validation) == len(sizes)


def test_a_fifth_validates_and_the_seed_decides_who() -> None:
    families = people_in([4] * 50)
    splits = [split_people(families, "people", 0.2, np.random.default_rng(s)) for s in range(20)]
    assert {(len(s.train), len(s.validation)) for s in splits} == {(160, 40)}
    assert len({tuple(s.validation.tolist()) for s in splits}) == 20
    times_held_out = np.bincount(np.concatenate([s.validation for s in splits]), minlength=200)
    assert times_held_out.min() == 0 and 4 <= times_held_out.max() <= 13


def test_relatives_may_be_on_both_sides_when_people_are_split() -> None:
    families = people_in([4] * 50)
    split = split_people(families, "people", 0.2, np.random.default_rng(0))
    names = families.family_names()
    assert {names[row] for row in split.train} & {names[row] for row in split.validation}


def test_a_split_of_no_people_is_refused() -> None:
    with pytest.raises(DataError, match="there are no people"):
        split_people(group_families([], []), "people", 0.2, np.random.default_rng(0))


# The families of a cache, and its held-out people


def cache_of(path: Path, names: list[str], people: list[str]) -> EmbeddingCache:
    views = {"max": [np.zeros((len(names), 2), np.float32)]}
    texts, who = (np.array([text.encode() for text in each]) for each in (names, people))
    shas = np.zeros((len(names), 32), np.uint8)
    about = {"schema": SCHEMA, "model": "m"}
    return EmbeddingCache.open(write_cache(path, about, texts, shas, views, people=who))


def test_a_caches_families_are_those_of_its_people(faces: Path, tmp_path: Path) -> None:
    whole = read_families(faces)
    owner = dict(zip(whole.photos, (whole.people[row] for row in whole.owner), strict=True))
    names = sorted([*whole.photos, "test/face1.jpg", "x.jpg"])
    people = [owner.get(name, "") for name in names]
    with cache_of(tmp_path / "a.h5", names, people) as cache:
        found = cached_families(cache, faces)
    assert found.people == whole.people and found.photos == whole.photos
    assert [names[row] for row in found.rows] == list(whole.photos)
    elsewhere = [f"album-{row % 2}/x/y/z/{row:04}.jpg" for row in range(len(names))]
    order = np.argsort(elsewhere)
    with cache_of(
        tmp_path / "b.h5", [elsewhere[i] for i in order], [people[i] for i in order]
    ) as cache:
        found = cached_families(cache, faces)
    assert found.people == whole.people and found.relations.tolist() == whole.relations.tolist()
    assert np.array_equal(found.photo_start, whole.photo_start)
    with (
        cache_of(tmp_path / "c.h5", ["test/F1/M1/a.jpg"], [""]) as cache,
        pytest.raises(DataError, match="who is on its 1 photos is not known"),
    ):
        cached_families(cache, faces)


def test_people_are_compared_in_nfc_and_by_case_only_where_one_is_meant() -> None:
    people = ["Peña/MID1", "Peña/MID2", "F1/Ada", "F1/ada", "F1/Bob"]
    disk = [unicodedata.normalize("NFD", person) for person in people]
    relations = [
        ("Peña/MID1", "Peña/MID2"),
        ("peña/mid1", "PEÑA/MID2"),
        ("F1/Ada", "F1/bob"),
        ("F1/ADA", "F1/Bob"),
    ]
    families = group_families([f"{n}.jpg" for n in range(5)], relations, people=disk)
    named = [
        tuple(unicodedata.normalize("NFC", families.people[row]) for row in pair)
        for pair in families.relations
    ]
    assert named == [("Peña/MID1", "Peña/MID2")] * 2 + [("F1/Ada", "F1/Bob")]
    assert families.unusable.counts == {"name people who differ by case alone": 1}
    apart = {frozenset(families.people[row] for row in pair) for pair in families.apart}
    assert apart == {frozenset({"F1/Ada", "F1/Bob"}), frozenset({"F1/ada", "F1/Bob"})}


def test_who_may_be_related_is_never_drawn_as_strangers() -> None:
    people = ["F1/Ada", "F1/ada", "F1/Bob", "F2/Cy", "F2/Di"]
    relations = [("F1/ADA", "F1/Bob"), ("F2/Cy", "F2/Di"), ("F2/Cy", "F1/Bob", "tbd")]
    relations += [("F2/Di", "F1/Bob", "spouse")]
    families = group_families([f"{n}.jpg" for n in range(5)], relations, people=people)
    sampler = PairSampler(families, np.arange(5), 0.0)
    rows, labels = sampler.sample(1, 2000, np.random.default_rng(0))
    drawn = {frozenset(families.people[p] for p in pair) for pair in families.owner_of(rows[0])}
    assert not labels.any()
    every = {frozenset(pair) for pair in itertools.combinations(people, 2)}
    assert every - drawn == {
        frozenset({"F1/Ada", "F1/Bob"}),
        frozenset({"F1/ada", "F1/Bob"}),
        frozenset({"F2/Cy", "F2/Di"}),
        frozenset({"F2/Cy", "F1/Bob"}),
    }


def test_photos_that_are_left_out_take_no_relation_with_them() -> None:
    people = ["F1/Ada", "F1/Bob", "F1/Cy", "F1/Cy"]
    relations = [("F1/Ada", "F1/Bob", "md"), ("F1/Bob", "F1/Cy", "tbd")]
    families = group_families(["a", "b", "c", "d"], relations, people=people)
    kept = families.keep(np.array([0, 1, 3]))
    assert kept.people == families.people and kept.photos == ("a", "b", "d")
    assert kept.relations.tolist() == [[0, 1]] and kept.kinds == ("md",)
    assert kept.apart.tolist() == [[1, 2]]
    without = families.keep(np.array([1, 2, 3]))
    assert without.people == ("F1/Bob", "F1/Cy") and not len(without.relations)


def test_lost_relations_are_told_with_what_would_cure_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"F0002/MID1,F0002/MID{n}" for n in (2, 10, 7, 8)]
    read_families(lay_out(tmp_path, relations="\n".join(["p1,p2", *lines]).encode()))
    assert "2 of 4 relations are not used: 2 name people without photos (F0002/MID7" in caplog.text
    caplog.clear()
    many = ["p1,p2", *lines[:2] * 10, lines[2]]
    read_families(lay_out(tmp_path / "few", relations="\n".join(many).encode()))
    assert not caplog.records
    lost = lay_out(tmp_path / "all", relations=b"p1,p2\nFAM2/MID1,FAM2/MID2\n")
    with pytest.raises(
        DataError, match=r"1 of 1 relations are not used.*people as the photos name"
    ):
        read_families(lost)


@pytest.mark.parametrize("by", ["people", "families"])
def test_a_split_is_identified_by_its_held_out_people(faces: Path, by: str) -> None:
    families = read_families(faces)
    split = split_people(families, by, 0.3, np.random.default_rng(1))
    about = describe_split(families, split, by, 0.3, 1)
    assert json.loads(json.dumps(about)) == about
    assert describe_split(families, split, by, 0.3, 1) == about
    other = split_people(families, by, 0.3, np.random.default_rng(2))
    assert describe_split(families, other, by, 0.3, 1)["held_out"] != about["held_out"]
    sides = people_of(families, split)
    assert sorted([*sides["held_out"], *sides["trained"]]) == sorted(families.people)
    assert sides["held_out"] == tuple(sorted(families.people[row] for row in split.validation))


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=20))
def test_the_owner_of_a_row_is_that_of_its_photo(order: list[int], asked: list[int]) -> None:
    names = [f"F{photo // 4}/MID{photo % 4 // 2}/{photo}.jpg" for photo in range(12)]
    moved = group_families([names[i] for i in order], [], [10 * i for i in order])
    assert moved.photos == tuple(sorted(names))
    assert [names[row // 10] for row in moved.rows.tolist()] == list(moved.photos)
    rows = 10 * np.array(asked, np.intp)
    found = [moved.people[person] for person in moved.owner_of(rows)]
    assert found == [names[row].rpartition("/")[0] for row in asked]
    for person in range(len(moved.people)):
        own = moved.photos_of(np.array([person]))
        assert (moved.owner_of(own) == person).all() and len(own) == 2


@pytest.mark.parametrize("by", ["people", "families"])
def test_a_test_part_leaves_validation_as_it_is(by: str) -> None:
    names = [f"train/F{family:04}/MID{person}/P1.jpg" for family in range(40) for person in (1, 2)]
    families = group_families(names, [])
    two, three = (
        split_people(families, by, 0.2, np.random.default_rng(3), test) for test in (0.0, 0.1)
    )
    assert not len(two.test) and np.array_equal(two.held_out, two.validation)
    assert np.array_equal(three.validation, two.validation)
    assert np.array_equal(three.held_out, three.test) and len(three.test) == 8
    everybody = np.concatenate([three.train, three.validation, three.test])
    assert np.array_equal(np.sort(everybody), np.arange(80))
    about = describe_split(families, three, by, 0.2, 3, 0.1)
    assert about["held_out"] != describe_split(families, two, by, 0.2, 3)["held_out"]
    assert "test_fraction" not in describe_split(families, two, by, 0.2, 3)
    with pytest.raises(DataError, match="cannot be split in three"):
        split_people(families, by, 0.2, np.random.default_rng(3), 0.795)


def test_relations_that_are_not_by_blood_are_left_out_and_unknown_words_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"train/F1/{person}/P1.jpg" for person in "ABCDE"]
    kinds = ["fs", "husband-wife", "stepfather", "non-kin", "", "neighbours", "", ""]
    pairs = [("A", "B"), ("A", "C"), ("A", "D"), ("A", "E"), ("B", "C"), ("B", "D")]
    relations = [(f"F1/{a}", f"F1/{b}", k) for (a, b), k in zip(pairs, kinds, strict=False)]
    families = checked(group_families(names, relations), tmp_path)
    assert families.relations.tolist() == [[0, 1], [1, 2]]
    assert families.apart.tolist() == [[1, 3]]
    assert families.unusable.counts["are of people who are not kin by blood"] == 3
    assert "1 are 'neighbours', which is no known word for kin or for others" in caplog.text
    rare = [("F1/A", "F1/B", "fs")] * 99 + [("F1/B", "F1/C", "neighbours")]
    caplog.clear()
    checked(group_families(names, rare), tmp_path)
    assert "'neighbours'" in caplog.text
