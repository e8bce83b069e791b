"""What Grounding DINO learns from: the authors never released it; MM-Grounding-DINO (Zhao et al. 2024) has it.

Sigmoid focal loss over the words of the prompt, true on each token of a box's phrase; L1 and GIoU of its box. A query
that says of a phrase what its tokens say on average is matched to boxes of that phrase. All as sums, in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.heads.boxes.losses import Sums, box_sums
from mmkit.heads.boxes.matching import ALPHA, GAMMA, Costs, Matches, focal_cost, match
from mmkit.heads.boxes.truth import Truth
from mmkit.prompt import Prompt
from projects.grounding.layers import Found


def spelled(prompt: Prompt, truth: Truth) -> Tensor:
    """(B, M, L) bool: which tokens spell the phrase of each box."""
    return prompt.phrase[:, None] == truth.labels[..., None]


@torch.no_grad()
def matches_of(found: Found, prompt: Prompt, truth: Truth, costs: Costs) -> Matches:
    """Which query answers for which box, in each layer; one that is not there for none that is needed elsewhere."""
    spells = spelled(prompt, truth).float()
    share = spells / spells.sum(-1, keepdim=True).clamp(min=1)
    p = found.logits.sigmoid().masked_fill(~prompt.mask[:, None], 0.0)
    label = focal_cost(p) @ share.mT
    if found.real is not None:
        label = label.masked_fill(~found.real[..., None], 1e6)
    return match(label, found.boxes, truth, costs)


def sums(found: Found, prompt: Prompt, truth: Truth, matches: Matches) -> tuple[Sums, Tensor]:
    """Of all layers; and the IoU of the pairs."""
    at = matches.layer, matches.picture, matches.query
    true = torch.zeros_like(found.logits)
    true[at] = spelled(prompt, truth)[matches.picture, matches.box].float()
    counted = prompt.mask[:, None].expand_as(found.logits[0])
    if found.real is not None:
        counted = counted & found.real[..., None]
    label = (focal(found.logits, true) * counted).sum()
    away, giou, iou = box_sums(found.boxes[at], truth.boxes[matches.picture, matches.box])
    return Sums(label, away, giou), iou


def focal(logits: Tensor, true: Tensor) -> Tensor:
    """The sigmoid focal loss (Lin et al. 2017) of each logit, where ``true`` is 0 or 1."""
    p = logits.sigmoid()
    wrong = torch.where(true > 0, 1 - p, p)
    weight = torch.where(true > 0, ALPHA, 1 - ALPHA)
    return weight * wrong**GAMMA * F.binary_cross_entropy_with_logits(logits, true, reduction="none")
