"""Answers about an album: reading them, and what follows from them."""

import os
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.errors import DataError
from kinembed.inference.album import Confirmed
from kinembed.inference.confirmed import read_confirmed, resolve, with_marks_of

FACES = ["a.jpg#1", "a.jpg#2", "b.jpg#1", "c.jpg#1", "d.jpg#1"]
HERE = Path("confirmed.csv")
MARKED = "answer,left,right,left_mark,right_mark\n"
MARKS = [f"{digit * 12} {left} 0 {left + 100} 100"
         for digit, left in (("a", 0), ("a", 90), ("b", 0), ("c", 0), ("d", 0))]  # fmt: skip


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
        ("answer,left,right\nname,a#1,Smith, Anna\n", "line 2: found more cells than columns"),
        ('answer,left,right\nname,a#1,"Anna\n', "unexpected end of data"),
        (MARKED + "kin,a#1,b#1,0123456789ab 1 2 3,\n", "line 2: .* wanted marks as relate.html"),
        (MARKED + "name,a#1,Smith, Anna\n", "line 2: found ' Anna,' behind the answer"),
        (MARKED + "kin,a#1,b#1,,,,\n", "line 2: found more cells than columns"),
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


def test_a_pipe_is_no_table_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "confirmed.csv")
    with pytest.raises(DataError, match="it is no file"):
        read_confirmed(tmp_path / "confirmed.csv")


def test_marks_may_be_there_empty_or_missing(tmp_path: Path) -> None:
    text = f"{MARKED}kin,a#1,b#1,{MARKS[0]},{MARKS[2]}\nsame,a#1,c#1,,\nname,a#1,Ann\n"
    assert read_confirmed(written(tmp_path, text)) == [
        Confirmed("kin", "a#1", "b#1", MARKS[0], MARKS[2]),
        Confirmed("same", "a#1", "c#1"),
        Confirmed("name", "a#1", "Ann"),
    ]


def test_an_answer_follows_its_face_and_is_set_aside_where_that_is_gone() -> None:
    """The photographs a and b have changed their names, and c is another one now."""
    given = resolve(said("name,a.jpg#2,Ann", "kin,b.jpg#1,c.jpg#1"), FACES, [""] * 5, HERE, MARKS)
    assert given.used == given.bound and given.used[0].left_mark == MARKS[1]
    faces = ["b.jpg#1", "b.jpg#2", "a.jpg#1", "c.jpg#1", "d.jpg#1"]
    marks = [*MARKS[:3], "9" * 12 + " 0 0 100 100", MARKS[4]]
    later = resolve(given.bound, faces, [""] * 5, HERE, marks)
    assert later.names == {1: "Ann"} and not later.kin
    assert later.used == [Confirmed("name", "b.jpg#2", "Ann", MARKS[1])]
    assert later.aside == [given.used[1]]  # with its marks, for when c is back
    assert set(later.left_out.counts.values()) == {1}
    assert "set aside because another face is there now (c.jpg#1)" in str(later.left_out)
    assert "moved with a photo that is called otherwise now (a.jpg#2 is b.jpg#2 now)" in str(
        later.left_out
    )
    assert resolve(later.bound, FACES, [""] * 5, HERE, MARKS).used == given.used


def test_a_mark_finds_its_face_by_place_whatever_its_number() -> None:
    moved = f"{'a' * 12} 96 3 197 104"  # of the second face, as another device may find it
    result = resolve([Confirmed("name", "a.jpg#1", "Ann", moved)], FACES, [""] * 5, HERE, MARKS)
    assert result.names == {1: "Ann"}
    far = replace(result.bound[0], left_mark=f"{'a' * 12} 300 0 400 100")
    assert resolve([far], FACES, [""] * 5, HERE, MARKS).aside == [far]


def test_answers_typed_by_hand_keep_the_faces_of_the_call_before() -> None:
    typed = said("name,a.jpg#1,Ann", "same,b.jpg#1,c.jpg#1")
    bound = [replace(typed[0], left_mark=MARKS[0]), Confirmed("kin", "b.jpg#1", "c.jpg#1", "x")]
    assert with_marks_of(typed, bound) == [bound[0], typed[1]]
    own = [replace(typed[0], left_mark=MARKS[4])]
    assert with_marks_of(own, bound) == own


@pytest.mark.parametrize("file", [" a.jpg#1", "a.jpg #1", "Andr\N{COMBINING ACUTE ACCENT}e.jpg#1"])
def test_a_file_name_counts_with_its_spaces_and_in_any_form(tmp_path: Path, file: str) -> None:
    faces = [file, "a.jpg#1", "b.jpg#1"]
    rows = read_confirmed(written(tmp_path, f"answer,left,right\nkin,{file}, b.jpg#1\n"))
    assert resolve(rows, faces, [""] * 3, HERE).kin == {(0, 2): True}
    rows = [Confirmed("kin", normalize("NFC", file), "b.jpg#1")]
    assert resolve(rows, faces, [""] * 3, HERE).kin == {(0, 2): True}


def test_one_name_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    one, other = (normalize(form, "Andr\N{LATIN SMALL LETTER E WITH ACUTE}")
                  for form in ("NFC", "NFD"))  # fmt: skip
    rows = read_confirmed(
        written(tmp_path, f"answer,left,right\nname,a.jpg#1,{one}\nname,b.jpg#1,{other}\n")
    )
    result = resolve(rows, FACES, ["", "", "", other, ""], HERE)
    assert result.named == (one, "", one, one, "")


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
