"""Several processes of one training: the same numbers as of one, and what happens where one dies."""

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import history
from rank_worker import NAME, TRAININGS, draw_no_curves, options, train
from small_networks import stand_in

import kinembed
from kinembed.backbones.weights import read_checkpoint
from kinembed.errors import KinembedError
from kinembed.finetune import batch_of
from kinembed.recipes import KIN, RECIPES, override
from kinembed.training import ranks as module
from kinembed.training import signs_of_life
from kinembed.training.ranks import (
    AGAIN,
    LostRankError,
    Ranks,
    joined,
    label,
    meet,
    rank_of_environment,
)
from kinembed.training.signs_of_life import Watch

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = Path(kinembed.__file__).parents[1]
TOGETHER = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}


TWO = {"WORLD_SIZE": "2", "RANK": "0"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(rank: int, size: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    """A rank, without torchrun."""
    about = {
        **{"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env={**os.environ, **TOGETHER, **about},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """All trainings, each in one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, NAME)
        draw_no_curves(patch)
        train(faces, out)
    return out


def assert_same(run: Path, other: Path) -> None:
    for row, wanted in zip(history(run), history(other), strict=True):
        for name, value in wanted.items():
            if name != "seconds":
                assert row[name] == pytest.approx(value, abs=1e-5), name
    found, wanted = (read_checkpoint(each / "model.pt", is_own=True) for each in (run, other))
    for part in ("trunk", "head"):
        for name, value in wanted[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-4, atol=2e-5)


# What two ranks learn


def test_two_ranks_learn_what_one_process_does_and_name_the_one_that_dies(
    alone: Path, faces: Path, tmp_path: Path
) -> None:
    port = free_port()
    ranks = [start(rank, 2, port, "trainings", faces, tmp_path) for rank in range(2)]
    said = [each.communicate(timeout=300)[0] for each in ranks]
    for name in TRAININGS:
        assert_same(tmp_path / name, alone / name)
        files, wanted = (
            sorted(p.name for p in d.iterdir()) for d in (tmp_path / name, alone / name)
        )
        assert files == wanted
        assert '"ranks": 2' in (tmp_path / name / "config.json").read_text()
    # rank 0, which keeps the store of those that no torchrun has started, died in the last
    assert [each.returncode for each in ranks] == [-signal.SIGKILL, 1], said
    last = said[1].splitlines()[-1]
    assert last.startswith("rank 1: Error: ") and "rank 0" in last and "gone" in last
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["finetune.partial"]
    read_checkpoint(tmp_path / "killed" / "finetune.partial" / "checkpoint.pt", is_own=True)


def test_ranks_that_have_something_else_are_refused(faces: Path, tmp_path: Path) -> None:
    port = free_port()
    ranks = [start(rank, 2, port, "differing", faces, tmp_path) for rank in range(2)]
    for said in [each.communicate(timeout=300)[0].splitlines() for each in ranks]:
        lines = [line for line in said if " of 2 has other " in line]
        assert [line.partition(":")[0] for line in lines] == [
            "settings", "resume", "version", "photos"
        ], said  # fmt: skip
        assert all("rank 1 of 2 has other settings, --resume, or v" in line for line in lines[:3])
        assert "has other pixels of photos than rank 0; wanted the same on all" in lines[3]
    assert not (tmp_path / "run" / "model.pt").exists()


def test_the_batch_that_ranks_share_is_that_of_the_recipe() -> None:
    kin, dense = TRAININGS["kin"], TRAININGS["parts"]
    assert batch_of(kin, override(KIN, kin.overrides)) == 4
    assert batch_of(dense, RECIPES["dense"]) == 9


def test_a_killed_rank_is_named_and_torchrun_starts_them_again(
    alone: Path, faces: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", "1", "--"),
            *(str(WORKER), "--die", "1", "SIGKILL", "finetune", *options(faces, run)),
        ],
        env={**os.environ, **TOGETHER},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and lines[0].startswith("Error: rank 1 of 2 (")
    assert "2 ranks: each takes its share of every batch of 7" in done.stderr
    assert lines[0].partition(") ")[2].startswith("is gone")
    assert done.stderr.count("epoch 1/2") == 1 and done.stderr.count("epoch 2/2") == 1
    assert_same(run, alone / "regularized")
    assert not (run / "finetune.partial").exists()


# Who is gone


class Store:
    """What `TCPStore` does, in one process."""

    def __init__(self) -> None:
        self.signs: dict[str, bytes] = {}
        self.is_gone = False

    def get(self, name: str) -> bytes:
        return self.signs[name]

    def check(self, names: list[str]) -> bool:
        return all(name in self.signs for name in names)

    def set(self, name: str, sign: str) -> None:
        if self.is_gone:
            raise RuntimeError("no store")
        self.signs[name] = sign.encode()

    def multi_get(self, names: list[str]) -> list[bytes]:
        if self.is_gone:
            raise RuntimeError("no store")
        return [self.signs[name] for name in names]


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """Three ranks that have met; a second takes a hundredth of one."""
    for name in ("BEAT", "LOOK", "QUIET", "LINGER", "SILENT"):
        monkeypatch.setattr(signs_of_life, name, getattr(signs_of_life, name) / 100)
    store = Store()
    all_of_them = [Watch(rank, 3, store, "here:1", "test") for rank in range(3)]
    for each in all_of_them:
        each.begin()
    return all_of_them


def test_the_silent_rank_is_named_and_not_those_that_live(watches: list[Watch]) -> None:
    for each in watches[:2]:
        each.start()
    found = [each.why() for each in watches[:2]]
    for each in watches[:2]:
        each.stop()
    for reason in found:
        assert reason is not None and reason.startswith("rank 2 of 3 (")
        assert reason.endswith("is gone") and f"process {os.getpid()}" in reason


def test_a_rank_that_ended_by_itself_says_why_to_all(watches: list[Watch]) -> None:
    for each in watches:
        each.start()
    assert watches[0].why() is None  # all live
    watches[1].leave("no such\nfile")
    assert watches[0].why() == watches[2].why()
    assert (watches[0].why() or "").startswith("rank 1 of 3 ended: no such")
    watches[2].leave("")  # by the problem of another, which is no reason
    assert (watches[0].why() or "").startswith("rank 1 of 3 ended: no such")
    watches[0].stop()


@pytest.mark.parametrize("loss", ["rank", "store", "problem"])
def test_a_process_that_waits_for_the_dead_ends(
    watches: list[Watch], monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(
        Watch, "_end", lambda self, reason: ended.append(reason) or self.ended.set()
    )
    watches[0].store.is_gone = loss == "store"
    watches[0].start()
    if loss != "store":
        watches[1].start()  # 2 is silent
    if loss == "problem":
        watches[2].start()
        watches[2].leave("no memory")
    watches[0].join(10)
    watches[1].ended.set()
    wanted = {
        **{"rank": "rank 2 of 3 (", "store": "the ranks' meeting point here:1 is gone"},
        "problem": "rank 2 of 3 ended: no memory",
    }
    assert ended and ended[0].startswith(wanted[loss])


class Told:
    """A watch that knows why, and keeps what it is told."""

    def __init__(self, reason: str | None) -> None:
        self.reason, self.left = reason, "nothing"

    def why(self) -> str | None:
        return self.reason

    def leave(self, reason: str) -> None:
        self.left = reason


class Ended(BaseException):
    """As SIGTERM ends the command line."""


@pytest.mark.parametrize(
    ("error", "reason", "raised", "left"),
    [
        (KinembedError("no photos"), "x", "no photos", "no photos"),
        (LostRankError("closed"), "rank 1 is gone", "rank 1 is gone", ""),
        (LostRankError("closed"), None, "the ranks have lost each other: closed", ""),
        (Ended(), "rank 1 is gone", "rank 1 is gone", ""),
        (Ended(), None, "", ""),
        (KeyboardInterrupt(), "x", "", "interrupted"),
        (ValueError("two\nlines"), "x", "two\nlines", "ValueError: two"),
    ],
)
def test_each_end_of_a_rank_is_told_to_the_others(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str, raised: str, left: str
) -> None:
    watch = Told(reason)
    monkeypatch.setattr("kinembed.training.ranks._meet", lambda *_: watch)
    with pytest.raises((KinembedError, type(error))) as found, joined(TWO):
        raise error
    assert (str(found.value), watch.left) == (raised, left)
    assert isinstance(found.value, KinembedError) == (raised.startswith(("rank", "the", "no")))


def test_ranks_that_are_started_again_meet_each_other_and_not_the_dead() -> None:
    store, rng = Store(), np.random.default_rng(0)
    groups = []
    for size in (3, 3, 2, 4):  # the store keeps what those before have said
        order = rng.permutation(size).tolist()
        with ThreadPoolExecutor(size) as pool:
            waiting = []
            for rank in order:
                waiting.append(pool.submit(meet, store, rank, size, timedelta(seconds=20)))
                time.sleep(0.05)
            names = {each.result() for each in waiting}
        assert len(names) == 1
        groups += names
    assert len(set(groups)) == 4
    assert [each.endswith(AGAIN) for each in groups] == [False, True, True, True]
    with pytest.raises(RuntimeError, match="do not come"):
        meet(store, 1, 4, timedelta(seconds=0.1))


# A rank for itself


@given(st.integers(0, 200), st.integers(1, 17))
def test_the_parts_of_all_ranks_are_the_whole(count: int, size: int) -> None:
    parts = [np.arange(count)[Ranks(rank, size).part(count)] for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts))  # what all are padded to


def test_a_process_alone_is_the_writer_and_changes_nothing() -> None:
    with joined({}) as ranks:
        rows = torch.randn(5, 2, requires_grad=True)
        assert ranks.is_writer and ranks.size == 1 and ranks.gather(rows, 5) is rows
        assert ranks.part(5) == slice(0, 5) and ranks.agree(0.1) == 0.1
        ranks.check_same("settings", "any")
        ranks.wait()


def test_the_environment_says_who_a_process_is() -> None:
    assert rank_of_environment({}) == (0, 1) and rank_of_environment({"WORLD_SIZE": "1"}) == (0, 1)
    assert rank_of_environment({"WORLD_SIZE": "4", "RANK": "3"}) == (3, 4)
    assert label({"WORLD_SIZE": "4", "RANK": "3"}) == "rank 3: "
    assert label({"WORLD_SIZE": "4", "RANK": "0"}) == label({}) == label({"WORLD_SIZE": "x"}) == ""


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: found 'two'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE: found '-1'"),
        ({"WORLD_SIZE": "2"}, "RANK: found ''"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: found 2, wanted less than"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "?"}, "LOCAL_RANK: found '\\?'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT: found ''"),
        ({**TWO, "MASTER_PORT": "1"}, "MASTER_ADDR, MASTER_PORT: found '' and 1"),
        ({**TWO, "MASTER_ADDR": "h", "MASTER_PORT": "99999"}, "found 'h' and 99999"),
    ],
)
def test_a_malformed_environment_is_one_line(environment: dict[str, str], named: str) -> None:
    with pytest.raises(KinembedError, match=named), joined(environment):
        pass


def test_a_rank_without_its_writer_waits_a_little_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STORE_PATIENCE", timedelta(seconds=0.2))
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=0.5))
    start = time.monotonic()
    nobody = {**TWO, "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with pytest.raises(KinembedError, match="ranks do not come together at"), joined(nobody):
        pass
    assert 0.4 < time.monotonic() - start < 60  # seconds, of which torch has some for itself


def test_a_batch_has_a_part_for_each_rank() -> None:
    Ranks(0, 4).check_share("batch_size", 4, "pairs in a pass")
    with pytest.raises(KinembedError, match="batch_size: found 3 pairs in a pass for 4 ranks"):
        Ranks(0, 4).check_share("batch_size", 3, "pairs in a pass")


def test_ranks_need_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    assert Ranks(5, 8, 1, 4).device(torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(KinembedError, match="found 2 GPUs for 4 ranks on .*--nproc-per-node 2"):
        Ranks(6, 8, 2, 4).device(torch.device("cuda"))
    with pytest.raises(KinembedError, match="found mps for 8 ranks"):
        Ranks(0, 8).device(torch.device("mps"))
    assert Ranks(0, 8).device(torch.device("cpu")).type == "cpu"


def test_torch_distributed_is_imported_where_there_are_ranks_and_nowhere_else() -> None:
    package = Path(kinembed.__file__).parent
    named = [p for p in package.rglob("*.py") if b"distributed" in p.read_bytes()]
    users = {path.name for path in named if "distributed" in imported(path, within=True)}
    assert users == {"ranks.py"}
    assert "distributed" not in imported(package / "training" / "ranks.py", within=False)


def imported(path: Path, *, within: bool) -> set[str]:
    """Parts of names that a module imports: on its own import, or within its functions, too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if within else iter(tree.body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(part for alias in node.names for part in alias.name.split("."))
        if isinstance(node, ast.ImportFrom):
            names.update(str(node.module).split("."), (alias.name for alias in node.names))
    return names
