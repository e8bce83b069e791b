"""The learned temperature of contrastive similarities (ALBEF, section 3.2; Wu et al. 2018)."""

from __future__ import annotations

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
