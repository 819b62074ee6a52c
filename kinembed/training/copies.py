"""Copies of a network on the same numbers, so that threads take it forward and back at once."""

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor, nn


def sharing(network: nn.Module) -> nn.Module:
    """Another module on the same numbers, with gradients of its own."""
    other = copy.deepcopy(network)
    pairs = [*zip(network.parameters(), other.parameters(), strict=True)]
    for own, its in [*pairs, *zip(network.buffers(), other.buffers(), strict=True)]:
        its.data = own.data
    return other


def in_threads(
    pool: ThreadPoolExecutor, count: int, work: Callable[..., Any], *arguments: Iterable[Any]
) -> list[Any]:
    """The work's results for each of some arguments; each thread takes so many of torch's.

    All end before the first error is raised, so that nothing works on behind it.
    """

    def counted(*own: Any) -> Any:
        torch.set_num_threads(count)  # of this thread, and of all that begin later
        return work(*own)

    futures = [pool.submit(counted, *own) for own in zip(*arguments, strict=True)]
    wait(futures)
    torch.set_num_threads(torch.get_num_threads())  # so later ones take as many as this one again
    return [future.result() for future in futures]


def take_back(part: Tensor, gradient: Tensor) -> None:
    """The gradient of what a copy made, back to the copy's parameters."""
    part.backward(gradient)  # type: ignore[no-untyped-call]


def add_gradients(network: nn.Module, copies: list[nn.Module]) -> None:
    """Moves the gradients of copies to the network's, as after its own backward pass."""
    for other in copies:
        for own, its in zip(network.parameters(), other.parameters(), strict=True):
            if its.grad is not None:
                own.grad = its.grad if own.grad is None else own.grad.add_(its.grad)
                its.grad = None
