"""Scoring block against block: the same to the bit, each file read a bounded number of times."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.arrays import Rows, Vectors
from kinembed.cache import EmbeddingCache
from kinembed.cache.convert import convert
from kinembed.cache.lazy_rows import ShardedRows
from kinembed.cache.stacked import open_caches
from kinembed.config import ScoreConfig
from kinembed.errors import DataError
from kinembed.heads import blockwise, representations
from kinembed.heads.blockwise import score_blockwise
from kinembed.heads.file import read_head
from kinembed.heads.pair import PairHead
from kinembed.heads.representations import Representations
from kinembed.score import score

WIDTH = 6


def pair_head(width: int = WIDTH) -> PairHead:
    rng = np.random.default_rng(3)
    kernels = (rng.standard_normal((width, 4), np.float32), np.ones((4, 1), np.float32))
    return PairHead("max", "a" * 64, kernels, (np.zeros(4, np.float32), np.zeros(1, np.float32)))


@given(
    photos=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    most=st.integers(1, 50),
    count=st.integers(0, 60),
    batch=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_any_blocks_give_the_same_bits(
    photos: int, sizes: list[int], most: int, count: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    starts = np.unique(np.clip(np.cumsum([0, *sizes]), 0, photos - 1))
    vectors = rng.standard_normal((photos, WIDTH), np.float32)
    pairs, head = rng.integers(0, photos, (count, 2)), pair_head()
    largest = 0

    def read(rows: Rows) -> Vectors:
        nonlocal largest
        assert (rows[:-1] < rows[1:]).all()
        largest = max(largest, len(rows))
        return vectors[rows]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BATCH", batch)
        found = score_blockwise(head, read, pairs, starts, photos, most * 4 * WIDTH, 1)
    assert np.array_equal(found, head.score(vectors, pairs))
    assert largest <= max(1, most // 2)


def test_each_file_is_read_as_often_as_there_are_blocks_at_most() -> None:
    rng = np.random.default_rng(0)
    every = rng.standard_normal((400, WIDTH)).astype(np.float32)
    sizes, read = [50] * 8, Counter[int]()

    def part(number: int) -> Vectors:
        read[number] += 1
        return every[number * 50 : number * 50 + 50]

    rows = ShardedRows(sizes, part, WIDTH, "<f4")
    for count in (300, 30_000):  # however many pairs there are
        read.clear()
        pairs = rng.integers(0, 400, (count, 2))
        found = score_blockwise(
            pair_head(), rows.rows, pairs, rows.starts, 400, 2 * 100 * 4 * WIDTH, 1
        )
        assert np.array_equal(found, pair_head().score(every, pairs))
        # Four blocks of two files: 16 blocks read one by one, less those that are held already.
        assert max(read.values()) <= 4 and sum(read.values()) <= 2 * (16 - 6)
    read.clear()
    score_blockwise(pair_head(), rows.rows, pairs, rows.starts, 400, 1 << 30, 1)
    assert read == dict.fromkeys(range(8), 1)


@pytest.fixture
def many(tuned: Path, tmp_path: Path) -> Path:
    """A run whose cache is in shards."""
    convert(tuned / "embeddings.h5", tmp_path / "run", shard_photos=16)
    shutil.copy(tuned / "head.h5", tmp_path / "run" / "head.h5")
    return tmp_path / "run"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards whose vectors are read, each time."""
    found: list[int] = []
    rows = ShardedRows.rows

    def counting(self: ShardedRows, asked: Rows) -> Vectors:
        found.extend(np.unique(np.searchsorted(self.starts, asked, "right") - 1).tolist())
        return rows(self, asked)

    monkeypatch.setattr(ShardedRows, "rows", counting)
    return found


@pytest.mark.parametrize(
    ("dtype", "is_large", "size"),
    [("float32", True, 8), ("float32", False, 8), ("int8", True, 8), ("float32", True, None)],
)
def test_a_submission_is_the_same_block_against_block(
    dtype: str, is_large: bool, size: int | None, tuned: Path, faces: Path, tmp_path: Path, read: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pairs, head = faces / "sample_submission.csv", read_head(tuned / "head.h5")[0]
    plain = tmp_path / "plain"
    for run, photos in ((plain, None), (tmp_path / "many", size)):
        convert(tuned / "embeddings.h5", run, dtype=dtype, shard_photos=photos)
        shutil.copy(tuned / "head.h5", run / "head.h5")
    config = ScoreConfig(pairs, chunk=7, threads=1, out=tmp_path / "one.csv")
    wanted = score(config, faces, plain).read_bytes()
    if is_large:
        monkeypatch.setattr(representations, "most_memory", lambda: 40 * 4 * head.width)
    read.clear()
    found = score(replace(config, out=tmp_path / "many.csv"), faces, tmp_path / "many")
    assert found.read_bytes() == wanted
    with EmbeddingCache.open(tmp_path / "many" / "embeddings.h5") as cache:
        blocks = -(-len(cache) // 8)
    if size is not None:
        assert read and max(Counter(read).values()) <= (blocks if is_large else 2)


def test_metric_heads_read_each_shard_once(
    answering: Path, tmp_path: Path, read: list[int]
) -> None:
    head = read_head(answering / "head.h5")[0]
    assert head.kind == "metric"
    path = convert(answering / "embeddings.h5", tmp_path, shard_photos=16)
    with open_caches([path]) as cache:
        rng = np.random.default_rng(0)
        pairs = rng.integers(0, len(cache), (500, 2))
        of_all = Representations(cache, head, expand=False)
        read.clear()
        wanted = of_all.score(pairs)
        assert read and max(Counter(read).values()) == 1
        of_some = Representations(cache, head, expand=False)
        read.clear()
        found = [of_some.score(pairs[start : start + 5]) for start in range(0, 500, 5)]
        assert np.array_equal(np.concatenate(found), wanted)
        assert max(Counter(read).values()) <= 2  # however many blocks of pairs there are


def test_pairs_that_change_meanwhile_are_refused(
    many: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = tmp_path / "pairs.csv"
    shutil.copy(faces / "sample_submission.csv", pairs)
    monkeypatch.setattr(representations, "most_memory", lambda: 1)
    before = Representations.score

    def longer(self: Representations, *arguments: object, **more: object) -> object:
        lines = pairs.read_text().splitlines()
        pairs.write_text("\n".join([*lines, lines[-1]]) + "\n")
        return before(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Representations, "score", longer)
    with pytest.raises(DataError, match="has changed while it was read"):
        score(ScoreConfig(pairs, out=tmp_path / "out.csv", expand="off"), faces, many)
    assert not (tmp_path / "out.csv").exists()
