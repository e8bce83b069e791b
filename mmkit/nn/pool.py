"""From the tokens of a sequence to one vector: the first, the last real one, or what a learned query reads of all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkit.nn.attention import CrossAttention
from mmkit.nn.init import initialise
from mmkit.nn.mlp import MLP
from mmkit.types import Tokens


def pooled(image: Tokens, class_tokens: int, mean: bool = False) -> Tensor:
    """Image tokens (B, P, D) -> the class token (B, D); with ``mean``, or where there is none, the patches' mean."""
    if class_tokens and not mean:
        return image.x[:, 0]
    real_BP1 = image.full_mask()[:, class_tokens:, None]
    return (image.x[:, class_tokens:] * real_BP1).sum(1) / real_BP1.sum(1).clamp(min=1)


class FirstToken(nn.Module):
    """The class token."""

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return tokens.x[:, 0]


class MeanToken(nn.Module):
    """The mean of the patches, which follow ``class_tokens`` that are none."""

    def __init__(self, class_tokens: int = 0) -> None:
        super().__init__()
        self.class_tokens = class_tokens

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return pooled(tokens, self.class_tokens, mean=True)


class LastToken(nn.Module):
    """The last real token: in a causal tower the only one that has read the whole text (CLIP, section 2.4)."""

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, N, D) -> (B, D)."""
        x_BND, mask_BN = tokens
        if mask_BN is None:
            return x_BND[:, -1]
        at_B = (torch.arange(x_BND.shape[1], device=x_BND.device) * mask_BN).argmax(1)
        return x_BND.gather(1, at_B[:, None, None].expand(-1, 1, x_BND.shape[2]))[:, 0]


class AttentionPool(nn.Module):
    """A learned query that reads all tokens, then an MLP: the pooling of SigLIP (Zhai et al. 2022, "MAP head")."""

    def __init__(
        self, width: int, heads: int, mlp_width: int | None = None, *, activation: str = "gelu", eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.cross = CrossAttention(width, heads, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width or 4 * width, activation=activation)
        initialise(self, width)
        nn.init.trunc_normal_(self.query, std=width**-0.5)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, N, D) -> (B, D)."""
        query_B1D = self.query.expand(tokens.x.shape[0], -1, -1).to(tokens.x.dtype)
        x_B1D = self.cross(query_B1D, [self.cross.project(*tokens)], [1])
        return (x_B1D + self.mlp(self.norm(x_B1D)))[:, 0]
