"""The synthetic families: layout, honesty of the test pairs, heredity."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.errors import DataError
from kinembed.synthetic import generate_dataset
from kinembed.synthetic.people import Traits, inherit, sample_couple, sample_family

SIDE = 64


def draw(out: Path, seed: int = 0) -> Path:
    return generate_dataset(out, families=3, test_families=2, photos=(1, 2), side=SIDE, seed=seed)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn") / "new" / "folder")


def test_photos_are_rgb_jpegs_of_the_asked_side(drawn: Path) -> None:
    photos = sorted(drawn.rglob("*.jpg"))
    assert len(photos) > 20
    for photo in photos:
        with Image.open(photo) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
            assert np.asarray(image).std() > 5


def test_every_person_has_the_asked_number_of_photos(drawn: Path) -> None:
    people = sorted(drawn.glob("train/F????/MID*"))
    assert {person.parent.name for person in people} == {"F0001", "F0002", "F0003"}
    for person in people:
        names = sorted(photo.name for photo in person.iterdir())
        assert names in (["P00001_face1.jpg"], ["P00001_face1.jpg", "P00002_face1.jpg"])


def test_relations_name_people_on_disk_and_leave_out_spouses(drawn: Path) -> None:
    header, *relations = rows(drawn / "train_relationships.csv")
    assert header == ["p1", "p2"]
    assert len({frozenset(pair) for pair in relations}) == len(relations)
    for first, second in relations:
        assert (drawn / "train" / first).is_dir()
        assert (drawn / "train" / second).is_dir()
        assert first.split("/")[0] == second.split("/")[0]
        assert {first.split("/")[1], second.split("/")[1]} != {"MID1", "MID2"}
    related = {person for pair in relations for person in pair}
    assert len(related) == len(list(drawn.glob("train/*/*")))


def test_csv_files_end_lines_with_a_line_feed(drawn: Path) -> None:
    for path in drawn.glob("*.csv"):
        assert b"\r" not in path.read_bytes()
        assert path.read_bytes().endswith(b"\n")


def test_submission_lists_test_photos_and_hides_the_labels(drawn: Path) -> None:
    header, *submission = rows(drawn / "sample_submission.csv")
    label_header, *labels = rows(drawn / "test_labels.csv")
    assert header == label_header == ["img_pair", "is_related"]
    assert [pair for pair, _ in submission] == [pair for pair, _ in labels]
    assert {label for _, label in submission} == {"0"}
    assert {label for _, label in labels} == {"0", "1"}
    assert np.mean([int(label) for _, label in labels]) == 0.5
    photos = {path.name for path in (drawn / "test").iterdir()}
    assert photos == {f"face{i:05}.jpg" for i in range(len(photos))}
    for pair, _ in labels:
        first, second = pair.split("-")
        assert first != second
        assert {first, second} <= photos
    unordered = {frozenset(pair.split("-")) for pair, _ in labels}
    assert len(unordered) == len(labels)


def test_no_test_photo_is_among_the_training_photos(drawn: Path) -> None:
    train = {path.read_bytes() for path in drawn.glob("train/*/*/*.jpg")}
    assert not train & {path.read_bytes() for path in drawn.glob("test/*.jpg")}


def test_the_seed_decides_every_byte(drawn: Path, tmp_path: Path) -> None:
    expected = contents(drawn)
    assert contents(draw(tmp_path / "again")) == expected
    other = contents(draw(tmp_path / "other", seed=1))
    face = "train/F0001/MID1/P00001_face1.jpg"
    assert other[face] != expected[face]


@pytest.mark.parametrize(
    "bad", [{"families": 0}, {"test_families": 1}, {"photos": (3, 2)}, {"photos": (0, 2)}]
)
def test_impossible_datasets_are_refused(bad: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found"):
        generate_dataset(tmp_path / "none", **bad)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def distance(first: Traits, second: Traits) -> float:
    difference = np.subtract(dataclasses.astuple(first), dataclasses.astuple(second))
    return float(np.linalg.norm(difference))


def test_children_are_nearer_their_parents_than_strangers() -> None:
    rng = np.random.default_rng(0)
    own, strange = [], []
    for _ in range(200):
        mother, father = sample_couple(rng)
        stranger, _ = sample_couple(rng)
        child = inherit(mother, father, rng)
        own += [distance(child, mother), distance(child, father)]
        strange.append(distance(child, stranger))
    assert np.mean(own) < 0.8 * np.mean(strange)
    assert np.max(own) > np.min(strange)  # no single distance tells kin from strangers


def test_a_family_is_parents_older_than_their_children_and_all_kin_but_the_spouses() -> None:
    for seed in range(50):
        family = sample_family(np.random.default_rng(seed))
        father, mother, *children = family.people
        assert father.male and not mother.male and father.parent and mother.parent
        assert len(children) in (2, 3)
        assert max(child.age for child in children) < mother.age - 15
        count = len(family.people)
        assert len(set(family.kin)) == count * (count - 1) // 2 - 1
        assert (0, 1) not in family.kin
