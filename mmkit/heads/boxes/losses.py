"""The losses of pairs of boxes as sums: who divides them knows the whole step. All in float32."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mmkit.nn.boxes import overlaps, to_corners


class Sums(NamedTuple):
    """Float32 scalars, over all layers."""

    label: Tensor
    box: Tensor
    giou: Tensor

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


def box_sums(found: Tensor, truth: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and 1 - GIoU of pairs (T, 4), centre, width and height, each summed; and the IoU (T,) without gradient."""
    iou, giou = overlaps(to_corners(found), to_corners(truth))
    away = F.l1_loss(found, truth, reduction="none").sum(-1)
    return (away * weight).sum(), ((1 - giou) * weight).sum(), iou.detach()
