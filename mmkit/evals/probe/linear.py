"""A grid of linear heads on frozen features, trained at once (DINOv2, Oquab et al. 2023, its linear evaluation).

All heads of a grid read the same pictures in the same order; each has its own learning rate. One product serves all of
them, so that the grid takes little longer than one head. Left out: random crops, as features are made once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
"""Learning rates for each 256 pictures of a step: the 13 published, for 12,500 steps, and three for fewer."""
MOMENTUM = 0.9
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is taken off features and what they are multiplied with before a head reads them: (D,) each."""

    shift: Tensor
    factor: Tensor

    @classmethod
    def of(cls, x_ND: Tensor, standard: bool) -> Scale:
        """The mean and deviation of training features (MAE's BatchNorm without affine); or nothing."""
        if not standard:
            return cls(shift=torch.zeros(x_ND.shape[1]), factor=torch.ones(x_ND.shape[1]))
        return cls(shift=x_ND.mean(0), factor=(x_ND.var(0, correction=0) + 1e-6).rsqrt())

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return (x_ND - self.shift) * self.factor


@dataclass(frozen=True, kw_only=True)
class Heads:
    """One linear head for each learning rate: weights (R, D, C), biases (R, C)."""

    weights: Tensor
    biases: Tensor

    def logits(self, x_ND: Tensor) -> list[Tensor]:
        """(N, D) -> of each head (N, C)."""
        return [x_ND @ w + b for w, b in zip(self.weights, self.biases, strict=True)]

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> the class of each by each head (R, N) int64."""
        return torch.stack([logits_NC.argmax(1) for logits_NC in self.logits(x_ND)])


def order(count: int, steps: int, batch: int, seed: int) -> Tensor:
    """(steps, batch) int64: the pictures of each step; each comes once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])[: steps * batch].view(
        steps, batch
    )


def train(
    x_ND: Tensor, labels_N: Tensor, classes: int, *, rates: Sequence[float] = RATES, steps: int = 1000, seed: int = 0
) -> Heads:
    """Heads by SGD with momentum 0.9, no decay, each rate falling to 0 in half a cosine; weights begin normal, 0.01.

    Of fewer than 256 pictures a step takes all. A rate is for 256 pictures: a step of fewer has the like share of it.
    """
    count, width = x_ND.shape
    batch = min(BATCH, count)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(len(rates), width, classes).normal_(0.0, 0.01, generator=generator)
    biases = torch.zeros(len(rates), classes)
    motion = [torch.zeros_like(weights), torch.zeros_like(biases)]
    rates_R = torch.tensor(rates) * batch / BATCH
    for step, rows in enumerate(order(count, steps, batch, seed)):
        part_BD, wanted_BC = x_ND[rows], F.one_hot(labels_N[rows], classes).float()
        error_RBC = ((part_BD @ weights + biases[:, None]).softmax(-1) - wanted_BC) / batch
        now_R = rates_R * 0.5 * (1 + math.cos(math.pi * step / steps))
        for value, moved, gradient in zip(
            (weights, biases), motion, (part_BD.T @ error_RBC, error_RBC.sum(1)), strict=True
        ):
            moved.mul_(MOMENTUM).add_(gradient)
            value.sub_(moved * now_R.view(-1, *[1] * (value.ndim - 1)))
    return Heads(weights=weights, biases=biases)
