"""Transformer blocks: pre-norm (ViT, Dosovitskiy et al. 2021) and post-norm with cross-attention (BERT, ALBEF).

Both take the mask of real tokens and, where only some states are wanted of a last layer, the positions to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkit.nn.attention import CrossAttention, KeyValues, SelfAttention, take
from mmkit.nn.dropout import Dropout
from mmkit.nn.mlp import MLP
from mmkit.nn.packing import Packing


def run(block: nn.Module, *inputs: Any, again: bool) -> Tensor:
    """``block(*inputs)``; with ``again`` its activations are made once more in the backward pass, and not kept."""
    return checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)


class DropPath(nn.Module):
    """Skips a residual branch for a random share of the samples (stochastic depth, Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D): whole samples are zero, the others scaled up to keep the mean."""
        if not self.rate or not self.training:
            return x_BND
        keep = torch.rand(x_BND.shape[0], 1, 1, device=x_BND.device) >= self.rate
        return x_BND * keep / (1.0 - self.rate)


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, dropout: float = 0.0, drop_path: float = 0.0,
        causal: bool = False, activation: str = "gelu", eps: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation=activation, dropout=dropout)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, keep_BM: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, M, D) at the positions ``keep_BM`` alone."""
        attended = self.attn(self.norm1(x_BND), mask_BN, keep_BM)
        x_BND = take(x_BND, keep_BM) + self.drop_path(self.dropout(attended))
        return x_BND + self.drop_path(self.dropout(self.mlp(self.norm2(x_BND))))


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), the same with cross-attention where a source is given a width, then with the MLP."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, source_width: int | None = None, dropout: float = 0.1,
        causal: bool = False, eps: float = 1e-12,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attn = SelfAttention(width, heads, dropout, causal)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.cross: CrossAttention | None = None
        if source_width is not None:
            self.cross = CrossAttention(width, heads, source_width, dropout)
            self.norm_cross = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(dropout)

    def forward(
        self, x_BND: Tensor, mask_BN: Tensor | None = None, keep_BM: Tensor | None = None,
        sources: Sequence[KeyValues] = (), folds: Sequence[int] = (), packing: Packing | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, N, D) -> (B, N, D), or (B, M, D) at ``keep_BM`` alone; sources as in ``CrossAttention.forward``.

        packing: of the mask, where ``x`` has the real tokens alone: (real tokens, D), as then comes out.
        """
        attended = self.attn(x_BND, mask_BN, keep_BM, packing)
        x_BND = take(x_BND, keep_BM, packing)
        return self._after(x_BND, attended, sources, folds, packing if keep_BM is None else None)

    def read(
        self, x_BND: Tensor, past: KeyValues | None, mask_BN: Tensor | None = None, causal: bool = True,
        sources: Sequence[KeyValues] = (), folds: Sequence[int] = (),
    ) -> tuple[Tensor, KeyValues]:  # fmt: skip
        """N tokens after those in ``past``; see ``SelfAttention.read``."""
        attended, past = self.attn.read(x_BND, past, mask_BN, causal)
        return self._after(x_BND, attended, sources, folds), past

    def _after(
        self, x_BND: Tensor, attended_BND: Tensor, sources: Sequence[KeyValues], folds: Sequence[int],
        packing: Packing | None = None,
    ) -> Tensor:  # fmt: skip
        x_BND = self.norm1(x_BND + self.dropout(attended_BND, packing))
        if self.cross is not None:
            x_BND = self.norm_cross(x_BND + self.dropout(self.cross(x_BND, sources, folds, packing), packing))
        return self.norm2(x_BND + self.dropout(self.mlp(x_BND), packing))
