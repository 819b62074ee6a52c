"""Several processes of one training: the same numbers as of one, and what happens where one dies."""

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import history
from rank_worker import NAME, SHORT, TRAININGS, train
from small_networks import stand_in

import kinembed
from kinembed.backbones.weights import read_checkpoint
from kinembed.errors import KinembedError
from kinembed.training.ranks import Ranks, joined, label, rank_of_environment

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = Path(kinembed.__file__).parents[1]
TOGETHER = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}


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


def options(data: Path, run: Path) -> list[str]:
    """Of `finetune`, as `SHORT` has them."""
    return [
        *("--backbone", NAME, "--weights", "none", "--recipe", "regularized", "--seed", "3"),
        *("--epochs", "2", "--steps", "3", "--val-steps", "2", "--batch-size", "7"),
        *("--split", "families", "--device", "cpu", "--precision", "fp32", "--framing", "loose"),
        *("--data", str(data), "--run", str(run), "--sync-batchnorm"),
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """All trainings, each in one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, NAME)
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


def test_two_ranks_learn_what_one_process_does(alone: Path, faces: Path, tmp_path: Path) -> None:
    port = free_port()
    ranks = [start(rank, 2, port, "trainings", faces, tmp_path) for rank in range(2)]
    said = [each.communicate(timeout=120)[0] for each in ranks]
    assert [each.returncode for each in ranks] == [0, 0], said
    for name in TRAININGS:
        assert_same(tmp_path / name, alone / name)
        files, wanted = (sorted(p.name for p in d.iterdir()) for d in (tmp_path / name, alone / name))
        assert files == wanted
        assert '"ranks": 2' in (tmp_path / name / "config.json").read_text()


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
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and lines[0].startswith("Error: rank 1 of 2 (")
    assert lines[0].partition(") ")[2].startswith("is gone")
    assert done.stderr.count("epoch 1/2") == 1 and done.stderr.count("epoch 2/2") == 1
    assert_same(run, alone / "regularized")
    assert not (run / "finetune.partial").exists()


def test_without_torchrun_the_others_end_with_the_name_of_the_dead(
    faces: Path, tmp_path: Path
) -> None:
    port, run = free_port(), tmp_path / "run"
    ranks = [
        start(rank, 2, port, "--die", "0", "SIGKILL", "finetune", *options(faces, run))
        for rank in range(2)
    ]
    said = [each.communicate(timeout=120)[0] for each in ranks]
    assert [each.returncode for each in ranks] == [-signal.SIGKILL, 1], said
    last = said[1].splitlines()[-1]
    assert last.startswith("rank 1: Error: ") and ("rank 0" in last) and "gone" in last
    assert [path.name for path in run.iterdir()] == ["finetune.partial"]
    assert not list(run.rglob("*.partial/*.tmp*"))
    read_checkpoint(run / "finetune.partial" / "checkpoint.pt", is_own=True)
