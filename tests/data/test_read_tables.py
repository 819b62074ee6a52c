"""Tables: relations, labels, lists and submissions, however they are written."""

import gzip
import importlib.util
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kinembed.data.columns import Shape, truth, truth_of
from kinembed.data.kinship import by_blood
from kinembed.data.pair_files import read_pairs
from kinembed.data.relations import read_relations
from kinembed.data.tables import clean_name, read_table
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


# Who is kin


@pytest.mark.parametrize(
    ("header", "kin", "others"),
    [
        ("p1,p2,label", "1", "0"),
        ("p1,p2,is_related", "1", "-1"),
        ("p1,p2,kin", "yes", "no"),
        ("p1,p2,relation", "1", "0"),
        ("p1,p2,relation", "fs", "non-kin"),
        ("p1,p2,ptype", "Father-Son", "Husband-Wife"),
        ("p1,p2,type", "siblings", "stepfather"),
        ("", "1", "0"),
        ("", "fs", "unrelated"),
    ],
)
def test_relations_labelled_as_non_kin_are_none(
    tmp_path: Path, header: str, kin: str, others: str
) -> None:
    path = tmp_path / "relations.csv"
    lines = [header, f"F1/A,F1/B,{kin}", f"F1/A,F1/C,{others}", f"F1/B,F1/C,{kin}"]
    path.write_text("\n".join(line for line in lines if line))
    assert [by_blood(row.kind) for row in read_relations(path)] == [True, False, True]


def test_words_under_an_unknown_title_are_no_relation_and_names_are_no_words(
    tmp_path: Path,
) -> None:
    problem = problem_of(tmp_path, b"p1,p2,what\nF1/A,F1/B,fs\nF1/A,F1/C,unrelated\n")
    assert "where what may say who is kin" in problem
    rows = b"p1,p2,relation,note\nF1/A,F1/B,fs,married\nF1/A,F1/C,fs,adopted\n"
    assert len(relations_of(tmp_path, rows)) == 2
    rows = b"p1,p2,note\nF1/A,F1/B,Stephen\nF1/A,F1/C,Friends of Ann\nF1/A,F1/D,Ann\n"
    assert len(relations_of(tmp_path, rows)) == 3


def test_a_label_of_relations_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, b"p1,p2,label\nF1/A,F1/B,1\nF1/A,F1/C,maybe\n")
    assert "line 3: found label 'maybe', wanted 0 or 1" in problem


@pytest.mark.parametrize("title", ["unrelated", "nonkin", "same_gender", "set"])
@pytest.mark.parametrize("row", ["F1/A,F1/B,1", "F1/A,F1/B,no"])
def test_a_label_under_an_unknown_title_is_no_relation(
    tmp_path: Path, title: str, row: str
) -> None:
    problem = problem_of(tmp_path, f"p1,p2,{title}\n{row}\n".encode())
    assert f"line 1: found a header 'p1,p2,{title}', where {title} may say who is kin" in problem
    assert "label, is_related, kin" in problem


def test_words_say_whether_people_are_kin_by_blood() -> None:
    kin = ["", "fs", "GMGD", "bb", "sibs", "Father - Son", "mother_daughter", "great-grandparents",
           "half-brothers", "Parent/Child", "first cousins", "twins", "kin", "1", "aunt and niece",
           "father-dau", "fms"]  # fmt: skip
    others = ["spouse", "Spouses", "husband-wife", "step-father", "stepfather", "Mother-in-law",
              "non-kin", "nonkin", "not related", "unrelated", "adopted son", "godmother", "0",
              "friends", "-1", "ex-wife", "foster parents", "no relation", "negative"]  # fmt: skip
    unknown = ["tbd", "?", "neighbour", "unknown", "4", "n/a", "x", "papa" * 30]
    assert [by_blood(word) for word in kin] == [True] * len(kin)
    assert [by_blood(word) for word in others] == [False] * len(others)
    assert [by_blood(word) for word in unknown] == [None] * len(unknown)


# Columns that could be meant


LABELLED = (
    Shape(("father", "mother", "child", "label"), ("relation",)),
    Shape(("pair", "label"), ("relation",)),
    Shape(("left", "right", "label"), ("relation",)),
)


def columns_of(path: Path, header: str, *rows: str) -> dict[str, list[str]]:
    """The columns of a table of text."""
    path.write_text("\n".join(line for line in (header, *rows) if line))
    (block,) = read_table(path, LABELLED, "p1,p2,label", 100)
    return block.columns


