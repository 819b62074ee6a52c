"""Embeddings from elsewhere and for elsewhere, and caches that are joined."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.convert import convert, export_vectors, import_vectors, merge
from kinembed.cache.verify import describe, verify
from kinembed.cache.writer import write_cache
from kinembed.cli import run as command
from kinembed.config import EmbedConfig
from kinembed.embed import embed
from kinembed.errors import DataError, KinembedError, RunError, WeightsError

NAMES = ["test/a.jpg", "test/b,1.jpg", "train/é.png"]
ABOUT = {"schema": SCHEMA, "model": "0123", "backbone": "one", "dtype": "float32"}


def vectors(count: int, width: int = 4, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(width).standard_normal((count, width)).astype(kind)


def make(
    path: Path,
    names: list[str],
    rows: np.ndarray,
    view: str = "max",
    people: list[str] | None = None,
    **about: str,
) -> Path:
    texts = np.array([name.encode() for name in names])
    shas = np.stack([np.full(32, len(name), np.uint8) for name in names])
    who = None if people is None else np.array([person.encode() for person in people])
    return write_cache(path, ABOUT | about, texts, shas, {view: [rows]}, people=who)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Vectors and names, as another program may have left them."""
    np.save(tmp_path / "v.npy", vectors(3))
    (tmp_path / "n.txt").write_text("\n".join(NAMES))
    return tmp_path / "v.npy", tmp_path / "n.txt"


# Out and in again


@given(st.integers(1, 40), st.sampled_from([np.float32, np.float16]), st.integers(0, 99))
def test_what_is_exported_can_be_imported_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, count: int, kind: type, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("round")
    names = sorted(f"{row}/{seed}.jpg" for row in range(count))
    make(folder / "embeddings.h5", names, vectors(count, 5, kind))
    out = export_vectors(folder / "embeddings.h5", folder / "out.npy")
    lines = out.with_suffix(".txt").read_text().splitlines()
    assert lines == names
    assert np.array_equal(np.load(out), vectors(count, 5, kind))
    order = np.random.default_rng(seed).permutation(count)
    np.save(out, vectors(count, 5, kind)[order])
    out.with_suffix(".txt").write_text("\r\n".join(lines[i] for i in order) + "\r\n")
    path = import_vectors(out, out.with_suffix(".txt"), folder / "run", "one", "max")
    with EmbeddingCache.open(path) as cache:
        assert [name.decode() for name in cache.names.tolist()] == names
        assert cache.vectors("max").tobytes() == vectors(count, 5, kind).tobytes()
    assert verify(path).is_sound


def test_csv_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = make(tmp_path / "embeddings.h5", NAMES, vectors(3))
    out = export_vectors(path, tmp_path / "out.csv", "max")
    with out.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "0", "1", "2", "3"]
    assert [row[0] for row in rows] == NAMES
    assert (np.array([row[1:] for row in rows], np.float32) == vectors(3)).all()


def test_merged_caches_and_exports_say_who_is_on_a_photo(tmp_path: Path) -> None:
    rows = vectors(3)
    a = make(tmp_path / "a.h5", NAMES[:2], rows[:2], people=["F/1", ""])
    b = make(tmp_path / "b.h5", NAMES[1:], rows[1:], people=["F/2", "Ada"])
    views = make(tmp_path / "v.h5", NAMES, rows, "avg", people=["F/1", "", ""])
    with EmbeddingCache.open(merge(a, b, tmp_path / "ab.h5")) as cache:
        assert cache.people.tolist() == [b"F/1", b"F/2", b"Ada"]
    with EmbeddingCache.open(merge(views, tmp_path / "ab.h5", tmp_path / "all.h5")) as cache:
        assert cache.people.tolist() == [b"F/1", b"F/2", b"Ada"]
    c = make(tmp_path / "c.h5", NAMES[1:], rows[1:], people=["F/9", "Ada"])
    for other in (c, make(tmp_path / "w.h5", NAMES, rows, "avg", people=["F/8", "", ""])):
        with pytest.raises(RunError, match=r"shows F/\d in .* and F/\d in"):
            merge(tmp_path / "ab.h5", other, tmp_path / "no.h5")


