"""What Grounding DINO learns from: the authors never released it; MM-Grounding-DINO (Zhao et al. 2024) has it.

Sigmoid focal loss over the words of the prompt, true on each token of a box's phrase; L1 and GIoU of its box. A query
that says of a phrase what its tokens say on average is matched to boxes of that phrase. All as sums, in float32.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.heads.boxes.losses import Sums, box_sums
from mmkit.heads.boxes.matching import ALPHA, GAMMA, Costs, Matches, assigned, focal_cost, match
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.boxes import overlaps, to_corners
from mmkit.prompt import Prompt
from projects.grounding.layers import Found

SAME = 0.5
"""Boxes that overlap by more are about one thing."""


def spelled(prompt: Prompt, truth: Truth) -> Tensor:
    """(B, M, L) bool: which tokens spell the phrase of each box."""
    return prompt.phrase[:, None] == truth.labels[..., None]


@torch.no_grad()
def matches_of(found: Found, prompt: Prompt, truth: Truth, costs: Costs) -> Matches:
    """Which query answers for which box, in each layer; one that is not there for none that is needed elsewhere."""
    spells = spelled(prompt, truth).float()
    share = spells / spells.sum(-1, keepdim=True).clamp(min=1)
    label = focal_cost(found.logits.sigmoid()) @ share.mT
    if found.real is not None:
        label = label.masked_fill(~found.real[..., None], 1e6)
    return match(label, found.boxes, truth, costs)


@torch.no_grad()
def guesses_of(found: Found, prompt: Prompt, truth: Truth, matches: Matches, told: Tensor) -> Matches:
    """Which query answers for a phrase that is there without a box, in each layer: the one that says it most, of those
    that answer for no box and whose own box is about none. ``box`` is the phrase's place among those of its picture.

    told: (W, 2) int64, pairs of a picture and a phrase of its prompt, in order.
    """
    layers, batch, queries = found.boxes.shape[:3]
    counts = torch.bincount(told[:, 0], minlength=batch)
    most = int(counts.max()) if len(told) else 0
    if not most:
        return Matches(*torch.zeros(4, 0, dtype=torch.int64, device=told.device))
    place = torch.arange(len(told), device=told.device) - (counts.cumsum(0) - counts)[told[:, 0]]
    spells = prompt.phrase.new_zeros(batch, most, prompt.ids.shape[1], dtype=torch.float32)
    spells[told[:, 0], place] = (prompt.phrase[told[:, 0]] == told[:, 1:]).float()
    cost = focal_cost(found.logits.sigmoid()) @ (spells / spells.sum(-1, keepdim=True).clamp(min=1)).mT
    taken = torch.zeros(layers, batch, queries, dtype=torch.bool, device=told.device)
    taken[matches.layer, matches.picture, matches.query] = True
    if truth.boxes.shape[1]:
        iou, _ = overlaps(to_corners(found.boxes)[..., None, :], to_corners(truth.boxes)[:, None])
        real = torch.arange(iou.shape[-1], device=iou.device) < truth.counts.to(iou.device)[:, None]
        taken |= ((iou > SAME) & real[:, None]).any(-1)
    if found.real is not None:
        taken |= ~found.real
    rows = cost.masked_fill(taken[..., None], 1e6).nan_to_num(1e6).flatten(0, 1).cpu().numpy()
    row, query, phrase = assigned(rows, counts.tolist() * layers)
    layer, picture = np.divmod(row, batch)
    pairs = torch.from_numpy(np.stack([layer, picture, query, phrase])).to(told.device)
    pairs = pairs[:, ~taken[pairs[0], pairs[1], pairs[2]]]
    return Matches(*pairs)


def sums(
    found: Found, prompt: Prompt, truth: Truth, matches: Matches, guesses: Matches | None = None,
    told: Tensor | None = None,
) -> tuple[Sums, Tensor]:  # fmt: skip
    """Of all layers; and the IoU of the pairs. guesses, told: see ``guesses_of``; they count as boxes do."""
    at = matches.layer, matches.picture, matches.query
    true = torch.zeros_like(found.logits)
    true[at] = spelled(prompt, truth)[matches.picture, matches.box].float()
    if guesses is not None and told is not None and len(told):
        counts = torch.bincount(told[:, 0], minlength=len(prompt.ids))
        phrase = told[(counts.cumsum(0) - counts)[guesses.picture] + guesses.box, 1]
        true[guesses.layer, guesses.picture, guesses.query] = (
            prompt.phrase[guesses.picture] == phrase[:, None]
        ).float()  # fmt: skip
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
