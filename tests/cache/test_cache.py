"""The embedding cache: its file, finding photos in it, and writing it all or nothing."""

import copyreg
import functools
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strangers import Change, resealed, seal_of, sealed_over, with_seal_of_its_own

from kinembed.cache import EmbeddingCache, block_checksums
from kinembed.cache.footer import MappedRows
from kinembed.cache.hdf5 import checksum, lay_out
from kinembed.cache.joined import Joined, Row, join
from kinembed.cache.verify import verify
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.data.listing import Photo
from kinembed.errors import DataError, RunError, WriteError
from kinembed.recipes import FINETUNE_RECIPES

PROVENANCE = {"schema": 5, "model": "0123", "backbone": "sface", "nested": {"a": [1, 2.5]}}
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
            result = cache.vectors(view)
            assert result.dtype == kind
            assert np.array_equal(result, vectors(5, width, kind))


def test_the_layout_is_that_of_the_design(path: Path) -> None:
    with h5py.File(path) as file:
        assert json.loads(file.attrs["provenance"]) == PROVENANCE
        assert set(file) == {"views", "names", "people", "digests", "stats", "checksums"}
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
        result = cache.vectors("max")
        assert isinstance(result, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            result[0, 0] = 1


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


def test_composite_views_stand_one_after_the_other(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        result = cache.vectors("avg+max+avg")
        assert result.dtype == np.float32 and result.flags.c_contiguous
        wide, narrow = vectors(5, 4), vectors(5, 3, np.float16)
        assert np.array_equal(result, np.hstack([narrow, wide, narrow]))
        result[0, 0] = 1  # it is a copy
        assert isinstance(cache.vectors("max"), np.memmap)


@pytest.mark.parametrize(
    ("view", "problem"),
    [
        (
            "max+native",
            r"has no view native, only avg, max; run kinembed embed --views avg,max,native$",
        ),
        (
            "max-flip",
            r"has no view max-flip, only avg, max; run kinembed embed --views avg,max --flip$",
        ),
        ("natve", r"has no view natve, only avg, max$"),
        ("maxx", r"has no view maxx, only avg, max; did you mean max\?$"),
        ("max+", r"found view 'max\+', wanted a name, or several joined by \+; there are avg, max"),
        ("", "found view '', wanted a name"),
        ("+", r"found view '\+', wanted a name"),
    ],
)
def test_parts_that_are_missing_are_named(path: Path, view: str, problem: str) -> None:
    with EmbeddingCache.open(path) as cache, pytest.raises(RunError, match=problem):
        cache.vectors(view)


def test_no_view_has_the_name_of_a_composite_one(path: Path) -> None:
    views = {"max+avg": [vectors(5, 4)]}
    with pytest.raises(ValueError, match=r"max\+avg' has no plain name"):
        write_cache(path, PROVENANCE, encoded(NAMES), digests(5), views)


@pytest.mark.parametrize(
    ("views", "chosen"),
    [
        (["avg", "max", "max-flip"], "max"),
        (["native", "native-flip"], "native"),
        (["native-flip"], "native-flip"),
        (["avg", "native", "avg-flip"], None),
    ],
)
def test_mirrored_views_are_not_chosen_unasked(
    path: Path, views: list[str], chosen: str | None
) -> None:
    rows = {view: [vectors(5, 4)] for view in views}
    write_cache(path, PROVENANCE, encoded(NAMES), digests(5), rows)
    with EmbeddingCache.open(path) as cache:
        assert cache.choose_view("avg-flip") == "avg-flip"
        if chosen is not None:
            assert cache.choose_view(None) == chosen
        else:
            with pytest.raises(RunError, match="name one with --view"):
                cache.choose_view(None)


def test_a_closed_cache_can_be_replaced_and_opened_again(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        before = cache.vectors("max")
    make(path, ["z.jpg"])
    with EmbeddingCache.open(path) as cache:
        assert cache.names.tolist() == [b"z.jpg"]
    assert np.array_equal(before, vectors(5, 4))  # the old file lives on while it is mapped


# Finding photos

letters = st.text("aé日/-.", max_size=4)
photo_names = st.text("aé日-.", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@given(
    st.sets(photo_names.map(lambda name: f"test/{name}") | photo_names, min_size=2),
    st.lists(letters),
)
def test_finding_agrees_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, known: set[str], wanted: list[str]
) -> None:
    names = sorted(known)
    path = tmp_path_factory.getbasetemp() / "found.h5"
    make(path, names)
    rows = {name: row for row, name in enumerate(names)}
    questions = [*wanted, *names, *(name + "x" for name in names), *(name[:-1] for name in names)]
    with EmbeddingCache.open(path) as cache:
        result = cache.find(questions)
    wanted_rows = [rows.get(q, rows.get(f"test/{q}", -1)) for q in questions]
    # Others may be found by their last parts: see test_lookup.py.
    assert [row for row, w in zip(result, wanted_rows) if w >= 0] == [
        w for w in wanted_rows if w >= 0
    ]


def test_a_full_name_is_found_before_one_below_test_or_train(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert cache.find(["a.jpg", "b.jpg", "test/b.jpg", "test/a.jpg"]).tolist() == [0, 2, 2, 1]
        assert cache.find(["train/é.png", "é.png"]).tolist() == [4, 4]
        assert cache.find(["F0001/MID1/a.jpg"]).tolist() == [3]  # as lists of pairs have it
        assert cache.find(["", "a.jp", "a.jpgg"]).tolist() == [-1] * 3
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


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"not HDF5" * 100])
def test_a_file_that_is_not_hdf5_is_no_cache(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "embeddings.h5"
    path.write_bytes(content)
    assert_refused(path, "not an HDF5 file")


@pytest.mark.parametrize("cut", [1, 7, 100, 5000])
def test_a_file_cut_short_or_longer_is_no_cache(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert_refused(path, "it does not end with a seal")
    path.write_bytes(whole + b"x" * cut)
    assert_refused(path, "it does not end with a seal")
    path.write_bytes(whole[:8] + whole[8 + cut :])
    with pytest.raises(RunError, match="not an embedding cache"):
        EmbeddingCache.open(path)


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(RunError) as error:
        EmbeddingCache.open(path)
    assert str(error.value).startswith(f"{path}: not an embedding cache (")
    assert str(error.value).endswith("; run kinembed embed again")
    assert "\n" not in str(error.value)
    assert reason in str(error.value)


Spoil = Callable[[h5py.File], object]


def external(file: h5py.File) -> None:
    del file["views/max"]
    file["views/max"] = h5py.ExternalLink("/etc/passwd", "/")


def stored_elsewhere(file: h5py.File) -> None:
    del file["views/max"]
    file.create_dataset("views/max", (5, 4), "f4", external=[("/etc/passwd", 0, 80)])


def virtual(file: h5py.File) -> None:
    del file["views/max"]
    layout = h5py.VirtualLayout((5, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (5, 4))
    file.create_virtual_dataset("views/max", layout)


def replaced(**options: Any) -> Spoil:
    def put(file: h5py.File) -> None:
        del file["views/max"]
        file.create_dataset("views/max", **options)

    return put


HOSTILE: list[Spoil] = [
    external,
    stored_elsewhere,
    virtual,
    lambda file: file.__setitem__("soft", h5py.SoftLink("/names")),
    replaced(data=vectors(5, 4), chunks=(5, 4), compression="gzip"),
    replaced(shape=(5, 4), dtype=h5py.string_dtype()),
    replaced(shape=(10**12, 4), dtype="f4", chunks=(1, 4)),
    lambda file: file.attrs.__setitem__("provenance", "[" * 50_000),
    lambda file: file.attrs.__setitem__("more", "x"),
    lambda file: file.__delitem__("names"),
    lambda file: file.create_group("views/group"),
    lambda file: file["views/max"].__setitem__((0, 0), 1),
]


@pytest.mark.parametrize("spoil", HOSTILE)
def test_what_was_changed_by_hdf5_is_refused_or_found(path: Path, spoil: Spoil) -> None:
    with h5py.File(path, "r+") as file:
        spoil(file)
    result = verify(path)
    assert not result.is_sound
    assert all("\n" not in line for line in result.problems)


@pytest.mark.parametrize("spoil", HOSTILE[:-1])
def test_what_a_stranger_sealed_again_is_refused_before_hdf5_sees_it(
    path: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = seal_of(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with_seal_of_its_own(path, seal)
    monkeypatch.setattr(h5py, "File", None)
    result = verify(path)
    assert not result.is_sound
    assert "\n" not in result.as_text()
    with pytest.raises(RunError, match="not an embedding cache"):
        EmbeddingCache.open(path)


def test_an_external_link_where_the_data_lie_is_refused(path: Path) -> None:
    """The seal says where the vectors are; an HDF5 program reads another file's."""
    with EmbeddingCache.open(path) as cache:
        at = cache.footer.extents["views/max"].offset
    seal, whole = seal_of(path), path.read_bytes()
    link = bytes([1, 0x08, 3]) + b"max" + bytes([64]) + b"\0other.h5\0/x\0"
    hard = bytes([1, 0, 3]) + b"max"
    assert whole.count(hard) == 2  # of the view and of its checksums
    spoilt = whole.replace(hard, link[: len(hard)], 1)
    path.write_bytes(spoilt)
    sealed_over(path, seal)
    assert at < len(whole)
    assert "its HDF5 structure is damaged" in verify(path).as_text()


Seal = dict[str, Any]


def dataset(name: str, dtype: str | None = None, shape: object = None) -> Callable[[Seal], object]:
    """Another type or shape of a dataset, in the seal."""

    def change(seal: Seal) -> None:
        for each in seal["datasets"]:
            if each[0] == name:
                each[1:] = [dtype or each[1], each[2] if shape is None else shape]

    return change


def dropped(name: str) -> Callable[[Seal], object]:
    return lambda seal: seal.update(datasets=[d for d in seal["datasets"] if d[0] != name])


def added(name: object, dtype: object = "|u1", shape: object = (1,)) -> Callable[[Seal], object]:
    return lambda seal: seal["datasets"].append([name, dtype, shape])


def provenance(**changes: object) -> Callable[[Seal], object]:
    return lambda seal: seal["about"].update(changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dropped("names"), "bytes of HDF5, wanted"),
        (dropped("checksums/views/max"), "bytes of HDF5, wanted"),
        (added("views/../x"), "has no plain name"),
        (added("names/x"), "names/x lies in another dataset"),
        (added("views"), "lies in another dataset"),
        (added("names"), "a dataset twice"),
        (added(["names"]), "its seal is not understood"),
        (added(None), "has no plain name"),
        (added("more", None), "more is of type 'None'"),
        (added("more", "|S0"), "more is of type '|S0'"),
        (lambda seal: seal.update(datasets=[["a"]]), "its seal is not understood"),
        (lambda seal: seal.update(datasets=7), "its seal is not understood"),
        (lambda seal: seal.update(datasets=[]), "0 datasets, wanted 1 to 5,000"),
        (lambda seal: seal.update(about=[]), "its seal is not understood"),
        (lambda seal: seal.pop("about"), "its seal is not understood"),
        (dataset("views/max", dtype="|O"), "views/max is of type '|O'"),
        (dataset("views/max", dtype="<f8"), "views/max is of type '<f8'"),
        (dataset("views/max", shape=[]), "views/max has no lengths"),
        (dataset("names", shape=[]), "names has no lengths"),
        (dataset("views/max", shape=[True, 4]), "views/max has no lengths"),
        (dataset("views/max", shape=[5, 4, 1]), "views/max has no lengths"),
        (dataset("views/max", shape=[5, 10**12]), "bytes of HDF5, wanted"),
        (dataset("views/max", shape=[10**30, 10**30]), "larger than a file can be"),
        (dataset("views/max", shape=[5, -4]), "views/max has no lengths"),
        (dataset("views/max", shape=[5, 4.0]), "views/max has no lengths"),
        (dataset("views/max", shape=[4, 5]), "its HDF5 structure is damaged"),
        (provenance(schema=1), "its HDF5 structure is damaged"),
        (provenance(schema="x" * 2 * 10**6), "a seal of"),
        (provenance(model="\ud800"), "text that is not Unicode"),
        (provenance(loss=float("nan")), "found NaN, wanted finite numbers"),
        (provenance(loss=float("inf")), "found Infinity, wanted finite numbers"),
    ],
)
def test_a_seal_that_fits_no_bytes_is_refused(
    path: Path, change: Callable[[Seal], object], reason: str
) -> None:
    seal = seal_of(path)
    change(seal)
    assert_refused(sealed_over(path, seal), reason)


@pytest.mark.parametrize(
    ("seal", "reason"),
    [
        (b"", ""),
        (b"[" * 10**5, "nested too deeply"),
        (b"[1]", "wanted a JSON object"),
        (b'{"about": {"a": 1e400}}', "larger than any float"),
        (b"\xff", ""),
    ],
)
def test_a_seal_that_is_no_json_object_is_refused(path: Path, seal: bytes, reason: str) -> None:
    assert_refused(sealed_over(path, seal), reason if seal else "")


def test_a_seal_of_an_earlier_version_is_said_to_be_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16] + b"kinembed seal 1\n")
    assert_refused(path, "its seal is of another version of kinembed")


def trained(name: str = "dense", **changes: object) -> dict[str, Any]:
    """A provenance of a network that was trained with such a recipe."""
    recipe = {**FINETUNE_RECIPES[name].as_record(), **changes}
    return {"finetuned": {"recipe": recipe, "view": "max", "epoch_chosen_by": ""}}


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"schema": None}, "schema None, this version reads 5"),
        ({"schema": 1}, "schema 1, this version reads 5"),
        ({"schema": 5.0}, "schema 5.0, this version reads 5"),
        ({"model": None}, "model: found None, wanted a text"),
        ({"model": 7}, "model: found 7, wanted a text"),
        ({"model": "m" * 257}, "model: found 257 letters, wanted at most 256"),
        ({"backbone": ["sface"]}, "backbone: found ['sface'], wanted a text"),
        ({"versions": {"torch": 2}}, "torch: found 2, wanted a text"),
        ({"command": "embed"}, "command: found 'embed', wanted values by their names"),
        ({"command": {"photos": [1]}}, "photos: found 1, wanted a text"),
        ({"split": {"by": "age", "seed": 1}}, "by: found 'age', wanted people or families"),
        ({"split": {"by": "people", "seed": -1}}, "seed: found -1, wanted 0 or more"),
        ({"finetuned": {"recipe": 1}}, "recipe: found 1, wanted values by their names"),
        (trained(dropout=2), "dropout: found 2, wanted 0 or more, below 1"),
        (trained(dropout="0.1"), "dropout: found '0.1', wanted a number: 0 or more, below 1"),
        (trained(dropout=True), "dropout: found True, wanted a number: 0 or more, below 1"),
        (trained(hidden=[2.5]), "hidden: found 2.5, wanted a whole number: 1 to 65536"),
        (trained(hidden=[4] * 101), "wanted at most 100 values"),
        (trained(hidden=7), "wanted at most 100 values"),
        (trained(loss=["bce"]), "loss: found ('bce',), wanted bce or focal"),
        (trained(features=3), "features: found 3, wanted"),
        (trained(members=10**400), "members: found a number of more than 40 digits, wanted 1 to"),
        (trained(more=1), "found 'more', which is none of its values"),
        (trained("kin", temperature=0), "temperature: found 0, wanted above 0"),
        (trained("kin", batch_pairs=1), "batch_pairs: found 1, wanted 2 or more"),
    ],
)
def test_a_provenance_that_makes_no_cache_is_refused(
    path: Path, about: dict[str, Any], reason: str
) -> None:
    told = {**PROVENANCE, **about}
    write_cache(path, told, encoded(NAMES), digests(5), {"max": [vectors(5, 4)]})
    assert_refused(path, reason)


