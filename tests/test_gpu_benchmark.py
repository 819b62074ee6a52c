"""The CPU twin of `benchmarks/gpu.py`: each section runs, and says what it measured."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import stand_in

from kinembed.backbones import BACKBONES
from kinembed.backbones.embedder import Embedder
from kinembed.cli import run as kin
from kinembed.training.frozen_batchnorm import ReplicatedForward
from kinembed.training.siamese import SiameseNetwork


def _load() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["gpu"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu = _load()


@contextmanager
def no_memory(bench: object) -> Iterator[None]:
    """In place of a GPU's limit: no network has memory for its photos."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "forward", fail)
        patch.setattr(SiameseNetwork, "feature_map", fail)
        patch.setattr(ReplicatedForward, "forward", fail)
        yield


class TrainedHere:
    """In place of other processes: this one runs their command, once for each recipe."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}

    def __call__(
        self, bench: Any, name: str, recipe: str, count: int = 0, options: Any = (),
        *, kill: bool = False, **_: Any,
    ) -> Any:  # fmt: skip
        run = bench.folder / name
        command = gpu.command_of(bench, run, recipe, count, options)
        assert ("torch.distributed.run" in command) == (count > 0)
        if recipe not in self.before:
            assert kin(command[command.index("kinembed") + 1 :]) == 0
            with (run / "history.csv").open(newline="") as file:
                rows = [{key: float(x) for key, x in row.items()} for row in csv.DictReader(file)]
            self.before[recipe] = rows
        epochs = int(options[options.index("--epochs") + 1])
        rows = (2 * self.before[recipe])[:epochs]
        if not kill:
            return gpu.Trained(0, "", rows)
        return gpu.Trained(0, f"epoch 1/4\n{GONE}\nepoch 4/4\n", rows, 1.5)


GONE = "Error: rank 1 of 2 (here, process 7) is gone; whole epochs are kept"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script writes, of networks that are small; compiling leaves them as they are."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    compiled: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, *(name for name, each in BACKBONES.items() if not each.is_onnx))
        patch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
        patch.setattr(gpu, "little_memory", no_memory)
        patch.setattr(gpu, "trained", TrainedHere())
        code = gpu.main(["--device", "cpu", "--out", str(out)])
    result = json.loads(out.read_text())
    assert code == 0 and result["ok"] and result["small"], [result["wrong"], result["sections"]]
    assert [*result["sections"]] == [*gpu.SECTIONS] and len(compiled) == 2
    assert {section["state"] for section in result["sections"].values()} == {"done"}
    return result["sections"]


def test_every_backbone_is_held_to_the_cpu(found: dict[str, Any]) -> None:
    rows = found["parity"]
    for name, backbone in BACKBONES.items():
        if backbone.is_onnx:
            assert rows[name].startswith("not measured: ")
            continue
        assert 0 <= rows[name]["float32_difference"] <= gpu.DIFFERENCE
        assert gpu.COSINE <= rows[name]["bf16_cosine"] <= 1.001
        assert rows[name]["cosine_of_two_photos"] < 0.9999  # or nothing would be compared


def test_a_backbone_that_is_wrong_on_the_device_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "sface")
    monkeypatch.setattr(gpu, "BACKBONES", {"sface": BACKBONES["sface"]})
    forward = Embedder.forward

    def wrong(self: Embedder, photos: torch.Tensor) -> dict[str, torch.Tensor]:
        return {view: x + 2e-4 * x.abs().max() for view, x in forward(self, photos).items()}

    monkeypatch.setattr(Embedder, "forward", wrong)
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    result = gpu.measure(bench, ["parity"])["parity"]
    assert result["state"] == "done" and not result["ok"] and not result["sface"]["ok"]
    assert result["sface"]["float32_difference"] == pytest.approx(2e-4, rel=0.05)


def test_training_is_set_against_a_plain_loop(found: dict[str, Any]) -> None:
    for recipe, photos in (("regularized", 8), ("kin", 6)):
        row = found["finetune"][recipe]
        ours, plain = row["photos_per_second"], row["plain_loop_photos_per_second"]
        assert ours > 0 and row["ratio"] == pytest.approx(ours / plain, rel=2e-3)
        assert row["photos_of_a_step"] == photos
        for name in ("gpu_busy_share", "plain_loop_gpu_busy_share", "peak_memory_gb"):
            assert row[name] == "not measured: no GPU"


def test_a_resumed_training_ends_as_one_that_was_not_stopped(found: dict[str, Any]) -> None:
    for recipe in gpu.RECIPES:
        row = found["resume"][recipe]
        assert row == {"ok": True, "epochs": 2, "epochs_kept": 1, "difference": 0.0}


def test_ranks_are_set_against_one_process(found: dict[str, Any]) -> None:
    rows = found["ranks"]
    assert rows["ok"] and rows["ranks"] == 2 and rows["by"] == "gloo"
    for recipe in gpu.RECIPES:
        row = rows[recipe]
        assert row["ok"] and row["loss_difference"] == 0 and row["ratio"] == 1
        assert row["photos_per_second"] == row["one_process_photos_per_second"] > 0
    assert rows["sync_batchnorm"] == {"ok": True, "loss_difference": 0}
    assert rows["killed"] == {
        "ok": True, "exit_code": 0, "epochs": 4, "first_epoch_trained": 1,
        "named": GONE.removeprefix("Error: "), "seconds_until_named": 1.5,
    }  # fmt: skip


def test_a_gpu_is_shared_by_gloo_and_refused_by_nccl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stand-ins for one GPU and for the trainings on it, of which some go wrong."""
    rows = [{"train_loss": 1.0, "val_loss": 2.0, "seconds": 4.0}] * 4
    said = {"too-many": "Error: found 1 GPU; wanted --nproc-per-node 1\nrank 1: Error: the same"}
    asked: dict[str, tuple[int, str]] = {}

    def trained(
        bench: Any, name: str, recipe: str, count: int = 0, options: Any = (), *, by: str = "",
        **_: Any,
    ) -> Any:  # fmt: skip
        asked[name] = count, by
        its = [{**row, "val_loss": 2.1} for row in rows] if name == "shared-kin" else rows
        return gpu.Trained(name == "too-many", said.get(name, "epoch 1/4"), its)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu, "trained", trained)
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    bench.device, bench.precision = torch.device("cuda"), "bf16"
    result: dict[str, Any] = {}
    gpu.ranks(bench, result)
    assert {name: each for name, each in asked.items() if each[1]} == {
        "shared-regularized": (2, "gloo"), "shared-kin": (2, "gloo"), "killed-shared": (2, "gloo"),
    }  # fmt: skip
    assert asked["too-many"] == (2, "") and asked["sync"] == asked["killed"] == (1, "")
    wrong = {name for name, row in result.items() if isinstance(row, dict) and not row["ok"]}
    assert wrong == {"shared_gpu_kin", "shared_gpu_killed"} and not result["ok"]
    assert result["shared_gpu_kin"]["loss_difference"] == pytest.approx(0.05)
    assert result["killed"]["named"] == "not asked: one rank"
    assert "--nproc-per-node" in result["more_ranks_than_gpus"]["line"]
    failed = gpu.Trained(1, "x\nError: no photos\nmore", [])
    line = {"ok": False, "exit_code": 1, "line": "Error: no photos"}
    assert gpu._same_losses(failed, failed, "fp32") == line


