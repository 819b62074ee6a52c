"""Folded BatchNorms and passes in parts, against plain autograd on the network itself."""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from kinembed.backbones.mobilefacenet import MobileFaceNet
from kinembed.training.copies import in_threads
from kinembed.training.frozen_batchnorm import ReplicatedForward, fold_norms


class Vectors(nn.Module):
    """A backbone with one of its views."""

    def __init__(self, view: str) -> None:
        super().__init__()
        self.trunk = MobileFaceNet()
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk.view(self.view, self.trunk.feature_map(x))


class Odd(nn.Module):
    """All that may stand before a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)  # behind no convolution
        self.biased = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=0.1)
        self.grouped = nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False)
        self.grouped_norm = nn.BatchNorm2d(6)
        self.again = nn.BatchNorm2d(6)  # behind a BatchNorm
        self.same = nn.Conv2d(6, 4, 3, padding="same")
        self.same_norm = nn.BatchNorm2d(4)
        self.mirroring = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.mirroring_norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)  # what it gives is also used without the BatchNorm
        self.twice_norm = nn.BatchNorm2d(4)
        self.output = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.biased(self.first(x))))
        x = torch.relu(self.again(self.grouped_norm(self.grouped(x))))
        x = torch.relu(self.same_norm(self.same(x)))
        x = torch.relu(self.mirroring_norm(self.mirroring(x)))
        x = self.twice(x)
        x = torch.relu(self.twice_norm(x) + x)
        return self.output(x.mean((2, 3)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same networks in every run."""
    torch.manual_seed(0)


def used(network: nn.Module) -> nn.Module:
    """As after a training: its BatchNorms have statistics, factors and offsets."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.3)
    # depthwise convolutions in float64 take minutes
    return network.double().eval() if isinstance(network, Odd) else network.eval()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(network: nn.Module, photos: Tensor, slopes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Vectors and gradients as torch has them, on a copy."""
    network = copy.deepcopy(network)
    network.zero_grad(set_to_none=True)
    vectors = network(photos)
    vectors.backward(slopes)
    return vectors.detach(), [p.grad for p in network.parameters()]


def alike(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach(), other.detach()
    # in float32, rounding may take one of a million activations across the kink of its ReLU
    share = 1e-9 if other.dtype == torch.float64 else 1e-2
    return one.shape == other.shape and float((one - other).norm()) <= share * float(other.norm())


# Folding

NETWORKS: list[tuple[Callable[[], nn.Module], int, int, int]] = [
    # network, side, width, BatchNorms that stay
    (lambda: Vectors("native"), 112, 128, 0),
    (lambda: Vectors("avg"), 48, 512, 0),
    (Odd, 12, 5, 5),
]


@pytest.mark.parametrize(
    ("build", "side", "width", "staying"), NETWORKS, ids=["native", "avg", "odd"]
)
def test_folded_norms_give_the_same_vectors_and_gradients(
    build: Callable[[], nn.Module], side: int, width: int, staying: int
) -> None:
    network = used(build())
    dtype = next(network.parameters()).dtype
    photos, slopes = random(2, 3, side, side).to(dtype), random(2, width).to(dtype)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected, gradients = plain(network, photos, slopes)
    folded = fold_norms(network)
    vectors = folded(photos)
    vectors.backward(slopes)
    assert alike(vectors, expected)
    named = dict(network.named_parameters())
    learning = {
        name: gradient
        for name, gradient in zip(named, gradients, strict=True)
        if gradient is not None
    }
    assert len(learning) >= 18 and all(gradient.any() for gradient in learning.values())
    for name, parameter in named.items():
        if name in learning:
            assert alike(parameter.grad, learning[name]), name
        else:
            assert parameter.grad is None, name
    modules = dict(folded.named_modules())
    called = [modules[node.target] for node in folded.graph.nodes if node.op == "call_module"]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in called) == staying
    # the network itself is as it was
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert alike(network(photos), expected)


