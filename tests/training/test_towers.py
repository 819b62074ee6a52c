"""Both towers at once, each in a thread, against one after the other."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from small_networks import WIDTH, Small
from torch import Tensor, nn

from kinembed.backbones import find_backbone
from kinembed.backbones.embedder import Normalise
from kinembed.config import FinetuneConfig
from kinembed.recipes import find_finetune_recipe
from kinembed.training import towers
from kinembed.training.cuda_graphs import InContext
from kinembed.training.pair_trainer import keras_batchnorm
from kinembed.training.ranks import ALONE, Ranks
from kinembed.training.siamese import SiameseNetwork
from kinembed.training.towers import ParallelTowers, Towers, can_run_parallel

CPU = torch.device("cpu")


class Blocks(Small):
    """The small trunk, with a block and a view behind its feature map that `max` does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen = nn.BatchNorm2d(WIDTH)

    def native(self, feature_map: Tensor) -> Tensor:
        return self.unseen(feature_map).mean((2, 3))


def a_network() -> SiameseNetwork:
    torch.manual_seed(3)
    record = replace(find_backbone("mobilefacenet"), views={"max": WIDTH})
    network = SiameseNetwork(record, Blocks(), "max", find_finetune_recipe("base"))
    keras_batchnorm(network)
    return network.train()


class InDouble(nn.Module):
    """Photos as float64: rounding of a network that is not trained is no difference then."""

    def __init__(self, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, photos: Tensor) -> Tensor:
        return cast(Tensor, self.normalise(photos)).double()


def sides(step: int) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(step)
    photos = torch.randint(256, (2, 3, 32, 32, 3), generator=numbers, dtype=torch.uint8)
    return photos[0], photos[1]


def trained(parallel: bool, freeze: int = 0) -> dict[str, Tensor]:
    """Vectors, gradients of two passes, and all numbers, after two steps of an optimiser."""
    network = a_network().double()
    network.normalise = cast(Normalise, InDouble(network.normalise.float()))
    run: Callable[..., tuple[Tensor, ...]] = (
        ParallelTowers(network, nullcontext) if parallel else Towers(network, network.feature_map)
    )
    network.trunk.freeze(freeze)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    found: dict[str, Tensor] = {}
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        for part in range(2):  # gradients add up
            a, b = run(*sides(2 * step + part))
            (a - b).abs().mean().backward()
        found |= {f"{step} a": a.detach(), f"{step} b": b.detach()}
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[f"{step} gradient {name}"] = parameter.grad.clone()
        optimizer.step()
    return found | {name: each.clone() for name, each in network.state_dict().items()}


@pytest.mark.parametrize("freeze", [0, 1])
def test_vectors_gradients_and_statistics_are_those_of_one_tower_after_the_other(
    freeze: int,
) -> None:
    wanted, found = trained(False, freeze), trained(True, freeze)
    assert found.keys() == wanted.keys()
    assert sum(name.startswith("1 gradient") for name in found) == 6 - 2 * freeze
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, msg=f"{name} {{}}".format
        )


def test_the_statistics_take_a_step_for_each_tower() -> None:
    network = a_network()
    first = {name: each.clone() for name, each in network.trunk.named_buffers()}
    ParallelTowers(network, nullcontext)(*sides(0))
    moved = dict(network.trunk.named_buffers())
    for name, before in first.items():
        is_behind = name.startswith("unseen")
        if name.endswith("num_batches_tracked"):
            assert int(moved[name]) == (0 if is_behind else 2), name
        else:
            assert torch.equal(moved[name], before) == is_behind, name


def test_the_same_photos_give_the_same_bits() -> None:
    one, other = trained(True), trained(True)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_towers_that_do_not_learn_have_no_gradient() -> None:
    network = a_network()
    run = ParallelTowers(network, nullcontext)
    network.trunk.freeze(len(network.trunk.stages()))
    assert not any(vectors.requires_grad for vectors in run(*sides(0)))


def test_an_error_in_a_tower_ends_the_pass() -> None:
    network = a_network()
    network.feature_map = lambda photos: cast(Tensor, 1 / 0)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        ParallelTowers(network, nullcontext)(*sides(0))


def test_the_other_tower_has_ended_when_an_error_is_raised() -> None:
    network = a_network()
    run = ParallelTowers(network, nullcontext)
    ended: list[str] = []

    def fails(*_: Tensor) -> Tensor:
        raise ZeroDivisionError

    def takes_time(*photos: Tensor) -> Tensor:
        time.sleep(0.1)
        ended.append("second")
        return photos[0]

    run.towers = [cast(InContext, fails), cast(InContext, takes_time)]
    with pytest.raises(ZeroDivisionError):
        run(*sides(0))
    assert ended == ["second"]


def test_threads_that_begin_later_take_as_many_of_torchs_as_before() -> None:
    def of_a_later_one() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ParallelTowers(a_network(), nullcontext)(*sides(0))
        assert (torch.get_num_threads(), of_a_later_one()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_where_towers_run_at_once(short: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "processors", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    network = a_network()
    assert can_run_parallel(network, CPU, short, ALONE)
    assert not can_run_parallel(network, torch.device("cuda"), short, ALONE)
    assert not can_run_parallel(network, CPU, replace(short, compile=True), ALONE)
    assert not can_run_parallel(network, CPU, replace(short, save_memory=True), ALONE)
    assert not can_run_parallel(network, CPU, short, cast(Ranks, SimpleNamespace(is_alone=False)))
    drawing = a_network()
    drawing.trunk.add_module("dropout", nn.Dropout(0.4))
    assert not can_run_parallel(drawing, CPU, short, ALONE)
    with monkeypatch.context() as limited:  # as by OMP_NUM_THREADS
        limited.setattr(torch, "get_num_threads", lambda: 1)
        assert not can_run_parallel(network, CPU, short, ALONE)
    for count in (1, 3):
        monkeypatch.setattr(towers, "processors", lambda count=count: count)
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert not can_run_parallel(network, CPU, short, ALONE)