@pytest.mark.parametrize(
    ("header", "row", "problem"),
    [
        ("p1,p2,p3,label", "a.jpg,b.jpg,c.jpg,1", "found p3 with photos beside p1,p2"),
        ("image1,image2,image3,label", "a,b,c,1", "found image3 with names beside image1,image2"),
        ("p1,p2,label,p3,ptype", "a.jpg,b.jpg,1,c.jpg,FMS", "found p3 with photos beside p1,p2"),
        ("u,v,w,label", "a.jpg,b.jpg,c.jpg,1", "over three photos, not father,mother,child"),
        ("", "a.jpg,b.jpg,c.jpg,1", "three photos without father,mother,child"),
        ("child,parent1,parent2,label", "a/c,a/f,a/m,1", "of which only child is known"),
        ("father,child,guardian,label", "f.jpg,c.jpg,m.jpg,1", "found guardian with photos"),
        ("father,child,mom,label", "f,c,m,1", None),
        ("offspring,father,mother,label", "c,f,m,1", None),
        ("child,dad_photo,mom_photo,label", "c,f,m,1", None),
        (
            "child,father,mother,son,label",
            "c,f,m,c,1",
            "found columns child and son, either of which",
        ),
        ("p1,p2,unrelated", "a.jpg,b.jpg,1", "where unrelated may say who is kin"),
        ("p1,p2,same_gender", "a,b,yes", "where same_gender may say who is kin"),
        ("one,two,set", "a.jpg,b.jpg,1", "where set may say who is kin"),
        ("img_pair,nonkin", "a.jpg-b.jpg,0", "where nonkin may say who is kin"),
        ("label,who,whom,set", "q,a.jpg,b.jpg,1", "of which only label is known"),
    ],
)
def test_columns_that_are_not_told_are_not_guessed(
    tmp_path: Path, header: str, row: str, problem: str | None
) -> None:
    path = tmp_path / "table.csv"
    if header and importlib.util.find_spec("pyarrow"):
        from pyarrow import parquet, table

        packed = path.with_suffix(".parquet")
        names = header.split(",")
        columns = [[field, field] for field in row.split(",")]
        parquet.write_table(table(columns, names=names), packed)
        if problem is not None:
            with pytest.raises(DataError, match=r"parquet: (found|has) .*; wanted p1,p2,label"):
                list(read_table(packed, LABELLED, "p1,p2,label", 100))
        else:
            (block,) = read_table(packed, LABELLED, "p1,p2,label", 100)
            assert [block.columns[role] for role in ("father", "child")] == [["f"] * 2, ["c"] * 2]
    if problem is None:
        found = columns_of(path, header, row)
        assert [found[role] for role in ("father", "mother", "child")] == [["f"], ["m"], ["c"]]
        return
    with pytest.raises(DataError, match=problem) as error:
        columns_of(path, header, row, row)
    assert "table.csv, line 1: " in str(error.value) and "\n" not in str(error.value)


def test_columns_of_another_kind_are_said_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    header = "p1,p2,person1,label,same_gender,date,url"
    row = "a.jpg,b.jpg,F1/A,1,0,1/2/2020,https://x/a.jpg"
    assert sorted(columns_of(tmp_path / "table.csv", header, row)) == ["label", "left", "right"]
    assert [text.split(": ")[1] for text in caplog.messages] == [
        "person1 holds people and is not used"
    ]


@pytest.mark.parametrize("label", ["?", "2", "maybe", ""])
def test_a_malformed_first_row_is_no_header(tmp_path: Path, label: str) -> None:
    rows = [f"a.jpg,b.jpg,{label}", "c.jpg,d.jpg,1", "e.jpg,f.jpg,0"]
    with pytest.raises(DataError, match=r"line 1: found 'a\.jpg,b\.jpg"):
        columns_of(tmp_path / "table.csv", "", *rows)
    path = tmp_path / "pairs.csv"
    path.write_text("a.jpg_b.jpg\nc.jpg-d.jpg\ne.jpg-f.jpg\n")
    with pytest.raises(DataError, match=r"line 1: found 'a\.jpg_b\.jpg'"):
        list(read_pairs(path, 10))


