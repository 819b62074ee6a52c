"""`embed --engine ray`: the bytes of one process, whatever dies; with a Ray of this process."""

import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_ray import FakeRay
from some_photos import a_few

from kinembed import threads
from kinembed.cli import run as kinembed
from kinembed.cluster.ray_pool import fitting
from kinembed.config import EmbedConfig
from kinembed.embed import embed
from kinembed.embedding import by_ray
from kinembed.embedding.joining import join_shards
from kinembed.embedding.work import Embedding
from kinembed.errors import DataError, KinembedError, RunError


@pytest.fixture(scope="module")
def photos(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few photos."""
    return a_few(faces, tmp_path_factory.mktemp("photos"))


@pytest.fixture
def config(on_cpu: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> EmbedConfig:
    monkeypatch.setattr(threads._Share, "processors", None)  # which a worker here sets
    return replace(
        on_cpu, backbone="mtcnn-onet", batch_size=2, shard_photos=4, engine="ray", actors=2
    )


@pytest.fixture
def whole(photos: Path, config: EmbedConfig, tmp_path: Path) -> bytes:
    """The cache of one process."""
    return embed(replace(config, engine="local"), photos, tmp_path / "whole").read_bytes()


def use(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> FakeRay:
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return ray


@pytest.mark.parametrize("seed", range(3))
def test_actors_give_the_bytes_of_one_process(
    seed: int, photos: Path, whole: bytes, config: EmbedConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    killed = iter([False, True, False, True])

    def dies(actor: int, method: str, *arguments: int) -> bool:
        is_killed = method == "compute" and next(killed, False)
        if is_killed:
            print("a worker died")  # as Ray does, to standard output
        return is_killed

    ray = use(monkeypatch, FakeRay(dies, seed))
    path = embed(config, photos, tmp_path / "run")
    assert path.read_bytes() == whole
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["embed.json", "embeddings.h5"]
    assert next(killed, None) is None  # both kills took place
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("a worker died") == 2
    assert sum(call[1] == "open" for call in ray.calls) <= 4
    assert len(ray.actors) == 2 and ray.killed == ray.actors and not ray.is_open


def test_a_driver_that_ends_early_goes_on_from_the_shards(
    photos: Path, config: EmbedConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG", "kinembed")

    def interrupts(actor: int, method: str, *arguments: int) -> bool:
        if arguments == (2,):
            raise KeyboardInterrupt
        return False

    narrow = replace(config, dtype="int8")
    whole = embed(replace(narrow, engine="local"), photos, tmp_path / "whole").read_bytes()
    ray = use(monkeypatch, FakeRay(interrupts))
    with pytest.raises(KeyboardInterrupt):
        embed(narrow, photos, tmp_path)
    assert not ray.is_open and len(ray.killed) == 2
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "embed.partial").glob("0*.h5")}
    assert there
    use(monkeypatch, FakeRay())
    caplog.clear()  # actors, too, go on in the number format of the shards
    assert embed(replace(config, in_shards=False), photos, tmp_path).read_bytes() == whole
    assert f"{len(there)} of them were there" in caplog.text
    assert len([m for m in caplog.messages if "was there, says" in m]) == len(there)
    with pytest.raises(KeyboardInterrupt):  # --restart forgets them, once
        use(monkeypatch, FakeRay(interrupts))
        embed(replace(config, restart=True, views=("avg",)), photos, tmp_path)
    use(monkeypatch, FakeRay())
    with pytest.raises(RunError, match="cannot begin: .*another views"):
        embed(config, photos, tmp_path)
    caplog.clear()
    embed(replace(config, restart=True), photos, tmp_path)
    assert ", 0 of them were there" in caplog.text


def test_of_two_at_once_one_joins_and_both_end_well(
    photos: Path, whole: bytes, config: EmbedConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    use(monkeypatch, FakeRay())
    compute_shards = by_ray.compute_shards

    def joined_by_the_other(*arguments: Any) -> bool:
        are_there = compute_shards(*arguments)
        join_shards(tmp_path, photos)
        return are_there

    monkeypatch.setattr(by_ray, "compute_shards", joined_by_the_other)
    caplog.set_level("INFO", "kinembed")
    assert embed(config, photos, tmp_path).read_bytes() == whole
    assert "another process has joined the shards" in caplog.text
    assert not (tmp_path / "embed.partial").exists()


def test_ray_of_our_own_is_for_this_machine_and_calls_nobody(
    photos: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(monkeypatch, FakeRay())
    embed(replace(config, actor_cpus=0.5), photos, tmp_path)
    assert ray.asked["address"] == "local" and ray.asked["include_dashboard"] is False
    assert ray.environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # binds to 127.0.0.1
    assert (
        ray.environment["RAY_AUTH_MODE"] == "token" and len(ray.environment["RAY_AUTH_TOKEN"]) > 20
    )
    assert not Path(ray.asked["_temp_dir"]).parent.exists()
    assert ray.asked["num_cpus"] > 2 * 0.5  # one stays free
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (0.5, 0)
    assert (ray.options["max_restarts"], ray.options["max_task_retries"]) == (-1, 0)
    assert threads.processors() == 1
    other = use(monkeypatch, FakeRay())
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        embed(replace(config, address=address), photos, tmp_path)
    assert other.asked["address"] == address and "num_cpus" not in other.asked
    assert "RAY_AUTH_MODE" not in other.environment  # the cluster's own


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "count"),
    [
        ([{"CPU": 8}], 1, 0, 7),
        ([{"CPU": 8}, {"CPU": 2}, {"CPU": 1}], 1, 0, 9),
        ([{"CPU": 2}], 0.1, 0, 10),
        ([{"CPU": 9, "GPU": 2}, {"CPU": 64}], 2, 0.5, 4),
        ([{"CPU": 2, "GPU": 8}], 1, 1, 1),
        ([{"CPU": 4}], 8, 0, 0),
        ([{}], 1, 0, 0),
    ],
)
def test_as_many_actors_as_fit_leave_a_processor_free(
    machines: list[dict[str, float]], cpus: float, gpus: float, count: int
) -> None:
    assert fitting(machines, cpus, gpus) == count


def test_what_does_not_work_is_said_in_one_line(
    photos: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(monkeypatch, FakeRay())
    with pytest.raises(
        RunError, match="no machine for an actor of 9 CPUs .*4 CPUs and 0 GPUs; ask"
    ):
        embed(replace(config, actors=None, actor_cpus=9), photos, tmp_path)
    with pytest.raises(KinembedError, match=r"--actor-gpus 1.5: above 1 Ray gives whole"):
        embed(replace(config, actor_gpus=1.5), photos, tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        embed(replace(config, photos=(str(tmp_path / "nowhere"),)), photos, tmp_path)

    def refuse(**_: object) -> None:
        raise ConnectionError("no Ray there\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        KinembedError, match="Ray at auto does not answer: ConnectionError: no Ray the"
    ):
        embed(replace(config, address="auto"), photos, tmp_path)
    for address in ("127.0.0.1:1", "ray://[::1]:1"):  # for which Ray would wait for minutes
        with pytest.raises(KinembedError, match=r"1 does not answer: \w+Error: \[Errno"):
            embed(replace(config, address=address), photos, tmp_path)
    use(monkeypatch, None)  # type: ignore[arg-type]
    with pytest.raises(KinembedError, match=r'needs Ray: pip install "kinembed\[ray\]"'):
        embed(config, photos, tmp_path / "new")
    assert not (tmp_path / "new" / "embed.partial").exists()


def test_a_machine_that_does_not_see_the_folder_says_so(
    photos: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(monkeypatch, FakeRay())

    def hides(actor: int, method: str, *arguments: int) -> bool:
        shutil.rmtree(next((tmp_path / "embed.partial").glob("seen-*")))
        return False

    ray.dies = hides
    with pytest.raises(
        RunError, match=r"cannot begin: it does not see \S+embed.partial; each mach"
    ):
        embed(config, photos, tmp_path)


def test_a_photo_that_cannot_be_read_is_named_after_three_tries(
    photos: Path, config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "test" / "a broken.jpg").write_bytes(b"none")
    ray = use(monkeypatch, FakeRay())
    with pytest.raises(
        RunError, match=r"shard 000000.h5 \(from test/a broken.jpg on\) failed 3 times, now"
    ):
        embed(config, data, tmp_path / "run")
    assert sum(call[1:] == ("compute", 0) for call in ray.calls) == 3
    assert [*(tmp_path / "run" / "embed.partial").glob("0*.h5")]  # what is done stays


def test_who_fails_leaves_the_shard_to_others(
    photos: Path, config: EmbedConfig, tmp_path: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "test" / "a broken.jpg").write_bytes(b"none")
    shared = replace(config, engine="local", shard=(1, 1))
    with Embedding.open(shared, data, tmp_path) as one, Embedding.open(
        shared, data, tmp_path
    ) as other:  # fmt: skip
        with pytest.raises(DataError, match="a broken"):
            one.compute([0])
        assert other.shards.claim(0)


def test_options_of_the_other_engine_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert kinembed(["embed", "--engine", "ray", "--shard", "1/2"]) == 2
    assert "leave out --shard" in capsys.readouterr().err
    assert kinembed(["embed", "--actors", "2"]) == 2
    assert "are of --engine ray" in capsys.readouterr().err
