"""A head that reads all tokens of a frozen tower by one learned query (CAE, Chen et al. 2022; V-JEPA, 2024).

The right probe for towers whose class token learned nothing, as those of masked image modelling: cross-attention with
an MLP, a norm, and a linear map. Its settings are fixed, so nothing is chosen by looking at pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.evals.probe.linear import order
from mmkit.nn.adamw import AdamW
from mmkit.nn.pool import AttentionPool
from mmkit.types import Tokens

RATE, DECAY, EPOCHS, BATCH = 1e-3, 0.01, 20, 64


def attentive(
    x_NPD: Tensor, labels_N: Tensor, test_QPD: Tensor, classes: int, *, epochs: int = EPOCHS, seed: int = 0
) -> Tensor:
    """Trained on the tokens (N, P, D) of training pictures -> the classes of test pictures (Q,) int64.

    AdamW with half a cosine to 0; the same seed gives the same head.
    """
    count, _, width = x_NPD.shape
    batch = min(BATCH, count)
    steps = max(1, epochs * count // batch)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        heads = next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
        pool, norm, out = AttentionPool(width, heads), nn.LayerNorm(width), nn.Linear(width, classes)
        parameters = [p for part in (pool, norm, out) for p in part.parameters()]
        optimizer = AdamW(parameters, lr=RATE, weight_decay=DECAY)
        for step, rows in enumerate(order(count, steps, batch, seed)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = F.cross_entropy(out(norm(pool(Tokens(x_NPD[rows].float())))), labels_N[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = [out(norm(pool(Tokens(part.float())))).argmax(1) for part in test_QPD.split(BATCH)]
    return torch.cat(found)
