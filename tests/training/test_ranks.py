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
    TEXT,
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


def start(
    python: Path, rank: int, size: int, port: int, *arguments: object
) -> subprocess.Popen[str]:
    """A rank, without torchrun."""
    about = {
        **{"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    return subprocess.Popen(
        [python, WORKER, *map(str, arguments)],
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


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, faces: Path, forked: Path
) -> tuple[Path, list[str], list[int]]:
    """All trainings of two ranks: their folder, what each has said, and its exit code."""
    out, port = tmp_path_factory.mktemp("two"), free_port()
    ranks = [start(forked, rank, 2, port, "trainings", faces, out) for rank in range(2)]
    said = [each.communicate(timeout=300)[0] for each in ranks]
    return out, said, [each.returncode for each in ranks]


def test_two_ranks_learn_what_one_process_does_and_name_the_one_that_dies(
    alone: Path, two: tuple[Path, list[str], list[int]]
) -> None:
    out, said, codes = two
    for name in TRAININGS:
        assert_same(out / name, alone / name)
        files, wanted = (sorted(p.name for p in d.iterdir()) for d in (out / name, alone / name))
        assert files == wanted
        assert '"ranks": 2' in (out / name / "config.json").read_text()
    # rank 0, which keeps the store of those that no torchrun has started, died in the last
    assert codes == [-signal.SIGKILL, 1], said
    last = said[1].splitlines()[-1]
    assert last.startswith("rank 1: Error: ") and "rank 0" in last and "gone" in last
    assert [path.name for path in (out / "killed").iterdir()] == ["finetune.partial"]
    read_checkpoint(out / "killed" / "finetune.partial" / "checkpoint.pt", is_own=True)


def test_ranks_that_have_something_else_are_refused(
    two: tuple[Path, list[str], list[int]],
) -> None:
    for said in map(str.splitlines, two[1]):
        lines = [line for line in said if " of 2 has other " in line]
        assert [line.partition(":")[0] for line in lines] == [
            "settings", "resume", "version", "photos"
        ], said  # fmt: skip
        assert all("rank 1 of 2 has other settings, --resume, or v" in line for line in lines[:3])
        assert "has other pixels of photos than rank 0; wanted the same on all" in lines[3]
    assert not (two[0] / "differing" / "run" / "model.pt").exists()


def test_the_batch_that_ranks_share_is_that_of_the_recipe() -> None:
    kin, dense = TRAININGS["kin"], TRAININGS["parts"]
    assert batch_of(kin, override(KIN, kin.overrides)) == 4
    assert batch_of(dense, RECIPES["dense"]) == 9


def test_a_killed_rank_is_named_and_torchrun_starts_them_again(
    alone: Path, faces: Path, tmp_path: Path, forked: Path
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(forked, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", "1", "--no-python", "--"),
            *(forked, WORKER, "--die", "1", "SIGKILL", "finetune", *options(faces, run)),
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
    for name in ("BEAT", "LOOK", "QUIET", "LINGER", "SILENT", "DEAF"):
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


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("lives", [True, False])
def test_a_rank_that_waits_for_the_dead_hears_of_torchruns_signal(
    watches: list[Watch], monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """As where the main thread is in NCCL: Python's own handler would not be called."""
    ended: list[str] = []
    for name, seconds in {"SILENT": 60.0, "BEAT": 0.03, "QUIET": 0.25, "DEAF": 0.4}.items():
        monkeypatch.setattr(signs_of_life, name, seconds)
    monkeypatch.setattr(
        Watch, "_end", lambda self, reason: ended.append(reason) or self.ended.set()
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for each in watches[1 : 3 if lives else 2]:
            each.start()
        watches[0].hear()
        watches[0].start()
        os.kill(os.getpid(), signal.SIGTERM)
        watches[0].join(10)
        assert ended and ended[0].startswith("terminated while" if lives else "rank 2 of 3 (")
    finally:
        watches[0].stop()
        for each in watches[1 : 3 if lives else 2]:
            each.stop()
        signal.signal(signal.SIGTERM, before)
    assert signal.set_wakeup_fd(-1) == -1  # as it was


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


CUDA, MPS, CPU = (torch.device(kind) for kind in ("cuda", "mps", "cpu"))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A machine of two GPUs; the list is what other ranks say, before oneself, time after time."""
    others: list[list[str]] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties",
        lambda device: type("Properties", (), {"uuid": f"GPU-{device.index}"}),
    )
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    monkeypatch.setattr(
        Ranks, "texts", lambda self, mine: [*(others.pop() if others else []), mine]
    )
    return others


def test_ranks_need_a_gpu_each(two_gpus: list[list[str]]) -> None:
    assert Ranks(5, 8, 1, 4, by="nccl").device(CUDA) == torch.device("cuda", 1)
    wanted = (
        "device: found 2 GPUs for 4 ranks on here; wanted torchrun --nproc-per-node 2 (or "
        "KINEMBED_RANKS_BY=gloo, slower, by which ranks share a GPU)"
    )
    with pytest.raises(KinembedError) as found:
        Ranks(6, 8, 2, 4, by="nccl").device(CUDA)
    assert str(found.value) == wanted
    two_gpus.append(["nccl here GPU-0", f"!{wanted}"])  # all end at once, with the same line
    with pytest.raises(KinembedError) as found:
        Ranks(1, 8, 1, 4, by="nccl").device(CUDA)
    assert str(found.value) == wanted
    with pytest.raises(KinembedError, match="found mps for 8 ranks"):
        Ranks(0, 8).device(MPS)
    assert Ranks(0, 8).device(CPU) == CPU
    assert Ranks(is_alone=False).device(MPS) == MPS  # the only one, of torchrun


def test_by_gloo_ranks_share_gpus_and_by_nccl_none_does(two_gpus: list[list[str]]) -> None:
    for rank in range(4):
        two_gpus.append(["gloo here GPU-0"])
        assert Ranks(rank, 4, rank, 4).device(CUDA) == torch.device("cuda", rank % 2)
    two_gpus.append(["nccl here GPU-1", "nccl there GPU-0"])
    assert Ranks(2, 3, 0, 2, by="nccl").device(CUDA) == torch.device("cuda", 0)
    two_gpus.append(["nccl there GPU-1", "nccl here GPU-0"])
    with pytest.raises(KinembedError, match="ranks 1 and 2 have one GPU, GPU-0 of here; wanted"):
        Ranks(2, 3, 0, 1, by="nccl").device(CUDA)
    two_gpus.append(["nccl there GPU-1"])
    with pytest.raises(KinembedError, match="KINEMBED_RANKS_BY: rank 1 talks by gloo, rank 0 by n"):
        Ranks(1, 2, 0, 1).device(CUDA)


@pytest.mark.parametrize("value", ["mpi", "nccl", ""])
def test_what_ranks_cannot_talk_by_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with (
        pytest.raises(KinembedError, match=f"KINEMBED_RANKS_BY: found '{value}' in .*wanted gloo"),
        joined({**TWO, **place, "KINEMBED_RANKS_BY": value}),
    ):
        pass


def test_the_only_rank_of_torchrun_goes_the_way_of_several() -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    about = {"TORCHELASTIC_RUN_ID": "1", "TORCHELASTIC_RESTART_COUNT": "2", "RANK": "0"}
    rows = torch.randn(5, 2, requires_grad=True)
    network, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    other.load_state_dict(network.state_dict())
    for each in (network, other):
        each(rows).square().sum().backward()
    try:
        with joined({**place, **about, "WORLD_SIZE": "1"}) as ranks:
            assert not ranks.is_alone and ranks.is_writer and ranks.restarts == 2
            gathered = ranks.gather(rows, 5)
            assert torch.equal(gathered, rows) and gathered is not rows and gathered.requires_grad
            assert ranks.texts("é" * TEXT) == ["é" * (TEXT // 2)] and ranks.texts("") == [""]
            assert ranks.from_writer(lambda: {"a": [1.5, "b"]}) == {"a": [1.5, "b"]}
            assert ranks.agree(0.1) == 0.1 and ranks.device(CPU) == CPU
            ranks.check_same("settings", "any")
            ranks.spread(network)
            ranks.add_gradients([network.weight], [network.bias])
            ranks.average([network.bias.detach()])
            for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
                assert torch.equal(ours, theirs) and torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    finally:
        torch.distributed.destroy_process_group()


def test_a_lack_of_memory_is_no_lost_rank() -> None:
    with pytest.raises(torch.OutOfMemoryError), module._together():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(LostRankError, match="^closed$"), module._together():
        raise RuntimeError("closed\nand more")


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
