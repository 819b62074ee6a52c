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
        "says who is on 1 photo; 2 of its rows name no photo (F0001/MID2/bb.jpg; nearest: "
        "train/F0001/MID2/b.jpg)"
    )


def test_one_person_is_one_whether_or_not_a_row_says_the_family(data: Path) -> None:
    found = people(data, f"photo,person,family\n{NAMES[0]},Ada,\n{NAMES[1]},Ada,Smith\n")
    assert found[NAMES[0]] == found[NAMES[1]] == "Smith/Ada"
    found = people(data, f"photo,person\n{NAMES[1]},Smith/Ada\n{NAMES[0]},Ada\nx.jpg,Bob\n")
    assert found[NAMES[0]] == found[NAMES[1]] == "Smith/Ada" and found["train/x.jpg"] == "Bob"
    twice = people(data, "photo,person,family\nx.jpg,Ada,Smith\nx.jpg,Ada,\n")
    assert twice["train/x.jpg"] == "Smith/Ada"


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", "None", "none", "NULL", "<NA>"])
def test_an_empty_family_or_person_is_none_however_it_is_written(data: Path, empty: str) -> None:
    table = f"photo,person,family\nx.jpg,Ada,{empty}\n{NAMES[0]},{empty},Smith\n"
    found = people(data, table)
    assert found["train/x.jpg"] == "Ada" and found[NAMES[0]] == ""
    assert people(data, "photo,person,family\nx.jpg,Nan,Smith\n")["train/x.jpg"] == "Smith/Nan"


def test_people_of_one_name_in_several_families_are_said(data: Path) -> None:
    table = data / "people.csv"
    table.write_text(f"photo,person,family\n{NAMES[0]},Ada,Smith\n{NAMES[1]},Ada,Jones\n")
    notes = find_photos(("train",), data, people_table=table).notes
    assert notes[-2].endswith(
        "1 names are of people of several families, who are taken for different people "
        "(Jones/Ada and Smith/Ada)"
    )


def test_a_row_of_several_photos_is_told_from_one_of_none(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "2.jpg"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    table = tmp_path / "people.csv"
    table.write_text("photo,person\n1.jpg,Ada\nb/1.jpg,Bob\nz.jpg,Cy\n")
    found = find_photos((str(tmp_path / "mine"),), tmp_path, people_table=table)
    assert found.people == {"2.jpg": "", "a/1.jpg": "", "b/1.jpg": "Bob"}
    assert (
        "1 of its rows may name several photos each (1.jpg: photo '1.jpg' may be a/1.jpg or "
        in (found.notes[-1])
    )
    assert "; 1 of its rows name no photo (z.jpg" in found.notes[-1]


def test_folders_in_the_table_are_those_of_the_photo(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        (tmp_path / "mine" / name).touch()
    table = tmp_path / "people.csv"
    rows = ["b/1.jpg,Ada", "mine/2.jpg,Bob", f"{tmp_path}/mine/3.jpg,Cy", "/other/4.jpg,Di"]
    table.write_text("\n".join(["photo,person", *rows]))
    found = find_photos((str(tmp_path / "mine"),), tmp_path, people_table=table)
    assert found.people == {"1.jpg": "", "2.jpg": "Bob", "3.jpg": "Cy", "4.jpg": ""}
    assert "2 of its rows name no photo (b/1.jpg" in found.notes[-1]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("photo,person\nx.jpg,..\n", r"people\.csv, line 2: found person '\.\.', wanted photo"),
        ("photo,person\nx.jpg,a\x01\n", r"line 2: found person 'a\\x01'"),
        ("photo,person\nx.jpg,Ada\ntrain/x.jpg,Bob\n", "line 3: train/x.jpg shows Bob, but Ada"),
        ("photo,person\nz.jpg,Ada\n", r"says who is on no photo: 1 of its rows name no photo \(z"),
        (
            "photo,person,family\nx.jpg,Smith/Ada,Jones\n",
            "line 2: found person 'Smith/Ada' and fam",
        ),
        (
            f"photo,person,family\nx.jpg,Ada,\n{NAMES[0]},Ada,Smith\n{NAMES[1]},Ada,Jones\n",
            "line 2: Ada has no family, but is of Jones and of Smith in other rows",
        ),
        (
            "photo,person,family\nx.jpg,Ada,Smith\nx.jpg,Ada,Jones\n",
            "line 3: .*shows Jones/Ada, but",
        ),
        ("photo,who knows\nx.jpg,Ada\n", "wanted photo,person,family"),
        ("", "empty; wanted a CSV of lines photo,person,family"),
    ],
)
def test_a_malformed_table_is_refused(data: Path, table: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        people(data, table)
