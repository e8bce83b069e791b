"""Cutting an image (or a video) into patches and projecting each to a token (ViT, section 3.1).

The number of entries of ``patch`` says what is cut: (height, width) for images, (frames, height, width) for
tubelets of videos (ViViT, Arnab et al. 2021). A patch is read once, so that cutting and one matrix product
take the place of a strided convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.attention import take
from mmkit.types import grid_of


def patchify(pixels: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *size) -> (B, patches, C * product(patch)), row-major; each in the order of a convolution's weight."""
    grid = grid_of(pixels.shape[2:], patch)
    axes = len(patch)
    split = pixels.reshape(*pixels.shape[:2], *(n for pair in zip(grid, patch, strict=True) for n in pair))
    grid_axes, patch_axes = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return split.permute(0, *grid_axes, 1, *patch_axes).flatten(2 + axes - 1).flatten(1, -2)


def unpatchify(patches: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The inverse of ``patchify``: (B, patches, C * product(patch)), row-major over ``grid`` -> (B, C, *size)."""
    split = patches.reshape(len(patches), *grid, -1, *patch)
    axes = len(patch)
    pairs = [axis for i in range(axes) for axis in (1 + i, 2 + axes + i)]
    joined = split.permute(0, 1 + axes, *pairs)
    return joined.reshape(*joined.shape[:2], *(cells * side for cells, side in zip(grid, patch, strict=True)))


Inflation = Literal["central", "filling"]
"""How a patch of a picture begins as a tubelet: only its middle frame is seen, or each frame by its share."""


def inflated(weight: Tensor, frames: int, channels: int, how: Inflation) -> Tensor:
    """The weight (D, channels * h * w) of a picture's patches, for tubelets: (D, channels * frames * h * w).

    "central": zeros but for frame ``frames // 2``, as the released code has it; "filling": the same for each frame,
    divided by their number, so that a clip that stands still gives the picture's very tokens (ViViT, section 3.4).
    """
    one = weight.unflatten(1, (channels, 1, -1))
    if how == "filling":
        return (one / frames).expand(-1, -1, frames, -1).flatten(1)
    out = torch.zeros_like(one).repeat(1, 1, frames, 1)
    out[:, :, frames // 2] = one[:, :, 0]
    return out.flatten(1)


class PatchEmbed(nn.Module):
    """Patches to tokens by one linear map. inflation: see there; of tubelets that start from a model of pictures."""

    def __init__(
        self, patch: Sequence[int], width: int, channels: int = 3, bias: bool = True, inflation: Inflation = "central"
    ) -> None:
        super().__init__()
        if inflation not in get_args(Inflation):
            raise UserError(f"inflation={inflation!r}: there are {', '.join(get_args(Inflation))}")
        self.patch, self.channels, self.inflation = tuple(patch), channels, inflation
        values = channels
        for side in self.patch:
            values *= side
        self.proj = nn.Linear(values, width, bias=bias)

    def forward(self, pixels: Tensor, keep_BV: Tensor | None = None) -> Tensor:
        """(B, C, *size) -> (B, P, D), or (B, V, D) of the patches ``keep_BV`` (int64) alone.

        Raises UserError when the patch does not divide the size.
        """
        return self.proj(take(patchify(pixels, self.patch), keep_BV))
