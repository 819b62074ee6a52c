"""Caches in shards and of bytes with scales: read as one, refused where a shard is another's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.cache import SCHEMA, EmbeddingCache
from kinembed.cache.convert import convert
from kinembed.cache.lazy_rows import ScaledRows, ShardedRows, quantised
from kinembed.cache.sharded import ShardedCache
from kinembed.cache.stacked import open_caches
from kinembed.cache.verify import describe, verify
from kinembed.cache.writer import write_cache
from kinembed.config import EmbedConfig, ScoreConfig
from kinembed.embed import embed
from kinembed.errors import RunError
from kinembed.score import score

ABOUT = {"schema": SCHEMA, "model": "a" * 64, "dtype": "float32"}
COUNT, WIDTH = 300, 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    names = np.array(
        [f"train/F{row // 9:04}/MID{row % 9 // 3}/{row:05}.jpg".encode() for row in range(COUNT)]
    )
    views = {name: [rng.standard_normal((COUNT, WIDTH), np.float32)] for name in ("max", "native")}
    digests = rng.integers(0, 256, (COUNT, 32), np.uint8)
    stats = rng.integers(0, 9999, (COUNT, 2))
    path = tmp_path_factory.mktemp("whole") / "embeddings.h5"
    return write_cache(path, ABOUT, names, digests, views, stats)


@pytest.fixture(scope="module")
def sharded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(whole, tmp_path_factory.mktemp("sharded"), shard_photos=64)


def test_shards_are_read_as_one(whole: Path, sharded: Path) -> None:
    assert sharded.name == "embeddings.json"
    with EmbeddingCache.open(whole) as one, EmbeddingCache.open(sharded) as many:
        assert isinstance(many, ShardedCache) and len(many.shards) == 5
        assert (len(many), many.views, many.provenance) == (len(one), one.views, one.provenance)
        for name in ("names", "people", "digests", "stats"):
            assert np.array_equal(getattr(many, name), getattr(one, name)), name
        for view in (*one.views, "max+native"):
            a, b = one.vectors(view), many.vectors(view)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert np.array_equal(a, np.asarray(b))
        assert many.find(["train/F0030/MID1/00274.jpg"]).tolist() == [274]
    with open_caches([sharded.with_suffix(".h5")]) as found:  # by the name of the file
        assert isinstance(found, ShardedCache)
    said = describe(sharded.with_suffix(".h5"))
    assert said["photos"] == COUNT and said["path"].endswith("embeddings.json")
    assert said["bytes"] > sum(p.stat().st_size for p in sharded.parent.glob("*/*.h5"))
    assert verify(sharded.with_suffix(".h5")).is_sound


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.one_of(
        st.lists(st.integers(-3, 2), max_size=9),
        st.slices(5),
        st.integers(-1, 0),
        st.just(None),
    ),
)
def test_rows_of_several_files_are_those_of_one(counts: list[int], key: object) -> None:
    sizes = [count + 2 for count in counts]
    every = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    parts = np.split(every, np.cumsum(sizes)[:-1])
    rows = ShardedRows(sizes, parts.__getitem__, 3, "<f4")
    if key is None:
        mask = every[:, 0] % 2 == 0
        assert np.array_equal(rows[mask], every[mask])
        assert np.array_equal(rows[:, 1:], every[:, 1:])
        assert np.array_equal(rows + 1, every + 1) and np.array_equal(
            rows @ every.T, every @ every.T
        )
        assert np.array_equal([*rows], [*every]) and rows.tobytes() == every.tobytes()
        assert np.array_equal(rows.take(np.array([1, 0])), every[[1, 0]])
        assert rows.astype(np.float16).dtype == np.float16
    else:
        own = np.array(key, np.intp) if isinstance(key, list) else key
        assert np.array_equal(rows[own], every[own])  # type: ignore[index]
        assert rows[own].shape == every[own].shape  # type: ignore[index]


def test_each_file_is_read_once_whatever_the_order_of_rows() -> None:
    every = np.arange(40, dtype=np.float32).reshape(20, 2)
    read: list[int] = []

    def part(number: int) -> np.ndarray:
        read.append(number)
        return every[number * 5 : number * 5 + 5]

    rows = np.random.default_rng(0).permutation(20)
    assert np.array_equal(ShardedRows([5] * 4, part, 2, "<f4")[rows], every[rows])
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize("in_shards", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_narrower_formats_keep_the_cosine(
    dtype: str, in_shards: bool, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kinembed")
    path = convert(whole, tmp_path, dtype, 100 if in_shards else None)
    assert caplog.text.count("cosine with what it was") == 2
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    with EmbeddingCache.open(whole) as one, EmbeddingCache.open(path) as other:
        assert other.provenance == {**ABOUT, "dtype": dtype} and verify(path).is_sound
        a, b = (np.asarray(cache.vectors("max"), np.float64) for cache in (one, other))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.999 and (cosines < 1).any()
        if dtype == "int8":
            numbers, scales = quantised(a)
            assert np.array_equal(other.stored("views/max"), numbers)
            assert np.array_equal(np.asarray(ScaledRows(numbers, scales)), b)
            assert np.abs(a - b).max() <= np.abs(a).max() / 254 * 1.001
        assert np.array_equal(other.names, one.names)
        assert np.array_equal(other.digests, one.digests)
    size = sum(p.stat().st_size for p in tmp_path.rglob("*.h5"))
    assert size < whole.stat().st_size


def test_there_and_back_gives_the_same_bytes(whole: Path, sharded: Path, tmp_path: Path) -> None:
    assert convert(sharded, tmp_path).read_bytes() == whole.read_bytes()
    with pytest.raises(RunError, match="is there already; name another --run"):
        convert(sharded, tmp_path)
    again = convert(sharded, tmp_path, shard_photos=128, force=True)
    assert {p.suffix for p in tmp_path.iterdir() if p.is_file()} == {".json"}
    assert len([*tmp_path.glob("embeddings-*/*.h5")]) == 3
    with pytest.raises(RunError, match="is the cache of"):
        convert(again, tmp_path)
    convert(whole, tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["embeddings.h5"]


@pytest.mark.parametrize(
    "damage", ["gone", "another", "list", "schema", "count", "empty", "vectors"]
)
def test_what_is_not_as_it_was_written_is_refused(
    damage: str, sharded: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(sharded.parent, tmp_path / "run")
    path, files = run / "embeddings.json", sorted(run.glob("*/*.h5"))
    content = json.loads(path.read_bytes())
    if damage == "vectors":
        with EmbeddingCache.open(files[2]) as cache:
            at = cache.footer.extents["views/max"].offset
        whole = bytearray(files[2].read_bytes())
        whole[at] ^= 1
        files[2].write_bytes(whole)
        found = verify(path)
        assert len(found.damaged) == 64 and found.damaged[0].endswith("00128.jpg")
        return
    if damage == "gone":
        files[1].unlink()
    elif damage == "another":
        shutil.copy(files[2], files[1])
    elif damage == "list":
        content["photos"][1] += 1
    elif damage == "schema":
        content["schema"] = 99
    elif damage == "count":
        content["photos"] = content["photos"][1:]
    else:
        content["photos"] = content["digests"] = []
    path.write_text(json.dumps(content))
    with (
        pytest.raises(RunError, match=r"run kinembed embed") as error,
        EmbeddingCache.open(path) as cache,
    ):
        np.asarray(cache.vectors("max"))
    assert "\n" not in str(error.value)


def test_embed_leaves_shards_and_goes_on_from_them(
    data: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", views=("max",), shard_photos=32, batch_size=8)
    one = embed(config, data, tmp_path / "one")
    run = tmp_path / "many"
    path = embed(replace(config, in_shards=True), data, run)
    assert path == run / "embeddings.json" and not (run / "embeddings.h5").exists()
    before = path.stat().st_mtime_ns
    assert embed(config, data, run) == path and path.stat().st_mtime_ns == before
    with EmbeddingCache.open(one) as a, EmbeddingCache.open(path) as b:
        assert np.array_equal(a.vectors("max"), np.asarray(b.vectors("max")))
        assert np.array_equal(a.people, b.people)
    photo = sorted((data / "test").iterdir())[0]
    (data / "test" / "zz.jpg").write_bytes(photo.read_bytes() + b"more")
    assert embed(config, data, run) == path and verify(path).is_sound
    with EmbeddingCache.open(path) as cache:
        assert len(cache) == len(a) + 1 and cache.names[-1] != b""
    assert len([*run.glob("embeddings-*")]) == 1
    assert embed(replace(config, in_shards=False), data, run) == run / "embeddings.h5"
    for left in ("embeddings-making", f"embeddings-{'0' * 16}"):  # by a process that was killed
        (run / left).mkdir()
    assert embed(config, data, run) == run / "embeddings.h5"
    assert sorted(p.name for p in run.iterdir()) == ["embed.json", "embeddings.h5"]


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_embed_goes_on_in_the_format_of_the_cache(
    dtype: str, data: Path, tmp_path: Path, on_cpu: EmbedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", views=("max",), shard_photos=32, batch_size=8)
    one, run = tmp_path / "one", tmp_path / "narrow"
    convert(embed(config, data, one), run, dtype, shard_photos=64)
    first = narrow_rows(run)
    photos = sorted((data / "test").iterdir())
    photos[0].rename(data / "test" / "renamed.jpg")
    (data / "test" / "zz.jpg").write_bytes(photos[1].read_bytes() + b"more")
    caplog.set_level("INFO")
    path = embed(replace(config, rehash=True), data, run)
    assert "its numbers stay" in caplog.text and verify(path).is_sound
    assert describe(path)["views"]["max"]["dtype"] == dtype
    now = narrow_rows(run)
    new = now.pop("test/zz.jpg")
    first["test/renamed.jpg"] = first.pop(f"test/{photos[0].name}")
    assert now == first  # byte for byte
    convert(embed(config, data, one), tmp_path / "again", dtype)
    assert new == narrow_rows(tmp_path / "again")["test/zz.jpg"]
    embed(replace(config, dtype=dtype), data, tmp_path / "made")  # type: ignore[arg-type]
    assert narrow_rows(tmp_path / "made") == narrow_rows(tmp_path / "again")
    caplog.clear()
    embed(replace(config, dtype="float32"), data, run)
    assert (
        f"{path}: was made with another dtype ({dtype}, now float32); all photos are embedded "
        "again" in caplog.text
    )


def narrow_rows(run: Path) -> dict[str, bytes]:
    """Each photo's vector as it is stored, with its scale."""
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        stored = [name for name in cache.footer.extents if name in ("views/max", "scales/max")]
        parts = [np.asarray(cache.stored(name)) for name in sorted(stored)]
        return {
            name.decode(): b"".join(part[row].tobytes() for part in parts)
            for row, name in enumerate(cache.names.tolist())
        }