def test_a_first_row_of_parts_of_the_names_below_it_is_no_header(tmp_path: Path) -> None:
    assert "line 1: found 'F1,A'" in problem_of(tmp_path, b"F1,A\nF1/A,F1/B\nF1/A,F1/C\n")


def test_headerless_lists_of_two_rows_keep_both(tmp_path: Path) -> None:
    for rows in (("1,a.jpg,b.jpg,1", "1,c.jpg,d.jpg,1"), ("1,a.jpg,b.jpg,1", "2,c.jpg,d.jpg,0")):
        found = columns_of(tmp_path / "table.csv", "", *rows)
        assert (found["left"], found["right"]) == (["a.jpg", "c.jpg"], ["b.jpg", "d.jpg"])
        assert found["label"] == [row[-1] for row in rows]


@pytest.mark.parametrize("first", ["a.jpg,b.jpg", "who,whom", "p1,p2", "x"])
def test_a_first_row_of_fewer_fields_is_an_error(tmp_path: Path, first: str) -> None:
    with pytest.raises(DataError, match="line 1: found "):
        columns_of(tmp_path / "table.csv", first, "c.jpg,d.jpg,1", "e.jpg,f.jpg,0")


def test_blanks_before_quotes_are_not_of_a_field(tmp_path: Path) -> None:
    found = columns_of(tmp_path / "table.csv", 'p1, "p2", label', 'a, "b, c", 1')
    assert (found["left"], found["right"], found["label"]) == (["a"], ["b, c"], ["1"])


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

    def write(text: str, count: int) -> None:
        """One text in every row; it is in memory once."""
        rows = pyarrow.array(np.zeros(count, np.int32))
        column = pyarrow.DictionaryArray.from_arrays(rows, [text])
        table = pyarrow.table({"img_pair": column})
        parquet.write_table(table, path, compression="zstd", store_schema=False)  # plain texts

    write("a-" + "b" * 1_000_000, 2000)
    assert path.stat().st_size < 10_000  # 2 GB as texts
    with pytest.raises(DataError, match="found a text of 1,000,002 characters|a page of img_pair"):
        list(read_pairs(path, 65_536))
    write("a-b", 3_000_000)
    with pytest.raises(DataError, match="declares 3,000,000 rows in"):
        list(read_pairs(path, 65_536))


def test_a_first_row_of_more_names_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "triples.csv"
    path.write_bytes(b"x/f.jpg,x/m.jpg,x/c.jpg\nx/f.jpg,x/c.jpg\n")

    with pytest.raises(DataError, match=r"line 1: .*three photos without father,mother,child"):
        list(read_pairs(path, 10))
    path.write_bytes(b"x/f.jpg,x/m.jpg,x/c.jpg,FMS\nx/f.jpg,x/c.jpg,FMS\n")
    with pytest.raises(DataError, match=r"line 2: .* 3 fields under rows of 4"):
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


# Pipes


PAIRS = b"img_pair,is_related\n" + b"".join(b"a%d-b%d,0\n" % (i, i) for i in range(40_000))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such pipes")
@pytest.mark.parametrize("kind", ["plain", "gzip", "utf-16"])
@pytest.mark.parametrize("source", ["-", "/dev/stdin", "fifo"])
def test_pipes_are_read_as_files_are(tmp_path: Path, kind: str, source: str) -> None:
    content = {"plain": PAIRS, "gzip": gzip.compress(PAIRS, 1),
               "utf-16": PAIRS.decode().encode("utf-16")}[kind]  # fmt: skip
    code = (
        "import sys; from pathlib import Path; from kinembed.data.pair_files import read_pairs; "
        "blocks = list(read_pairs(Path(sys.argv[1]), 1000)); "
        "print(len(blocks), blocks[-1].lines[-1], blocks[-1].fields[0][-1])"
    )
    path = source
    if source == "fifo":
        path = str(tmp_path / "pipe")
        os.mkfifo(path)
        threading.Thread(target=Path(path).write_bytes, args=[content], daemon=True).start()
    done = subprocess.run(
        [sys.executable, "-c", code, path], input=b"" if source == "fifo" else content,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [b"40", b"40001", b"a39999-b39999"], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such pipes")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"PAR1\0\0", "parquet is not read from a pipe"),
        (b"img_pair\nx\n", "line 2"),
    ],
)
def test_what_is_wrong_with_a_pipe_is_said(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[content], daemon=True).start()
    with pytest.raises(DataError, match=problem):
        list(read_pairs(path, 10))