def test_datasets_that_make_no_cache_are_refused(path: Path) -> None:
    def without(name: str) -> Change:
        return lambda arrays, _: arrays.pop(name)

    def instead(name: str, array: np.ndarray) -> Change:
        return lambda arrays, _: arrays.update({name: array})

    whole = path.read_bytes()
    for change, reason in (
        (without("names"), "it has no names"),
        (without("digests"), "it has no digests"),
        (without("people"), "it has no people"),
        (without("checksums/views/max"), "it has no checksums/views/max"),
        (instead("more", vectors(5, 4)), "it has no checksums/more"),
        (instead("names", vectors(5, 4)), "names is of type '<f4'"),
        (instead("views/max", vectors(4, 4)), "names, digests and views differ"),
        (instead("stats", np.zeros((5, 3), np.int64)), "names, digests and views differ"),
        (instead("views/max", vectors(5, 4)[:, 0]), "names, digests and views differ"),
    ):
        path.write_bytes(whole)
        assert_refused(resealed(path, "provenance", change), reason)


# The HDF5 bytes, against the HDF5 library


sizes = st.sampled_from([1, 3, 700])
kinds = st.sampled_from(["<f4", "<f2", "<i8", "|u1", "|S1", "|S33"])
part = st.text("aBc_-9", min_size=1, max_size=5)


