"""The shared visual encoder: a Vision Transformer (Dosovitskiy et al. 2021, section 3.1; ALBEF, section 3.1).

Pixels become patches, patches become tokens, a class token goes first, learned positions are added, pre-norm
blocks follow, and a last norm. All tokens come out. Images or videos: the patch layer's axes decide. Not here:
classification heads and pooling, which belong to who wants them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.attention import take
from mmkit.nn.block import PreNormBlock, run
from mmkit.nn.dropout import Dropout
from mmkit.nn.init import initialise
from mmkit.nn.patch import Inflation, PatchEmbed
from mmkit.nn.positions import GridPositions
from mmkit.protocol import ImageTower
from mmkit.types import Hole, Tokens, grid_of

HIDES = ("leave out", "replace")
"""How a ViT hides patches."""


class ViT(nn.Module):
    """A ViT over inputs (B, channels, *size); positions are learned for ``image_size`` and resize to any other.

    Args:
        image_size: pixels along each axis, (height, width) or (frames, height, width).
        patch: the patch along the same axes.
        depth, width, heads, mlp_width: of the blocks. mlp_width None means 4 x width.
        drop_path: the rate of the last block; earlier ones rise to it linearly.
        class_token: whether one goes first. first_norm: a norm before the blocks, and patch_bias: whether the patch
            layer has one (CLIP has the norm and not the bias). eps: of the norms.
        patch_dropout: the share of patches that are left out in training (FLIP, Li et al. 2023).
        fixed_positions: sines and cosines in place of learned ones (MAE).
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        inflation: of tubelets that start from a model of pictures, see ``nn.patch.inflated``.
    """

    form: dict[str, Any]  # the arguments of which the weights are
    max_patches: int | None = None  # more are read as a share of them; None for all
    block: type[PreNormBlock] = PreNormBlock

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, depth: int, width: int, heads: int,
        mlp_width: int | None = None, channels: int = 3, dropout: float = 0.0, drop_path: float = 0.0,
        activation: str = "gelu", eps: float = 1e-6, class_token: bool = True, first_norm: bool = False,
        patch_bias: bool = True, patch_dropout: float = 0.0, fixed_positions: bool = False,
        checkpointing: bool = False, inflation: Inflation = "central",
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0.0 <= patch_dropout < 1.0:
            raise UserError(f"patch_dropout={patch_dropout}: the share of patches to leave out is in 0..1, without 1")
        self.width = width
        self.form = {
            "depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width, "activation": activation,
            "eps": eps, "class_token": class_token, "first_norm": first_norm, "patch_bias": patch_bias,
        }  # fmt: skip
        self.checkpointing = checkpointing
        self.patch = PatchEmbed(patch, width, channels, patch_bias, inflation)
        self.cls = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.positions = GridPositions(grid_of(image_size, patch), width, int(class_token), fixed_positions)
        self.patch_dropout = patch_dropout
        self.dropout = Dropout(dropout)
        self.first_norm = nn.LayerNorm(width, eps=eps) if first_norm else None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            self.block(
                width, heads, mlp_width or 4 * width, dropout=dropout, drop_path=rate, activation=activation, eps=eps
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02)
        initialise(self, width)

    def forward(self, pixels: Tensor, pixel_mask: Tensor | None = None, hole: Hole | None = None) -> Tokens:
        """(B, channels, *size) float -> class token and patches, row-major: (B, 1 + P, D).

        hole: patches that are not seen; those of ``hole.keep`` come out alone, in its order. Patch dropout then is off.
        Raises UserError when there is a ``pixel_mask``: pictures must be of one size here.
        """
        return self.intermediates(pixels, (), pixel_mask, hole)[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that ``intermediates`` knows, in order: "embed", "blocks.0", "blocks.1", ..."""
        return ("embed", *(f"blocks.{i}" for i in range(len(self.blocks))))

    @property
    def sight(self) -> dict[str, Any]:
        """What ``ModelSpec`` says of the image tokens, for a model with this tower."""
        return {
            "patch": self.patch.patch, "class_tokens": self.positions.prefix, "layers": self.layers, "hides": HIDES,
        }  # fmt: skip

    def intermediates(
        self, pixels: Tensor, names: Collection[str], pixel_mask: Tensor | None = None, hole: Hole | None = None
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """The output, and the tokens (B, 1 + P, D) after the layers ``names``; UserError on one that does not exist."""
        if unknown := ", ".join(sorted(set(names) - set(self.layers))):
            raise UserError(f"no such layer: {unknown}; there are embed and blocks.0 ... blocks.{len(self.blocks) - 1}")
        if pixel_mask is not None:
            raise UserError("this model reads pictures of one size; use a transform that makes them equal")
        seen: dict[str, Tokens] = {}
        x_BND = self._embed(pixels, hole)
        if "embed" in names:
            seen["embed"] = Tokens(x_BND)
        for i, block in enumerate(self.blocks):
            x_BND = run(block, x_BND, *self._beside(pixels), again=self.checkpointing and self.training)
            if f"blocks.{i}" in names:
                seen[f"blocks.{i}"] = Tokens(x_BND)
        return Tokens(self.norm(x_BND)), seen

    def _beside(self, pixels: Tensor) -> tuple[Any, ...]:
        """What blocks are given beside the tokens."""
        return ()

    def _embed(self, pixels: Tensor, hole: Hole | None = None) -> Tensor:
        positions_ND = self.positions(grid_of(pixels.shape[2:], self.patch.patch))
        x_BND = self.dropout(self._with_class(self._patches(pixels, hole)) + self._shown(positions_ND, hole))
        if self.training and self.patch_dropout and hole is None:
            x_BND = drop_patches(x_BND, self.patch_dropout, prefix=self.positions.prefix)
        return x_BND if self.first_norm is None else self.first_norm(x_BND)

    def _patches(self, pixels: Tensor, hole: Hole | None) -> Tensor:
        if hole is None or hole.keep is not None:
            return self.patch(pixels, None if hole is None else hole.keep)
        patches_BPD = self.patch(pixels)
        if hole.hidden is None or hole.by is None or hole.hidden.shape != patches_BPD.shape[:2]:
            raise ValueError(f"hidden patches {hole.hidden}: not one for each of {tuple(patches_BPD.shape[:2])}")
        return hole.by.to(patches_BPD.dtype).where(hole.hidden[..., None], patches_BPD)

    def _shown(self, positions_ND: Tensor, hole: Hole | None) -> Tensor:
        """Of the positions those of what is not left out."""
        if hole is None or hole.keep is None:
            return positions_ND
        prefix = self.positions.prefix
        own_BVD = positions_ND[prefix:][hole.keep]
        return torch.cat([positions_ND[:prefix].expand(len(own_BVD), -1, -1), own_BVD], 1)

    def _with_class(self, patches_BPD: Tensor) -> Tensor:
        if self.cls is None:
            return patches_BPD
        return torch.cat([self.cls.expand(patches_BPD.shape[0], -1, -1).to(patches_BPD.dtype), patches_BPD], 1)


class SeesByViT(nn.Module):
    """The model protocol as far as it sees, for a model whose ``image`` is a ViT, or another tower of its contract."""

    image: ImageTower

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) float, normalised -> tokens (B, P, D), the class token first where there is one.

        Clips are (B, 3, T, height, width).
        Pictures must be of one size: a ``pixel_mask`` is a UserError.
        """
        return self.image(pixels, pixel_mask)

    def image_layers(
        self, pixels: Tensor, pixel_mask: Tensor | None, names: Collection[str]
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """What ``encode_image`` gives, and the tokens (B, N, D) after the layers ``names`` of ``spec.layers``."""
        return self.image.intermediates(pixels, names, pixel_mask)

    def encode_image_again(self, pixels: Tensor, pixel_mask: Tensor | None, hole: Hole) -> Tokens:
        """A second look with patches hidden: (B, 1 + V, D) where they are left out, else (B, 1 + P, D)."""
        return cast(Tokens, cast(Any, self.image)(pixels, pixel_mask, hole))


def drop_patches(x_BND: Tensor, rate: float, prefix: int = 1) -> Tensor:
    """A random share 1 - ``rate`` of each sample's patches, at least one, in order, after ``prefix`` tokens."""
    patches_BPD = x_BND[:, prefix:]
    count = max(1, round(patches_BPD.shape[1] * (1.0 - rate)))
    draws_BP = torch.rand(patches_BPD.shape[:2], device=x_BND.device)
    kept_BN = draws_BP.topk(count, dim=1).indices.sort(1).values
    return torch.cat([x_BND[:, :prefix], take(patches_BPD, kept_BN)], 1)
