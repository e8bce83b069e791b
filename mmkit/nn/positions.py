"""Learned positions of a grid of patches, which resize to any other grid (ViT, section 3.2).

Resizing is bicubic without antialiasing and without aligned corners, as ALBEF, DeiT and MAE do it (trilinear
for the three axes of a video). The first row belongs to the class token and is never resized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def resize_positions(table_ND: Tensor, old: Sequence[int], new: Sequence[int], prefix: int = 1) -> Tensor:
    """A table of ``prefix`` rows and one per cell of the grid ``old``, for the grid ``new``, row-major."""
    if tuple(old) == tuple(new):
        return table_ND
    if len(table_ND) != prefix + math.prod(old):
        raise ValueError(f"{len(table_ND)} positions are not {prefix} and a grid of {tuple(old)}")
    cells = table_ND[prefix:].T.unflatten(1, tuple(old)).unsqueeze(0)
    resized = F.interpolate(cells.float(), size=tuple(new), mode=_MODES[len(new)], align_corners=False)
    return torch.cat([table_ND[:prefix], resized[0].flatten(1).T.to(table_ND.dtype)])


class GridPositions(nn.Module):
    """One vector for the class token and one for each cell of a grid."""

    def __init__(self, grid: Sequence[int], width: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.table = nn.Parameter(torch.empty(1 + math.prod(self.grid), width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: Sequence[int]) -> Tensor:
        """The table (1 + cells, D) for this grid; resized when it is not the one that was learned."""
        return resize_positions(self.table, self.grid, grid)