@given(
    st.dictionaries(
        st.lists(part, min_size=1, max_size=3).map("/".join),
        st.tuples(kinds, st.lists(sizes, min_size=1, max_size=2).map(tuple)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "{}", "é" * 2_030, "x" * 4_064, "y" * 4_065, "z" * 100_000]),
)
def test_hdf5_reads_what_is_laid_out_without_it(
    datasets: dict[str, tuple[str, tuple[int, ...]]], text: str
) -> None:
    try:
        layout = lay_out("provenance", text, datasets)
    except ValueError as error:
        assert "lies in another dataset" in str(error)
        return
    content = bytearray(layout.end)
    content[: len(layout.head)] = layout.head
    for number, extent in enumerate(layout.extents.values(), start=1):
        content[extent.offset : extent.offset + extent.size] = bytes([number]) * extent.size
    with h5py.File(io.BytesIO(bytes(content)), "r") as file:
        assert file.attrs["provenance"] == text
        found = []
        file.visititems(
            lambda name, each: found.append(name) if isinstance(each, h5py.Dataset) else None
        )
        assert sorted(found) == sorted(datasets)
        for number, (name, (dtype, shape)) in enumerate(datasets.items(), start=1):
            assert (file[name].dtype.str, file[name].shape) == (dtype, shape)
            assert file[name].id.get_offset() == layout.extents[name].offset
            assert file[name][()].tobytes() == bytes([number]) * layout.extents[name].size