def test_processes_of_ranks_are_found_by_their_parent() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    children = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", code], env={"RANK": str(rank)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    try:
        for each in children:
            each.stdout.readline()  # type: ignore[union-attr]
        assert [gpu.process_of(os.getpid(), rank) for rank in (1, 0)] == [c.pid for c in children]
        with pytest.raises(gpu.SkippedError, match="rank 2"):
            gpu.process_of(os.getpid(), 2)
    finally:
        for each in children:
            each.communicate()


def test_many_photos_are_taken_apart(found: dict[str, Any]) -> None:
    row = found["many"]["mtcnn-onet"]
    assert row["photos"] == gpu.SMALL.many and row["batch_size"] == 16
    assert row["photos_per_second"] > 0 and row["steady_photos_per_second"] > 0
    assert row["gpu_busy_share"] == "not measured: no GPU"
    assert [*row["busy"]] == ["read", "infer", "write"] and row["limit"] in row["busy"]
    assert row["ok"] and row["difference_one_by_one"] == 0
    assert row["steady_photos_per_second_one_by_one"] > 0
    assert [*row["seconds"]] == ["opening", "framing", "computing", "joining"]


def test_a_window_of_many_photos_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the profiler; a photo takes a second, and the GPU a quarter of that."""
    did: list[str] = []
    now = iter(range(1000))

    class Profiler:
        def start(self) -> None:
            did.append("start")

        def stop(self) -> None:
            did.append("stop")

        def events(self) -> list[Any]:
            span = type("Range", (), {"start": 0.0, "end": 5e6})
            kind = torch.autograd.DeviceType.CUDA
            return [type("Event", (), {"time_range": span, "device_type": kind})]

    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    bench.device = torch.device("cuda")
    monkeypatch.setattr(gpu, "kernels", Profiler)
    pace = gpu.Pace(bench, 20)
    with pace("framing", 3) as bar:
        bar.advance(3)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: float(next(now)))
    with pace("embedding", 20) as bar:
        for _ in range(20):
            bar.advance(1)
    monkeypatch.undo()
    assert did == ["start", "stop"] and pace.done == 20
    assert pace.gpu_busy_share == pytest.approx(5 / 4)  # by the made-up clock
    assert pace.steady_rate() == pytest.approx(1)


def test_compiling_is_set_against_leaving_it(found: dict[str, Any]) -> None:
    for name in ("finetune", "embed"):
        row = found["compile"][name]
        wanted = row["compiled_photos_per_second"] / row["photos_per_second"]
        assert row["ratio"] == pytest.approx(wanted, rel=2e-3)
        assert row["seconds_until_compiled"] > 0
    assert found["compile"]["embed"]["difference"] == 0


def test_embedding_is_taken_apart(found: dict[str, Any]) -> None:
    result = found["embed"]
    rows = result["batches"]
    best = max(rows, key=lambda row: row["map"])
    assert [row["batch_size"] for row in rows] == [*gpu.SMALL.batches[: len(rows)]]
    assert result["best_batch_size"] == best["batch_size"]
    parts = result["parts_photos_per_second"]
    assert [*parts] == ["decode", "copy", "compute", "copy_back", "write"]
    assert all(parts[name] == best[name] for name in ("copy", "compute", "copy_back"))
    limits = {"decode": parts["decode"], "map": best["map"], "write": parts["write"]}
    assert result["limit"] == min(limits, key=lambda name: limits[name])
    for name, size in (("default", 16), ("best", best["batch_size"])):
        row = result[f"embed_{name}_batch"]
        assert (row["batch_size"], row["photos"]) == (size, gpu.SMALL.photos)
        share = row["photos_per_second"] / min(limits.values())
        assert row["share_of_limit"] == pytest.approx(share, rel=2e-3)
        assert row["gpu_busy_share"] == "not measured: no GPU"


def test_a_batch_without_memory_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "mtcnn-onet")
    forward = Embedder.forward

    def limited(self: Embedder, photos: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(photos) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, photos)

    monkeypatch.setattr(Embedder, "forward", limited)
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    rows = gpu.sweep(bench, [np.zeros((32, 32, 3), np.uint8)])
    assert [row["batch_size"] for row in rows] == [4, 8]
    assert "map" in rows[0] and "no room for 8 photos" in rows[1]["error"] and "map" not in rows[1]


def test_a_lack_of_memory_is_a_line_that_leaves_nothing(found: dict[str, Any]) -> None:
    options = {
        "regularized": "--accumulate 2", "kin": "--device cpu", "embed": "--batch-size 8"
    }  # fmt: skip
    for name, option in options.items():
        row = found["out_of_memory"][name]
        assert "out of memory, no room for" in row["line"] and option in row["line"]
        assert row["ok"] and row["left"] == []
    assert "no room for 16 photos" in found["out_of_memory"]["embed"]["line"]  # a whole batch


def test_a_gpu_keeps_what_it_has_and_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for a GPU of 1 GB, 90 MB of which are taken."""
    fractions: list[float] = []
    total = type("Properties", (), {"total_memory": 1_000_000_000})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 90_000_000)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    with pytest.raises(gpu.SkippedError, match="the CPU"), gpu.little_memory(bench):
        pass
    bench.device = torch.device("cuda")
    with pytest.raises(ZeroDivisionError), gpu.little_memory(bench):
        raise ZeroDivisionError
    assert fractions == [0.1, 1.0]


