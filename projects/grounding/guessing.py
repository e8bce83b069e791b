"""Where is what a caption tells of, if nobody has boxed it? The head's own best place is taken for it (GLIP, Li et al.
2022, section 3.3, where a teacher that was trained before makes such boxes).

Of each picture the surest phrase takes its best cell first. Cells whose boxes overlap a true box, or that of a phrase
that has its own, by more than a half are not taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkit.nn.boxes import iou_pairs

SAME = 0.5


@torch.no_grad()
def guessed(scores: Tensor, of: Tensor, boxes: Tensor, taken: Tensor) -> Tensor:
    """The cell that each told phrase takes: (W,) int64, -1 where none is left.

    scores: (W, A), above 0, what each cell says of each phrase; of: (W,) int64, whose picture's each is; boxes:
    (B, A, 4); taken: (B, A) bool, cells that are not to be had.
    """
    cells, taken = torch.full_like(of, -1), taken.clone()
    order = torch.arange(len(of), device=of.device)
    for _ in range(int(torch.bincount(of).max()) if len(of) else 0):
        best, cell = scores.masked_fill(taken[of] | (cells >= 0)[:, None], -1.0).max(1)
        top = best.new_full((len(boxes),), -1.0).scatter_reduce(0, of, best, "amax")
        surest = torch.where((best == top[of]) & (best >= 0), order, len(of))
        first = of.new_full((len(boxes),), len(of)).scatter_reduce(0, of, surest, "amin")
        chosen = first[first < len(of)]
        cells[chosen] = cell[chosen]
        picture = of[chosen]
        taken[picture] |= overlapping(boxes[picture], boxes[picture, cell[chosen]])
    return cells


def overlapping(boxes: Tensor, with_: Tensor) -> Tensor:
    """Which boxes (T, A, 4) are about the one (T, 4) of their row: (T, A) bool."""
    count = boxes.shape[1]
    pairs = iou_pairs(boxes.flatten(0, 1), with_.repeat_interleave(count, 0))
    return pairs.view(-1, count) > SAME


@torch.no_grad()
def near_any(boxes: Tensor, true: Tensor, of: Tensor) -> Tensor:
    """Which boxes (B, A, 4) are about any of the boxes (N, 4) of their picture: (B, A) bool."""
    found = torch.zeros(boxes.shape[:2], device=boxes.device)
    if len(of):
        found = found.index_add(0, of, overlapping(boxes[of], true).to(found.dtype))
    return found > 0
