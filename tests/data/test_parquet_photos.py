"""Photos inside of parquet files: the same vectors as from folders, whatever the rows' order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from some_photos import check_packed

from kinembed.config import EmbedConfig
from kinembed.data import parquet_photos
from kinembed.data.parquet_photos import _Photos, read_cell
from kinembed.data.photo_files import find_photos
from kinembed.data.photos import read_file
from kinembed.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

Rows = Sequence[tuple[str | None, bytes | None]]


def table(rows: Rows, *, hugging: bool = False, person: Sequence[str | None] = ()) -> Any:
    names, contents = ([*column] for column in zip(*rows, strict=True))
    columns: dict[str, Any] = {}
    if hugging:
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        cells = [{"bytes": c, "path": n} for n, c in zip(names, contents, strict=True)]
        columns["image"] = pyarrow.array(cells, kind)
        columns["label"] = pyarrow.array([*range(len(cells))])
    else:
        columns["name"] = pyarrow.array(names, pyarrow.string())
        columns["image"] = pyarrow.array(contents, pyarrow.binary())
    if person:
        columns["person"] = pyarrow.array([*person], pyarrow.string())
    return pyarrow.table(columns)


@pytest.fixture
def train(faces: Path) -> dict[str, bytes]:
    folder = faces / "train"
    photos = sorted(folder.rglob("*.jpg"))[:24]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in photos}


@pytest.mark.parametrize("hugging", [False, True])
def test_photos_of_parquet_files_are_embedded_as_those_of_folders(
    hugging: bool, train: dict[str, bytes], tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    folder = tmp_path / "folder"
    for name, content in train.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    rows = [*train.items()]
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    for number in range(2):
        path = tmp_path / f"photos-{number:03}.parquet"
        parquet.write_table(
            table(rows[number::2], hugging=hugging), path, row_group_size=5,
            compression="zstd" if number else "snappy",
        )  # fmt: skip
    asked = str(tmp_path / "photos-{000..001}.parquet")
    found = find_photos((asked,), tmp_path)
    assert [*found.paths] == sorted(train) and not found.left_out
    assert found.people["F0001/MID1/P00001_face1.jpg"] == "F0001/MID1"
    check_packed(asked, folder, on_cpu, tmp_path)


def test_malformed_rows_are_counted_with_an_example(
    train: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = next(iter(train.values()))
    rows: Rows = [
        ("a.jpg", content),
        (None, content),
        ("", content),
        ("../b.jpg", content),
        ("/c.jpg", content),
        ("d\ne.jpg", content),
        ("a.jpg", b"another"),
        ("f.jpg", None),
        ("g.jpg", content),
        ("h.jpg", content),
    ]
    people = ["F1/MID1", *[None] * 7, "a/b/c", "MID9"]
    path = tmp_path / "a.parquet"
    parquet.write_table(table(rows, person=people), path)
    found = find_photos((str(path),), tmp_path)
    assert [*found.paths] == ["a.jpg", "f.jpg", "h.jpg"]
    assert [*found.people.values()] == ["F1/MID1", "", "MID9"]
    assert "its column person says who is on 2 photos" in " ".join(found.notes)
    assert found.left_out.lines() == [
        "2 rows without a name (row 1)",
        "3 rows whose names lead elsewhere or are not plain (../b.jpg)",
        "1 row of a name that another row has (a.jpg)",
        "1 row whose person is no name (g.jpg: a/b/c)",
    ]
    assert read_file(found.paths["a.jpg"]) == content
    with pytest.raises(DataError, match=r"f\.jpg: has no bytes; wanted a photo"):
        read_file(path / "f.jpg")
    with pytest.raises(DataError, match=r"is not in a\.parquet"):
        read_file(path / "x.jpg")
    monkeypatch.setattr("kinembed.data.photos.MAX_BYTES", 10)
    with pytest.raises(DataError, match="wanted at most 10; shrink the photo"):
        read_file(path / "a.jpg")


def test_a_file_without_rows_beside_others_has_no_photo(
    train: dict[str, bytes], tmp_path: Path
) -> None:
    whole = table([*train.items()])
    parquet.write_table(whole, tmp_path / "a-0.parquet")
    parquet.write_table(whole.slice(0, 0), tmp_path / "a-1.parquet")
    found = find_photos((str(tmp_path / "a-{0..1}.parquet"),), tmp_path)
    assert len(found.listing) == len(train)
    with pytest.raises(DataError, match="a-1.parquet: no JPEG"):
        find_photos((str(tmp_path / "a-1.parquet"),), tmp_path)


def test_files_that_are_none_are_refused(train: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table([*train.items()]), path)
    whole = path.read_bytes()
    for broken in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], whole[:-40] + whole[-20:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.parquet: not a parquet file") as error:
            find_photos((str(path),), tmp_path)
        assert "\n" not in str(error.value)
    for columns in ({"name": ["a.jpg"]}, {"image": [b"1"]}, {"x": [b"1"], "y": [b"2"]}):
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(DataError, match="has columns .*; wanted a column of the photos' bytes"):
            find_photos((str(path),), tmp_path)


def test_rows_in_order_are_read_in_one_pass_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"{row:03}.jpg", rng.bytes(1000)) for row in range(100)]
    path = tmp_path / "a.parquet"
    parquet.write_table(table(rows), path, row_group_size=100, data_page_size=4000)
    monkeypatch.setattr(parquet_photos, "KEPT", 10_000)
    photos = _Photos(path)
    passes, iter_batches = [], photos._file.iter_batches

    class Counted:
        metadata = photos._file.metadata

        def iter_batches(self, *asked: Any, **more: Any) -> Any:
            passes.append(more["row_groups"])
            return iter_batches(*asked, **more)

    photos._file = Counted()
    for row in range(100):
        assert photos.read(0, row) == rows[row][1]
        assert photos._size <= 10_000
    assert passes == [[0]]
    for row in rng.permutation(100)[:20].tolist():  # in any order, more slowly
        assert photos.read(0, row) == rows[row][1]
    assert read_cell(tmp_path / "a.txt" / "b.jpg", 10) is None


def test_a_process_that_has_ended_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table([("a.jpg", b"one")]), path)
    assert read_cell(path / "a.jpg", 10) == b"one"
    reader = parquet_photos._reader()
    assert parquet_photos._reader() is reader
    reader.close()
    assert read_cell(path / "a.jpg", 10) == b"one"
    parquet.write_table(table([("b.jpg", b"b"), ("a.jpg", b"another")]), path)
    assert read_cell(path / "a.jpg", 10) == b"another"