def test_checksums_are_those_of_lookup3() -> None:
    """Values of the driver in http://burtleburtle.net/bob/c/lookup3.c."""
    assert checksum(b"") == 0xDEADBEEF
    assert checksum(b"Four score and seven years ago") == 0x17770551


# Mapped files


def test_a_cache_cut_short_while_mapped_is_a_problem_not_a_crash(path: Path) -> None:
    names = [f"{row:05}.jpg" for row in range(3000)]
    make(path, names)
    with EmbeddingCache.open(path) as cache:
        rows, part = cache.vectors("max"), cache.vectors("max")[10:2000]
        copy = part[[1, 2]]
        assert isinstance(part, MappedRows) and type(rows + rows) is np.ndarray
        assert np.array_equal(copy, vectors(3000, 4)[[11, 12]])
        with path.open("r+b") as file:
            file.truncate(8192)
        uses: list[Callable[[], object]] = [
            lambda: rows[2999],
            lambda: part[0],
            lambda: part[[5, 1]],
            lambda: rows.take([2999], 0),
            lambda: rows + 1,
            lambda: np.add(1, part),
            lambda: rows.sum(),
            lambda: np.concatenate([rows, part]),
            lambda: np.isfinite(rows),
            lambda: rows.astype(np.float64),
            lambda: rows.copy(),
            lambda: rows.tobytes(),
            lambda: rows @ rows.T,
            lambda: cache.vectors("avg"),
            lambda: cache.vectors("max+avg"),
            lambda: cache.names,
            lambda: cache.digest,
            lambda: cache.damaged_rows("views/max"),
        ]
        for use in uses:
            with pytest.raises(RunError, match=r"embeddings\.h5: was cut short while"):
                use()
        assert np.array_equal(copy, vectors(3000, 4)[[11, 12]])  # a copy lives on


