"""`score --engine ray`: the bytes of one process, whatever dies; with a Ray of this process."""

import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_ray import FakeRay
from neighbours import random_model

from kinembed import threads
from kinembed.cache import EmbeddingCache
from kinembed.cache.convert import convert
from kinembed.cli import run as kinembed
from kinembed.config import ScoreConfig
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.heads.blockwise import Blocks
from kinembed.heads.file import read_head, save_head
from kinembed.heads.pair_shards import PairShards
from kinembed.score import score


@pytest.fixture(scope="module")
def pairs(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of photos of all folders, one of a photo with itself among them."""
    with EmbeddingCache.open(answering / "embeddings.h5") as cache:
        names = [name.decode() for name in cache.names.tolist()]
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    rows = [",".join(rng.sample(names, 2)) for _ in range(300)]
    path.write_text("\n".join(["a,b", *rows, f"{names[0]},{names[0]}"]) + "\n")
    return path


@pytest.fixture
def run(answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose cache is in shards."""
    monkeypatch.setattr(threads._Share, "processors", None)  # which a worker here sets
    convert(answering / "embeddings.h5", tmp_path / "run", shard_photos=16)
    for name in ("head.h5", "calibration.json"):
        shutil.copy(answering / name, tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.fixture
def config(pairs: Path) -> ScoreConfig:
    """A few photos in each block, a few pairs in each shard."""
    return ScoreConfig(
        pairs, chunk=70, engine="ray", actors=2, shard_pairs=16, actor_memory=4e-6, expand="off"
    )


def use(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> FakeRay:
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return ray


@pytest.mark.parametrize("expand", ["off", "auto"])
def test_actors_give_the_bytes_of_one_process(
    expand: str, run: Path, faces: Path, config: ScoreConfig, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "kinembed")
    head, record = read_head(run / "head.h5")
    model = random_model(np.random.default_rng(0), head.width, mistaken=1e-6)
    save_head(replace(head, same_person=model, knn_view=head.view), run / "head.h5", record)
    config = replace(config, expand=expand, raw=True)  # type: ignore[arg-type]
    wanted = score(replace(config, engine="local"), faces, run).read_bytes()
    assert ("likely have others" in caplog.text) == (expand == "auto")
    killed = iter([False, True, False, True])

    def dies(actor: int, method: str, *arguments: int) -> bool:
        return method == "compute" and next(killed, False)

    ray = use(monkeypatch, FakeRay(dies))
    ray.away = 2  # on a busy machine an actor is long in starting again
    before = {path.name for path in run.iterdir()}
    found = score(replace(config, out=run / "by_ray.csv"), faces, run)
    assert found.read_bytes() == wanted
    assert {path.name for path in run.iterdir()} == before | {"by_ray.csv"}
    assert next(killed, None) is None  # both kills took place
    numbers = [call[2] for call in ray.calls if call[1] == "compute"]
    assert len(set(numbers)) > 10 and len(numbers) == len(set(numbers)) + 2
    assert caplog.text.count("1 of them have a photo with itself") == 2
    assert not ray.is_open and not ray.away


def test_a_driver_that_ends_early_goes_on_from_the_shards(
    run: Path, faces: Path, config: ScoreConfig, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG", "kinembed")
    wanted = score(replace(config, engine="local"), faces, run).read_bytes()

    def interrupts(actor: int, method: str, *arguments: int) -> bool:
        if arguments == (7,):
            raise KeyboardInterrupt
        return False

    def interrupted() -> list[Path]:
        use(monkeypatch, FakeRay(interrupts))
        with pytest.raises(KeyboardInterrupt):
            score(config, faces, run)
        return sorted((run / "score.partial").glob("*.shard"))

    there = interrupted()
    assert len(there) >= 5
    there[0].write_bytes(there[0].read_bytes()[:-1])  # a damaged one counts as missing
    there[1].write_bytes(bytes(len(there[1].read_bytes())))
    use(monkeypatch, FakeRay())
    caplog.clear()
    assert score(config, faces, run).read_bytes() == wanted
    assert f"{len(there) - 2} of them were there" in caplog.text
    assert "1 of them have a photo with itself" in caplog.text
    assert not (run / "score.partial").exists()
    interrupted()  # those of other settings are forgotten
    use(monkeypatch, FakeRay())
    caplog.clear()
    assert score(replace(config, shard_pairs=20), faces, run).read_bytes() == wanted
    assert "are forgotten" in caplog.text and ", 0 of them were there" in caplog.text


def test_shards_of_a_file_of_the_same_size_and_time_score_no_other(
    run: Path, faces: Path, tmp_path: Path, config: ScoreConfig, pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "unpacked.csv"
    title, *rows = pairs.read_text().splitlines()
    config = replace(config, pairs=path)
    for order in (rows, rows[::-1]):  # of archives, all files may have one time
        path.write_text("\n".join([title, *order]) + "\n")
        os.utime(path, (1e9, 1e9))
        if order is rows:
            use(monkeypatch, FakeRay(lambda *call: interrupted(call[2:] == (7,))))
            with pytest.raises(KeyboardInterrupt):
                score(config, faces, run)
    use(monkeypatch, FakeRay())
    with pytest.raises(DataError, match="has changed while it was read; run kinembed score again"):
        score(config, faces, run)
    assert not (run / "submission.csv").exists()
    found = score(config, faces, run).read_bytes()
    assert found == score(replace(config, engine="local"), faces, run).read_bytes()


def interrupted(now: bool) -> bool:
    if now:
        raise KeyboardInterrupt
    return False


def test_what_does_not_work_is_said_in_one_line(
    answering: Path, run: Path, faces: Path, tmp_path: Path, config: ScoreConfig, pairs: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ray = use(monkeypatch, FakeRay())
    with pytest.raises(KinembedError, match="--engine ray scores pairs of photos, from a file"):
        score(replace(config, people="mean"), faces, run)
    text = pairs.read_text().splitlines()
    triples = tmp_path / "triples.csv"
    triples.write_text(
        "father,mother,child\n" + "\n".join(f"{row},{row.split(',')[0]}" for row in text[1:5])
    )
    with pytest.raises(KinembedError, match="these are triples"):
        score(replace(config, pairs=triples), faces, run)
    changed = tmp_path / "changed.csv"
    shutil.copy(pairs, changed)

    def grows(actor: int, method: str, *arguments: int) -> bool:
        with changed.open("a") as file:
            file.write(text[-1] + "\n")
        return False

    ray.dies = grows
    with pytest.raises(DataError, match="has changed while it was read"):
        score(replace(config, pairs=changed), faces, run)

    def replaces(actor: int, method: str, *arguments: int) -> bool:
        convert(answering / "embeddings.h5", run, dtype="float16", shard_photos=16, force=True)
        return False

    ray = use(monkeypatch, FakeRay(replaces))
    with pytest.raises(RunError, match="cannot begin: .*of another cache or head than"):
        score(config, faces, run)
    assert kinembed(["score", "--actors", "2"]) == 2
    assert "are of --engine ray" in capsys.readouterr().err


def test_damaged_plans_are_refused(tmp_path: Path) -> None:
    pairs = np.array([[0, 5], [3, 3], [5, 1], [8, 0], [8, 5], [9, 4]])
    blocks = Blocks.of(pairs, np.array([0]), 10, 2)
    assert len(blocks) > 3
    shards = PairShards.plan(tmp_path, {"cache": "a"}, pairs, blocks, 1)
    assert len(shards) == 6 and sorted(shards.order.tolist()) == [*range(6)]
    assert np.array_equal(pairs[shards.order], shards.pairs)
    plan = (tmp_path / "plan.json").read_bytes()
    for broken in (b"", b"[]", b"{}", plan[:-2], plan.replace(b'"cuts": [0', b'"cuts": [9')):
        (tmp_path / "plan.json").write_bytes(broken)
        with pytest.raises(RunError, match="holds no shards of a scoring"):
            PairShards.read(tmp_path)
    (tmp_path / "plan.json").write_bytes(plan)
    for name in ("pairs.bin", "order.bin"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
        shards = PairShards.read(tmp_path)
        last = int(np.argmax(shards.bounds[:, 3]))
        with pytest.raises(RunError, match=r"its pairs.bin or order.bin is damaged; delete"):
            shards.compute(last, lambda *_: np.zeros((1, 1)))
        (tmp_path / name).write_bytes(content)
    content = (tmp_path / "photos.bin").read_bytes()
    (tmp_path / "photos.bin").write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    with pytest.raises(RunError, match=r"photos.bin is damaged"):
        PairShards.read(tmp_path)
    (tmp_path / "photos.bin").write_bytes(content)
    (tmp_path / "pairs.bin").write_bytes(b"short")
    with pytest.raises(RunError, match="holds no shards of a scoring"):
        PairShards.read(tmp_path)
