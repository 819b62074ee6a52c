"""`embed --shard`: any number of parts in any order, by several processes, gives the same bytes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from forked import Forked
from some_photos import a_few

from kinembed.backbones.embedder import Embedder
from kinembed.cache import EmbeddingCache
from kinembed.cache.verify import describe, verify
from kinembed.config import EmbedConfig
from kinembed.data.photo_files import PhotoFiles, find_photos
from kinembed.embed import embed
from kinembed.embedding.joining import join_shards
from kinembed.embedding.work import Embedding
from kinembed.errors import RunError


@pytest.fixture(scope="module")
def photos(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some photos, one of them in three shards, one that is none."""
    data = a_few(faces, tmp_path_factory.mktemp("photos"))
    first = sorted((data / "test").iterdir())[0]
    for name in ("test/x.jpg", "train/y.jpg"):
        shutil.copy(first, data / name)
    (data / "test" / "a broken.jpg").write_bytes(b"none")
    return data


@pytest.fixture
def config(on_cpu: EmbedConfig) -> EmbedConfig:
    return replace(
        on_cpu, backbone="mtcnn-onet", batch_size=2, shard_photos=4, skip_unreadable=True,
        views=("max", "avg"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of one process."""
    settings = EmbedConfig(
        device="cpu", precision="fp32", framing="loose", backbone="mtcnn-onet", batch_size=2,
        shard_photos=4, skip_unreadable=True, views=("max", "avg"), flip=False,
    )  # fmt: skip
    return embed(settings, photos, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Photos that go through the network, a batch each."""
    found: list[int] = []
    forward = Embedder.forward

    def counting(self: Embedder, pixels: object) -> object:
        found.append(len(pixels))  # type: ignore[arg-type]
        return forward(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedder, "forward", counting)
    return found


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_any_number_of_parts_in_any_order_gives_the_same_bytes(
    parts: int, photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    order = np.random.default_rng(parts).permutation(parts) + 1
    for number in order.tolist():
        path = embed(replace(config, shard=(number, parts)), photos, tmp_path)
    assert path == tmp_path / "embeddings.h5"
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embed.json", "embeddings.h5"]
    if parts == 7:  # later parts find nothing to do
        assert embed(replace(config, shard=(7, 7)), photos, tmp_path) == path
        assert path.read_bytes() == whole.read_bytes()


def test_equal_files_are_computed_once_in_a_shard(
    photos: Path, config: EmbedConfig, tmp_path: Path, counts: list[int]
) -> None:
    embed(config, photos, tmp_path / "shards")
    with EmbeddingCache.open(tmp_path / "shards" / "embeddings.h5") as cache:
        same = cache.find(["test/face00000.jpg", "test/x.jpg", "train/y.jpg"])
        vectors = cache.vectors("max")[same]
        assert sum(counts) == len(cache)
    assert np.abs(vectors - vectors[0]).max() < 1e-5 * np.abs(vectors).max()
    counts.clear()
    embed(replace(config, shard_photos=1024), photos, tmp_path / "one")
    with EmbeddingCache.open(tmp_path / "one" / "embeddings.h5") as cache:
        assert sum(counts) == len(cache) - 2


def test_a_worker_needs_a_number_and_may_compute_it_again(
    photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path, counts: list[int]
) -> None:
    shared = replace(config, shard=(1, 1))
    with Embedding.open(shared, photos, tmp_path) as one, Embedding.open(
        shared, photos, tmp_path
    ) as other:  # fmt: skip
        count = len(one.shards)
        rows = [one.compute([number])[0] for number in range(0, count, 2)]
        assert [row.number for row in rows] == [*range(0, count, 2)]
        so_far = len(counts)
        assert other.compute([0, 2]) == rows[:2] and len(counts) == so_far
        other.compute([*range(1, count, 2)][::-1])
        computed = sum(counts)
        path = one.finish()
        assert other.finish() == path  # is joined already
    assert path.read_bytes() == whole.read_bytes()
    with EmbeddingCache.open(path) as cache:
        assert computed == len(cache)


def test_several_at_once_on_the_same_shards_share_the_work(
    photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path, counts: list[int]
) -> None:
    with ExitStack() as stack:
        shared = replace(config, shard=(1, 1))
        works = [stack.enter_context(Embedding.open(shared, photos, tmp_path)) for _ in range(3)]
        numbers = range(len(works[0].shards))
        threads = [Thread(target=work.compute, args=[numbers]) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = [work.compute(numbers) for work in works]
        assert rows[0] == rows[1] == rows[2] and len(rows[0]) == len(numbers)
        assert works[1].finish().read_bytes() == whole.read_bytes()
    assert sum(counts) == sum(row.computed for row in rows[0])


def command(photos: Path, run: Path, *more: str) -> list[str]:
    return [
        "-m", "kinembed", "embed", "--data", str(photos), "--run", str(run),
        *("--backbone", "mtcnn-onet", "--batch-size", "2", "--views", "max,avg", "--device", "cpu"),
        *("--precision", "fp32", "--no-flip", "--framing", "loose", "--shard-photos", "4"),
        "--skip-unreadable", *more,
    ]  # fmt: skip


def test_killed_parts_go_on_and_lose_a_shard_at_most(
    photos: Path,
    whole: Path,
    config: EmbedConfig,
    tmp_path: Path,
    counts: list[int],
    forked: Path,
) -> None:
    folder = tmp_path / "embed.partial"
    start = command(photos, tmp_path, "--shard", "2/2")
    process = Forked([forked, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not [*folder.glob("0*.json")]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len([*folder.glob("0*.json")])
    for part in (1, 2):
        path = embed(replace(config, shard=(part, 2)), photos, tmp_path)
    assert path.read_bytes() == whole.read_bytes()
    with EmbeddingCache.open(path) as cache:
        assert sum(counts) <= len(cache) - 4 * (done - 1)


def test_another_version_of_a_photo_computes_its_shard_again(
    photos: Path, config: EmbedConfig, tmp_path: Path, counts: list[int]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(photos, data)
    first, other = sorted((data / "test").iterdir())[3:5]
    embed(replace(config, shard=(1, 2)), data, run)
    first.write_bytes(other.read_bytes())
    with pytest.raises(
        RunError, match=r"1 of \d+ shards are not there, .* 000000.h5 \(from test/a b"
    ):
        embed(replace(config, shard=(2, 2)), data, run)
    assert not (run / "embeddings.h5").exists()
    counts.clear()
    path = embed(replace(config, shard=(1, 2)), data, run)
    assert 0 < sum(counts) <= 4
    assert path.read_bytes() == embed(config, data, tmp_path / "again").read_bytes()


def test_parts_share_one_listing(
    photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []

    def find(*given: object) -> PhotoFiles:
        listed.append(given)
        return find_photos(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("kinembed.embedding.kept_listing.find_photos", find)
    monkeypatch.setattr(
        "kinembed.embedding.kept_listing.RECENT", -(1 << 60)
    )  # these photos are new
    for part in range(1, 4):
        path = embed(replace(config, shard=(part, 3)), photos, tmp_path)
    assert len(listed) == 1 and path.read_bytes() == whole.read_bytes()


def test_join_names_what_is_missing_and_what_computes_it(
    photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="no shards to join; kinembed embed --shard"):
        join_shards(tmp_path, photos)
    for part in (1, 3):
        assert embed(replace(config, shard=(part, 3)), photos, tmp_path).name == "embed.partial"
    with pytest.raises(
        RunError, match="are not there.*, too, it computes the first of them alone"
    ) as e:
        join_shards(tmp_path, photos)
    part, parts = str(e.value).split("--shard ")[1].split(",")[0].split("/")
    missing = int(str(e.value).split("photos: ")[1].split(".h5")[0])
    with Embedding.open(replace(config, shard=(1, 1)), photos, tmp_path) as work:
        count = len(work.shards)
        assert missing in range(
            count * (int(part) - 1) // int(parts), count * int(part) // int(parts)
        )
        assert missing == count // 3
        work.compute(range(count))
    assert join_shards(tmp_path, photos).read_bytes() == whole.read_bytes()
    assert verify(tmp_path / "embeddings.h5").is_sound
    with pytest.raises(
        RunError, match=r"no shards to join, and .*embeddings\.h5 is there: the last"
    ):
        join_shards(tmp_path, photos)


def test_join_reads_no_place_that_only_the_shards_name(
    photos: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    elsewhere = replace(config, photos=(str(photos / "test"),), shard=(1, 2))
    embed(elsewhere, tmp_path, tmp_path)
    with Embedding.open(elsewhere, tmp_path, tmp_path) as work:
        work.compute(range(len(work.shards)))
    with pytest.raises(RunError, match=r"shards are of --photos .*test; name it as it was"):
        join_shards(tmp_path, tmp_path)
    path = join_shards(tmp_path, tmp_path, photos=elsewhere.photos)
    assert verify(path).is_sound


@pytest.mark.parametrize("damage", ["vectors", "row", "settings"])
def test_damage_is_found_before_shards_are_joined(
    damage: str, photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    embed(replace(config, shard=(1, 2)), photos, tmp_path)
    folder = tmp_path / "embed.partial"
    with Embedding.open(replace(config, shard=(2, 2)), photos, tmp_path) as work:
        work.compute(range(len(work.shards)))
    if damage == "vectors":
        with EmbeddingCache.open(folder / "000003.h5") as cache:
            at = cache.footer.extents["views/avg"].offset + 5
        content = bytearray((folder / "000003.h5").read_bytes())
        content[at] ^= 4
        (folder / "000003.h5").write_bytes(content)
    elif damage == "row":
        row = json.loads((folder / "000003.json").read_bytes())
        (folder / "000003.json").write_text(json.dumps({**row, "photos": "many"}))
    else:
        (folder / "settings.json").write_text("{}")
        with pytest.raises(RunError, match=r"settings\.json: is not understood"):
            join_shards(tmp_path, photos)
        return
    with pytest.raises(
        RunError, match=r"1 of \d+ shards are not there, damaged.*photos: 000003.h5 \("
    ):
        join_shards(tmp_path, photos)
    assert embed(config, photos, tmp_path).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("files", [["h5"], ["h5", "json"]])
@pytest.mark.parametrize("other", ["a shard", "an embedding"])
def test_shards_that_took_the_place_of_others_are_missing(
    other: str, files: list[str], photos: Path, whole: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    embed(replace(config, shard=(1, 2)), photos, tmp_path)
    folder = source = tmp_path / "embed.partial"
    if other == "an embedding":
        embed(replace(config, shard=(1, 2), dtype="float16"), photos, tmp_path / "other")
        source = tmp_path / "other" / "embed.partial"
    for kind in files:
        shutil.copy(source / f"000002.{kind}", tmp_path / kind)
        shutil.copy(source / f"000001.{kind}", folder / f"000002.{kind}")
        shutil.copy(tmp_path / kind, folder / f"000001.{kind}")
    with pytest.raises(RunError, match=r"2 of \d+ shards are not there.*: 000001.h5, 000002.h5"):
        embed(replace(config, shard=(2, 2)), photos, tmp_path)
    assert not (tmp_path / "embeddings.h5").exists()
    assert embed(config, photos, tmp_path).read_bytes() == whole.read_bytes()


def test_shards_of_another_number_format_are_refused_before_photos_are_listed(
    photos: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    embed(replace(config, shard=(1, 2), dtype="int8"), photos, run)
    embed(replace(config, shard=(1, 2)), photos, other)
    place = run / "embed.partial" / "000001.json"
    row = json.loads(place.read_bytes())
    for kind in ("json", "h5"):
        shutil.copy(other / "embed.partial" / f"000001.{kind}", place.with_suffix(f".{kind}"))
    with monkeypatch.context() as patch:
        patch.setattr("kinembed.embedding.joining.find_photos", None)
        with pytest.raises(RunError) as error:
            join_shards(run, photos)
    assert str(error.value) == (
        f"{place.with_suffix('.h5')}: its numbers are float32, and {place.parent}/settings.json "
        f"says int8; run kinembed embed --run {run} --backbone mtcnn-onet --framing loose --views "
        "max,avg --no-flip --dtype int8 --precision fp32 --batch-size 2 --shard-photos 4 "
        "--skip-unreadable, which computes these shards again"
    )
    place.write_text(json.dumps({**json.loads(place.read_bytes()), "of": row["of"]}))
    with Embedding.open(replace(config, shard=(1, 1)), photos, run) as work:
        assert work.shards.is_done(0) and not work.shards.is_done(1)
    assert {kind["dtype"] for kind in describe(embed(config, photos, run))["views"].values()} == {
        "int8"
    }


def test_other_settings_are_refused(photos: Path, config: EmbedConfig, tmp_path: Path) -> None:
    embed(replace(config, shard=(1, 2)), photos, tmp_path)
    with pytest.raises(RunError, match="another shard_photos; go on with --shard-photos 4, or"):
        embed(replace(config, shard=(2, 2), shard_photos=8), photos, tmp_path)
    other = replace(config, shard=(2, 2), flip=True, dtype="int8", skip_unreadable=False)
    with pytest.raises(RunError) as error:
        embed(replace(other, views=("max",)), photos, tmp_path)
    for option in ("--no-flip", "--dtype float32", "--skip-unreadable", "--views max,avg"):
        assert option in str(error.value)
    with pytest.raises(
        RunError, match="another model; go on with kinembed embed --run .* --no-flip"
    ):
        embed(replace(config, shard=(2, 2), weights="none"), photos, tmp_path)


def test_a_part_without_a_shard_says_why(
    photos: Path, config: EmbedConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    embed(replace(config, shard=(1, 2), shard_photos=1024), photos, tmp_path)
    line = caplog.records[-1].getMessage()
    count = int(re.search(r"as (\d+) photos to embed are 1 shard of --shard-photos", line)[1])  # type: ignore[index]
    size = count // 2 // 2 * 2  # whole batches of 2
    assert f"part 1 of 2 has nothing to compute, as {count} photos" in line
    assert f"--shard-photos {size}, in all parts" in line and "; 0 of 1 shard is there" in line
    more = replace(config, shard=(1, 2), shard_photos=size, restart=True)
    embed(more, photos, tmp_path)
    assert "part 1 of 2 is done" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_wrong_usage(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinembed.cli import run

    assert run(["embed", "--run", str(tmp_path), "--shard", text]) == 2
    assert "wanted I/N, as 2/7" in capsys.readouterr().err


def test_the_command_says_what_is_left(
    photos: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinembed.cli import run

    arguments = command(photos, tmp_path, "--json")[2:]
    assert run([*arguments, "--shard", "2/2"]) == 0
    first = capsys.readouterr()
    assert json.loads(first.out)["path"].endswith("embed.partial")
    assert "part 2 of 2 is done" in first.err and "the last part joins them" in first.err
    assert run(["cache", "join", "--run", str(tmp_path), "--data", str(photos)]) == 1
    said = capsys.readouterr().err
    advised = shlex.split(re.search(r"run kinembed (embed [^;]*), which computes and", said)[1])  # type: ignore[index]
    more = ["--shard", "1/2", "--data", str(photos), "--device", "cpu", "--json"]
    assert run([*advised, *more]) == 0
    last = capsys.readouterr()
    every, own = map(int, re.search(r"(\d+) computed \((\d+) of them by this", last.err).groups())  # type: ignore[union-attr]
    assert 0 < own < every
    out = json.loads(last.out)
    assert out["path"].endswith("embeddings.h5") and out["photos"] > 0
    assert (tmp_path / "embeddings.h5").read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path).count("embed.partial") == 0
