"""Weighted nearest neighbours on frozen features (Wu et al. 2018; DINO, Caron et al. 2021, section 4; DINOv2's code).

A picture's k nearest of the training pictures, by cosine, vote with the weight exp(cosine / 0.07). DINOv2 divides the
weights by their sum over the largest k, which moves no vote. Left out: few pictures a class, drawn several times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
CHUNK = 1024  # queries that are compared at a time


def knn(
    keys_ND: Tensor, labels_N: Tensor, queries_QD: Tensor, classes: int, ks: Sequence[int] = KS
) -> dict[int, Tensor]:
    """The class of each query (Q,) int64 by its k nearest keys, for each k that there are keys for (or for all keys).

    Of classes with equal votes the first. Features are float, of any length; they are compared by direction.
    """
    used = sorted({min(k, len(keys_ND)) for k in ks})
    keys_ND, queries_QD = F.normalize(keys_ND.float(), dim=1), F.normalize(queries_QD.float(), dim=1)
    found: dict[int, list[Tensor]] = {k: [] for k in used}
    for part_QD in queries_QD.split(CHUNK):
        near = (part_QD @ keys_ND.T).topk(used[-1], dim=1)
        weights_QK = (near.values / TEMPERATURE).softmax(1)
        votes_of = labels_N[near.indices]
        for k in used:
            votes_QC = torch.zeros(len(part_QD), classes).scatter_add_(1, votes_of[:, :k], weights_QK[:, :k])
            found[k].append(votes_QC.argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}
