"""Rows of all ranks' samples, sent by the ranks that have them to those that ask: all-to-all, forward and back.

A rank that reads some N samples of others gets those and no more, so that what travels does not grow with the number
of ranks, as it would if every rank were sent everything. The gradients go back the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkit.ranks import gather, rank, world_size
from mmkit.types import Tokens


def rows_of_all(wanted: Sequence[tuple[Tokens, Tensor]], precision: torch.dtype | None = None) -> list[Tokens]:
    """Of this rank's tokens (B, N, D) and rows (int64) among the samples of all ranks: the tokens of these rows.

    Every rank gives tokens of one shape, and asks for as many rows as the others. With gradient: each row's is the sum
    of what every rank asks of it. precision: in which values travel; None for their own. Waits for the device once, to
    learn how many rows go where.
    """
    if not wanted or world_size() == 1:
        return [tokens.rows(rows) for tokens, rows in wanted]
    routes = _routes([rows for _, rows in wanted], len(wanted[0][0].x))
    return [_travelled(tokens, route, precision) for (tokens, _), route in zip(wanted, routes, strict=True)]


def _travelled(tokens: Tokens, route: _Route, precision: torch.dtype | None) -> Tokens:
    """A mask travels with its tokens, as one value more of each."""
    x_BND, mask_BN = tokens
    if mask_BN is None:
        return Tokens(route(x_BND, precision))
    both = route(torch.cat([x_BND, mask_BN[..., None].to(x_BND.dtype)], -1), precision)
    return Tokens(both[..., :-1], both[..., -1].detach() > 0)


class _Route:
    """What this rank gives, and where what it receives belongs.

    Args:
        asked: (ranks, N) int64, the rows that each rank asks for.
        sent, received: how many rows go from here to each rank, and come from each.
        size: samples of a rank.
    """

    def __init__(self, asked: Tensor, sent: list[int], received: list[int], size: int) -> None:
        owner = asked // size
        by_who_asks = (owner != rank()).flatten().int().argsort(stable=True)[: sum(sent)]
        self._given = asked.flatten()[by_who_asks] % size
        self._place = owner[rank()].argsort(stable=True).argsort()
        self._sent, self._received = sent, received

    def __call__(self, x: Tensor, precision: torch.dtype | None) -> Tensor:
        """(B, ...) of this rank -> (N, ...) as it asked."""
        given = x.index_select(0, self._given).to(precision or x.dtype)
        received: Tensor = _AllToAll.apply(given, self._sent, self._received)
        return received.to(x.dtype).index_select(0, self._place)


def _routes(rows: Sequence[Tensor], size: int) -> list[_Route]:
    ranks = world_size()
    asked = gather(torch.stack(list(rows))).view(ranks, len(rows), -1)
    owner = asked // size
    counts = owner.new_zeros(ranks, len(rows), ranks).scatter_add_(2, owner, torch.ones_like(owner))
    sent, received = torch.stack([counts[:, :, rank()].T, counts[rank()]]).tolist()
    return [_Route(asked[:, i], sent[i], received[i], size) for i in range(len(rows))]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received  # type: ignore[attr-defined]
        return _all_to_all(x, sent, received)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _all_to_all(grad, ctx.received, ctx.sent), None, None  # type: ignore[attr-defined]


def _all_to_all(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    import torch.distributed as dist

    result = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(result, x.contiguous(), received, sent)
    return result