def test_a_folded_network_follows_what_is_learnt() -> None:
    network = used(Odd())
    folded = fold_norms(network)
    photos = random(2, 3, 12, 12)
    before = folded(photos)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before.square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        network.norm.running_mean += 1
        network.norm.running_var *= 2
    after = folded(photos)
    assert not torch.allclose(after, before, atol=1e-2)
    assert alike(after, network(photos))


# ReplicatedForward


@pytest.fixture
def replicated() -> Iterator[Callable[..., ReplicatedForward]]:
    built = []

    def build(*arguments: object) -> ReplicatedForward:
        built.append(ReplicatedForward(*arguments))
        return built[-1]

    yield build
    for each in built:
        each.close()


def agree(network: nn.Module, expected: list[Tensor | None]) -> None:
    for (name, parameter), gradient in zip(network.named_parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None, name
        else:
            assert alike(parameter.grad, gradient), name


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_parts_give_the_vectors_and_gradients_of_the_whole(
    replicated: Callable[..., ReplicatedForward], workers: int, count: int
) -> None:
    """Batches of fewer photos than workers too."""
    network = used(Odd())
    photos, slopes = random(count, 3, 12, 12), random(count, 5)
    expected, gradients = plain(network, photos, slopes)
    several = replicated(network, workers)
    vectors = several.forward(photos)
    assert alike(vectors, expected) and not vectors.requires_grad
    several.backward(slopes)
    agree(network, gradients)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_backbone_learns_the_same_in_parts(
    replicated: Callable[..., ReplicatedForward], workers: int
) -> None:
    network = used(Vectors("avg"))
    photos, slopes = random(3, 3, 32, 32).float(), random(3, 512).float()
    expected, gradients = plain(network, photos, slopes)
    several = replicated(network, workers)
    assert alike(several.forward(photos), expected)
    several.backward(slopes)
    agree(network, gradients)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_gradients_add_up_until_they_are_zeroed(
    replicated: Callable[..., ReplicatedForward], workers: int, to_none: bool
) -> None:
    network = used(Odd())
    several = replicated(network, workers)
    one, other = (random(5, 3, 12, 12, seed=seed) for seed in (2, 3))
    slopes = random(5, 5, seed=4)
    firsts, seconds = (plain(network, photos, slopes)[1] for photos in (one, other))

    def learn(photos: Tensor) -> None:
        several.forward(photos)
        several.backward(slopes)

    for _ in range(2):
        network.zero_grad(set_to_none=to_none)
        learn(one)
        learn(other)
        agree(network, [a + b for a, b in zip(firsts, seconds, strict=True)])
    network.zero_grad(set_to_none=to_none)
    learn(other)
    agree(network, seconds)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_is_frozen_stays_without_gradient(
    replicated: Callable[..., ReplicatedForward], workers: int
) -> None:
    network = used(Odd())
    frozen = (network.biased.weight, network.norm.bias, network.same_norm.weight)
    for parameter in frozen:
        parameter.requires_grad_(False)
    photos, slopes = random(4, 3, 12, 12), random(4, 5)
    _, gradients = plain(network, photos, slopes)
    assert sum(gradient is None for gradient in gradients) == len(frozen)
    several = replicated(network, workers)
    several.forward(photos)
    several.backward(slopes)
    agree(network, gradients)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_copy_sees_what_the_network_has_learnt(
    replicated: Callable[..., ReplicatedForward], workers: int
) -> None:
    network = used(Odd())
    first = copy.deepcopy(network.state_dict())
    several = replicated(network, workers)
    photos, slopes = random(6, 3, 12, 12), random(6, 5)
    before = several.forward(photos)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    for _ in range(2):
        several.forward(photos)
        optimizer.zero_grad(set_to_none=True)
        several.backward(slopes)
        optimizer.step()
        expected, gradients = plain(network, photos, slopes)
        assert alike(several.forward(photos), expected)
        network.zero_grad(set_to_none=True)
        several.backward(slopes)
        agree(network, gradients)
    changed = (several.forward(photos) - before).abs().amax(1)
    assert (changed > 1e-3).all()  # those of every copy
    network.load_state_dict(first)
    assert alike(several.forward(photos), before)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_passes_leave_the_statistics_of_norms_as_they_are(
    replicated: Callable[..., ReplicatedForward], workers: int
) -> None:
    network = used(Odd())
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    several = replicated(network, workers)
    several.forward(random(4, 3, 12, 12))
    several.backward(random(4, 5))
    assert len(before) == 3 * 7
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("sizes", [(), (2,), (1, 3), (2, 1, 4, 3, 1, 2, 2)])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_are_embedded_in_their_order(
    replicated: Callable[..., ReplicatedForward], workers: int, sizes: tuple[int, ...]
) -> None:
    network = used(Odd())
    batches = [random(size, 3, 12, 12, seed=seed) for seed, size in enumerate(sizes)]
    found = replicated(network, workers).embed(batches)
    assert len(found) == len(sizes)
    for vectors, batch in zip(found, batches, strict=True):
        assert alike(vectors, network(batch)) and not vectors.requires_grad


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_part_runs_in_the_context(
    replicated: Callable[..., ReplicatedForward], workers: int
) -> None:
    entered = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append(threading.get_ident())
        with torch.autocast("cpu", torch.bfloat16):
            yield

    network = used(Odd()).float()
    several = replicated(network, workers, context)
    photos = random(6, 3, 12, 12).float()
    vectors = several.forward(photos)
    assert vectors.dtype == torch.bfloat16 and len(entered) == workers
    assert (threading.get_ident() in entered) == (workers == 1)
    several.backward(torch.ones_like(vectors))
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_the_caller_keeps_its_threads(replicated: Callable[..., ReplicatedForward]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        several = replicated(used(Odd()), 2)
        several.forward(random(4, 3, 12, 12))
        several.backward(random(4, 5))
        assert torch.get_num_threads() == 2
        assert in_threads(several.pool, 1, lambda _: torch.get_num_threads(), range(2)) == [1, 1]
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_end_when_closed() -> None:
    before = set(threading.enumerate())
    several = ReplicatedForward(used(Odd()), 3)
    several.embed([random(1, 3, 12, 12)] * 3)
    assert set(threading.enumerate()) - before
    several.close()
    assert not set(threading.enumerate()) - before
    ReplicatedForward(used(Odd()), 1).close()  # has none


# Parts that do not learn


@pytest.mark.parametrize(("stages", "shape"), [(8, (128, 6, 6)), (17, (128, 3, 3))])
def test_what_does_not_learn_and_the_rest_are_the_network(
    stages: int, shape: tuple[int, ...]
) -> None:
    network = used(Vectors("avg"))
    network.trunk.freeze(stages)
    photos, slopes = random(5, 3, 48, 48).float(), random(5, 512).float()
    whole, parted = ReplicatedForward(network, 2), ReplicatedForward(copy.deepcopy(network), 2)
    assert parted.skip_frozen()
    (maps,) = parted.maps([photos])
    assert maps.shape[1:] == shape
    assert alike(parted.forward(maps), whole.forward(photos))
    assert alike(torch.cat(parted.embed([maps[:2], maps[2:]])), torch.cat(whole.embed([photos])))
    whole.backward(slopes)
    parted.backward(slopes)
    assert 0 < len(parted.parameters) < len(list(network.parameters()))
    for one, other in zip(parted.parameters, whole.parameters, strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or alike(one.grad, other.grad)


def test_a_network_that_learns_from_the_photo_on_is_not_parted() -> None:
    assert not ReplicatedForward(used(Vectors("avg")), 1).skip_frozen()


def test_parts_that_two_tensors_join_are_not_parted() -> None:
    assert not ReplicatedForward(Beside().eval(), 1).skip_frozen()


class Beside(nn.Module):
    """Adds the photo itself to what a frozen stage makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 4, 3, stride=2, padding=1).requires_grad_(False)
        self.photo = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.photo(x) + self.frozen(x)
