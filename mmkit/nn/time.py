"""Blocks that read a clip along time and along space apart (ViViT, Arnab et al. 2021, sections 3.3.3 and 3.3.4).

Tokens are those of a grid of T times, row-major: all of the first time come first. There is no class token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.attention import SelfAttention
from mmkit.nn.block import PreNormBlock

Order = Literal["time first", "space first"]


def along_time(x_BND: Tensor, times: int) -> Tensor:
    """(B, T * S, D) -> (B * S, T, D): each place by itself."""
    return x_BND.unflatten(1, (times, -1)).transpose(1, 2).flatten(0, 1)


def along_space(x_BND: Tensor, times: int) -> Tensor:
    """(B, T * S, D) -> (B * T, S, D): each time by itself."""
    return x_BND.unflatten(1, (times, -1)).flatten(0, 1)


def from_time(x_BND: Tensor, rows: int) -> Tensor:
    """The inverse of ``along_time``; rows: B."""
    return x_BND.unflatten(0, (rows, -1)).transpose(1, 2).flatten(1, 2)


def from_space(x_BND: Tensor, rows: int) -> Tensor:
    """The inverse of ``along_space``; rows: B."""
    return x_BND.unflatten(0, (rows, -1)).flatten(1, 2)


class FactorisedBlock(PreNormBlock):
    """x + attention over time, x + attention over space, x + MLP, each of its own norm (model 3).

    The norms and the attention over space are named as those of ``PreNormBlock``, of which they are in a picture.
    zero_time: the attention over time gives 0 at the start, so that the start is the model of pictures. order: that of
    the released code, "time first"; the paper writes "space first".
    """

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, dropout: float = 0.0, drop_path: float = 0.0,
        activation: str = "gelu", eps: float = 1e-6, order: Order = "time first",
    ) -> None:  # fmt: skip
        super().__init__(
            width, heads, mlp_width, dropout=dropout, drop_path=drop_path, activation=activation, eps=eps
        )  # fmt: skip
        if order not in ("time first", "space first"):
            raise UserError(f'order={order!r}: "time first", as the released code has it, or "space first"')
        self.order = order
        self.time_norm = nn.LayerNorm(width, eps=eps)
        self.time_attn = SelfAttention(width, heads)

    def forward(self, x_BND: Tensor, times: int) -> Tensor:  # type: ignore[override]
        """(B, T * S, D) -> the same shape."""
        reads = [self._over_time, self._over_space]
        for read in reads if self.order == "time first" else reads[::-1]:
            x_BND = x_BND + self.drop_path(self.dropout(read(x_BND, times)))
        return x_BND + self.drop_path(self.dropout(self.mlp(self.norm2(x_BND))))

    def _over_time(self, x_BND: Tensor, times: int) -> Tensor:
        return from_time(self.time_attn(along_time(self.time_norm(x_BND), times)), len(x_BND))

    def _over_space(self, x_BND: Tensor, times: int) -> Tensor:
        return from_space(self.attn(along_space(self.norm1(x_BND), times)), len(x_BND))


class SplitAttention(SelfAttention):
    """The first half of the heads reads along time, the other along space (model 4); the weights of a plain one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        if heads % 2:
            raise UserError(f"{heads} heads: half of them read along time and half along space; give an even number")

    def forward(self, x_BND: Tensor, times: int) -> Tensor:  # type: ignore[override]
        """(B, T * S, D) -> the same shape."""
        rows, half = len(x_BND), x_BND.shape[-1] // 2
        q, k, v = self.qkv(x_BND).chunk(3, dim=-1)
        by_time = [along_time(x[..., :half], times) for x in (q, k, v)]
        by_space = [along_space(x[..., half:], times) for x in (q, k, v)]
        read = [from_time(self._read(*by_time), rows), from_space(self._read(*by_space), rows)]
        return self.proj(torch.cat(read, -1))

    def _read(self, q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor) -> Tensor:
        return self._attend(self._heads(q_BNE), self._heads(k_BNE), self._heads(v_BNE), None)

    def _heads(self, x_BNE: Tensor) -> Tensor:
        return x_BNE.unflatten(-1, (self.heads // 2, -1)).transpose(1, 2).contiguous()


class SplitBlock(PreNormBlock):
    """A pre-norm block whose heads are split between time and space (model 4)."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, dropout: float = 0.0, drop_path: float = 0.0,
        activation: str = "gelu", eps: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__(
            width, heads, mlp_width, dropout=dropout, drop_path=drop_path, activation=activation, eps=eps
        )  # fmt: skip
        self.attn = SplitAttention(width, heads)

    def forward(self, x_BND: Tensor, times: int) -> Tensor:  # type: ignore[override]
        """(B, T * S, D) -> the same shape."""
        x_BND = x_BND + self.drop_path(self.dropout(self.attn(self.norm1(x_BND), times)))
        return x_BND + self.drop_path(self.dropout(self.mlp(self.norm2(x_BND))))
