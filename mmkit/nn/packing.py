"""Texts without their padding: the real tokens of a batch, one behind the other.

What treats each token by itself (linear layers, norms, activations) is spared the padding; attention, which needs
rectangles, spreads the tokens out and packs them again. Padding is never read, so that nothing else changes. Where a
token stands is looked up on the host: on a CPU that is free, a GPU would have to be waited for, and keeps its padding.

oneDNN makes a program for each shape and keeps it, with 20 MB for the layers of a text tower, or for one matrix of all
words. So where it multiplies a little padding stays: shapes are few. MKL, which multiplies float32, keeps nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkit.nn.kernels import written_out

TOKENS = 2
"""Of each text, to whose multiple the number of packed tokens is rounded up where oneDNN multiplies."""


class Packing(NamedTuple):
    """Where the N tokens of B texts stand that are packed: all real ones, and as much padding as fills them up.

    rows: (N,) int64, of each packed token its place among the B x L, the real ones first and in order. rest: int64, the
    places of what is not packed. at: (B, L) int64, of each place its row; of those of ``rest`` any row.
    """

    rows: Tensor
    rest: Tensor
    at: Tensor

    @classmethod
    def of(cls, mask_BL: Tensor | None) -> Packing | None:
        """For a mask (B, L) bool; None where nothing is gained: little padding, no token at all, or not on a CPU.

        And where shapes may not depend on values: for a mask that has none, and for what is exported.
        """
        if type(mask_BL) is not Tensor or not written_out(mask_BL):
            return None
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        whole = mask_BL.flatten()
        count = rounded(int(whole.sum()), TOKENS * len(mask_BL) if _onednn() else 1)
        if not 0 < count < len(whole):
            return None
        rows, rest = (~whole).int().argsort(stable=True).tensor_split([count])
        at = (whole.cumsum(0) - 1).clamp(min=0).index_copy(0, rows, torch.arange(count))
        return cls(rows, rest, at.view_as(mask_BL))

    def pack(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (N, D): the packed tokens."""
        return _Pack.apply(x_BLD, *self)

    def spread(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (B, L, D). At padding that was not packed stands any token: it has no meaning there."""
        return _Spread.apply(x_ND, self.rows, self.at)

    def take(self, x_ND: Tensor, positions_BM: Tensor) -> Tensor:
        """The tokens (B, M, D) of each text at ``positions_BM`` (int64), which must be real ones."""
        return x_ND[self.at.gather(1, positions_BM)]


def _onednn() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.get_float32_matmul_precision() != "highest"


def rounded(count: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-count // step) * step


def packed(x_BLD: Tensor, packing: Packing | None) -> Tensor:
    """The packed tokens (N, D); all (B, L, D) where there is no packing."""
    return x_BLD if packing is None else packing.pack(x_BLD)


def spread(x: Tensor, packing: Packing | None) -> Tensor:
    """The inverse of ``packed``."""
    return x if packing is None else packing.spread(x)


def _placed(x_ND: Tensor, at_BL: Tensor) -> Tensor:
    """Rows read into their places, which on a CPU takes a third of the time of writing them there."""
    return x_ND.index_select(0, at_BL.flatten())


class _Pack(torch.autograd.Function):
    """Rows of a tensor, each at most once; PyTorch's own gradient would add them one by one."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, rows_N: Tensor, rest_R: Tensor, at_BL: Tensor) -> Tensor:
        ctx.save_for_backward(rest_R, at_BL)
        return x_BLD.flatten(0, 1).index_select(0, rows_N)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        rest_R, at_BL = ctx.saved_tensors
        return _placed(grad_ND, at_BL).index_fill_(0, rest_R, 0).view(*at_BL.shape, -1), None, None, None


class _Spread(torch.autograd.Function):
    """The inverse of ``_Pack``, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, rows_N: Tensor, at_BL: Tensor) -> Tensor:
        ctx.save_for_backward(rows_N)
        return _placed(x_ND, at_BL).view(*at_BL.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad_BLD: Tensor) -> tuple[Tensor, None, None]:
        return grad_BLD.flatten(0, 1).index_select(0, ctx.saved_tensors[0]), None, None
