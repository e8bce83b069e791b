"""Queries made from noised truth, whose answer is known (DN-DETR, Li et al. 2022; DINO, Zhang et al. 2022, 3.3).

In each group a box has two copies: one a little wrong, to be mended, and one very wrong, to be called nothing. How many
groups a picture has follows from its own boxes, and each picture's are counted as one group, so that a sample teaches
the same whatever is beside it. Noise comes from the stream of random numbers that it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkit.draws import Draws
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.boxes import to_corners

RELABELLED = 0.25  # of the labels, at random, by any of the classes
NOISE = 0.4  # of half a side that a corner moves, at most (positives), or from that to twice as much


class Noised(NamedTuple):
    """P further queries of each picture.

    labels (B, P) int64, as the query says, and boxes (B, P, 4) as centre, width, height; ``box`` (B, P) int64: of which
    of the picture's boxes; ``positive`` and ``real`` (B, P) bool; ``group`` (B, P) int64; ``share`` (B,) float32: one
    over the number of the picture's groups; ``pairs`` (2, T) int64: picture and query of each positive.
    """

    labels: Tensor
    boxes: Tensor
    box: Tensor
    positive: Tensor
    real: Tensor
    group: Tensor
    share: Tensor
    pairs: Tensor


def noised(truth: Truth, draws: Draws, classes: int, groups: int, most: int = 100) -> Noised | None:
    """At most ``groups`` groups and ``most`` positive queries a picture, at least one group; None without any box."""
    boxes = truth.boxes
    if not boxes.shape[1]:
        return None
    counts, device = truth.counts, boxes.device  # on the host, which need not wait for the device
    own = torch.where(counts > 0, (most // counts.clamp(min=1)).clamp(1, groups), 0)
    slot = torch.arange(int((2 * own * counts).max())).expand(len(boxes), -1)
    pair = 2 * counts.clamp(min=1)[:, None]
    group, within = slot // pair, slot % pair
    positive = within < counts[:, None]
    box = torch.where(positive, within, within - counts[:, None])
    real = group < own[:, None]
    positive &= real
    pairs = torch.stack(positive.nonzero(as_tuple=True)).to(device)
    share = (1 / own.clamp(min=1).float()).to(device)
    box, positive, real, group = (one.to(device) for one in (torch.where(real, box, 0), positive, real, group))
    chance = draws.uniform(slot.shape[1], 10)  # of a slot in one row, so that more slots change none before them
    wrong = (chance[..., 8] < RELABELLED) & real
    labels = truth.labels.gather(1, box)
    labels = torch.where(wrong, (chance[..., 9] * classes).long().clamp(max=classes - 1), labels)
    was = boxes.gather(1, box[..., None].expand(-1, -1, 4))
    far = chance[..., :4] + (~positive)[..., None]
    sign = torch.where(chance[..., 4:8] < 0.5, -1.0, 1.0)
    now = (to_corners(was) + far * sign * NOISE * was[..., 2:].repeat(1, 1, 2) / 2).clamp(0, 1)
    start, size = now[..., :2], now[..., 2:] - now[..., :2]
    moved = torch.cat([start + size / 2, size.abs()], -1)
    moved = torch.cat([moved[..., :2], moved[..., 2:].clamp(min=1e-3)], -1)  # anchors are divided by
    return Noised(labels, moved, box, positive, real, group, share, pairs)


def who_reads_whom(noise: Noised, queries: int, group: int) -> Tensor:
    """(B, queries + P, queries + P) bool: matching queries come first, in groups of ``group``.

    They read their own group alone; noised ones their own group and the first matching one; padding reads itself.
    """
    total = queries + noise.group.shape[1]
    device = noise.group.device
    of = torch.cat([torch.arange(queries, device=device).expand(len(noise.group), -1) // group,
                    queries + noise.group.where(noise.real, total)], 1)  # fmt: skip
    seen = of[:, :, None] == of[:, None]
    seen[:, queries:, :group] |= noise.real[..., None]
    return seen
