"""Tables: relations, labels, lists and submissions, however they are written."""

import gzip
import tracemalloc
from pathlib import Path

import pytest

from kinembed.data.pair_files import read_pairs
from kinembed.data.tables import Shape, clean_name, read_relations, read_table, truth, truth_of
from kinembed.errors import DataError


def relations_of(tmp_path: Path, content: bytes) -> list[tuple[str, str]]:
    path = tmp_path / "relations.csv"
    path.write_bytes(content)
    return [(row.one, row.other) for row in read_relations(path)]


def problem_of(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(DataError) as error:
        relations_of(tmp_path, content)
    assert "\n" not in str(error.value)
    return str(error.value)


# Relations


@pytest.mark.parametrize(
    "content",
    [
        b"p1,p2\nF0002/MID1,F0002/MID3\nF0005/MID2,F0005/MID1\n",
        b"p1,p2\nF0002\\MID1,F0002\\MID3\nF0005\\MID2,F0005\\MID1\n",
        b"p1,p2\nF0002/MID1,F0002\\MID3\nF0005\\MID2,F0005/MID1\n",
        b"\xef\xbb\xbfp1,p2\r\nF0002/MID1,F0002/MID3\r\nF0005/MID2,F0005/MID1\r\n",
        b"\np1,p2\n\nF0002/MID1,F0002/MID3\n\n\nF0005/MID2,F0005/MID1",
        b"F0002/MID1,F0002/MID3\nF0005/MID2,F0005/MID1\n",
        b'"p1","p2"\n"F0002/MID1","F0002/MID3"\n F0005/MID2 , F0005/MID1\n',
        b",p1,p2\n0,F0002/MID1,F0002/MID3\n1,F0005/MID2,F0005/MID1\n",
        b"Unnamed: 0,P2,P1\n0,F0002/MID3,F0002/MID1\n1,F0005/MID1,F0005/MID2\n",
        b'"p1" "p2"\n"1" "F0002/MID1" "F0002/MID3"\n"2" "F0005/MID2" "F0005/MID1"\n',
        b"0,F0002/MID1,F0002/MID3\n1,F0005/MID2,F0005/MID1\n",
        b"p1;p2\nF0002/MID1;F0002/MID3\nF0005/MID2;F0005/MID1\n",
        b"Person_1\tPerson_2\nF0002/MID1\tF0002/MID3\nF0005/MID2\tF0005/MID1\n",
        b"F0002/MID1 F0002/MID3\r\nF0005/MID2   F0005/MID1\r\n",
        b"relation,p1,p2\nfs,F0002/MID1,F0002/MID3\nms,F0005/MID2,F0005/MID1\n",
        b"fs,F0002/MID1,F0002/MID3\nms,F0005/MID2,F0005/MID1\n",
        b"anybody,whose relative\nF0002/MID1,F0002/MID3\nF0005/MID2,F0005/MID1\n",
        b"p1,p2,\ntrain/F0002//MID1,./train/F0002/MID3,\n/x/F0005/MID2,C:\\x\\F0005\\MID1,\n",
        "p1,p2\nF0002/MID1,F0002/MID3\nF0005/MID2,F0005/MID1\n".encode("utf-16"),
        b"p1,p2\rF0002/MID1,F0002/MID3\rF0005/MID2,F0005/MID1\r",
    ],
    ids=[
        *("slash", "backslash", "both", "bom-crlf", "blank-lines", "no-header", "quotes-spaces"),
        *("pandas", "unnamed", "r", "index", "semicolon", "tab", "blanks", "relation first"),
        *("relation, no header", "unknown header", "paths", "utf-16", "cr"),
    ],
)
def test_relations_read_the_same_however_they_are_written(tmp_path: Path, content: bytes) -> None:
    assert relations_of(tmp_path, content) == [
        ("F0002/MID1", "F0002/MID3"),
        ("F0005/MID2", "F0005/MID1"),
    ]


def test_relations_keep_their_order_and_their_duplicates(tmp_path: Path) -> None:
    lines = b"F2/B,F2/A\nF1/A,F1/B\nF2/B,F2/A\nF2/A,F2/B\n"
    wanted = [("F2/B", "F2/A"), ("F1/A", "F1/B"), ("F2/B", "F2/A"), ("F2/A", "F2/B")]
    assert relations_of(tmp_path, lines) == wanted


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("F0002/MID1", "F0002/MID1"),
        ("F0002/MID1,F0002/MID3,1", "F0002/MID1,F0002/MID3,1"),
        ("F0002/MID1,MID3", "F0002/MID1,MID3"),
        ("Grandma Rosa,Bea", "Grandma Rosa,Bea"),
        ("F0002/MID1,F0002/MID3/P1.jpg", "F0002/MID1,F0002/MID3/P1.jpg"),
        ("p1,p2", "p1,p2"),
    ],
)
def test_a_row_that_is_not_two_people_is_named_with_its_line(
    tmp_path: Path, row: str, found: str
) -> None:
    content = f"p1,p2\nF0002/MID1,F0002/MID2\n\n{row}\n"
    problem = problem_of(tmp_path, content.encode())
    assert f"relations.csv, line 4: found {found!r}" in problem
    assert "FAMILY/PERSON" in problem
    if "fields under" not in problem:
        assert "--people-table" in problem


def test_relations_of_one_column_are_refused_at_their_header(tmp_path: Path) -> None:
    assert "line 1: found 'p1'" in problem_of(tmp_path, b"p1\nF0002/MID1\n")


