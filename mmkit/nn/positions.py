"""Positions of a grid of patches, learned or fixed, which resize to any other grid (ViT, section 3.2; MAE, section 3).

Resizing is bicubic without antialiasing and without aligned corners, as ALBEF, DeiT and MAE do it (trilinear
for the three axes of a video). The first row belongs to the class token, where there is one, and is never resized.
``MixedGridPositions`` serve batches of unequal pictures, each with a grid of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError

log = logging.getLogger(__name__)

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


def tiled(table_ND: Tensor, times: int, prefix: int = 1) -> Tensor:
    """Positions of a picture's grid, for a clip of so many times: the same again for each (ViViT, section 3.4)."""
    return torch.cat([table_ND[:prefix], table_ND[prefix:].repeat(times, 1)])


def sincos_positions(grid: Sequence[int], width: int, prefix: int = 0) -> Tensor:
    """(prefix + cells, width) float32: sines and cosines of each place, row-major; 0 for ``prefix`` class tokens.

    The first half of a vector tells the column, the second the row (MAE's code, whose comment says the opposite): the
    sines, then the cosines, of the whole number times 10000^(-k / (width / 4)). UserError for another number of axes
    than two, and a width that 4 does not divide.
    """
    if len(grid) != 2 or width % 4:
        raise UserError(
            f"sin-cos positions: {len(grid)} axes of width {width}; there must be two, and 4 divide the width"
        )
    quarter = width // 4
    speed_N = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [at.flatten()[:, None] * speed_N for at in (columns, rows)]
    cells = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).float()
    return torch.cat([cells.new_zeros(prefix, width), cells])


class GridPositions(nn.Module):
    """One vector for each cell of a grid, after ``prefix`` ones for class tokens.

    fixed: those of ``sincos_positions``, which no training changes.
    """

    def __init__(self, grid: Sequence[int], width: int, prefix: int = 1, fixed: bool = False) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.prefix = prefix
        self._said: set[tuple[int, ...]] = set()
        if fixed:
            self.table = nn.Parameter(sincos_positions(self.grid, width, prefix), requires_grad=False)
            return
        self.table = nn.Parameter(torch.empty(prefix + math.prod(self.grid), width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: Sequence[int]) -> Tensor:
        """The table (prefix + cells, D) for this grid; resized when it is not the one that was learned."""
        if tuple(grid) != self.grid and tuple(grid) not in self._said:
            self._said.add(tuple(grid))
            log.info("positions of a %s grid are resized to %s at each pass", _by(self.grid), _by(grid))
        return self._resized(grid)

    def resize_(self, grid: Sequence[int]) -> None:
        """Learned for this grid from now on: the table is resized once, in place of at each pass."""
        if tuple(grid) != self.grid:
            log.info("positions of a %s grid resized to %s", _by(self.grid), _by(grid))
            self.table = nn.Parameter(self._resized(grid).detach(), self.table.requires_grad)
            self.grid = tuple(grid)

    def _resized(self, grid: Sequence[int]) -> Tensor:
        return resize_positions(self.table, self.grid, grid, self.prefix)


class MixedGridPositions(GridPositions):
    """Positions of a batch whose pictures fill grids of unequal size (ViLT, Kim et al. 2021, section 3.1).

    The learned grid is stretched over each picture's own, bilinearly with aligned corners. A stretched axis is one
    product with a matrix of hat functions, so that a batch needs no loop.
    """

    def cells(self, heights_B: Tensor, widths_B: Tensor, grid: Sequence[int]) -> Tensor:
        """Positions of the cells of ``grid`` for pictures that fill its first rows and columns: (B, cells, D).

        heights, widths: (B,) int64, cells of each picture. What lies beyond a picture gets a number without meaning.
        """
        table = self.table[self.prefix :].float().unflatten(0, self.grid)
        rows_BNN = _hats(heights_B, grid[0], self.grid[0])
        columns_BNN = _hats(widths_B, grid[1], self.grid[1])
        return torch.einsum("bik,bjl,kld->bijd", rows_BNN, columns_BNN, table).flatten(1, 2).to(self.table.dtype)

    def _resized(self, grid: Sequence[int]) -> Tensor:
        if tuple(grid) == self.grid:
            return self.table
        height, width = (torch.tensor([side], device=self.table.device) for side in grid)
        return torch.cat([self.table[: self.prefix], self.cells(height, width, grid)[0]])


def _hats(sizes_B: Tensor, cells: int, learned: int) -> Tensor:
    """How much of each learned position each cell takes: (B, cells, learned) float32, rows sum to 1."""
    at_N = torch.arange(cells, device=sizes_B.device)
    spacing_B = (learned - 1) / (sizes_B - 1).clamp(min=1).float()
    wanted_BN = (at_N * spacing_B[:, None]).clamp(max=learned - 1)
    return (1 - (wanted_BN[..., None] - torch.arange(learned, device=sizes_B.device)).abs()).clamp(min=0)


def _by(grid: Sequence[int]) -> str:
    return "x".join(map(str, grid))
