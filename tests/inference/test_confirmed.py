"""Answers about an album: reading them, and what follows from them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.errors import DataError
from kinembed.inference.album import Confirmed
from kinembed.inference.confirmed import read_confirmed, resolve

FACES = ["a.jpg#1", "a.jpg#2", "b.jpg#1", "c.jpg#1", "d.jpg#1"]
HERE = Path("confirmed.csv")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "confirmed.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def said(*rows: str) -> list[Confirmed]:
    return [Confirmed(*row.split(",")) for row in rows]  # type: ignore[arg-type]


def test_a_table_as_the_page_saves_it(tmp_path: Path) -> None:
    text = (
        'answer,left,right\nsame,a.jpg#1,b.jpg#1\nname,"a, b.jpg#2",Ann\nkin,\'=x.jpg#1,y.jpg#1\n'
    )
    assert read_confirmed(written(tmp_path, text)) == [
        Confirmed("same", "a.jpg#1", "b.jpg#1"),
        Confirmed("name", "a, b.jpg#2", "Ann"),
        Confirmed("kin", "=x.jpg#1", "y.jpg#1"),
    ]
    assert read_confirmed(written(tmp_path, "\ufeffanswer,left,right\r\n")) == []
    assert read_confirmed(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "found columns '', wanted answer,left,right"),
        ("left,right\na,b\n", "wanted answer,left,right"),
        ("answer,left,right\nmaybe,a#1,b#1\n", "line 2: found answer 'maybe', wanted same"),
        ("answer,left,right\nsame,a#1\n", "line 2: found an empty cell"),
        ("answer,left,right\nkin,a#1,a#1\n", "line 2: found 'a#1' twice"),
        ("answer,left,right\nkin,a#1,b#1\nname,a#1,..\n", "line 3: found name '..'"),
        (b"answer,left,right\nsame,\xff,b\n", "cannot be read"),
        (b"\x00PK", "confirmed.csv"),
    ],
)
def test_tables_that_are_malformed(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as error:
        read_confirmed(written(tmp_path, text))
    assert "\n" not in str(error.value) and "confirmed.csv" in str(error.value)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_confirmed(tmp_path)


def test_what_follows_from_answers() -> None:
    rows = said("same,c.jpg#1,a.jpg#1", "different,a.jpg#1,b.jpg#1", "kin,d.jpg#1,a.jpg#1")
    result = resolve([*rows, *said("name,c.jpg#1,Ann")], FACES, [""] * 5, HERE)
    assert set(result.together) == {(0, 3)} and result.apart == [(0, 2), (0, 4)]
    assert result.kin == {(0, 4): True}
    assert result.named == ("Ann", "", "", "Ann", "")
    assert len(result.used) == 4 and not result.left_out


def test_answers_about_faces_that_are_gone_are_counted() -> None:
    rows = said("same,a.jpg#1,gone.jpg#1", "name,lost.jpg#2,Ann", "kin,a.jpg#1,b.jpg#1")
    result = resolve(rows, FACES, [""] * 5, HERE)
    assert str(result.left_out) == "2 answers name a face that is gone (gone.jpg#1)"
    assert result.used == rows[2:] and not result.together


def test_a_name_renames_all_of_a_folders_faces() -> None:
    result = resolve(said("name,a.jpg#1,Annie"), FACES, ["Ann", "", "Ann", "Bob", ""], HERE)
    assert result.named == ("Annie", "", "Annie", "Bob", "")
    assert (0, 2) in result.together


def test_one_name_for_two_folders_makes_them_one_person() -> None:
    result = resolve(said("name,a.jpg#1,Bob"), FACES, ["Ann", "", "Ann", "Bob", ""], HERE)
    assert result.named == ("Bob", "", "Bob", "Bob", "")
    assert {(0, 2), (0, 3)} <= set(result.together)


@pytest.mark.parametrize(
    ("rows", "named", "problem"),
    [
        (("same,a.jpg#1,b.jpg#1", "different,b.jpg#1,a.jpg#1"), "", "are different people, but"),
        (
            ("same,a.jpg#1,b.jpg#1", "same,b.jpg#1,c.jpg#1", "different,a.jpg#1,c.jpg#1"),
            "", "a.jpg#1 and c.jpg#1 are different people, but",
        ),
        (("same,a.jpg#1,b.jpg#1", "kin,b.jpg#1,a.jpg#1"), "", "are different people, but"),
        (("kin,a.jpg#1,b.jpg#1", "not-kin,b.jpg#1,a.jpg#1"), "", "are kin and not-kin"),
        (
            ("kin,a.jpg#1,b.jpg#1", "same,b.jpg#1,c.jpg#1", "not-kin,c.jpg#1,a.jpg#1"),
            "", "the same two, not-kin",
        ),
        (("name,a.jpg#1,Ann", "name,a.jpg#1,Bob"), "", "is called Ann and Bob"),
        (
            ("same,a.jpg#1,b.jpg#1", "name,a.jpg#1,Ann", "name,b.jpg#1,Bob"),
            "", "called Ann, and b.jpg#1, called Bob, are the same person",
        ),
        (("same,a.jpg#1,b.jpg#1",), "A-B--", "who are A and B by folder or table"),
        (("different,a.jpg#1,b.jpg#1",), "A-A--", "are different people, but"),
        (("name,a.jpg#1,Ann", "name,b.jpg#1,Ann", "kin,a.jpg#1,b.jpg#1"), "", "are different"),
    ],
)  # fmt: skip
def test_answers_that_contradict_each_other(
    rows: tuple[str, ...], named: str, problem: str
) -> None:
    names = [letter.strip("-") for letter in named or "-----"]
    with pytest.raises(DataError, match=problem) as error:
        resolve(said(*rows), FACES, names, HERE)
    assert str(error.value).startswith("confirmed.csv: ") and "\n" not in str(error.value)


@given(
    st.lists(
        st.tuples(st.sampled_from(["same", "different"]), *[st.integers(0, 4)] * 2), max_size=6
    )
)
def test_a_contradiction_is_found_wherever_there_is_one(rows: list[tuple[str, int, int]]) -> None:
    """By trying all ways to divide five faces into people."""
    rows = [row for row in rows if row[1] != row[2]]
    divisions = [
        (0, *rest)
        for rest in (
            (a, b, c, d) for a in range(2) for b in range(3) for c in range(4) for d in range(5)
        )
    ]
    possible = any(
        all((people[i] == people[j]) == (kind == "same") for kind, i, j in rows)
        for people in divisions
    )
    answers = [Confirmed(kind, FACES[i], FACES[j]) for kind, i, j in rows]  # type: ignore[arg-type]
    try:
        resolve(answers, FACES, [""] * 5, HERE)
    except DataError:
        assert not possible
    else:
        assert possible