@pytest.mark.parametrize(
    "names",
    [
        *(["b", "a"], ["a", "a"], ["/etc/passwd"], ["../a"], ["a/../b"], ["a\\b"], ["a\nb"]),
        *(["a\x7f"], ["."], ["a//b"], ["a/"], ["a\x1bb"]),
    ],
)
def test_names_that_are_no_paths_below_a_folder_are_refused(
    tmp_path: Path, names: list[str]
) -> None:
    path = make(tmp_path / "c.h5", names)
    with (
        EmbeddingCache.open(path) as cache,
        pytest.raises(RunError, match=r"not sorted|no name of a photo below a folder"),
    ):
        cache.find(["a"])
    assert not verify(path).is_sound


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    names = np.array([b"a.jpg", b"\xff.jpg"])
    path = write_cache(tmp_path / "c.h5", PROVENANCE, names, digests(2), {"max": [vectors(2, 4)]})
    with (
        EmbeddingCache.open(path) as cache,
        pytest.raises(RunError, match="names are not UTF-8"),
    ):
        cache.find(["a.jpg"])


def test_mutated_files_are_refused_or_give_the_numbers_that_were_written(tmp_path: Path) -> None:
    count = 200
    path = make(tmp_path / "whole.h5", [f"{row:03}.jpg" for row in range(count)])
    whole = path.read_bytes()
    rng = np.random.default_rng(8)
    kinds = {"refused": 0, "named": 0, "read": 0}
    for number in range(250):
        spoilt = bytearray(whole)
        if number % 5 == 0:
            spoilt = spoilt[: rng.integers(len(whole))]
        else:
            for at in rng.integers(len(whole), size=rng.choice([1, 3, 40])).tolist():
                spoilt[at] ^= 1 << int(rng.integers(8))
        mutant = tmp_path / "mutant.h5"
        mutant.write_bytes(spoilt)
        result = verify(mutant)
        assert not result.is_sound
        if not result.rows:
            kinds["refused"] += 1
            continue
        with EmbeddingCache.open(mutant) as cache:
            damaged = cache.damaged_rows("views/max")
            sound = np.setdiff1d(np.arange(count), damaged)
            assert (cache.vectors("max")[sound] == vectors(count, 4)[sound]).all()
        kinds["named" if len(damaged) else "read"] += 1
    assert min(kinds.values()) > 5, kinds


