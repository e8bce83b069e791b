"""A large batch on small memory: towers pass it in chunks, and pass each again for its gradients.

After GradCache (Gao et al. 2021, https://arxiv.org/abs/2101.06983): a loss that compares all samples needs all of
their tokens at once, but not what made them. Of each chunk the result is kept; in the backward pass it is made once
more, with the same random numbers, and its activations are gone before those of the next. So the loss is formed once
over all samples, and its gradient is that of one pass with the draws of these chunks. Left out: a model that looks at
the batch as a whole while it encodes, as batch normalisation does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkit.errors import UserError

R = TypeVar("R")


def in_chunks(work: Callable[..., R], *rows: Any, chunks: int) -> R:
    """``work(*rows)``, computed chunk by chunk: for work that treats each row by itself.

    rows: tensors of N rows each, None, or tuples and lists of such, as ``Tokens`` are; so is what ``work`` gives.
    """
    if chunks == 1:
        return work(*rows)
    run = partial(checkpoint, work, use_reentrant=False) if torch.is_grad_enabled() else work
    return joined([run(*part) for part in split(rows, min(chunks, max(1, _count(rows))))])


def side_by_side(work: Callable[[Tensor, Tensor], R], one: Tensor, other: Tensor, with_both: Tensor) -> tuple[R, R]:
    """``work`` on each of two batches by one pass of twice the rows, in half as many operations."""
    first, second = split(work(torch.cat([one, other]), torch.cat([with_both, with_both])), 2)
    return first, second


def split(rows: Any, chunks: int) -> list[Any]:
    """Rows in consecutive parts that differ by one row at most, the longer ones first."""
    if rows is None:
        return [None] * chunks
    if isinstance(rows, Tensor):
        longer = len(rows) % chunks
        return list(rows.split([len(rows) // chunks + (i < longer) for i in range(chunks)]))
    return [_like(rows, part) for part in zip(*(split(each, chunks) for each in rows), strict=True)]


def joined(parts: Sequence[Any]) -> Any:
    """What ``split`` was given."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return _like(parts[0], [joined(each) for each in zip(*parts, strict=True)])


def _like(rows: Any, values: Sequence[Any]) -> Any:
    return type(rows)(*values) if hasattr(rows, "_fields") else type(rows)(values)


def _count(rows: Any) -> int:
    """The rows of the first tensor."""
    if isinstance(rows, Tensor):
        return len(rows)
    return next((n for each in rows or () if (n := _count(each))), 0)


def check_chunks(model: nn.Module, chunks: int) -> None:
    """UserError for a model whose result depends on how a batch is cut."""
    for name, module in model.named_modules():
        if chunks > 1 and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise UserError(
                f"run.chunks = {chunks}: the model's {name} normalises over the batch, so chunks of it are another "
                "batch each; leave run.chunks at 1"
            )
