"""The losses of DETR and its relatives over all layers at once, as sums: who divides them knows the whole step.

Classes by softmax with a class for nothing (Carion et al. 2020) or by sigmoid focal loss (Lin et al. 2017; Zhu et al.
2021); boxes by L1 and generalised IoU. All in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.heads.boxes.losses import Sums, box_sums
from mmkit.heads.boxes.matching import ALPHA, GAMMA, Matches
from mmkit.heads.boxes.truth import Truth
from projects.detection.decoders import Found
from projects.detection.denoising import Noised


def focal_sum(logits: Tensor, at: tuple[Tensor, ...], labels: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """The sigmoid focal loss, summed: ``labels`` (T,) are true at ``at``, all else is false. logits (..., C) float32.

    weight: broadcastable to the logits without their last dimension.
    """
    p = logits.sigmoid()
    wrong = (1 - ALPHA) * p**GAMMA * F.softplus(logits)
    if isinstance(weight, Tensor):
        weight = weight.expand(logits.shape[:-1])
    total = (wrong.sum(-1) * weight).sum()
    true, q = logits[(*at, labels)], p[(*at, labels)]
    here = ALPHA * (1 - q) ** GAMMA * F.softplus(-true) - (1 - ALPHA) * q**GAMMA * F.softplus(true)
    return total + (here * (weight[at] if isinstance(weight, Tensor) else weight)).sum()


def softmax_sum(logits: Tensor, at: tuple[Tensor, ...], labels: Tensor, nothing: float) -> Tensor:
    """Cross-entropy with weights, summed: ``labels`` at ``at``, elsewhere the last class with weight ``nothing``."""
    targets = torch.full(logits.shape[:-1], logits.shape[-1] - 1, device=logits.device)
    targets[at] = labels
    weights = torch.where(targets == logits.shape[-1] - 1, nothing, 1.0)
    return (F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none") * weights.flatten()).sum()


def matched_sums(
    found: Found, truth: Truth, matches: Matches, nothing: float | None, groups: int
) -> tuple[Sums, Tensor]:
    """Of matching queries, a mean over the groups; and the IoU of the pairs.

    nothing: the weight of the class for nothing with softmax; None = focal.
    """
    at = matches.layer, matches.picture, matches.query
    labels = truth.labels[matches.picture, matches.box]
    away, giou, iou = box_sums(found.boxes[at], truth.boxes[matches.picture, matches.box])
    logits = found.logits
    label = focal_sum(logits, at, labels) if nothing is None else softmax_sum(logits, at, labels, nothing)
    return Sums(label / groups, away / groups, giou / groups), iou


def noised_sums(found: Found, truth: Truth, noise: Noised) -> Sums:
    """Of noised queries: positives are their box, negatives nothing; each picture's groups count as one."""
    layers = len(found.boxes)
    picture, query = noise.pairs
    box = noise.box[picture, query]
    at = (
        torch.arange(layers, device=query.device).repeat_interleave(len(query)),
        picture.repeat(layers), query.repeat(layers),
    )  # fmt: skip
    share = noise.share[:, None] * noise.real
    label = focal_sum(found.logits, at, truth.labels[picture, box].repeat(layers), share)
    target = truth.boxes[picture, box].repeat(layers, 1)
    away, giou, _ = box_sums(found.boxes[at], target, noise.share[picture].repeat(layers))
    return Sums(label, away, giou)
