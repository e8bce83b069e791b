"""Which patches are hidden: MAE's permutation, SimMIM's coarse cells, BEiT's blocks.

Each follows from uniform numbers of a sample alone, so that any number of processes hides the same. Left out: masks
made by the loader's workers, as SimMIM and BEiT make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkit.draws import Draws
from mmkit.errors import UserError

TRIES = 10  # for one of BEiT's blocks


def kept(patches: int, ratio: float) -> int:
    """How many patches MAE keeps: rounded down, as published (49 of 196 at 0.75); UserError where none would stay."""
    if not 0 < ratio < 1:
        raise UserError(f"MAE: ratio={ratio}: the share of hidden patches is above 0 and below 1")
    if not (count := int(patches * (1 - ratio))):
        raise UserError(f"MAE: ratio={ratio} of {patches} patches leaves none to see; take a lower one")
    return count


def shuffled(noise_BP: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """MAE: patches by their noise, ascending, of which the first ``count`` stay.

    Returns the order (B, P) int64, and where each patch stands in it (B, P) int64.
    """
    order_BP = noise_BP.argsort(dim=1, stable=True)
    return order_BP, order_BP.argsort(dim=1)


def coarse(noise_BN: Tensor, cells: Sequence[int], times: Sequence[int], ratio: float) -> tuple[Tensor, Tensor]:
    """SimMIM: ceil(ratio * cells) of a coarse grid are hidden, each of ``times`` patches along the axes.

    noise: (B, product(cells)). Returns (B, P) bool over the patches, row-major, and the numbers of the hidden ones,
    ascending: (B, M) int64, as many in each row.
    """
    count = math.ceil(noise_BN.shape[1] * ratio)
    chosen_BM = noise_BN.argsort(dim=1, stable=True)[:, :count]
    hidden = torch.zeros_like(noise_BN, dtype=torch.bool).scatter(1, chosen_BM, True).unflatten(1, tuple(cells))
    for axis, repeat in enumerate(times):
        hidden = hidden.repeat_interleave(repeat, dim=1 + axis)
    hidden_BP = hidden.flatten(1)
    found_BM = (~hidden_BP).int().argsort(dim=1, stable=True)[:, : count * math.prod(times)]
    return hidden_BP, found_BM


def blockwise(
    draws: Draws, rows: int, grid: Sequence[int], count: int, smallest: int = 16, aspect: float = 0.3
) -> Tensor:
    """BEiT: rectangles until ``count`` patches are hidden, or ten tries in a row found none that fits: (rows, P) bool.

    A rectangle's area is uniform between ``smallest`` and what is left (either way round), its aspect log-uniform in
    aspect..1/aspect, its rounded sides below the grid's; it counts where what it newly hides is more than
    nothing and at most what is left. So a picture never has more than ``count`` hidden, and may have fewer.
    """
    height, width = grid
    y_H, x_W = torch.arange(height), torch.arange(width)
    hidden_BHW = torch.zeros(rows, height, width, dtype=torch.bool)
    left_B, failed_B = torch.full((rows,), count), torch.zeros(rows, dtype=torch.int64)
    while bool((going_B := (left_B > 0) & (failed_B < TRIES)).any()):
        area_B, shape_B, top_B, side_B = draws.uniform(4).double().unbind(1)
        area_B = smallest + area_B * (left_B - smallest)
        ratio_B = (math.log(aspect) * (1 - 2 * shape_B)).exp()
        h_B, w_B = (area_B * ratio_B).sqrt().round().long(), (area_B / ratio_B).sqrt().round().long()
        fits_B = going_B & (h_B < height) & (w_B < width)
        top_B, side_B = (top_B * (height - h_B + 1)).long(), (side_B * (width - w_B + 1)).long()
        down = (top_B[:, None] <= y_H) & (y_H < (top_B + h_B)[:, None])
        across = (side_B[:, None] <= x_W) & (x_W < (side_B + w_B)[:, None])
        new_BHW = down[:, :, None] & across[:, None] & ~hidden_BHW
        gain_B = new_BHW.sum((1, 2))
        good_B = fits_B & (gain_B > 0) & (gain_B <= left_B)
        hidden_BHW |= new_BHW & good_B[:, None, None]
        left_B = left_B - gain_B * good_B
        failed_B = torch.where(good_B, 0, failed_B + 1)
    return hidden_BHW.flatten(1)
