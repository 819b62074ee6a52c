"""A table that says who is on photos."""

from pathlib import Path

import pytest

from kinembed.data.photo_files import find_photos
from kinembed.errors import DataError

NAMES = ("train/F0001/MID1/a.jpg", "train/F0001/MID2/b.jpg", "train/F0002/MID1/c.jpg")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in (*NAMES, "train/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def people(data: Path, table: str, layout: str = "auto") -> dict[str, str]:
    path = data / "people.csv"
    path.write_text(table, encoding="utf-8")
    return find_photos(("train",), data, layout, path).people  # type: ignore[arg-type]


def test_a_table_overrides_the_layout_for_its_photos(data: Path) -> None:
    table = "photo,person,family\ntrain/x.jpg,Ada,Smith\nF0001/MID2/b.jpg,MID9,F0003\n"
    assert people(data, table) == {
        NAMES[0]: "F0001/MID1",
        NAMES[1]: "F0003/MID9",
        NAMES[2]: "F0002/MID1",
        "train/x.jpg": "Smith/Ada",
    }
    alone = people(data, table, "flat")
    assert alone == {NAMES[0]: "", NAMES[1]: "F0003/MID9", NAMES[2]: "", "train/x.jpg": "Smith/Ada"}


def test_families_may_be_left_out_or_stand_before_the_person(data: Path) -> None:
    found = people(data, "person;photo\nAda;train/x.jpg\ntrain/F7/MID1;F0001/MID2/b.jpg\n")
    assert found["train/x.jpg"] == "Ada" and found[NAMES[1]] == "F7/MID1"
    found = people(data, "photo,person,family\nx.jpg,,\nF0001/MID2/b.jpg,Bob,\n")
    assert found["train/x.jpg"] == "" and found[NAMES[1]] == "Bob"


def test_rows_of_no_photo_are_counted(data: Path) -> None:
    (data / "people.csv").write_text("photo,person\nx.jpg,Ada\nF0001/MID2/bb.jpg,Bob\nz.jpg,Cy\n")
    found = find_photos(("train",), data, people_table=data / "people.csv")
    assert found.notes[-1].endswith(
        "says who is on 1 photos; 2 of its rows name no photo (F0001/MID2/bb.jpg; nearest: "
        "train/F0001/MID2/b.jpg)"
    )


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("photo,person\nx.jpg,..\n", r"people\.csv, line 2: found person '\.\.', wanted photo"),
        ("photo,person\nx.jpg,a\x01\n", r"line 2: found person 'a\\x01'"),
        ("photo,person\nx.jpg,Ada\ntrain/x.jpg,Bob\n", "line 3: train/x.jpg shows Bob, but Ada"),
        ("photo,who knows\nx.jpg,Ada\n", "wanted photo,person,family"),
        ("", "empty; wanted a CSV of lines photo,person,family"),
    ],
)
def test_a_malformed_table_is_refused(data: Path, table: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        people(data, table)
