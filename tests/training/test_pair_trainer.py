"""Options of the training loop: rates, frozen stages, parts of a batch, saved memory."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import Stopping, digests, figures, history, interrupt

from kinembed.backbones import find_backbone
from kinembed.backbones.weights import load_trunk
from kinembed.config import FinetuneConfig
from kinembed.data.families import read_families
from kinembed.data.photos import decode_all
from kinembed.data.samplers import PairSampler
from kinembed.errors import KinembedError, RunError
from kinembed.finetune import finetune
from kinembed.progress import silent
from kinembed.training.pair_trainer import PairTrainer
from kinembed.training.schedules import rate_factor
from kinembed.training.siamese import SiameseNetwork, load_model

ON_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sampler(faces: Path) -> PairSampler:
    families = read_families(faces)
    return PairSampler(families, np.arange(len(families.people)), 0.6)


@pytest.fixture(scope="module")
def trainer(faces: Path, sampler: PairSampler):
    """Builds a trainer on the drawn photos; the same seed gives the same network."""
    files = [faces / name for name in read_families(faces).photos]

    def build(config: FinetuneConfig) -> PairTrainer:
        backbone = find_backbone(config.backbone)
        torch.manual_seed(2)
        trunk = load_trunk(backbone, config.weights)
        network = SiameseNetwork(backbone, trunk, config.view, config.full_recipe())
        pixels = torch.from_numpy(decode_all(files, backbone.framing)[0])
        return PairTrainer(network, config, pixels, ON_CPU, "fp32")

    return build


@pytest.fixture
def small(short: FinetuneConfig) -> FinetuneConfig:
    """A network with BatchNorm, trained for two steps, without dropout."""
    return replace(
        short, backbone="mobilefacenet", weights="none", recipe="base", steps=2, batch_size=6
    )


def trained(trainer: PairTrainer, sampler: PairSampler, epochs: int = 1) -> dict[str, torch.Tensor]:
    for epoch in range(epochs):
        trainer.train(sampler, epoch, [], silent)
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


# Learning rates


@given(st.integers(0, 20), st.integers(1, 60))
def test_a_warm_up_rises_in_equal_steps_to_the_full_rate(warmup: int, total: int) -> None:
    rates = [rate_factor("constant", warmup, step, total, []) for step in range(total)]
    risen = np.minimum(1, np.arange(1, total + 1) / max(1, warmup))
    assert rates == pytest.approx(risen.tolist())


@given(st.integers(0, 20), st.integers(2, 60))
def test_a_cosine_falls_from_the_full_rate_towards_none(warmup: int, total: int) -> None:
    rates = [rate_factor("cosine", warmup, warmup + k, warmup + total, []) for k in range(total)]
    assert rates[0] == 1 and 0 < rates[-1] < 0.6
    assert all(a > b for a, b in itertools.pairwise(rates))
    # oracle: torch's own schedule
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for rate in rates:
        assert rate == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()


@given(st.lists(st.floats(0, 2), max_size=30))
def test_a_plateau_halves_the_rate_as_torchs_scheduler_does(losses: list[float]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=1e-4, threshold_mode="abs", eps=0
    )
    for epoch, loss in enumerate(losses):
        assert rate_factor("plateau", 0, epoch, 100, losses[:epoch]) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        schedule.step(loss)


def test_the_rate_of_each_epoch_is_trained_with_and_written_down(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    config = replace(short, recipe="base", schedule="cosine", warmup=2, epochs=3)
    finetune(config, faces, tmp_path / "a")
    total = config.epochs * config.steps
    for row in history(tmp_path / "a"):
        step = int(row["epoch"]) * config.steps - 1
        wave = 0.5 * (1 + math.cos(math.pi * (step - 2) / (total - 2)))
        assert row["learning_rate"] == pytest.approx(1e-3 * wave, rel=1e-5)
    finetune(replace(config, schedule="constant"), faces, tmp_path / "b")
    assert digests(tmp_path / "a")[1] != digests(tmp_path / "b")[1]
    assert history(tmp_path / "b")[-1]["learning_rate"] == 1e-3


def test_a_schedule_goes_on_where_it_was_interrupted(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    for schedule in ("cosine", "plateau"):
        config = replace(short, recipe="base", schedule=schedule, warmup=4, epochs=3)
        run = tmp_path / schedule
        with pytest.raises(KeyboardInterrupt):
            finetune(config, faces, run, progress=Stopping("epoch 3/", interrupt))
        if schedule == "cosine":
            with pytest.raises(RunError, match="was trained with epochs 3, now 4"):
                finetune(replace(config, epochs=4), faces, run, resume=True)
        finetune(config, faces, run, resume=True)
        finetune(config, faces, tmp_path / f"{schedule}-whole")
        assert digests(run) == digests(tmp_path / f"{schedule}-whole")
        assert figures(run) == figures(tmp_path / f"{schedule}-whole")


def test_no_epoch_begins_once_time_is_up(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    finetune(replace(short, epochs=3, minutes=1e-6), faces, tmp_path / "a")
    assert len(history(tmp_path / "a")) == 1
    finetune(replace(short, epochs=3, minutes=60), faces, tmp_path / "b")
    assert len(history(tmp_path / "b")) == 3


# Frozen stages


def test_stages_hold_all_parameters_in_the_order_of_the_network(small: FinetuneConfig) -> None:
    for name in ("mobilefacenet", "mtcnn-onet", "resnet50", "senet50", "vgg16", "sface"):
        with torch.device("meta"):
            trunk = find_backbone(name).build()
        held = [id(p) for stage in trunk.stages() for p in stage.parameters()]
        assert held == [id(p) for p in trunk.parameters()], name
        assert len(trunk.stages()) >= 4, name


def test_frozen_stages_stay_as_they_were_and_the_others_learn(
    trainer, sampler: PairSampler, small: FinetuneConfig
) -> None:
    one = trainer(replace(small, freeze_stages=5, freeze_epochs=1))
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    stages = one.network.trunk.stages()
    names = {id(module): name for name, module in one.network.named_modules()}
    frozen = tuple(f"{names[id(stage)]}." for stage in stages[:5])
    after = trained(one, sampler)
    counted = 0
    for name in before:
        if "native" in name or name.endswith("num_batches_tracked"):
            continue
        if name.startswith(frozen):
            assert torch.equal(before[name], after[name]), name
            counted += 1
    changed = [
        n for n in before if not n.startswith(frozen) and not torch.equal(before[n], after[n])
    ]
    assert counted >= 15 and "head.output.weight" in changed
    assert any(name.endswith("running_mean") for name in changed)
    # from the second epoch on they learn too
    one.train(sampler, 1, [], silent)
    thawed = one.network.state_dict()
    assert not any(
        torch.equal(after[name], thawed[name])
        for name in before
        if name.startswith(frozen) and name.endswith(("weight", "running_mean"))
    )


def test_without_an_end_they_stay_frozen(trainer, sampler, small: FinetuneConfig) -> None:
    one = trainer(replace(small, freeze_stages=1))
    first = next(one.network.trunk.parameters()).clone()
    trained(one, sampler, epochs=2)
    assert torch.equal(first, next(one.network.trunk.parameters()))


# Parts of a batch, memory, compilation


def test_parts_of_a_batch_add_up_to_the_whole(trainer, sampler, short: FinetuneConfig) -> None:
    """On a network without BatchNorm and dropout, whose photos do not see each other."""
    config = replace(short, recipe="regularized", overrides=("dropout=0",))
    rows, labels = sampler.sample(1, 8, np.random.default_rng(0))
    gradients = []
    for parts in (1, 3, 8):
        one = trainer(replace(config, accumulate=parts))
        one.network.train()
        logits, loss = one._step(rows[0], labels[0])
        assert logits.shape == (8,)
        grads = torch.cat([p.grad.ravel() for p in one.network.parameters() if p.grad is not None])
        gradients.append((logits, loss, grads))
    for logits, loss, grads in gradients[1:]:
        assert torch.allclose(logits, gradients[0][0], atol=1e-5)
        assert loss == pytest.approx(gradients[0][1], abs=1e-5)
        assert float((grads - gradients[0][2]).abs().max()) < 1e-4 * float(grads.abs().max())


@pytest.mark.parametrize("backbone", ["mobilefacenet", "mtcnn-onet"])
def test_saving_memory_changes_no_weight(
    trainer, sampler, small: FinetuneConfig, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinembed.training.pair_trainer.can_run_parallel", lambda *_: False)
    small = replace(small, backbone=backbone, weights="none")
    plain = trained(trainer(small), sampler)
    saving = trained(trainer(replace(small, save_memory=True)), sampler)
    assert plain.keys() == saving.keys()
    for name in plain:
        assert torch.allclose(plain[name].float(), saving[name].float(), atol=1e-6), name


def test_a_network_trained_with_saved_memory_can_be_read(
    faces: Path, tmp_path: Path, short: FinetuneConfig
) -> None:
    finetune(replace(short, save_memory=True), faces, tmp_path / "saving")
    finetune(short, faces, tmp_path / "plain")
    one, other = (load_model(tmp_path / name / "model-last.pt") for name in ("saving", "plain"))
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_compiled_network_learns_the_same(
    trainer, sampler, small: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured as a graph, but run by torch itself: no C++ compiler is needed for that."""
    compile_ = torch.compile
    calls = []

    def captured(function):
        calls.append(function)
        return compile_(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", captured)
    small = replace(small, backbone="mtcnn-onet")
    plain = trained(trainer(small), sampler)
    assert not calls
    compiled = trained(trainer(replace(small, compile=True)), sampler)
    assert len(calls) == 1
    for name in plain:
        assert torch.allclose(plain[name].float(), compiled[name].float(), atol=1e-4), name


def test_where_nothing_can_be_compiled_one_line_says_so(
    faces: Path, tmp_path: Path, short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile

    def failing(graph, inputs):
        raise RuntimeError("no working compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend=failing))
    with pytest.raises(KinembedError, match="^compile: .*; train without --compile$"):
        finetune(replace(short, compile=True), faces, tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"accumulate": 0}, "accumulate: found 0, wanted 1 or more"),
        ({"accumulate": 9}, "accumulate: found 9 parts of 8 pairs"),
        ({"warmup": -1}, "warmup: found -1, wanted 0 or more"),
        ({"minutes": 0.0}, "minutes: found 0.0, wanted above 0"),
        ({"freeze_stages": 99}, "freeze_stages: found 99, mtcnn-onet has 8"),
        ({"freeze_epochs": 2}, "freeze_epochs: nothing is frozen; wanted with --freeze-stages"),
        ({"compile": True, "save_memory": True}, "compile and save_memory: wanted one of the two"),
    ],
)
def test_options_that_do_not_fit_are_named(
    faces: Path, tmp_path: Path, short: FinetuneConfig, changes: dict, problem: str
) -> None:
    with pytest.raises(KinembedError, match=problem):
        finetune(replace(short, **changes), faces, tmp_path)
