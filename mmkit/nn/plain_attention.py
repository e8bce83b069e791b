"""Attention for a CPU: products, softmax and dropout one after the other, and their gradients, with the fewest copies.

The same operations with gradients from PyTorch give the same bits and take longer: each part is copied once for its
product, again for its gradient, and the scale is a pass of its own. Not for second derivatives.

oneDNN, which multiplies bfloat16, makes a program of 0.8 MB for each kind of product (shapes, what is turned, whether
there is a factor) and keeps it. Six products are of three kinds, as the gradient has its scale from the beginning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkit.nn.dropout import kept

SHORT = range(16, 32)
"""Keys of which PyTorch's softmax takes two to six times as long in bfloat16 as in float32."""


class Heads(torch.autograd.Function):
    """(B, N, parts x D) -> for each part (B, H, N, D/H), each contiguous, by one copy."""

    @staticmethod
    def forward(ctx: Any, x_BNE: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
        """The parts."""
        return x_BNE.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Of the parts that of the whole."""
        size, heads, tokens, width = grads[0].shape
        out = grads[0].new_empty(size, tokens, len(grads), heads, width)
        for part, grad in zip(out.unbind(2), grads, strict=True):
            part.copy_(grad.transpose(1, 2))
        return out.flatten(2), None, None


class PlainAttention(torch.autograd.Function):
    """softmax(q k / sqrt(D)) v for (B, H, N, D/H) of one type; mask and rate as in ``attend``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> Tensor:
        """(B, H, N, D/H)."""
        size, heads = q.shape[:2]
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        ctx.scale = q.shape[-1] ** -0.5
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=ctx.scale)
        if mask is not None:
            scores.unflatten(0, (size, heads)).masked_fill_(~mask, -torch.inf)
        weights, keep = softmax(scores), None
        read = weights
        if rate:
            keep, ctx.factor = kept(weights, rate)
            read = (weights * keep).mul_(ctx.factor)
        ctx.save_for_backward(q, k, v, weights, keep)
        return torch.bmm(read, v).unflatten(0, (size, heads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Of the output those of q, k and v."""
        q, k, v, weights, keep = ctx.saved_tensors
        pairs, grad = grad.shape[:2], grad.flatten(0, 1)
        read = weights if keep is None else (weights * keep).mul_(ctx.factor)
        for_v = torch.bmm(read.transpose(1, 2), grad)
        first, then = (1.0, ctx.scale) if q.dtype == torch.float32 else (ctx.scale, 1.0)
        any_ = q.new_empty(())
        for_weights = torch.baddbmm(any_, grad, v.transpose(1, 2), beta=0, alpha=first)
        if keep is not None:
            for_weights.mul_(keep).mul_(ctx.factor)
        for_scores = softmax_gradient(for_weights, weights)
        for_q = torch.baddbmm(any_, for_scores, k, beta=0, alpha=then)
        for_k = torch.baddbmm(any_, for_scores.transpose(1, 2), q, beta=0, alpha=then)
        for_q, for_k, for_v = (x.unflatten(0, pairs) for x in (for_q, for_k, for_v))
        return for_q, for_k, for_v, None, None


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis, in float32 inside and rounded once."""
    if _slow(scores):
        return scores.float().softmax(-1).to(scores.dtype)
    return scores.softmax(-1)


def softmax_gradient(grad: Tensor, weights: Tensor) -> Tensor:
    """Of the scores, from that of the weights (of the same type); likewise."""
    if _slow(weights):
        return torch._softmax_backward_data(grad.float(), weights.float(), -1, torch.float32).to(weights.dtype)
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)


def _slow(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.shape[-1] in SHORT
