"""What Grounding DINO is made of (Liu et al. 2023, sections 3.1 to 3.3): all post-norm, with ReLU.

Over the one map of a ViT, cells and queries read all cells by plain attention; ``points`` above 0 makes it deformable
attention, as published, over one map or several.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkit.nn.both_ways import BothWays
from mmkit.nn.deformable import Deformable
from mmkit.nn.placed import Attention, EncoderLayer, FeedForward, Perceptron
from mmkit.nn.sine import of_boxes, waves


class Map(NamedTuple):
    """Cells (B, P, D) of maps of ``shapes`` (rows, columns), their sine positions (B or 1, P, D), and ``real`` (B, P)
    bool: which are picture, None for all.
    """

    cells: Tensor
    places: Tensor
    shapes: tuple[tuple[int, int], ...]
    real: Tensor | None

    def shares(self) -> Tensor:
        """(B, maps, 2) float32: how much of each canvas is picture, across and down."""
        if self.real is None:
            return self.cells.new_ones(len(self.cells), len(self.shapes), 2, dtype=torch.float32)
        parts = self.real.split([high * wide for high, wide in self.shapes], 1)
        maps = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return torch.stack([torch.stack([m.any(1).float().mean(1), m.any(2).float().mean(1)], -1) for m in maps], 1)

    def centres(self) -> Tensor:
        """(B, P, 2) float32: x and y of each cell, from 0 to 1 of its picture."""
        found = []
        for (high, wide), share in zip(self.shapes, self.shares().unbind(1), strict=True):
            at = self.cells.device
            y, x = ((torch.arange(side, device=at) + 0.5) / side for side in (high, wide))
            grid = torch.stack([x.expand(high, wide), y[:, None].expand(high, wide)], -1).flatten(0, 1)
            found.append(grid / share[:, None])
        return torch.cat(found, 1)


class Words(NamedTuple):
    """Words (B, L, D); ``real`` (B, L), ``reads`` (B, L, L) bool and ``positions`` (B, L) int64 as in ``Prompt``."""

    x: Tensor
    real: Tensor
    reads: Tensor
    positions: Tensor


class Look(nn.Module):
    """Cells or queries read the cells; ``norm`` of the sum with what they were."""

    def __init__(self, width: int, heads: int, dropout: float, levels: int, points: int) -> None:
        super().__init__()
        self.plain = None if points else Attention(width, heads, dropout)
        self.deformable = Deformable(width, heads, levels, points) if points else None
        self.norm = nn.LayerNorm(width) if points else None

    def forward(self, x: Tensor, places: Tensor, seen: Map, around: Tensor) -> Tensor:
        """``x`` (B, N, D) with its positions. around: (B, N, maps, 2 or 4), from 0 to 1 of each canvas."""
        if self.plain is not None:
            mask = None if seen.real is None else seen.real[:, None, None]
            return self.plain(x, x + places, seen.cells + seen.places, seen.cells, mask)
        assert self.deformable is not None
        assert self.norm is not None
        return self.norm(x + self.deformable(x + places, seen.cells, around, seen.shapes, seen.real))


class EnhancerLayer(nn.Module):
    """Cells and words read each other; then words their own phrase, and cells the cells."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, levels: int = 1, points: int = 0,
        scale: float = 1e-4, drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fusion = BothWays(width, width, hidden // 2, heads // 2, scale=scale, drop_path=drop_path)
        self.text = EncoderLayer(width, heads // 2, hidden // 2, dropout)
        self.look = Look(width, heads, dropout, levels, points)
        self.mlp = FeedForward(width, hidden, dropout)

    def forward(self, seen: Map, text: Words) -> tuple[Map, Words]:
        """Both, enhanced."""
        cells, words = self.fusion(seen.cells, text.x, seen.real, text.real)
        words = self.text(words, waves(text.positions, words.shape[-1]).to(words.dtype), text.reads[:, None])
        seen = seen._replace(cells=cells)
        around = seen.centres()[:, :, None] * seen.shares()[:, None]
        return seen._replace(cells=self.mlp(self.look(cells, seen.places, seen, around))), text._replace(x=words)


class QueryLayer(nn.Module):
    """Queries read each other, the words, and the cells."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, levels: int = 1, points: int = 0) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.words = Attention(width, heads, dropout)
        self.look = Look(width, heads, dropout, levels, points)
        self.mlp = FeedForward(width, hidden, dropout)

    def forward(
        self, x: Tensor, places: Tensor, around: Tensor, seen: Map, text: Words, reads: Tensor | None
    ) -> Tensor:
        """Queries and their positions (B, Q, D). reads: (B or 1, 1, 1 or Q, Q) bool, which each may; None = all."""
        at = x + places
        x = self.attn(x, at, at, x, reads)
        x = self.words(x, x + places, text.x, text.x, text.real[:, None, None])
        return self.mlp(self.look(x, places, seen, around))


class Align(nn.Module):
    """What each query says of each word: their product. scaled: divided by the root of the width, with a bias that is
    learned and begins where all is unlikely (MM-Grounding-DINO, Zhao et al. 2024); published without.
    """

    def __init__(self, width: int, scaled: bool) -> None:
        super().__init__()
        self.scale = width**-0.5 if scaled else 1.0
        self.bias = nn.Parameter(torch.tensor(-4.595)) if scaled else None

    def forward(self, x: Tensor, text: Words) -> Tensor:
        """(B, Q, D) -> (B, Q, L) float32; what stands at padding has no meaning."""
        with torch.autocast(x.device.type, enabled=False):
            logits = (x.float() @ text.x.float().mT) * self.scale
        return logits if self.bias is None else logits + self.bias


class Selected(NamedTuple):
    """Queries to begin with: boxes (B, Q, 4) as centre, width, height, with gradient, what their cells say of words
    (B, Q, L), and which queries there are, (B, Q) bool, or None for all.
    """

    boxes: Tensor
    logits: Tensor
    real: Tensor | None


class Selection(nn.Module):
    """The cells that the words speak of (section 3.2). side: of the box that a cell begins with, of the first map."""

    def __init__(self, width: int, scaled: bool, side: float = 0.05) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.box = Perceptron((width, width, width, 4))
        self.align = Align(width, scaled)
        self.side = side
        for parameter in self.box.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, seen: Map, text: Words, queries: int) -> Selected:
        """The best ``queries`` cells by their best word; in pictures with fewer, some queries are not real.

        As published, a cell near the edge, or at padding, has no box to begin with; here it is never chosen.
        """
        centres = seen.centres()
        sides = torch.cat([
            centres.new_full((high * wide,), self.side * 2.0**i) for i, (high, wide) in enumerate(seen.shapes)
        ])  # fmt: skip
        boxes = torch.cat([centres, sides[:, None].expand(len(centres), -1, 2)], -1)
        valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
        if seen.real is not None:
            valid &= seen.real
        memory = self.norm(self.project(seen.cells * valid[..., None]))
        logits = self.align(memory, text)
        best = logits.masked_fill(~text.real[:, None], -torch.inf).amax(-1).masked_fill(~valid, -torch.inf)
        chosen = best.topk(min(queries, best.shape[1]), 1).indices
        at = chosen[..., None]
        start = torch.logit(boxes.gather(1, at.expand(-1, -1, 4)), 1e-5)
        moved = self.box(memory.gather(1, at.expand(-1, -1, memory.shape[-1]))).float() + start
        real = valid.gather(1, chosen)
        said = logits.gather(1, at.expand(-1, -1, logits.shape[-1]))
        return Selected(moved.sigmoid(), said, None if bool(real.all()) else real)


class Found(NamedTuple):
    """After each of L layers: logits of words (L, B, Q, T), boxes (L, B, Q, 4); and which queries there are. Of several
    groups of queries, those of a layer follow each other along L.
    """

    logits: Tensor
    boxes: Tensor
    real: Tensor | None


class Decoder(nn.Module):
    """Queries become objects (section 3.3). The box of a layer moves with gradient from the one before ("look forward
    twice", Zhang et al. 2022), which the next layer starts from without.

    groups: copies of the queries in training, which do not read each other (Group DETR, Chen et al. 2022).
    """

    def __init__(
        self, queries: int, depth: int, width: int, heads: int, hidden: int, dropout: float, *, levels: int = 1,
        points: int = 0, scaled: bool = True, groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups = groups
        self.content = nn.Embedding(queries * groups, width)
        self.layers = nn.ModuleList(QueryLayer(width, heads, hidden, dropout, levels, points) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.place = Perceptron((2 * width, width, width))
        self.box = Perceptron((width, width, width, 4))
        self.align = nn.ModuleList(Align(width, scaled) for _ in range(depth))
        for parameter in self.box.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, start: Selected, seen: Map, text: Words) -> Found:
        """What all layers say."""
        groups, count = self.groups if self.training else 1, start.boxes.shape[1]
        boxes = start.boxes.detach().repeat(1, groups, 1)
        content = self.content.weight.unflatten(0, (self.groups, -1))[:groups, :count].flatten(0, 1)
        x, reads = content.expand(len(boxes), -1, -1), _reads(start.real, groups, count, boxes.device)
        shares = seen.shares().repeat(1, 1, 2)[:, None]
        logits, moved = [], []
        for layer, align in zip(self.layers, self.align, strict=True):
            before = boxes.detach()
            around = before[:, :, None] * shares
            at = self.place(of_boxes(around[:, :, 0], x.shape[-1] // 2).to(x.dtype))
            x = layer(x, at, around.to(x.dtype), seen, text, reads)
            state = self.norm(x)
            logits.append(align(state, text))
            moved.append((self.box(state).float() + torch.logit(boxes, 1e-5)).sigmoid())
            boxes = (self.box(x).float() + torch.logit(before, 1e-5)).sigmoid()
        words, places = (
            torch.stack(each).unflatten(2, (groups, count)).transpose(1, 2).flatten(0, 1) for each in (logits, moved)
        )
        return Found(words, places, start.real)


def _reads(real: Tensor | None, groups: int, count: int, device: torch.device) -> Tensor | None:
    """(B or 1, 1, 1 or Q, Q) bool: queries read those of their own group that there are; None = all."""
    if groups == 1:
        return None if real is None else real[:, None, None]
    group = torch.arange(groups * count, device=device) // count
    own = (group[:, None] == group)[None, None]
    return own if real is None else own & real.repeat(1, groups)[:, None, None]
