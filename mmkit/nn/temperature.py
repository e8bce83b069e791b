"""The learned temperature of contrastive similarities (ALBEF, section 3.2; Wu et al. 2018; CLIP, section 2.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A positive scalar that similarities are divided by; kept within bounds after each step."""

    def __init__(self, init: float = 0.07, low: float = 0.001, high: float = 0.5) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.value = nn.Parameter(torch.tensor(float(init)))

    def forward(self) -> Tensor:
        """The scalar, float32."""
        return self.value.float()

    @torch.no_grad()
    def constrain(self) -> None:
        """Back into [low, high], after an optimizer step or a load."""
        self.value.clamp_(self.low, self.high)


class LogScale(Temperature):
    """The same as the logarithm of a factor, as CLIP and SigLIP learn it: similarities are multiplied by exp(value).

    init: the factor at the start, 1 / 0.07 in CLIP and 10 in SigLIP. It stays between ``least`` and ``most``. SigLIP's
    bias belongs to its loss (``heads/sigmoid.py``).
    """

    def __init__(self, init: float = 1 / 0.07, least: float = 1.0, most: float = 100.0) -> None:
        super().__init__(math.log(init), math.log(least), math.log(most))

    def forward(self) -> Tensor:
        """What similarities are divided by: exp(-value), float32."""
        return (-self.value.float()).exp()
