"""What a head painted in place of hidden patches, and what must be said with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkit.nn.patch import patchify, unpatchify
from mmkit.types import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Pictures with hidden patches painted.

    pixels: (B, 3, height, width) float32, normalised as the model reads them, true where nothing was hidden.
    hidden: (B, height, width) bool, True where a pixel is painted.
    leaks: whether the true mean and deviation of each hidden patch went into it, which nobody could know.
    """

    pixels: Tensor
    hidden: Tensor
    leaks: bool


def filled(pixels: Tensor, hidden_BM: Tensor, painted_BMN: Tensor, spec: ModelSpec, leaks: bool) -> Reconstruction:
    """The pictures with what was painted (B, M, patch values) at the patches ``hidden_BM`` (int64)."""
    grid = spec.grid(pixels.shape[2:])
    patches_BPN = patchify(pixels.float(), spec.patch)
    at_BMN = hidden_BM[..., None].expand(-1, -1, patches_BPN.shape[-1])
    whole = unpatchify(patches_BPN.scatter(1, at_BMN, painted_BMN.float()), grid, spec.patch)
    marks = torch.zeros_like(patches_BPN, dtype=torch.bool).scatter(1, at_BMN, True)
    return Reconstruction(pixels=whole, hidden=unpatchify(marks, grid, spec.patch)[:, 0], leaks=leaks)