def test_a_cache_that_holds_other_numbers_than_it_says_is_not_kept(
    data: Path, tmp_path: Path, on_cpu: EmbedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(on_cpu, backbone="mtcnn-onet", views=("max",), batch_size=8)
    path = embed(config, data, tmp_path)
    with EmbeddingCache.open(path) as cache:
        false = write_cache(
            tmp_path / "false.h5", {**cache.provenance, "dtype": "int8"}, cache.names,
            cache.digests, {"max": [np.array(cache.vectors("max"))]}, cache.stats, cache.people,
        )  # fmt: skip
    false.replace(path)
    caplog.set_level("INFO")
    embed(config, data, tmp_path)
    assert "its numbers are no int8, as it says; all photos are embedded again" in caplog.text
    assert describe(path)["views"]["max"]["dtype"] == "int8" and verify(path).is_sound


@pytest.mark.parametrize(("harm", "which"), [("damaged", 1), ("gone", 1), ("cut", 0)])
def test_only_files_that_are_damaged_or_gone_are_computed_again(
    harm: str, which: int, data: Path, tmp_path: Path, on_cpu: EmbedConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = replace(on_cpu, backbone="mtcnn-onet", shard_photos=32, batch_size=8)
    path = embed(replace(config, in_shards=True, dtype="int8"), data, tmp_path)
    total, files = len(cache_names(path)), sorted(tmp_path.glob("embeddings-*/*.h5"))
    file = files[which]
    with EmbeddingCache.open(file) as cache:
        at, count = cache.footer.extents["views/max"].offset + 3, len(cache)
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(content[:-9])
    else:
        file.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
    if harm != "damaged":
        what = "is gone" if harm == "gone" else "is damaged"
        said = f"{file}: {what}, of the {len(files)} files of {path}"
        with EmbeddingCache.open(path) as cache, pytest.raises(RunError) as error:
            np.asarray(cache.vectors("max"))
        again = f"kinembed embed --run {tmp_path} --backbone mtcnn-onet "
        assert str(error.value).startswith(f"{said}; run {again}")
        assert str(error.value).endswith(" --dtype int8 --precision fp32, which computes its "
                                         "photos again")  # fmt: skip
        found = verify(path)
        assert (found.rows, found.problems, found.damaged) == (total, (said,), ())
        assert found.cure.startswith(f"run kinembed cache verify --repair --run {tmp_path}, which")
    caplog.set_level("INFO")
    assert embed(replace(config, shard_photos=1024), data, tmp_path) == path
    assert verify(path).is_sound and file.read_bytes() == content
    assert sorted(tmp_path.glob("embeddings-*/*.h5")) == files
    assert f"{count} computed, {total - count} kept, 0 of" in caplog.text


def cache_names(path: Path) -> list[bytes]:
    with EmbeddingCache.open(path) as cache:
        return list(cache.names.tolist())


def test_a_head_scores_the_same_from_shards(
    tuned: Path, faces: Path, tmp_path: Path, on_cpu: EmbedConfig
) -> None:
    pairs = faces / "sample_submission.csv"
    wanted = score(ScoreConfig(pairs, out=tmp_path / "one.csv"), faces, tuned).read_bytes()
    run = tmp_path / "run"
    convert(tuned / "embeddings.h5", run, shard_photos=16)
    shutil.copy(tuned / "head.h5", run / "head.h5")
    found = score(ScoreConfig(pairs, out=tmp_path / "many.csv"), faces, run).read_bytes()
    assert found == wanted
