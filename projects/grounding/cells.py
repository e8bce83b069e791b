"""Cells of maps of several resolutions, one after the other, as the layers of GLIP pass them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """Cells (B, P, D) of maps of ``shapes`` (rows, columns); ``real`` (B, P) bool: which are picture, None = all."""

    x: Tensor
    shapes: tuple[tuple[int, int], ...]
    real: Tensor | None

    def maps(self) -> list[Tensor]:
        """(B, D, rows, columns) of each level; 0 at padding."""
        x = self.x if self.real is None else self.x * self.real[..., None]
        parts = x.split([high * wide for high, wide in self.shapes], 1)
        return [part.mT.unflatten(2, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def flat(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, D, rows, columns) -> cells (B, P, D)."""
    return torch.cat([one.flatten(2).mT for one in maps], 1)
