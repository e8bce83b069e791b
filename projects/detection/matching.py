"""What it costs to call a box what a query says: by softmax (Carion et al. 2020) or by focal loss (Zhu et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmkit.heads.boxes.matching import Costs, Matches, focal_cost
from mmkit.heads.boxes.matching import match as match_by
from mmkit.heads.boxes.truth import Truth
from projects.detection.decoders import Found

Kind = Literal["softmax", "focal"]


def match(found: Found, truth: Truth, costs: Costs, kind: Kind, groups: int = 1) -> Matches:
    """Each group of queries answers for every box once, or for as many as it has queries."""
    return match_by(label_cost(found.logits, truth, kind), found.boxes, truth, costs, groups)


@torch.no_grad()
def label_cost(logits: Tensor, truth: Truth, kind: Kind) -> Tensor:
    """(L, B, Q, M) float32, of logits (L, B, Q, C)."""
    labels = truth.labels[None, :, None].expand(*logits.shape[:3], -1)
    if kind == "softmax":
        return -logits.softmax(-1).gather(-1, labels)
    return focal_cost(logits.gather(-1, labels).sigmoid())
