"""The layers of DETR (Carion et al. 2020, appendix A.3) and of DAB-DETR (Liu et al. 2022, section 4): all post-norm.

Positions are added to queries and keys and never to values, anew in every layer. A DAB layer keeps what a query is and
where it is apart: in cross-attention the two stand side by side in each head, so that their products add up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkit.nn.dropout import Dropout
from mmkit.nn.placed import Attention, FeedForward, looked_up, split


class DecoderLayer(nn.Module):
    """DETR's: the queries read each other, then the map."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.cross = Attention(width, heads, dropout)
        self.mlp = FeedForward(width, hidden, dropout)

    def forward(
        self, x_BQD: Tensor, query_places: Tensor, memory: Tensor, places: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Queries and their positions (B, Q, D), cells and theirs (B, P, D) -> (B, Q, D). mask: of the cells."""
        at = x_BQD + query_places
        x_BQD = self.attn(x_BQD, at, at, x_BQD)
        return self.mlp(self.cross(x_BQD, x_BQD + query_places, memory + places, memory, mask))


class AnchorAttention(nn.Module):
    """Self-attention of DAB-DETR: content and position have projections of their own."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.q, self.q_place, self.k, self.k_place, self.v, self.out = (nn.Linear(width, width) for _ in range(6))
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BQD: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """Queries and their positions (B, Q, D) -> (B, Q, D). mask: which queries each of them may read."""
        q, k = self.q(x_BQD) + self.q_place(places), self.k(x_BQD) + self.k_place(places)
        q, k, v = (split(part, self.heads) for part in (q, k, self.v(x_BQD)))
        read = looked_up(q, k, v, mask, self.rate if self.training else 0.0)
        return self.norm(x_BQD + self.dropout(self.out(read.transpose(1, 2).flatten(2))))


class AnchorCross(nn.Module):
    """Cross-attention of Conditional and DAB-DETR: in each head content beside position. first: of the first layer.

    There the learned position is added to the content too, as the content says nothing yet.
    """

    def __init__(self, width: int, heads: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.q, self.q_sine, self.k, self.k_place, self.v, self.out = (nn.Linear(width, width) for _ in range(6))
        self.q_place = nn.Linear(width, width) if first else None
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(
        self, x_BQD: Tensor, query_places: Tensor, sine: Tensor, memory: Tensor, places: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Queries with their learned positions and the sine of their boxes (B, Q, D), cells and theirs -> (B, Q, D)."""
        q, k, k_place = self.q(x_BQD), self.k(memory), self.k_place(places)
        if self.q_place is not None:
            q, k = q + self.q_place(query_places), k + k_place
        q = torch.cat([split(q, self.heads), split(self.q_sine(sine), self.heads)], -1)
        k = torch.cat([split(k, self.heads), split(k_place, self.heads).expand(len(k), -1, -1, -1)], -1)
        read = looked_up(q, k, split(self.v(memory), self.heads), mask, self.rate if self.training else 0.0)
        return self.norm(x_BQD + self.dropout(self.out(read.transpose(1, 2).flatten(2))))


class AnchorLayer(nn.Module):
    """A decoder layer of DAB-DETR."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.attn = AnchorAttention(width, heads, dropout)
        self.cross = AnchorCross(width, heads, dropout, first)
        self.mlp = FeedForward(width, hidden, dropout)

    def forward(
        self, x_BQD: Tensor, query_places: Tensor, sine: Tensor, memory: Tensor, places: Tensor,
        mask: Tensor | None, seen: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """As ``AnchorCross``. mask: of the cells; seen: which queries each query may read."""
        x_BQD = self.attn(x_BQD, query_places, seen)
        return self.mlp(self.cross(x_BQD, query_places, sine, memory, places, mask))
