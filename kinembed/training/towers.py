"""The two towers of the siamese network in training: one after the other, or at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from kinembed.config import FinetuneConfig
from kinembed.threads import processors
from kinembed.training.copies import add_gradients, in_threads, sharing, take_back
from kinembed.training.cuda_graphs import InContext
from kinembed.training.ranks import Ranks
from kinembed.training.siamese import SiameseNetwork
from kinembed.training.synced_batchnorm import norms_of


class Towers(nn.Module):
    """Photos of both sides of pairs, (B, side, side, 3) each, to their vectors, (B, D) each.

    One tower after the other, as in Keras: BatchNorm sees one tower's photos at a time.
    """

    def __init__(self, network: SiameseNetwork, feature_map: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trunk = network.trunk  # whose parameters are the towers'
        self.feature_map = feature_map
        self.vectors = network.vectors

    def forward(self, *sides: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        return tuple(self.vectors(self.feature_map(photos)) for photos in sides)


def can_run_parallel(
    network: SiameseNetwork, device: torch.device, config: FinetuneConfig, ranks: Ranks
) -> bool:
    """Whether both towers may run at once, each in a thread with half of torch's threads.

    Not where they draw random numbers, whose order would then be by chance, nor where a thread
    would be left over.
    """
    draws = any(
        isinstance(module, nn.Dropout) and module.p > 0 for module in network.trunk.modules()
    )
    plain = not (config.compile or config.save_memory or draws) and ranks.is_alone
    return device.type == "cpu" and plain and _threads() % 2 == 0


def _threads() -> int:
    """How many threads a pass takes: as torch would, whom OMP_NUM_THREADS may limit."""
    return min(processors(), torch.get_num_threads())


class ParallelTowers:
    """As `Towers`, with the same vectors, gradients and statistics, each tower in a thread.

    torch's threads wait for each other after each layer; those of one tower do not wait for the
    other's.

    Args:
        network: on the CPU.
        context: in what the towers run, as autocast; threads do not share it.
    """

    def __init__(
        self, network: SiameseNetwork, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        other = cast(SiameseNetwork, sharing(network))
        self.trunks = network.trunk, other.trunk
        self.norms = [*zip(norms_of(network.trunk), norms_of(other.trunk), strict=True)]
        self.towers = [
            InContext(Towers(each, each.feature_map), context) for each in (network, other)
        ]
        self.pool = ThreadPoolExecutor(2)
        self.share = max(1, _threads() // 2)  # of torch's threads
        self.anchor = torch.zeros((), requires_grad=True)

    def __call__(self, *sides: Tensor) -> tuple[Tensor, ...]:
        """The vectors (B, D) of both sides, (B, side, side, 3) each."""
        self._as_the_first()
        results = self._in_threads(lambda tower, photos: tower(photos)[0], self.towers, sides)
        self._add_statistics()
        if not any(part.requires_grad for part in results):  # all stages are frozen
            return tuple(results)
        return cast(tuple[Tensor, ...], _Joined.apply(self, results, self.anchor))  # type: ignore[no-untyped-call]

    def backward(self, parts: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
        """Takes the gradients of vectors (B, D) of both sides back to the trunk's parameters."""
        self._in_threads(take_back, parts, gradients)
        add_gradients(self.trunks[0], [self.trunks[1]])

    def _in_threads(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        return in_threads(self.pool, self.share, work, *arguments)

    def _as_the_first(self) -> None:
        """Lets the second trunk learn and keep statistics where the first does."""
        first, second = self.trunks
        for own, its in zip(first.modules(), second.modules(), strict=True):
            its.training = own.training
        for parameter, other in zip(first.parameters(), second.parameters(), strict=True):
            other.requires_grad_(parameter.requires_grad)
        for own, its in self.norms:
            for name in ("running_mean", "running_var"):
                statistic = cast(Tensor, getattr(own, name))
                setattr(its, name, torch.zeros_like(statistic) if own.training else statistic)
            its.num_batches_tracked = torch.zeros_like(cast(Tensor, own.num_batches_tracked))
            its.momentum = own.momentum

    def _add_statistics(self) -> None:
        """Moves the step of the second trunk's statistics, from 0, behind that of the first's."""
        for own, its in self.norms:
            steps = int(cast(Tensor, its.num_batches_tracked))  # 0 behind the compared view
            kept = (1 - cast(float, own.momentum)) ** steps
            cast(Tensor, own.num_batches_tracked).add_(steps)
            for name in ("running_mean", "running_var") if steps else ():
                # `data`: to autograd no change, as where BatchNorm itself takes its step.
                cast(Tensor, getattr(own, name)).data.mul_(kept).add_(getattr(its, name))


class _Joined(torch.autograd.Function):
    """Vectors of several threads, as of one network; the gradient goes back in the same threads."""

    @staticmethod
    def forward(
        ctx: Any, towers: ParallelTowers, parts: list[Tensor], anchor: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.towers, ctx.parts = towers, parts
        return tuple(part.detach() for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.towers.backward(ctx.parts, gradients)
        return None, None, None
