"""The shared visual encoder: a Vision Transformer (Dosovitskiy et al. 2021, section 3.1; ALBEF, section 3.1).

Pixels become patches, patches become tokens, a class token goes first, learned positions are added, pre-norm
blocks follow, and a last norm. All tokens come out. Images or videos: the patch layer's axes decide. Not here:
classification heads and pooling, which belong to who wants them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkit.nn.block import PreNormBlock
from mmkit.nn.dropout import Dropout
from mmkit.nn.patch import PatchEmbed, grid_of
from mmkit.nn.positions import GridPositions
from mmkit.types import Tokens


class ViT(nn.Module):
    """A ViT over inputs (B, channels, *size); positions are learned for ``image_size`` and resize to any other.

    Args:
        image_size: pixels along each axis, (height, width) or (frames, height, width).
        patch: the patch along the same axes.
        depth, width, heads, mlp_width: of the blocks. mlp_width None means 4 x width.
        drop_path: the rate of the last block; earlier ones rise to it linearly.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, depth: int, width: int, heads: int,
        mlp_width: int | None = None, channels: int = 3, dropout: float = 0.0, drop_path: float = 0.0,
        activation: str = "gelu", checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.checkpointing = checkpointing
        self.patch = PatchEmbed(patch, width, channels)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = GridPositions(grid_of(image_size, patch), width)
        self.dropout = Dropout(dropout)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            PreNormBlock(
                width, heads, mlp_width or 4 * width, dropout=dropout, drop_path=rate, activation=activation
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.cls, std=0.02)
        self.apply(_init)

    def forward(self, pixels: Tensor) -> Tokens:
        """(B, channels, *size) float -> class token and patches, row-major: (B, 1 + P, D)."""
        return self.intermediates(pixels, ())[0]

    def intermediates(self, pixels: Tensor, names: Sequence[str]) -> tuple[Tokens, dict[str, Tensor]]:
        """The output, and the tokens (B, 1 + P, D) after the named parts: "embed", "blocks.0", "blocks.1", ...

        Raises ValueError on a name that does not exist.
        """
        known = {"embed", *(f"blocks.{i}" for i in range(len(self.blocks)))}
        if unknown := set(names) - known:
            raise ValueError(f"no such layer: {', '.join(sorted(unknown))}; there are embed and blocks.0 ... blocks.{len(self.blocks) - 1}")
        seen: dict[str, Tensor] = {}
        x_BND = self._embed(pixels)
        if "embed" in names:
            seen["embed"] = x_BND
        for i, block in enumerate(self.blocks):
            if self.checkpointing and self.training:
                x_BND = checkpoint(block, x_BND, use_reentrant=False)
            else:
                x_BND = block(x_BND)
            if f"blocks.{i}" in names:
                seen[f"blocks.{i}"] = x_BND
        return Tokens(self.norm(x_BND)), seen

    def _embed(self, pixels: Tensor) -> Tensor:
        grid = grid_of(pixels.shape[2:], self.patch.patch)
        patches_BPD = self.patch(pixels)
        cls_B1D = self.cls.expand(len(patches_BPD), -1, -1).to(patches_BPD.dtype)
        return self.dropout(torch.cat([cls_B1D, patches_BPD], 1) + self.positions(grid))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
