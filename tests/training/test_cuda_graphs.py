"""Recorded passes, without a GPU: torch's recording is stood in for by what it does to a network.

What a GPU computes with and without graphs is compared by `benchmarks/gpu.py`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinembed.config import FinetuneConfig
from kinembed.finetune import finetune
from kinembed.training.cuda_graphs import InContext, RecordedPass, can_record
from kinembed.training.ranks import ALONE, Ranks

CUDA = torch.device("cuda")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, ...]]:
    """The shapes that were recorded; to be recorded, a network runs three times and draws."""
    shapes: list[tuple[torch.Size, ...]] = []

    def record(network: nn.Module, photos: tuple[Tensor, ...], **_: Any) -> nn.Module:
        shapes.append(tuple(each.shape for each in photos))
        for _turn in range(3):
            network(*photos)
        return network

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return shapes


def a_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_recording_leaves_statistics_and_random_numbers(
    recorded: list[tuple[torch.Size, ...]],
) -> None:
    network, plain = a_network(), a_network()
    passes = RecordedPass(InContext(network, nullcontext))
    photos = torch.arange(15.0).view(5, 3)
    torch.manual_seed(2)
    ours = [passes(photos) for _ in range(2)]
    torch.manual_seed(2)
    theirs = [plain(photos) for _ in range(2)]
    assert all(torch.equal(*each) for each in zip(ours, theirs, strict=True))
    states = network.state_dict(), plain.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert recorded == [((5, 3),)]


def test_it_is_recorded_anew_for_other_photos_and_other_parameters(
    recorded: list[tuple[torch.Size, ...]],
) -> None:
    network = a_network()
    passes = RecordedPass(network)
    for count in (5, 5, 4, 4):
        passes(torch.zeros(count, 3))
    assert recorded == [((5, 3),), ((4, 3),)]
    next(network.parameters()).requires_grad_(False)
    passes(torch.zeros(4, 3))
    assert recorded == [((5, 3),), ((4, 3),), ((4, 3),)]


def test_a_network_that_cannot_be_recorded_runs_as_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    network = a_network().eval()
    with caplog.at_level("INFO"):
        assert torch.equal(RecordedPass(network)(torch.ones(2, 3)), network(torch.ones(2, 3)))
    assert "not permitted when stream is capturing" in caplog.text and "more" not in caplog.text


def test_no_memory_to_record_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    with pytest.raises(torch.OutOfMemoryError):
        RecordedPass(a_network())(torch.ones(2, 3))


def test_what_may_be_recorded() -> None:
    config = FinetuneConfig()
    assert can_record(CUDA, config, ALONE)
    assert not can_record(torch.device("cpu"), config, ALONE)
    assert not can_record(CUDA, replace(config, accumulate=2), ALONE)
    assert not can_record(CUDA, replace(config, save_memory=True), ALONE)
    assert can_record(CUDA, config, Ranks(0, 2))
    synced = replace(config, sync_batchnorm=True)  # which talks in the midst of a pass
    assert can_record(CUDA, synced, ALONE) and not can_record(CUDA, synced, Ranks(0, 2))


@pytest.mark.parametrize("recipe", ["dense", "kin"])
def test_trainings_are_the_same_with_recorded_passes(
    recipe: str,
    recorded: list[tuple[torch.Size, ...]],
    short: FinetuneConfig,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_pass: Callable[[], None],
) -> None:
    config = replace(short, recipe=recipe, epochs=1, steps=2, val_steps=1)
    if recipe == "kin":
        config = FinetuneConfig(
            backbone=short.backbone, weights="none", recipe="kin", view="max", epochs=1, steps=2,
            val_steps=1, device="cpu", precision="fp32", framing=short.framing,
            overrides=("batch_pairs=3",),
        )  # fmt: skip
    one_pass()
    for name, records in (("plain", False), ("recorded", True)):
        for trainer in ("pair_trainer", "contrastive_trainer"):
            monkeypatch.setattr(
                f"kinembed.training.{trainer}.can_record", lambda *_, records=records: records
            )
        finetune(config, faces, tmp_path / name)
    rows = [
        [row.split(",") for row in (tmp_path / name / "history.csv").read_text().splitlines()]
        for name in ("plain", "recorded")
    ]
    at = rows[0][0].index("seconds")
    assert [row[:at] for row in rows[0]] == [row[:at] for row in rows[1]] and len(recorded) == 1


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Batches go through the network whole, as on a GPU."""

    def patch() -> None:
        trainers = "kinembed.training"
        monkeypatch.setattr(f"{trainers}.contrastive_trainer.parallel_passes", lambda device: 1)
        monkeypatch.setattr(f"{trainers}.pair_trainer.can_run_parallel", lambda *_: False)

    return patch
