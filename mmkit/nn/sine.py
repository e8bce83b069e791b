"""Sine positions of cells and of boxes (Carion et al. 2020, appendix A.4; Liu et al. 2022, section 4.2).

A coordinate of 0 to 1 becomes ``width`` numbers, sine and cosine in turn, of wavelengths from 1 to ``temperature``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(at: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Coordinates (...) float, 0 to 1 -> (..., width) float32."""
    steps = torch.arange(width, dtype=torch.float32, device=at.device)
    periods = temperature ** (2 * torch.div(steps, 2, rounding_mode="floor") / width)
    angles = at[..., None] * (2 * math.pi) / periods
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


def of_cells(real: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Positions (B, rows * columns, width) of a map; ``real`` (B, rows, columns) bool, True where there is picture.

    Half of the numbers are for y, half for x. A cell is counted from 1 among those of its row and column that are real,
    and divided by how many there are: the same in a padded batch as alone.
    """
    down, across = real.cumsum(1, dtype=torch.float32), real.cumsum(2, dtype=torch.float32)
    down, across = down / (down[:, -1:] + 1e-6), across / (across[:, :, -1:] + 1e-6)
    return torch.cat([waves(down, width // 2, temperature), waves(across, width // 2, temperature)], -1).flatten(1, 2)


def of_boxes(boxes: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Positions (..., 4 * width) of boxes (..., 4), centre, width, height, 0 to 1: y first, as in ``of_cells``."""
    x, y, wide, high = boxes.unbind(-1)
    return torch.cat([waves(value, width, temperature) for value in (y, x, wide, high)], -1)