def test_relations_that_are_not_there_or_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: no such file; wanted a CSV of lines p1,p2"):
        read_relations(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="Is a directory; wanted a CSV"):
        read_relations(tmp_path)
    assert "relations.csv: empty" in problem_of(tmp_path, b"")
    assert "relations.csv: empty" in problem_of(tmp_path, b"\xef\xbb\xbf\r\n\r\n")
    assert "relations.csv: a header but no rows" in problem_of(tmp_path, b"p1,p2\n")


def test_relations_that_are_not_text_are_named_with_their_line(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, b"p1,p2\nF0002/MID1,F0002/MID2\nF\xe9/MID1,F\xe9/MID2\n")
    assert "relations.csv, line 3: not a CSV of UTF-8 text" in problem
    problem = problem_of(tmp_path, b'p1,p2\nF0002/MID1,F0002/MID2\n"F0002/MID1"x,F0002/MID2\n')
    assert "relations.csv, line 3: not a CSV of UTF-8 text" in problem


def test_relations_say_how_people_are_related_where_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "relations.csv"
    path.write_text("p1,p2,Relation\nF2/A,F2/B,fs\n\nF2/A,F2/C, md\n")
    assert [(row.kind, row.line) for row in read_relations(path)] == [("fs", 2), ("md", 4)]
    path.write_text("p1,p2\nF2/A,F2/B\n")
    assert read_relations(path)[0].kind == ""


def test_columns_that_could_be_the_pair_are_refused(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, b"p1,p2,face1,face2\nF1/A,F1/B,F1/C,F1/D\n")
    assert "line 1: found columns p1,p2 and face1,face2, either of which may be the pair" in problem
    assert "F1/A" in relations_of(tmp_path, b"p1,p2,id1,id2\nF1/A,F1/B,7,8\n")[0]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("F1/A/x.jpg", "F1/A/x.jpg"),
        (".\\F1\\A\\x.jpg ", "F1/A/x.jpg"),
        ("./F1//A/./x.jpg", "F1/A/x.jpg"),
        ("/data//F1/A", "/data/F1/A"),
        ("C:\\data\\x.jpg", "C:/data/x.jpg"),
        ("Mu\u0308ller/x", "M\u00fcller/x"),
        ("", ""),
        (".hidden/x", ".hidden/x"),
    ],
)
def test_names_have_slashes_in_nfc(name: str, wanted: str) -> None:
    assert clean_name(name) == wanted
    assert clean_name(wanted) == wanted


def test_labels_are_told_in_all_their_spellings() -> None:
    kin = ["1", "1.0", "+1", " TRUE", "yes", "Y", "t", "kin", "Related", "positive"]
    others = ["0", "-1", "0.00", "-1.0", "False", "NO", "non-kin", "Not kin", "unrelated", "nonkin"]
    assert [truth(label) for label in kin] == [True] * len(kin)
    assert [truth(label) for label in others] == [False] * len(others)
    assert [truth(label) for label in ("2", "", "?", "0.5", "kin2", "10")] == [None] * 6


# Files that ask for more memory than a table has use for


def test_a_line_and_a_row_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv.gz"
    contents = {
        "line 2: a line of over": b"img_pair\n" + b"a-b" * (1 << 24),
        "line 200003: a line of over": b"img_pair\na-b\n" + b"a-b\n" * 200_000 + b"a" * (1 << 21),
        "line 2: a row of over": b"img_pair\na-b," + b'"\n",' * (1 << 22),
        "field larger than": b'img_pair\n"' + b"a-b\n" * (1 << 22),
    }
    for problem, content in contents.items():
        path.write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        with pytest.raises(DataError, match=problem):
            list(read_pairs(path, 65_536))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 120 << 20


def test_parquet_that_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "pairs.parquet"
    long = pyarrow.array(["a-" + "b" * 1_000_000] * 2000)
    parquet.write_table(pyarrow.table({"img_pair": long}), path, compression="zstd")
    assert path.stat().st_size < 10_000  # 2 GB as texts
    with pytest.raises(DataError, match="found a text of 1,000,002 characters|a page of img_pair"):
        list(read_pairs(path, 65_536))
    many = pyarrow.array(["a-b"] * 3_000_000)
    parquet.write_table(pyarrow.table({"img_pair": many}), path, compression="zstd")
    with pytest.raises(DataError, match="declares 3,000,000 rows in"):
        list(read_pairs(path, 65_536))


def test_a_first_row_of_more_names_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "triples.csv"
    path.write_bytes(b"x/f.jpg,x/m.jpg,x/c.jpg\nx/f.jpg,x/c.jpg\n")

    with pytest.raises(DataError, match=r"line 2: .* 2 fields under rows of 3"):
        list(read_pairs(path, 10))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (
            "one,other,verwandt\n",
            "found 'a.jpg,b.jpg,ja', in which 'ja' is no label; wanted 0 or 1",
        ),
        ("p1,p2,verwandt\n", "found 'a.jpg,b.jpg,ja', in which 'ja' is no label; wanted 0 or 1"),
        ("", "found 'a.jpg,b.jpg,ja', in which 'ja' is no label; wanted 0 or 1"),
        ("p1,p2,label\n", "line 2: found label 'ja', wanted 0 or 1"),
    ],
)
def test_labels_in_words_that_are_not_known_are_what_is_wrong(
    tmp_path: Path, header: str, problem: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"{header}a.jpg,b.jpg,ja\nc.jpg,d.jpg,nein\n")
    shapes = [Shape(("left", "right", "label"), ("relation",))]
    with pytest.raises(DataError) as error:
        for block in read_table(path, shapes, "p1,p2,is_related", 10):
            truth_of(path, block.lines, block.columns["label"])
    assert problem in str(error.value) and "header" not in str(error.value)