@given(st.data())
def test_one_flipped_bit_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.h5"
    if not path.exists():
        make(path)
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    mutant = path.with_name("mutant.h5")
    mutant.write_bytes(spoilt)
    assert verify(path).is_sound
    assert not verify(mutant).is_sound


def test_vectors_that_are_not_finite_are_found(tmp_path: Path) -> None:
    values = vectors(5, 4)
    values[3, 1] = np.nan
    path = write_cache(tmp_path / "c.h5", PROVENANCE, encoded(NAMES), digests(5), {"max": [values]})
    assert verify(path).damaged == (NAMES[3],)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("block", [1, 64, 100])
def test_checksums_are_of_64_rows_each(rows: int, block: int) -> None:
    values = vectors(rows, 3)
    blocks = [values[start : start + block] for start in range(0, rows, block)]
    result = [result.tobytes() for result in block_checksums(blocks)]
    assert result == [
        hashlib.sha256(values[start : start + 64].tobytes()).digest()
        for start in range(0, rows, 64)
    ]


def test_rows_lists_what_is_unknown(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert cache.rows(["b.jpg", "a.jpg"]).tolist() == [2, 0]
        with pytest.raises(DataError) as error:
            cache.rows(["a.jpg", "b.jpeg", *"12345678"])
    text = str(error.value)
    assert text.startswith(f"photo 'b.jpeg' is not in {path} (nearest: b.jpg)")
    assert text.endswith("; nor are '1', '2', '3', '4', '5' and 3 more")


def test_it_is_read_in_several_processes_and_after_a_fork(path: Path) -> None:
    with EmbeddingCache.open(path) as cache, multiprocessing.get_context("fork").Pool(3) as pool:
        assert cache.names is not None
        result = pool.map(functools.partial(row_of, cache), range(5))
    assert (np.stack(result) == vectors(5, 4)).all()


def row_of(cache: EmbeddingCache, row: int) -> np.ndarray:
    return np.array(cache.vectors("max")[row])


def __reduce_cache(cache: EmbeddingCache) -> Any:
    return EmbeddingCache.open, (cache.path,)


copyreg.pickle(EmbeddingCache, __reduce_cache)


def test_where_nothing_can_be_mapped_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(np, "memmap", refuse)
    with EmbeddingCache.open(path) as cache:
        assert np.array_equal(cache.vectors("max"), vectors(5, 4))
        assert cache.find(["b.jpg"]).tolist() == [2]


# The command line


def test_info_and_verify_say_what_there_is(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--run", str(path.parent)]
    assert command(["cache", "info", *run, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["photos"] == 5
    assert about["views"]["avg"] == {"width": 3, "dtype": "float16"}
    assert about["provenance"] == PROVENANCE
    assert command(["cache", "info", *run]) == 0
    assert "5 photos" in capsys.readouterr().out
    assert command(["cache", "verify", *run]) == 0
    assert capsys.readouterr().out == f"{path}: 5 photos, sound\n"
    whole = bytearray(path.read_bytes())
    with EmbeddingCache.open(path) as cache:
        whole[cache.footer.extents["views/avg"].offset] ^= 1
    path.write_bytes(whole)
    assert command(["cache", "verify", *run]) == 1
    out = capsys.readouterr().out
    assert f"{path}: damaged: {NAMES[0]} and 4 more rows of its block\n" in out
    assert out.count("\n") == 3
    assert "5 of 5 rows are damaged, or one that shares their checksum is" in out
    assert out.endswith(
        "for 64 rows\nmake it again as it was made, with kinembed cache import, merge or embed\n"
    )
    assert command(["cache", "verify", *run, "--repair"]) == 1  # its provenance is missing
    assert "was not made by kinembed embed" in capsys.readouterr().err


# Who is on a photo


def with_people(path: Path, people: list[str], sha: int = 0) -> Path:
    shas = digests(len(people)) + np.uint8(sha)
    views = {"max": [vectors(len(people), 4)]}
    return write_cache(
        path, PROVENANCE, encoded(NAMES[: len(people)]), shas, views, people=encoded(people)
    )


def test_people_come_back_from_the_file(tmp_path: Path) -> None:
    people = ["F0001/MID1", "", "Ada", "Müller Peña/MID2", "F0001/MID1"]
    with EmbeddingCache.open(with_people(tmp_path / "c.h5", people)) as cache:
        assert [person.decode() for person in cache.people.tolist()] == people
    assert verify(tmp_path / "c.h5").is_sound


def test_without_people_kaggles_layout_says_them(path: Path) -> None:
    with EmbeddingCache.open(path) as cache:
        assert cache.people.tolist() == [b"", b"", b"", b"F0001/MID1", b""]


def test_who_is_on_a_photo_is_not_part_of_the_vectors_identity(tmp_path: Path) -> None:
    one = with_people(tmp_path / "a.h5", ["F0001/MID1", "F0001/MID2"])
    other = with_people(tmp_path / "b.h5", ["F0002/MID1", ""])
    with EmbeddingCache.open(one) as a, EmbeddingCache.open(other) as b:
        assert a.digest == b.digest


@pytest.mark.parametrize(
    "person", ["/", "F0001/", "/MID1", "a/b/c", "../MID1", "F0001/..", "a\\b", "F0001/M\x1b[2J"]
)
def test_what_is_no_person_is_refused(person: str, tmp_path: Path) -> None:
    path = with_people(tmp_path / "c.h5", ["F0001/MID1", person])
    with EmbeddingCache.open(path) as cache, pytest.raises(RunError, match="no name of a person"):
        _ = cache.people


def test_people_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    people, views = np.array([b"F/\xff"]), {"max": [vectors(1, 4)]}
    write_cache(tmp_path / "c.h5", PROVENANCE, encoded(NAMES[:1]), digests(1), views, people=people)
    with (
        EmbeddingCache.open(tmp_path / "c.h5") as cache,
        pytest.raises(RunError, match="no name of a person"),
    ):
        _ = cache.people


# Writing


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99))
def test_rows_of_several_caches_join_to_one(
    tmp_path_factory: pytest.TempPathFactory, count: int, sources: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("join")
    rng = np.random.default_rng(seed)
    names = sorted({f"{'n' * int(rng.integers(5))}{row}.jpg" for row in range(count)})
    place = rng.integers(sources, size=count)
    values = vectors(count, 4)
    photos, caches = {}, []
    for source in range(sources):
        here = np.flatnonzero(place == source)
        if not len(here):
            caches.append(None)
            continue
        path = folder / f"{source}.h5"
        write_cache(
            path,
            PROVENANCE,
            encoded([names[i] for i in here]),
            digests(count)[here],
            {"max": [values[here]]},
            np.array([[i, 2 * i] for i in here]),
        )
        caches.append([path, EmbeddingCache.open(path)][source % 2])
        for row, i in enumerate(here.tolist()):
            photo = Photo(names[i], digests(count)[i].tobytes(), i, 2 * i, f"F/{i % 3}")
            photos[names[i]] = Row(photo, source, row)
    rows = Joined.of([photos[name] for name in names], caches)

    def people(some: np.ndarray) -> np.ndarray:
        return encoded([photos[name.decode()].photo.person for name in some.tolist()])

    with EmbeddingCache.open(join(folder / "all.h5", PROVENANCE, ["max"], rows, people)) as cache:
        assert [name.decode() for name in cache.names.tolist()] == names
        assert (cache.vectors("max") == values).all()
        assert (cache.digests == digests(count)).all()
        assert (cache.stats == [[i, 2 * i] for i in range(count)]).all()
        assert cache.people.tolist() == [f"F/{i % 3}".encode() for i in range(count)]


@pytest.mark.parametrize("raised", [WriteError, KeyboardInterrupt])
def test_an_exception_leaves_the_cache_that_was_there(
    path: Path, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt if raised is KeyboardInterrupt else OSError(28, "No space left")

    monkeypatch.setattr("kinembed.io.os.replace", fail)
    with pytest.raises(raised):
        make(path, ["other.jpg"])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Filling(FileIO):
    """A file on a disk that is full after so many bytes."""

    left = 0

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        if size and not Filling.left:
            raise OSError(28, "No space left on device")
        count = min(size, Filling.left)
        Filling.left -= count
        return super().write(memoryview(content).cast("B")[:count])


@pytest.fixture
def filling(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes files fill up; how many bytes writing a cache takes, seeks left out."""
    monkeypatch.setattr(os, "fdopen", lambda number, mode, _: BufferedWriter(Filling(number, mode)))
    Filling.left = 1 << 30
    make(path.with_name("other.h5"), OTHER)
    path.with_name("other.h5").unlink()
    return (1 << 30) - Filling.left


OTHER = [f"{row:03}.jpg" for row in range(200)]


@pytest.mark.parametrize("number", range(50))
def test_a_disk_full_at_any_byte_is_a_problem_not_a_crash(
    path: Path, number: int, filling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    before = path.read_bytes()
    monkeypatch.setattr(os, "fdopen", lambda number, mode, _: BufferedWriter(Filling(number, mode)))
    drawn = np.random.default_rng(3).integers(filling, size=48).tolist()
    Filling.left = [0, filling - 1, *drawn][number]
    with pytest.raises(WriteError, match="No space left on device") as error:
        make(path, OTHER)
    monkeypatch.undo()
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_cache_of_nothing_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photo could be embedded"):
        join(tmp_path / "c.h5", PROVENANCE, ["max"], Joined.of([], []), lambda names: names)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_of_what_is_embedded_not_of_times(run: Path) -> None:
    path = run / "embeddings.h5"
    with EmbeddingCache.open(path) as cache:
        before = cache.digest
        about, names = cache.provenance, np.array(cache.names)
        digests, stats = np.array(cache.digests), np.array(cache.stats)
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
    changed = {view: [blocks[0].copy()] for view, blocks in views.items()}
    changed["avg"][0][-1, -1] += 1
    versions = [
        (names, digests, views, about, before),
        (names, digests, changed, about, None),
        (names, digests, {"max": views["max"]}, about, None),
        (names, digests[::-1], views, about, None),
        (names, digests, views, about | {"model": "other"}, None),
    ]
    result = []
    for each, shas, blocks, provenance, _ in versions:
        write_cache(path, provenance, each, shas, blocks)
        with EmbeddingCache.open(path) as cache:
            result.append(cache.digest)
            assert not np.array_equal(cache.stats, stats)
    assert result[0] == before and len(set(result)) == len(versions)


def test_scores_that_are_not_finite_blame_the_vectors_or_the_head(path: Path) -> None:
    scores = np.ones(3)
    with EmbeddingCache.open(path) as cache:
        assert cache.finite(scores, "max") is scores
        scores[1] = np.inf
        with pytest.raises(RunError, match=r"the head's scores of .*\.h5 are not finite, and the"):
            cache.finite(scores, "max+avg")
    wrong = vectors(5, 4)
    wrong[3, 1] = np.nan
    views = {"max": [vectors(5, 4)], "avg": [wrong]}
    write_cache(path, PROVENANCE, encoded(NAMES), digests(5), views)
    with EmbeddingCache.open(path) as cache:
        with pytest.raises(
            RunError, match=r"view avg of 'train/F0001/MID1/a.jpg' is not finite; run"
        ):
            cache.finite(scores, "max+avg")
        with pytest.raises(RunError, match="the head's scores"):
            cache.finite(scores, "max")
