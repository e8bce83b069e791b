"""What it is that a model which finds what words ask for is given: phrases put together as texts.

``mmkit.data.texts.prompts`` makes them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Prompt(NamedTuple):
    """Phrases put together as B texts, each phrase in a block of its own that ends with its separator.

    ids: (B, L) int64. mask: (B, L) bool, True = a real token. block: (B, L) int64, whose tokens read each other.
    positions: (B, L) int64, of a token in its block. phrase: (B, L) int64, the number of the phrase that a token
    spells, -1 where it spells none.
    """

    ids: Tensor
    mask: Tensor
    block: Tensor
    positions: Tensor
    phrase: Tensor

    @property
    def reads(self) -> Tensor:
        """(B, L, L) bool: which tokens each token reads; padding reads itself."""
        same = (self.block[:, :, None] == self.block[:, None]) & self.mask[:, :, None] & self.mask[:, None]
        return same | torch.eye(self.ids.shape[1], dtype=torch.bool, device=self.ids.device)

    def spells(self, phrases: int, first: int = 0) -> Tensor:
        """(B, phrases, L) bool: which tokens spell each of the phrases from number ``first`` on."""
        numbers = torch.arange(first, first + phrases, device=self.phrase.device)
        return self.phrase[:, None] == numbers[:, None]

    def to(self, device: torch.device) -> Prompt:
        """The same on another device."""
        return Prompt(*(part.to(device) for part in self))
