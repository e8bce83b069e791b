"""Which query answers for which box: the assignment of least cost (Carion et al. 2020, section 3.1).

The cost is of class, L1 distance and generalised IoU. It is made for all layers, pictures and groups at once; only the
assignment itself, scipy's, runs on the CPU, one small matrix after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmkit.errors import UserError
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.boxes import overlaps, to_corners

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (Lin et al. 2017)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the parts of the cost, or of the loss, count."""

    label: float
    box: float = 5.0
    giou: float = 2.0


class Matches(NamedTuple):
    """Who answers for what, of T pairs, int64: layer, picture and query, and the box's place among the picture's."""

    layer: Tensor
    picture: Tensor
    query: Tensor
    box: Tensor


@torch.no_grad()
def match(label: Tensor, boxes: Tensor, truth: Truth, costs: Costs, groups: int = 1) -> Matches:
    """Each group of queries answers for every box once, or for as many as it has queries.

    label: the cost (L, B, Q, M) of calling each of the M boxes what a query says; boxes: (L, B, Q, 4), as the truth's.
    """
    layers, batch, queries = boxes.shape[:3]
    most = truth.boxes.shape[1]
    if not most:
        return Matches(*torch.zeros(4, 0, dtype=torch.int64, device=boxes.device))
    cost = cost_of(label, boxes, truth, costs).view(layers, batch, groups, queries // groups, most)
    rows = cost.nan_to_num(torch.finfo(cost.dtype).max).flatten(0, 2).cpu().numpy()
    counts = truth.counts[None, :, None].expand(layers, -1, groups).flatten().tolist()
    row, query, box = assigned(rows, counts)
    layer, rest = np.divmod(row, batch * groups)
    picture, group = np.divmod(rest, groups)
    pairs = np.stack([layer, picture, group * (queries // groups) + query, box])
    return Matches(*torch.from_numpy(pairs).to(boxes.device))


def cost_of(label: Tensor, boxes: Tensor, truth: Truth, costs: Costs) -> Tensor:
    """(L, B, Q, M) float32; what stands at padding says nothing."""
    away = torch.cdist(boxes, truth.boxes.expand(len(boxes), -1, -1, -1), p=1)
    _, giou = overlaps(to_corners(boxes)[..., None, :], to_corners(truth.boxes)[:, None])
    return costs.label * label + costs.box * away - costs.giou * giou


def focal_cost(p: Tensor) -> Tensor:
    """What it costs to say of something that is true that it is so with probability ``p``, less of what is false."""
    return ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log() - (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()


def assigned(cost: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cheapest one-to-one assignments of matrices (N, Q, M), of which the first ``counts`` columns are real.

    (row, query, box) int64 of each pair. UserError where scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise UserError('matching boxes needs scipy: pip install "mmkit[detection]"') from error
    found = [linear_sum_assignment(one[:, :count]) for one, count in zip(cost, counts, strict=True)]
    lengths = [len(queries) for queries, _ in found]
    return (
        np.repeat(np.arange(len(counts)), lengths),
        np.concatenate([queries for queries, _ in found]).astype(np.int64),
        np.concatenate([boxes for _, boxes in found]).astype(np.int64),
    )
