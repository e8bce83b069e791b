"""Deformable attention (Zhu et al. 2021, section 4.1): each query reads a few places around a point or in a box.

In plain PyTorch, on any device. Over the few hundred cells of a ViT's one map plain attention is one matrix product and
faster on a CPU; this is for many cells, and for checkpoints that were trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Deformable(nn.Module):
    """points: places that a head reads in each of ``levels`` maps."""

    def __init__(self, width: int, heads: int, levels: int = 1, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        nn.init.zeros_(self.offsets.weight)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        ways = torch.stack([angles.cos(), angles.sin()], -1)
        ways = (ways / ways.abs().amax(-1, keepdim=True))[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ways.expand(heads, levels, points, 2).flatten())

    def forward(
        self, query: Tensor, cells: Tensor, at: Tensor, shapes: Sequence[tuple[int, int]], real: Tensor | None = None
    ) -> Tensor:
        """Queries (B, N, D) read the cells (B, P, D) of all maps, of ``shapes`` rows and columns -> (B, N, D).

        at: around where, (B, N, levels, 2) as x, y from 0 to 1 of each map's canvas, or (B, N, levels, 4) as boxes with
        centre, width, height. real: (B, P) bool, which cells are picture.
        """
        value = self.value(cells)
        if real is not None:
            value = value.masked_fill(~real[..., None], 0.0)
        batch, count = query.shape[:2]
        form = (batch, count, self.heads, self.levels, self.points)
        offsets = self.offsets(query).view(*form, 2)
        weights = self.weights(query).view(batch, count, self.heads, -1).softmax(-1).view(form)
        around = at[:, :, None, :, None]
        if at.shape[-1] == 2:
            sides = torch.tensor([[wide, high] for high, wide in shapes], dtype=query.dtype, device=query.device)
            places = around + offsets / sides[:, None]
        else:
            places = around[..., :2] + offsets / self.points * around[..., 2:] * 0.5
        grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B x H, N, levels, points, 2)
        found = []
        for level, (part, shape) in enumerate(
            zip(value.split([high * wide for high, wide in shapes], 1), shapes, strict=True)
        ):
            maps = part.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
            found.append(F.grid_sample(maps, grids[:, :, level].to(maps.dtype), align_corners=False))
        read = torch.stack(found, -2)  # (B x H, D / H, N, levels, points)
        read = (read * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum((-2, -1))
        return self.out(read.unflatten(0, (batch, self.heads)).flatten(1, 2).mT)