def test_the_view_is_max_or_the_only_one(tmp_path: Path) -> None:
    path = make(tmp_path / "c.h5", NAMES, vectors(3), "native")
    assert np.load(export_vectors(path, tmp_path / "o.npy")).shape == (3, 4)
    texts = np.array([name.encode() for name in NAMES])
    shas = np.zeros((3, 32), np.uint8)
    views = {"avg": [vectors(3)], "native": [vectors(3, 2)]}
    write_cache(path, ABOUT, texts, shas, views)
    with pytest.raises(RunError, match="has views avg, native; name one with --view"):
        export_vectors(path, tmp_path / "o.npy")
    write_cache(path, ABOUT, texts, shas, dict.fromkeys(("avg-flip", "avg"), views["avg"]))
    with EmbeddingCache.open(path) as cache:
        assert cache.choose_view(None) == "avg"
    write_cache(path, ABOUT, texts, shas, views | {"max": [vectors(3, 6)]})
    assert np.load(export_vectors(path, tmp_path / "o.npy")).shape == (3, 6)
    assert np.load(export_vectors(path, tmp_path / "o.npy", "native")).shape == (3, 2)


def test_heads_of_one_network_go_with_all_its_imports(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    models = []
    for run, name in (("a", "arcface"), ("b", "arcface"), ("c", "adaface")):
        with EmbeddingCache.open(import_vectors(*files, tmp_path / run, name)) as cache:
            models.append(cache.provenance["model"])
            assert cache.views == ("native",)
    assert models[0] == models[1] != models[2]


@pytest.mark.parametrize("view", ["", "a+b", "a/b", "1.max", "a" * 65, "é"])
def test_names_that_no_view_may_have_are_refused(
    view: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="wanted 1 to 64 letters"):
        import_vectors(*files, tmp_path / "run", "one", view)
    assert not (tmp_path / "run").exists()


def test_float64_is_rounded(files: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(files[0], vectors(3, 4, np.float64))
    with EmbeddingCache.open(import_vectors(*files, tmp_path / "run", "x")) as cache:
        assert (cache.vectors("native") == vectors(3, 4, np.float64).astype(np.float32)).all()


# What is refused


def test_malformed_vectors_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    good = files[0].read_bytes()
    np.save(files[0], np.array([{"a": 1}], object), allow_pickle=True)
    pickled = files[0].read_bytes()
    for content, reason in (
        (b"", "not a .npy file"),
        (b"text", "not a .npy file"),
        (good[:-3], "not a .npy file"),
        (good[:20], "not a .npy file"),
        (b"\x93NUMPY\x01\0\x0a\0" + b"(" * 10, "not a .npy file"),
        (pickled, "not a .npy file|found object"),
        (saved(tmp_path, np.zeros(3, np.float32)), r"found shape \(3,\), wanted"),
        (saved(tmp_path, np.zeros((3, 0), np.float32)), r"found shape \(3, 0\), wanted"),
        (saved(tmp_path, np.zeros((3, 4), np.int32)), "found int32, wanted float16"),
        (saved(tmp_path, np.zeros((2, 4), np.float32)), "3 names for 2 vectors"),
        (saved(tmp_path, np.full((3, 4), np.nan, np.float32)), "'test/a.jpg' is not finite"),
        (saved(tmp_path, np.full((3, 4), 1e300)), "'test/a.jpg' is not finite in float32"),
    ):
        files[0].write_bytes(content)
        with pytest.raises(DataError, match=reason) as error:
            import_vectors(*files, tmp_path / "run", "x")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run" / "embeddings.h5").exists()


def saved(folder: Path, array: np.ndarray) -> bytes:
    np.save(folder / "saved.npy", array)
    return (folder / "saved.npy").read_bytes()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a\nb\na\n", "'a' is there twice"),
        (b"a\n\nb\n", "line 2: empty"),
        (b"a\nb\n../c\n", r"'\.\./c' is no name of a photo"),
        (b"a\nb\n/c\n", "'/c' is no name of a photo"),
        (b"a\nb\nc\\d\n", "is no name of a photo"),
        (b"a\nb\n\x07\n", "is no name of a photo"),
        (b"a\nb\n\xff\n", "not UTF-8"),
        (b"a\nb\n", "2 names for 3 vectors"),
    ],
)
def test_malformed_names_are_refused(
    files: tuple[Path, Path], tmp_path: Path, text: bytes, reason: str
) -> None:
    files[1].write_bytes(text)
    with pytest.raises(DataError, match=reason):
        import_vectors(*files, tmp_path / "run", "x")
    assert not (tmp_path / "run" / "embeddings.h5").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_pipes_and_endless_names_are_refused(
    which: int, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with files[1].open("r+b") as file:
        file.truncate((1 << 28) + 1)  # a hole: it takes no disk
    with pytest.raises(DataError, match="268,435,457 bytes of names"):
        import_vectors(*files, tmp_path / "run", "x")
    files[which].unlink()
    os.mkfifo(files[which])
    with pytest.raises(DataError, match="is no file"):
        import_vectors(*files, tmp_path / "run", "x")


def test_a_cache_that_is_there_is_not_replaced_unasked(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    path = import_vectors(*files, tmp_path / "run", "x")
    before = path.read_bytes()
    with pytest.raises(RunError, match="is there already; .* --force"):
        import_vectors(*files, tmp_path / "run", "y")
    with pytest.raises(RunError, match="is there already"):
        merge(path, path, path)
    assert path.read_bytes() == before
    import_vectors(*files, tmp_path / "run", "y", force=True)
    assert path.read_bytes() != before


# Joining caches


@given(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30), min_size=1))
def test_merging_is_the_union_either_way(
    tmp_path_factory: pytest.TempPathFactory, left: set[int], right: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    whole = vectors(31)
    paths = []
    for name, rows in (("a", left), ("b", right)):
        photos = [f"{row:02}.jpg" for row in sorted(rows)]
        paths.append(make(folder / f"{name}.h5", photos, whole[sorted(rows)]))
    for number, pair in enumerate((paths, paths[::-1])):
        with EmbeddingCache.open(merge(*pair, folder / f"{number}.h5")) as cache:
            rows = sorted(left | right)
            assert [name.decode() for name in cache.names.tolist()] == [f"{r:02}.jpg" for r in rows]
            assert (cache.vectors("max") == whole[rows]).all()


def test_views_of_the_same_photos_are_joined(tmp_path: Path) -> None:
    a = make(tmp_path / "a.h5", NAMES, vectors(3))
    b = make(tmp_path / "b.h5", NAMES, vectors(3, 2), "native")
    with EmbeddingCache.open(merge(a, b, tmp_path / "c.h5")) as cache:
        assert sorted(cache.views) == ["max", "native"]
        assert (cache.vectors("native") == vectors(3, 2)).all()
    assert verify(tmp_path / "c.h5").is_sound


@pytest.mark.parametrize("shard_photos", [None, 2])
def test_caches_of_bytes_are_merged_as_bytes(shard_photos: int | None, tmp_path: Path) -> None:
    others = ["test/aa.jpg", "train/f.png"]
    made = (
        ("a", NAMES, vectors(3), "max"),
        ("b", NAMES, vectors(3, 2), "native"),
        ("c", others, vectors(2), "max"),
    )
    for name, names, rows, view in made:
        whole = make(tmp_path / f"{name}.h5", names, rows, view)
        convert(whole, tmp_path / name, "int8", shard_photos)
    a, b, c = (EmbeddingCache.open(tmp_path / name / "embeddings.h5") for name in "abc")
    with a, b, c:
        views, photos = (merge(a.path, x.path, tmp_path / f"{x.views[0]}.h5") for x in (b, c))
        with EmbeddingCache.open(views) as cache:
            for source, view in ((a, "max"), (b, "native")):
                for dataset in (f"views/{view}", f"scales/{view}"):
                    assert np.array_equal(cache.stored(dataset), np.asarray(source.stored(dataset)))
        with EmbeddingCache.open(photos) as cache:
            rows = cache.find([*NAMES, *others])
            for dataset in ("views/max", "scales/max"):
                wanted = np.concatenate([np.asarray(each.stored(dataset)) for each in (a, c)])
                assert np.array_equal(cache.stored(dataset)[rows], wanted)
    for path in (views, photos):
        assert verify(path).is_sound
        assert {kind["dtype"] for kind in describe(path)["views"].values()} == {"int8"}
        assert describe(path)["provenance"]["dtype"] == "int8"


def test_a_cache_of_other_numbers_than_it_says_is_not_merged(tmp_path: Path) -> None:
    a, b = (make(tmp_path / f"{n}.h5", NAMES, vectors(3), dtype="int8") for n in "ab")
    with pytest.raises(RunError) as error:
        merge(a, b, tmp_path / "c.h5")
    assert str(error.value) == (
        f"{a}: the numbers of view max are float32, and its provenance says int8; run kinembed "
        "embed again, or cache convert --dtype int8"
    )
    mended = [convert(each, tmp_path / each.stem, "int8") for each in (a, b)]
    with EmbeddingCache.open(merge(*mended, tmp_path / "c.h5")) as cache:
        assert cache.dtype_of("max") == "int8"


@pytest.mark.parametrize(
    ("names", "width", "view", "about", "reason"),
    [
        (NAMES, 4, "max", {"model": "4567"}, "made with another model"),
        (NAMES, 4, "max", {"backbone": "two", "dtype": "float16"}, "another backbone, dtype; only"),
        (
            NAMES,
            4,
            "max",
            {"dtype": "float16"},
            r"dtype \(float32, float16\); .* cache convert FILE",
        ),
        (NAMES[:2], 4, "native", {}, "of different photos"),
        (NAMES, 5, "max", {}, "of another width"),
        (["other", NAMES[0]], 4, "max", {}, r"test/a\.jpg: has another max vector"),
    ],
)
def test_what_does_not_go_together_is_not_merged(
    names: list[str], width: int, view: str, about: dict, reason: str, tmp_path: Path
) -> None:
    a = make(tmp_path / "a.h5", NAMES, vectors(3))
    b = make(tmp_path / "b.h5", names, vectors(len(names), width), view, **about)
    with pytest.raises(RunError, match=reason):
        merge(a, b, tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()


def test_photos_of_other_bytes_and_damaged_caches_are_not_merged(tmp_path: Path) -> None:
    a = make(tmp_path / "a.h5", NAMES, vectors(3))
    texts = np.array([name.encode() for name in NAMES])
    shas = np.zeros((3, 32), np.uint8)
    b = write_cache(tmp_path / "b.h5", ABOUT, texts, shas, {"max": [vectors(3)]})
    with pytest.raises(RunError, match=r"test/a\.jpg: has other bytes"):
        merge(a, b, tmp_path / "c.h5")
    whole = bytearray(b.read_bytes())
    with EmbeddingCache.open(b) as cache:
        whole[cache.footer.extents["digests"].offset] ^= 1
    b.write_bytes(whole)
    with pytest.raises(RunError, match=r"b\.h5: is damaged; run kinembed cache verify"):
        merge(a, b, tmp_path / "c.h5")


# ONNX files


def onnx_model(path: Path, side: int = 8, batch: int | None = None, last: bool = False) -> Path:
    """Mean of each channel, times (1, 2, 3): a network that can be checked by hand."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = [batch or "n", side, side, 3] if last else [batch or "n", 3, side, side]
    axes = [1, 2] if last else [2, 3]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=axes, keepdims=0),
            helper.make_node("Mul", ["m", "w"], ["y"]),
        ],
        "means",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [batch or "n", 3])],
        [helper.make_tensor("w", kind, [3], [1.0, 2.0, 3.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("batch", "last"), [(None, False), (1, False), (None, True), (1, True)])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_onnx_network_embeds(
    batch: int | None, last: bool, order: str, faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    pytest.importorskip("onnxruntime")
    path = onnx_model(tmp_path / "means.onnx", 8, batch, last)
    arguments = [
        "embed",
        "--flip",
        "--onnx",
        str(path),
        "--side",
        "8",
        "--mean",
        "10,20,30",
        "--scale",
        "2",
    ]
    arguments += ["--order", order, "--photos", "test", "--data", str(faces), "--device", "cpu"]
    arguments += ["--framing", "whole"]
    assert command([*arguments, "--run", str(tmp_path / "run")]) == 0
    from kinembed.backbones import Framing
    from kinembed.data.photos import read_photo

    with EmbeddingCache.open(tmp_path / "run" / "embeddings.h5") as cache:
        assert set(cache.views) == {"native", "native-flip"}
        assert cache.provenance["backbone"] == "means"
        # Means do not change where photos are mirrored.
        assert np.allclose(cache.vectors("native"), cache.vectors("native-flip"), rtol=1e-5)
        for row in (0, 5):
            pixels = read_photo(faces / cache.names[row].decode(), Framing(8, 8))[1]
            colours = pixels.reshape(-1, 3).mean(0)[:: 1 if order == "rgb" else -1]
            wanted = (colours - [10, 20, 30]) / 2 * [1, 2, 3]
            assert np.allclose(cache.vectors("native")[row], wanted, rtol=1e-5)
    before = (tmp_path / "run" / "embeddings.h5").read_bytes()
    assert command([*arguments, "--run", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "embeddings.h5").read_bytes() == before


def test_what_is_no_onnx_network_is_refused(
    faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    config = replace(on_cpu, onnx=path, side=8, views=("native",))
    with pytest.raises(WeightsError, match=r"x\.onnx: no such file"):
        embed(config, faces, tmp_path / "run")
    for content in (b"", b"text", onnx_model(tmp_path / "m.onnx").read_bytes()[:50]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"x\.onnx: ") as error:
            embed(config, faces, tmp_path / "run")
        assert "\n" not in str(error.value)
    onnx_model(path, side=16, batch=1)
    with pytest.raises(
        WeightsError, match="--side 8: .*x.onnx takes photos of 16 x 16 px; leave out --side"
    ):
        embed(config, faces, tmp_path / "run")
    with pytest.raises(KinembedError, match="view 'max'"):
        embed(replace(config, side=16, views=("max",)), faces, tmp_path / "run")
    with pytest.raises(DataError, match="leave out --backbone"):
        embed(replace(config, side=16, backbone="sface"), faces, tmp_path / "run")
    with pytest.raises(DataError, match="--output is of an ONNX file"):
        embed(replace(on_cpu, output="y"), faces, tmp_path / "run")
    assert not (tmp_path / "run" / "embeddings.h5").exists()


@pytest.mark.parametrize("place", ["w.bin", "../w.bin"])
def test_weights_in_another_file_are_not_followed(
    place: str, faces: Path, tmp_path: Path, on_cpu: EmbedConfig, monkeypatch
) -> None:
    # The digest is of one file, and a stranger's may not name others of this machine.
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path, tmp_path / "here"):
        np.ones((192, 4), np.float32).tofile(folder / "w.bin")
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[192, 4])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=place)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "here" / "x.onnx"
    path.write_bytes(model.SerializeToString())
    config = replace(on_cpu, onnx=path, side=8, views=("native",))
    with pytest.raises(WeightsError, match=r"x\.onnx: keeps weights in another file"):
        embed(config, faces, tmp_path / "run")


# The command line


def test_the_commands_chain(files: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    run = ["--run", str(tmp_path / "run")]
    imported = ["cache", "import", *map(str, files), "--backbone-name", "arcface", *run]
    assert command(imported) == 0
    assert command(imported) == 1
    assert "is there already" in capsys.readouterr().err
    assert command(["cache", "views", *run]) == 0
    assert capsys.readouterr().out == "native  4  float32\n"
    for kind in ("npy", "csv"):
        assert command(["cache", "export", f"--{kind}", *run]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'run' / 'embeddings'}.{kind}\n"
    cache = str(tmp_path / "run" / "embeddings.h5")
    assert command(["cache", "merge", cache, cache, "--out", str(tmp_path / "two.h5")]) == 0
    assert command(["cache", "verify", *run]) == 0
    assert np.array_equal(np.load(tmp_path / "run" / "embeddings.npy"), vectors(3))