def test_a_section_that_fails_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bench: object, result: dict[str, Any]) -> None:
        result |= {"before": 1, "ok": True}
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    def skip(bench: object, result: dict[str, Any]) -> None:
        raise gpu.SkippedError("not measured: no GPU")

    def late(bench: Any, result: dict[str, Any]) -> None:
        bench.end = 0.0
        bench.check_time()

    def wrong(bench: object, result: dict[str, Any]) -> None:
        result["ok"] = False

    sections = {"fails": fail, "skips": skip, "wrong": wrong, "is late": late, "after": skip}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == 1
    result = json.loads(out.read_text())
    states = {name: section["state"] for name, section in result["sections"].items()}
    assert states == {
        "fails": "failed", "skips": "skipped", "wrong": "done", "is late": "cut short",
        "after": "cut short",
    }  # fmt: skip
    failed = result["sections"]["fails"]
    assert failed["reason"] == "RuntimeError: CUDA error: an illegal memory access"
    assert failed["before"] == 1 and "ok" not in failed
    assert not result["ok"] and result["wrong"] == ["wrong"]
    assert "--minutes" in result["sections"]["after"]["reason"]
    assert "fails: failed: RuntimeError" in capsys.readouterr().err


def test_sections_and_devices_that_are_not_there_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--only", "parity,speed"])
    assert "unknown speed; known are parity, finetune" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", "cpu", "--folder", str(Path(__file__).parent)])
    assert "tests is not empty" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--device", "cuda"]) == 1
    assert "device 'cuda' is not on this machine" in capsys.readouterr().err


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=8))
def test_the_busy_time_counts_what_overlaps_once(spans: list[tuple[int, int]]) -> None:
    wanted = {moment for start, long in spans for moment in range(start, start + long)}
    assert gpu.covered([(start, start + long) for start, long in spans]) == len(wanted)


def test_the_busy_share_is_of_kernels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the profiler, as there may be no GPU here."""

    class Event:
        def __init__(self, start: float, end: float, kind: str, note: bool = False) -> None:
            self.time_range = type("Range", (), {"start": start, "end": end})
            self.device_type = getattr(torch.autograd.DeviceType, kind)
            self.is_user_annotation = note

    class Profiler:
        def __init__(self, activities: object) -> None: ...
        def __enter__(self) -> "Profiler":
            return self

        def __exit__(self, *_: object) -> None: ...
        def events(self) -> list[Event]:
            kernels = [Event(0, 3e5, "CUDA"), Event(2e5, 5e5, "CUDA")]
            return [*kernels, Event(0, 2e6, "CPU"), Event(0, 2e6, "CUDA", note=True)]

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path, 1.0)
    bench.device = torch.device("cuda")
    monkeypatch.setattr(bench, "seconds", lambda work: 2.0)
    assert bench.busy(lambda: None) == pytest.approx(0.25)
    monkeypatch.setattr(Profiler, "events", lambda self: [])
    assert bench.busy(lambda: None) == "not measured: CUPTI names no kernel"
