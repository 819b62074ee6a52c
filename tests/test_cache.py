"""The embedding cache: its file, finding photos in it, and writing it all or nothing."""

import json
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.cache import CacheWriter, EmbeddingCache, write_cache
from kinembed.errors import DataError, RunError, WriteError

PROVENANCE = {"schema": 1, "model": "0123", "backbone": "mtcnn-onet", "nested": {"a": [1, 2.5]}}
NAMES = ["a.jpg", "test/a.jpg", "test/b.jpg", "train/F0001/MID1/a.jpg", "train/é.png"]


def encoded(names: list[str]) -> np.ndarray:
    return np.array([name.encode() for name in names])


def digests(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, 32), dtype=np.uint8)


def vectors(count: int, width: int, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(width).standard_normal((count, width)).astype(kind)


def make(path: Path, names: list[str] = NAMES) -> Path:
    count = len(names)
    views = {"max": [vectors(count, 4)], "avg": [vectors(count, 3, np.float16)]}
    return write_cache(path, PROVENANCE, encoded(names), digests(count), views)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "embeddings.h5")


# The file


def test_a_cache_comes_back_from_its_file(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert len(cache) == 5
        assert cache.provenance == PROVENANCE
        assert sorted(cache.views) == ["avg", "max"]
        assert [name.decode() for name in cache.names.tolist()] == NAMES
        assert np.array_equal(cache.digests, digests(5))
        for view, kind, width in (("max", np.float32, 4), ("avg", np.float16, 3)):
            found = cache.vectors(view)
            assert found.dtype == kind
            assert np.array_equal(found, vectors(5, width, kind))


def test_the_layout_is_that_of_the_design(path: Path) -> None:
    with h5py.File(path) as file:
        assert json.loads(file.attrs["provenance"]) == PROVENANCE
        assert set(file) == {"views", "names", "digests"}
        assert file["names"].dtype.kind == "S"
        assert (file["digests"].shape, file["digests"].dtype) == ((5, 32), np.uint8)
        for view in file["views"].values():
            assert view.chunks is None and view.compression is None
            assert view.id.get_create_plist().get_nfilters() == 0
            assert view.id.get_offset() is not None
        wide = file["views/max"]
        assert wide.shape == (5, 4) and wide.dtype == np.float32


def test_large_views_start_on_a_page(tmp_path: Path) -> None:
    names = [f"{row:04}.jpg" for row in range(1500)]
    with h5py.File(make(tmp_path / "c.h5", names)) as file:
        for view in file["views"].values():
            assert view.id.get_offset() % 4096 == 0


def test_vectors_are_mapped_not_read(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        found = cache.vectors("max")
        assert isinstance(found, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            found[0, 0] = 1


def test_blocks_of_rows_make_one_view(tmp_path: Path) -> None:
    whole = vectors(5, 4)
    write_cache(
        tmp_path / "c.h5",
        PROVENANCE,
        encoded(NAMES),
        digests(5),
        {"max": [whole[:2], whole[2:3], whole[3:]]},
    )
    with EmbeddingCache.open(tmp_path / "c.h5") as cache:
        assert np.array_equal(cache.vectors("max"), whole)


def test_an_unknown_view_says_which_there_are_and_what_to_run(path: Path) -> None:
    with (
        EmbeddingCache.open(path) as cache,
        pytest.raises(RunError, match=r"no view native, only avg, max; run kinembed embed --views"),
    ):
        cache.vectors("native")


def test_a_closed_cache_can_be_replaced_and_opened_again(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        before = cache.vectors("max")
    make(path, ["z.jpg"])
    with EmbeddingCache.open(path) as cache:
        assert cache.names.tolist() == [b"z.jpg"]
    assert np.array_equal(before, vectors(5, 4))  # the old file lives on while it is mapped


# Finding photos

letters = st.text("aé日/-.", max_size=4)


@given(st.sets(letters.map(lambda n: f"test/{n}") | letters, min_size=2), st.lists(letters))
def test_finding_agrees_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, known: set[str], wanted: list[str]
) -> None:
    names = sorted(known - {""})
    path = tmp_path_factory.getbasetemp() / "found.h5"
    make(path, names)
    rows = {name: row for row, name in enumerate(names)}
    questions = [*wanted, *names, *(name + "x" for name in names), *(name[:-1] for name in names)]
    with EmbeddingCache.open(path) as cache:
        found = cache.find(questions)
    assert found.tolist() == [rows.get(q, rows.get(f"test/{q}", -1)) for q in questions]


def test_a_name_is_looked_for_as_it_stands_before_below_test(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert cache.find(["a.jpg", "b.jpg", "test/b.jpg", "test/a.jpg"]).tolist() == [0, 2, 2, 1]
        assert cache.find(["train/é.png", "é.png", "", "a.jp", "a.jpgg"]).tolist() == [4] + [-1] * 4
        assert cache.find([]).tolist() == []


def test_an_unknown_photo_is_named_with_the_nearest_known(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert cache.unknown("b.jpeg") == (
            f"photo 'b.jpeg' is not in {path} (nearest: b.jpg); embed it with kinembed embed"
        )
        far = cache.unknown("wholly different")
        assert far == f"photo 'wholly different' is not in {path}; embed it with kinembed embed"


# Malformed files


def test_no_cache_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"embeddings\.h5: no such file; run kinembed embed"):
        EmbeddingCache.open(tmp_path / "embeddings.h5")
    with pytest.raises(RunError, match="no such file"):
        EmbeddingCache.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_not_hdf5_is_no_cache(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "embeddings.h5"
    path.write_bytes(content)
    with pytest.raises(RunError, match="not an HDF5 file .*; run kinembed embed again"):
        EmbeddingCache.open(path)


def test_a_file_cut_short_is_no_cache(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="not an HDF5 file"):
        EmbeddingCache.open(path)


Spoil = Callable[[h5py.File], None]


def without(name: str) -> Spoil:
    return lambda file: file.__delitem__(name)


def instead(name: str, value: object) -> Spoil:
    def put(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return put


def provenance(value: object) -> Spoil:
    return lambda file: file.attrs.__setitem__("provenance", value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.attrs.__delitem__("provenance"),
        provenance("{"),
        provenance("[]"),
        provenance("{}"),
        provenance(7),
        provenance(json.dumps({**PROVENANCE, "schema": 2})),
        provenance(json.dumps({"schema": 1})),
        without("names"),
        without("digests"),
        without("views"),
        instead("names", encoded(NAMES[:4])),
        instead("names", np.arange(5)),
        instead("names", b"scalar"),
        instead("digests", digests(4)),
        instead("digests", digests(5)[:, :20]),
        instead("digests", digests(5).astype(np.int64)),
        instead("views", np.zeros(5)),
        instead("views/max", vectors(6, 4)),
        instead("views/max", vectors(5, 4).astype(np.float64)),
        instead("views/max", vectors(5, 4)[:, 0]),
        instead("views/max", np.float32(1)),
        lambda file: file.create_group("views/group"),
    ],
)
def test_a_malformed_cache_is_refused_in_one_line(path: Path, spoil: Spoil) -> None:
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(RunError) as error:
        EmbeddingCache.open(path)
    assert str(error.value).startswith(f"{path}: not an embedding cache (")
    assert str(error.value).endswith("; run kinembed embed again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"]])
def test_names_out_of_order_are_refused(tmp_path: Path, names: list[str]) -> None:
    with (
        EmbeddingCache.open(make(tmp_path / "c.h5", names)) as cache,
        pytest.raises(RunError, match="names are not sorted; run kinembed embed again"),
    ):
        cache.find(["a"])


# Writing


def rows(start: int, stop: int) -> tuple[list[str], list[bytes], Mapping[str, np.ndarray]]:
    """Rows of a cache of 23 photos whose names grow."""
    names = [f"test/{'n' * (row // 5)}{row:02}.jpg" for row in range(23)]
    order = sorted(range(23), key=lambda row: names[row])[start:stop]
    views = {"max": vectors(23, 4)[order], "avg": vectors(23, 3, np.float16)[order]}
    return [names[row] for row in order], [digests(23)[row].tobytes() for row in order], views


@pytest.mark.parametrize("part_rows", [1, 4, 7, 23, 1000])
@pytest.mark.parametrize("batch", [1, 5, 23])
def test_parts_join_to_what_one_write_gives(tmp_path: Path, part_rows: int, batch: int) -> None:
    with CacheWriter(tmp_path / "partial", PROVENANCE, part_rows) as writer:
        held, parts = 0, 0
        for start in range(0, 23, batch):
            writer.append(*rows(start, start + batch))
            held += min(batch, 23 - start)
            if held >= part_rows:
                held, parts = 0, parts + 1
            assert len(list((tmp_path / "partial").iterdir())) == parts
        writer.finish(tmp_path / "joined.h5")
    names, shas, views = rows(0, 23)
    write_cache(
        tmp_path / "whole.h5",
        PROVENANCE,
        encoded(names),
        np.frombuffer(b"".join(shas), np.uint8).reshape(-1, 32),
        {view: [values] for view, values in views.items()},
    )
    with h5py.File(tmp_path / "joined.h5") as joined, h5py.File(tmp_path / "whole.h5") as whole:
        assert joined.attrs["provenance"] == whole.attrs["provenance"]
        for name in ("names", "digests", "views/max", "views/avg"):
            assert joined[name].dtype == whole[name].dtype
            assert joined[name][...].tobytes() == whole[name][...].tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["joined.h5", "whole.h5"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), WriteError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_exception_leaves_the_cache_that_was_there(
    path: Path,
    error: BaseException,
    raised: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = path.read_bytes()
    with (
        pytest.raises(type(error)),
        CacheWriter(path.parent / "embed.partial", PROVENANCE, 5) as writer,
    ):
        writer.append(*rows(0, 10))
        assert (path.parent / "embed.partial").is_dir()
        raise error
    with (
        pytest.raises(raised),
        CacheWriter(path.parent / "embed.partial", PROVENANCE, 5) as writer,
    ):
        writer.append(*rows(0, 4))

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("kinembed.files.os.replace", fail)
        writer.finish(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Filling(FileIO):
    """A file on a disk that is full after so many writes."""

    left = 0

    def write(self, content: Any) -> int:
        if not Filling.left:
            raise OSError(28, "No space left on device")
        Filling.left -= 1
        return super().write(content)


@pytest.mark.parametrize("writes", range(6))
def test_a_disk_full_at_any_write_is_a_problem_not_a_crash(
    path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, mode, **_: Filling(self, mode))
    Filling.left = writes
    with pytest.raises(WriteError, match="No space left on device"):
        make(path, ["other.jpg"])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_remains_of_a_killed_writer_are_swept_away(tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    make(partial / "000000.h5")
    with CacheWriter(partial, PROVENANCE) as writer:
        writer.append(*rows(0, 3))
        writer.finish(tmp_path / "c.h5")
    with EmbeddingCache.open(tmp_path / "c.h5") as cache:
        assert cache.names.tolist() == [name.encode() for name in rows(0, 3)[0]]
    assert not partial.exists()


def test_a_cache_of_nothing_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    with (
        CacheWriter(path.parent / "partial", PROVENANCE) as writer,
        pytest.raises(DataError, match="no photo could be embedded"),
    ):
        writer.finish(path)
    assert path.read_bytes() == before
