"""Dropout (Srivastava et al. 2014) that is not slow on a CPU.

PyTorch draws a Bernoulli number for each value there, one by one, which takes longer than the matrix product before
it. Four 16-bit numbers from each random word serve as well; the rate is rounded to a multiple of 2 ** -16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.kernels import written_out
from mmkit.nn.packing import Packing

_LEVELS = 2**16


def dropout(x: Tensor, rate: float, packing: Packing | None = None) -> Tensor:
    """Zeroes a random share ``rate`` of the values and scales the others up to keep the mean; any shape and device.

    packing: of ``x`` (N, D), if it is packed; it then drops what it would drop of the padded texts.
    """
    if rate == 0.0:
        return x
    if not written_out(x):
        return F.dropout(x, rate)
    keep, factor = kept(x, rate, packing)
    return _Dropped.apply(x, keep, factor)


def kept(x: Tensor, rate: float, packing: Packing | None = None) -> tuple[Tensor, float]:
    """Which values are not dropped, uint8 of the shape of ``x`` (0 or 1), and what they are multiplied with.

    Bytes and 16-bit numbers are compared and turned into floats many at once by PyTorch, bools one by one.
    """
    size = x.numel() if packing is None else packing.at.numel() * x.shape[-1]
    words = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[:size]
    numbers = numbers.view(x.shape) if packing is None else numbers.view(-1, x.shape[-1]).index_select(0, packing.rows)
    dropped = min(round(rate * _LEVELS), _LEVELS - 1)
    return numbers.ge_(dropped - _LEVELS // 2).to(torch.uint8), _LEVELS / (_LEVELS - dropped)


class _Dropped(torch.autograd.Function):
    """``x`` times what is kept; a byte of each value is remembered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, factor: float) -> Tensor:
        """Of the shape and type of ``x``."""
        ctx.save_for_backward(keep)
        ctx.factor = factor
        return (x * keep).mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Likewise."""
        return (grad * ctx.saved_tensors[0]).mul_(ctx.factor), None, None


class Dropout(nn.Module):
    """``dropout`` in training, nothing in evaluation."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise UserError(f"a dropout rate is at least 0 and below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """Any shape to the same shape."""
        return dropout(x, self.rate, packing) if self.training else x
