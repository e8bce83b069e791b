"""Rows of all ranks together. With one process every function is a no-op, and no process group is needed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """(n, ...) of each rank -> (ranks * n, ...) in the order of ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        grad = sum_over_ranks(grad)
        return grad.chunk(world_size())[rank()]


def gather_with_grad(x: Tensor) -> Tensor:
    """Like ``gather``; each row's gradient is the sum of what every rank's loss asks of it.

    Where the loss is the mean of the ranks' losses, as under DistributedDataParallel, the parameters then get the
    exact gradient of that mean.
    """
    return x if world_size() == 1 else _GatherWithGrad.apply(x)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total
