"""Tables of what a training leaves out: what they say, and what is left."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.exclusions import COLUMNS, Exclusions, read_exclusions, without
from kinembed.data.families import Families, group_families
from kinembed.data.left_out import LeftOut
from kinembed.errors import DataError
from kinembed.io import write_csv

HEADER = ",".join(COLUMNS)


def families() -> Families:
    photos = [f"F{f}/MID{m}/{p}.jpg" for f in range(3) for m in range(3) for p in (0, 1)]
    relations = [(f"F{f}/MID0", f"F{f}/MID{m}", "fs") for f in range(3) for m in (1, 2)]
    return group_families(photos, relations, rows=range(100, 118))


def test_photos_people_and_pairs_are_left_out() -> None:
    excluded = Exclusions(
        ("F0/MID0/0.jpg", "gone.jpg"), ("F1/MID1", "F9/MID9"),
        (("F2/MID1", "F2/MID0"), ("F0/MID1", "F2/MID1"), ("F0/MID0", "F7/MID0")),
    )  # fmt: skip
    unknown = LeftOut()
    rest = without(families(), excluded, unknown)
    assert len(rest.photos) == 15 and "F0/MID0/0.jpg" not in rest.photos
    assert "F1/MID1" not in rest.people and len(rest.people) == 8
    names = [tuple(rest.people[row] for row in pair) for pair in rest.relations.tolist()]
    assert names == [
        ("F0/MID0", "F0/MID1"), ("F0/MID0", "F0/MID2"), ("F1/MID0", "F1/MID2"),
        ("F2/MID0", "F2/MID2"),
    ]  # fmt: skip
    assert rest.kinds == ("fs",) * 4
    apart = {frozenset(rest.people[row] for row in pair) for pair in rest.apart.tolist()}
    assert apart == {frozenset(("F2/MID0", "F2/MID1")), frozenset(("F0/MID1", "F2/MID1"))}
    assert unknown.counts == {
        "name photos that are not in the cache": 1,
        "name people without photos": 2,
    }
    # Each photo keeps its row of the vectors.
    row_of = dict(zip(families().photos, families().rows.tolist(), strict=True))
    assert [row_of[photo] for photo in rest.photos] == rest.rows.tolist()


def test_nothing_excluded_changes_nothing() -> None:
    before, after = families(), without(families(), Exclusions((), (), ()), LeftOut())
    assert after.photos == before.photos and np.array_equal(after.relations, before.relations)
    assert np.array_equal(after.rows, before.rows) and after.kinds == before.kinds


def test_to_exclude_everybody_is_refused() -> None:
    with pytest.raises(DataError, match="all photos are excluded"):
        without(families(), Exclusions((), families().people, ()), LeftOut())


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(
    st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4),
    st.lists(st.tuples(NAMES, NAMES).filter(lambda pair: pair[0] != pair[1]), max_size=4),
)  # fmt: skip
def test_what_is_written_is_read_again(
    tmp_path: Path, photos: list[str], people: list[str], pairs: list[tuple[str, str]]
) -> None:
    rows = [
        *((photo, "", "") for photo in photos),
        *(("", person, "") for person in people),
        *(("", *pair) for pair in pairs),
    ]
    path = tmp_path / "exclude.csv"
    write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows], COLUMNS)
    assert read_exclusions(path) == Exclusions(tuple(photos), tuple(people), tuple(pairs))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"photo,person\na.jpg,F0/MID1\n", "found columns photo, person; wanted the columns"),
        (b"", "found columns ; wanted"),
        (f"{HEADER}\na.jpg,F0/MID1,\n".encode(), "line 2: found 'a.jpg', 'F0/MID1', ''"),
        (f"{HEADER}\n,,F0/MID1\n".encode(), "line 2: found '', '', 'F0/MID1'"),
        (f"{HEADER}\n,A,A\n".encode(), "line 2: found '', 'A', 'A'"),
        (f"{HEADER}\na.jpg\n,,\n".encode(), "line 3: found '', '', ''; wanted a photo, a person"),
        (f"{HEADER}\n,A,B,C\n".encode(), "line 2: found more cells than columns"),
        (f'{HEADER}\na.jpg,,"\n'.encode(), "no table"),
        (b"\xff\xfe\x00\xd8", "no table"),
    ],
)
def test_malformed_tables_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "exclude.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_exclusions(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: cannot be read \(No such file"):
        read_exclusions(tmp_path / "no.csv")
