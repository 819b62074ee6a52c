"""BatchNorm over the photos of all ranks; torch's own, `SyncBatchNorm`, runs on no CPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from kinembed.training.ranks import Ranks


def norms_of(network: nn.Module) -> Iterator[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The BatchNorms of a network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            yield module


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Means and variances that BatchNorms keep for evaluation."""
    statistics = ((norm.running_mean, norm.running_var) for norm in norms_of(network))
    return [cast(Tensor, each) for pair in statistics for each in pair]


def sync_batchnorm(network: nn.Module, ranks: Ranks) -> None:
    """From now on, BatchNorm in training sees the photos of all ranks, as of one batch."""
    if not ranks.is_alone:
        for norm in norms_of(network):
            cast(Any, norm).forward = partial(_forward, norm, norm.forward, ranks)


def _forward(norm: Any, alone: Any, ranks: Ranks, x: Tensor) -> Tensor:
    """(N, C, …) to the same shape."""
    if not norm.training:
        return cast(Tensor, alone(x))
    y, mean, variance, count = _Normalised.apply(x, norm.weight, norm.bias, norm.eps, ranks)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), norm.momentum)
    return cast(Tensor, y)


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the rows of all ranks.

    Ioffe and Szegedy, "Batch Normalization", https://arxiv.org/abs/1502.03167. Each rank sends
    count, mean and squares about its own mean, which are joined as in Chan et al., "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979: a difference of large
    sums would cost float32 its digits.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        values = x.float()
        own, mean = values.new_tensor(x.numel() / x.shape[1]), values.mean(dims)  # (C,)
        squares = (values - mean.view(shape)).square().sum(dims)  # (C,)
        sent = torch.stack([own.expand_as(mean), mean, squares])  # (3, C)
        table = values.new_zeros((ranks.size, *sent.shape))
        table[ranks.rank] = sent
        counts, means, squared = ranks.add(table).unbind(1)  # (size, C) each
        count = counts.sum(0)  # (C,)
        mean = (counts * means).sum(0) / count
        variance = (squared + counts * (means - mean).square()).sum(0) / count
        inverse = (variance + eps).rsqrt()
        normal = (values - mean.view(shape)) * inverse.view(shape)
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.ranks, ctx.dims, ctx.shape = ranks, dims, shape
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.addcmul(bias.view(shape), normal, weight.view(shape))
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal, weight, inverse, count = ctx.saved_tensors
        slope = gradient.float()
        of_bias = slope.sum(ctx.dims)  # (C,)
        of_weight = (slope * normal).sum(ctx.dims)  # (C,)
        sums = ctx.ranks.add(torch.stack([of_bias, of_weight])) / count  # (2, C)
        to_mean, to_variance = (each.view(ctx.shape) for each in sums)
        factor = (weight * inverse).view(ctx.shape)
        of_x = (slope - to_mean - normal * to_variance) * factor
        return of_x.to(gradient.dtype), of_weight, of_bias, None, None
