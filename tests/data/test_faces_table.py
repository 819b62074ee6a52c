"""The table of faces: written and read back, and malformed ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.backbones.faces import DetectedFace
from kinembed.data.faces_table import COLUMNS, CroppedFace, PhotoFaces, read_faces, write_faces
from kinembed.errors import DataError


def photo(source: str, faces: int, seed: int = 0) -> PhotoFaces:
    rng = np.random.default_rng(seed)
    return PhotoFaces(
        source,
        tuple(
            CroppedFace(
                f"{source}-{number}.jpg",
                DetectedFace(
                    rng.uniform(-9, 4000, 4).astype(np.float32),
                    rng.uniform(-9, 4000, (5, 2)).astype(np.float32),
                    float(rng.uniform(0.7, 1)),
                ),
                float(rng.uniform(0, 500)),
            )
            for number in range(1, faces + 1)
        ),
        int(rng.integers(1, 10**9)),
        int(rng.integers(1, 2**62)),
        rng.bytes(32).hex(),
    )


def same(one: PhotoFaces, other: PhotoFaces) -> bool:
    return replace(one, faces=()) == replace(other, faces=()) and all(
        a.crop == b.crop
        and np.allclose(a.face.box, b.face.box, rtol=0, atol=0.06)
        and np.allclose(a.face.points, b.face.points, rtol=0, atol=0.06)
        and abs(a.face.probability - b.face.probability) < 1e-5
        and a.sharpness == pytest.approx(b.sharpness, rel=1e-5)
        for a, b in zip(one.faces, other.faces, strict=True)
    )


@given(
    st.lists(
        st.tuples(st.text("ab/=-,\"'é ", min_size=1, max_size=8), st.integers(0, 3)),
        unique_by=lambda each: each[0],
        max_size=6,
    )
)
def test_a_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, int]]
) -> None:
    photos = [photo(f"a{name}", faces, n) for n, (name, faces) in enumerate(names)]
    path = write_faces(tmp_path_factory.getbasetemp() / "faces.csv", photos)
    result = read_faces(path)
    assert len(result) == len(photos) and all(map(same, result, photos))
    first = path.read_bytes()
    assert write_faces(path, result).read_bytes() == first
    for each in photos:
        again = PhotoFaces.of_json(json.loads(json.dumps(each.as_json())))
        assert same(again, each)


def test_a_photo_without_a_face_has_a_row_with_an_empty_crop(tmp_path: Path) -> None:
    path = write_faces(tmp_path / "faces.csv", [photo("a.jpg", 0), photo("b.jpg", 2)])
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 4
    assert lines[1].startswith("a.jpg,0,,,,")
    assert lines[2].startswith("b.jpg,1,b.jpg-1.jpg,")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("source,face", "photo,face", "found columns photo,face"),
        (",1,b.jpg-1.jpg,", ",2,b.jpg-1.jpg,", "row 3: b.jpg is not in one piece"),
        (",2,b.jpg-2.jpg,", ",3,b.jpg-2.jpg,", "row 4: found face 3 of b.jpg, wanted 2"),
        (",1,b.jpg-1.jpg,", ",-1,b.jpg-1.jpg,", "row 3: face '-1', wanted a whole number"),
        (",1,b.jpg-1.jpg,", ",1,../b.jpg,", "row 3: crop '../b.jpg', wanted a path below"),
        (",1,b.jpg-1.jpg,", ",1,/b.jpg,", "row 3: crop '/b.jpg', wanted a path below"),
        (",1,b.jpg-1.jpg,", ",1,,", "row 3: crop '', wanted a path below"),
        ("a.jpg,0,,", "a.jpg,0,c.jpg,", "row 2: crop 'c.jpg' of face 0"),
        (",1,b.jpg-1.jpg,", ",1,b.jpg-1.jpg,nan,", "row 3: found another number of cells"),
        ("b.jpg,2,", "a.jpg,2,", "row 4: a.jpg is not in one piece"),
        ("a.jpg,0,", ",0,", "row 2: no source"),
    ],
)
def test_a_malformed_table_is_refused_by_its_row(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = write_faces(tmp_path / "faces.csv", [photo("a.jpg", 0), photo("b.jpg", 2)])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        read_faces(path)
    assert says in str(error.value) and "run kinembed align" in str(error.value)


@pytest.mark.parametrize(("cell", "says"), [(3, "left"), (17, "probability"), (22, "sha256")])
def test_cells_that_are_no_numbers(tmp_path: Path, cell: int, says: str) -> None:
    path = write_faces(tmp_path / "faces.csv", [photo("b.jpg", 1)])
    head, row = path.read_text().splitlines()
    for wrong in ("", "nan", "inf", "x"):
        cells = row.split(",")
        cells[cell] = wrong
        path.write_text(f"{head}\n{','.join(cells)}\n")
        with pytest.raises(DataError, match=f"row 2: {says}"):
            read_faces(path)


def test_a_missing_or_binary_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run kinembed align"):
        read_faces(tmp_path / "faces.csv")
    (tmp_path / "faces.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="cannot be read"):
        read_faces(tmp_path / "faces.csv")
