"""FIW's matrices of relations."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.families import Families, read_families
from kinembed.data.relations import Code, find_relations, read_matrix
from kinembed.data.samplers import PairSampler, held_out_pairs
from kinembed.errors import DataError

FAMILY = """MID,1,2,3,4,5,Name,Gender
1,0,4,5,6,4,Ada,f
2,1,0,1,4,2,"Bob, jr.",m
3,5,4,0,6,4,Cy,m
4,3,1,3,0,9,Dé,f
5,1,2,1,9,0,Eve,
"""


def matrix(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mid.csv").write_bytes(text.encode(encoding))
    return folder / "mid.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_matrix_gives_relations_and_their_types(tmp_path: Path, encoding: str) -> None:
    path = matrix(tmp_path / "F0001", FAMILY, encoding)
    named = [(one[9:], other[9:], kind) for one, other, kind in read_matrix(path).relations]
    assert named == [
        ("1", "2", "ms"),
        ("1", "3", "spouses"),
        ("1", "4", "gmgd"),
        ("1", "5", ""),
        ("3", "2", "fs"),
        ("2", "4", "fd"),
        ("2", "5", ""),
        ("3", "4", "gfgd"),
        ("3", "5", ""),
        ("4", "5", "tbd"),
    ]


def test_a_matrix_that_contradicts_itself_says_no_relation(tmp_path: Path) -> None:
    text = "MID,1,2,3,Gender\n1,0,4,2,m\n2,4,0,x,m\n3,,,0,m\n"
    assert read_matrix(matrix(tmp_path / "F1", text)).relations == [
        ("F1/MID1", "F1/MID2", "tbd"),
        ("F1/MID1", "F1/MID3", "bb"),  # one side is enough
        ("F1/MID2", "F1/MID3", "tbd"),
    ]


@given(st.integers(2, 6), st.integers(0, 9999))
def test_relations_are_those_of_a_slow_reader(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.zeros((count, count), int)
    for a in range(count):
        for b in range(a + 1, count):
            codes[a, b] = rng.integers(10)
            inverse = {1: 4, 4: 1, 3: 6, 6: 3, 7: 8, 8: 7}
            codes[b, a] = inverse.get(int(codes[a, b]), codes[a, b])
    genders = rng.choice(["m", "f"], count).tolist()
    members = range(1, count + 1)
    lines = [["MID", *members, "Gender"]]
    lines += [[m, *codes[m - 1], genders[m - 1]] for m in members]
    text = "\n".join(",".join(map(str, line)) for line in lines)
    wanted = set()
    for a in range(count):
        for b in range(count):
            g, h = genders[a], genders[b]
            elder, younger = {"m": "f", "f": "m"}[g], {"m": "s", "f": "d"}[h]
            kind = {
                2: {"mm": "bb", "ff": "ss"}.get(g + h, "sibs") if a < b else None,
                4: elder + younger,
                5: "spouses" if a < b else None,
                6: f"g{elder}g{younger}",
                8: f"gg{elder}gg{younger}",
                9: "tbd" if a < b else None,
            }.get(int(codes[a, b]))
            if kind and a != b:
                wanted.add((f"F1/MID{a + 1}", f"F1/MID{b + 1}", kind))
    found = read_matrix(matrix(tmp_path_factory.mktemp("fiw") / "F1", text)).relations
    assert set(found) == wanted and len(found) == len(wanted)
    assert all(Code(code).inverse.inverse == code for code in range(1, 10))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "MID,1,2\nAda,0,1\n", 'MID,1\n"1"x,0\n"', "MID,1," + "x" * (1 << 20)]
)
def test_what_is_no_matrix_is_refused(text: str, tmp_path: Path) -> None:
    path = matrix(tmp_path / "F1", text)
    with pytest.raises(DataError, match=r"mid\.csv.*wanted FIW's"):
        read_matrix(path)


def fiw(root: Path) -> Path:
    """FIW as it is shipped: no train/, no test/, no table of relations."""
    for name in ("F0001", "F0002"):
        matrix(root / "FIDs" / name, FAMILY)
        for member in range(1, 6):
            photo = root / "FIDs" / name / f"MID{member}" / "P00001_face0.jpg"
            photo.parent.mkdir()
            photo.touch()
    return root


def test_fiw_is_read_as_it_is_shipped(tmp_path: Path) -> None:
    families = read_families(fiw(tmp_path))
    assert len(families.people) == 10 and len(families.relations) == 16
    assert families.unusable.counts == {
        "are of people who are not kin by blood": 2,
        "are of unknown degree": 2,
    }
    kinds = set(families.kinds)
    assert kinds == {"", "ms", "fs", "fd", "gmgd", "gfgd"}
    rng = np.random.default_rng(0)
    pairs = held_out_pairs(families, families.people, 400, rng)
    assert set(pairs.relations) == kinds
    assert not any(kind for kind, kin in zip(pairs.relations, pairs.labels, strict=True) if not kin)
    rows, _ = PairSampler(families, np.arange(10), 0.0).sample(1, 2000, rng)
    drawn = {frozenset(families.people[p] for p in pair) for pair in families.owner_of(rows[0])}
    assert frozenset({"F0001/MID1", "F0001/MID3"}) in drawn  # spouses are no kin
    assert frozenset({"F0001/MID4", "F0001/MID5"}) not in drawn  # not known yet


def test_a_matrix_that_cannot_be_read_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fiw(tmp_path)
    (root / "FIDs" / "F0002" / "mid.csv").write_text("nothing")
    assert {one.split("/")[0] for one, _, _ in find_relations(root).rows} == {"F0001"}
    assert "of 2 mid.csv, 1 cannot be read (" in caplog.text
    (root / "FIDs" / "F0001" / "mid.csv").write_text("nothing")
    with pytest.raises(DataError, match=r"no relations in 2 mid\.csv: 2 cannot be read"):
        find_relations(root)


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_matrix_may_have_other_separators(tmp_path: Path, separator: str, encoding: str) -> None:
    text = FAMILY.replace("Bob, jr.", "Bob")
    wanted = read_matrix(matrix(tmp_path / "F1", text))
    assert len(wanted.relations) == 10 and len(wanted.members) == 5
    other = text.replace(",", separator)
    assert read_matrix(matrix(tmp_path / "F1", other, encoding)) == wanted


def drawn_as_strangers(families: Families) -> set[frozenset[str]]:
    sampler = PairSampler(families, np.arange(len(families.people)), 0.0)
    rows, _ = sampler.sample(1, 4000, np.random.default_rng(0))
    return {frozenset(families.people[p] for p in pair) for pair in families.owner_of(rows[0])}


def within(pairs: set[frozenset[str]], family: str) -> set[frozenset[str]]:
    return {pair for pair in pairs if all(person.startswith(f"{family}/") for person in pair)}


@pytest.mark.parametrize("how", ["unread", "missing", "empty"])
def test_a_family_whose_relations_are_not_told_has_no_strangers(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = fiw(tmp_path)
    path = root / "FIDs" / "F0002" / "mid.csv"
    if how == "missing":
        path.unlink()
    else:
        path.write_text("" if how == "empty" else "no matrix")
    families = read_families(root)
    strangers = drawn_as_strangers(families)
    assert not within(strangers, "F0002") and within(strangers, "F0001")
    assert any(len({person[:5] for person in pair}) == 2 for pair in strangers)
    assert sum(families.family_names()[a] == "F0002" for a, _ in families.apart.tolist()) == 10
    assert "of 5 people of 1 families are not told (F0002/MID1, …)" in caplog.text


def test_a_row_of_no_member_is_left_out_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = FAMILY + "Total,,,,\n"
    assert (
        read_matrix(matrix(tmp_path / "F1", text))[:2]
        == read_matrix(matrix(tmp_path / "F1", FAMILY))[:2]
    )
    root = fiw(tmp_path / "data")
    matrix(root / "FIDs" / "F0002", text)
    families = read_families(root)
    assert len(families.relations) == 16 and len(families.apart) == 2
    assert "1 of no member are left out (" in caplog.text and "Total,,,," in caplog.text


def test_members_without_a_whole_row_or_a_column_are_nobodys_strangers(tmp_path: Path) -> None:
    root = fiw(tmp_path)
    # 5's row is damaged, 1 has none, and the photos show a sixth member.
    text = "MID,1,2,3,4,5\n2,0,0,0,0,0\n3,0,0,0,0,0\n4,0,0,0,0,0\n5,0,0\n"
    matrix(root / "FIDs" / "F0002", text)
    photo = root / "FIDs" / "F0002" / "MID6" / "P1_face0.jpg"
    photo.parent.mkdir()
    photo.touch()
    strangers = within(drawn_as_strangers(read_families(root)), "F0002")
    assert strangers == {
        frozenset({f"F0002/MID{a}", f"F0002/MID{b}"}) for a, b in ((2, 3), (2, 4), (3, 4))
    }


def test_kaggles_table_goes_before_matrices(tmp_path: Path) -> None:
    root = fiw(tmp_path)
    (root / "train_relationships.csv").write_text("p1,p2\nF0001/MID1,F0001/MID2\n")
    assert find_relations(root) == ([("F0001/MID1", "F0001/MID2", "")], None)
