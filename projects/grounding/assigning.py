"""Which anchor answers for which box: adaptive training sample selection (ATSS, Zhang et al. 2020, section 4.1).

An anchor is a square on each cell. Of each level the nearest few to a box's centre are looked at; those that overlap it
by at least the mean and the standard deviation of their overlaps, and whose centres lie in it, answer for it. A box
that no centre lies in has none. Everything in float32 pixels of the view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkit.nn.boxes import iou_pairs

INSIDE = 0.01
"""So many pixels a centre lies within the edges of its box, at least."""


def anchors_of(
    shapes: Sequence[tuple[int, int]], strides: Sequence[tuple[float, float]], side: float, device: torch.device
) -> Tensor:
    """A square of ``side`` strides around the centre of each cell, level by level, row-major: (A, 4) corners.

    shapes: (rows, columns) of each level; strides: pixels from cell to cell, down and across.
    """
    found = []
    for (high, wide), (down, across) in zip(shapes, strides, strict=True):
        y = (torch.arange(high, device=device) + 0.5) * down
        x = (torch.arange(wide, device=device) + 0.5) * across
        centres = torch.stack([x.expand(high, wide), y[:, None].expand(high, wide)], -1).view(-1, 2)
        half = side * (down * across) ** 0.5 / 2
        found.append(torch.cat([centres - half, centres + half], -1))
    return torch.cat(found)


@torch.no_grad()
def assigned(
    boxes: Tensor, of: Tensor, anchors: Tensor, levels: Sequence[int], real: Tensor, nearest: int = 9
) -> Tensor:
    """Which of the boxes each anchor of each picture answers for: (B, A) int64, -1 for none.

    Of two boxes that want an anchor the one that it overlaps more has it, of equal ones the first.

    Args:
        boxes: (N, 4).
        of: (N,) int64, whose picture's each is.
        anchors: (A, 4), of all pictures.
        levels: how many of the anchors each level has, in order.
        real: (B, A) bool, which of them stand on the picture.
        nearest: how many of each level are looked at.
    """
    pictures, count = real.shape
    owner = torch.full((pictures * count,), -1, dtype=torch.int64, device=anchors.device)
    if not len(boxes):
        return owner.view(pictures, count)
    near = _near(boxes, anchors, levels, real[of], nearest)
    there = real[of].gather(1, near)
    overlap = iou_pairs(anchors[near].flatten(0, 1), boxes.repeat_interleave(near.shape[1], 0)).view_as(near)
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2)[near]
    inside = torch.cat([centres - boxes[:, None, :2], boxes[:, None, 2:] - centres], -1).amin(-1) > INSIDE
    wanted = (overlap >= _least(overlap, there)[:, None]) & inside & there
    at = (of[:, None] * count + near)[wanted]
    value, row = overlap[wanted], wanted.nonzero()[:, 0]
    best = torch.full((pictures * count,), -1.0, device=anchors.device).scatter_reduce(0, at, value, "amax")
    first = torch.full_like(owner, len(boxes)).scatter_reduce(
        0, at, torch.where(value == best[at], row, len(boxes)), "amin"
    )
    return torch.where(first < len(boxes), first, owner).view(pictures, count)


def _near(boxes: Tensor, anchors: Tensor, levels: Sequence[int], real: Tensor, nearest: int) -> Tensor:
    """The nearest anchors of each level to each box, (N, K) int64."""
    away = torch.cdist((boxes[:, :2] + boxes[:, 2:]) / 2, (anchors[:, :2] + anchors[:, 2:]) / 2)
    away = away.masked_fill(~real, torch.inf)
    found, start = [], 0
    for count in levels:
        own = away[:, start : start + count]
        found.append(own.topk(min(nearest, count), 1, largest=False).indices + start)
        start += count
    return torch.cat(found, 1)


def _least(overlap: Tensor, there: Tensor) -> Tensor:
    """The mean and the (unbiased) standard deviation of those that are there, added: (N,); of one alone, its own."""
    count = there.sum(1)
    mean = (overlap * there).sum(1) / count.clamp(min=1)
    squares = ((overlap - mean[:, None]).square() * there).sum(1)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()


def centerness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How near anchors' centres are to those of their boxes (FCOS, Tian et al. 2019, equation 3): (T,), 0 to 1."""
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, behind = (centres - boxes[:, :2]).clamp(min=0), (boxes[:, 2:] - centres).clamp(min=0)
    shares = torch.minimum(before, behind) / torch.maximum(before, behind).clamp(min=1e-6)
    return shares.prod(-1).sqrt()
