"""One stream for words and patches: a ViT that also reads text (ViLT, Kim et al. 2021, section 3.1).

Its weights are those of a ViT, name by name, so that a ViT's checkpoint starts it. ``embed`` makes the image's tokens,
``forward`` runs the blocks over texts and images side by side. Pictures of unequal size are batched with a true mask:
each has its own grid of positions, and only what is picture is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkit.encoders.vit import ViT
from mmkit.nn.attention import take
from mmkit.nn.block import run
from mmkit.nn.positions import MixedGridPositions
from mmkit.types import Fused, Tokens, grid_of


@dataclass(frozen=True)
class ImageRows:
    """The embedded tokens of B images, read ``fold`` times over by consecutive texts."""

    tokens: Tokens
    fold: int = 1

    def rows(self, index: Tensor) -> ImageRows:
        """Those of the images ``index`` (int64), in that order."""
        return ImageRows(self.tokens.rows(index), self.fold)

    def repeated(self, fold: int) -> ImageRows:
        """The same images, each read by ``fold`` texts: rows i, i + B, i + 2 B, ... of the texts belong to image i."""
        return ImageRows(self.tokens, fold)


class JointViT(ViT):
    """A ViT over texts and images together, for images of any size.

    max_patches: an image with more is read at this many of its patches, at random in training, evenly spread in
        evaluation; None for all. The other arguments are the ViT's.
    """

    cls: nn.Parameter
    positions: MixedGridPositions

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, depth: int, width: int, heads: int,
        mlp_width: int | None = None, dropout: float = 0.0, drop_path: float = 0.0, eps: float = 1e-6,
        max_patches: int | None = None, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            image_size, patch, depth=depth, width=width, heads=heads, mlp_width=mlp_width, dropout=dropout,
            drop_path=drop_path, eps=eps, checkpointing=checkpointing,
        )  # fmt: skip
        self.max_patches = max_patches
        self.positions = MixedGridPositions(grid_of(image_size, patch), width)

    def embed(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) float and (B, height, width) bool -> class token and patches (B, 1 + P, D)."""
        grid = grid_of(pixels.shape[2:], self.patch.patch)
        x_BPD, mask_BP = self.patch(pixels), None
        if pixel_mask is None:
            class_position, positions = self.positions(grid).split_with_sizes([1, x_BPD.shape[1]])
        else:
            high, wide = self.patch.patch
            cells = pixel_mask[:, ::high, ::wide]
            class_position = self.positions.table[:1]
            positions = self.positions.cells(cells[:, :, 0].sum(1), cells[:, 0].sum(1), grid)
            mask_BP = cells.flatten(1)
        x_BPD = x_BPD + positions
        if self.max_patches is not None and self.max_patches < x_BPD.shape[1]:
            x_BPD, mask_BP = sample_patches(x_BPD, mask_BP, self.max_patches, at_random=self.training)
        cls_B1D = (self.cls + class_position).expand(x_BPD.shape[0], -1, -1).to(x_BPD.dtype)
        mask_BN = None if mask_BP is None else torch.cat([mask_BP.new_ones(mask_BP.shape[0], 1), mask_BP], 1)
        return Tokens(self.dropout(torch.cat([cls_B1D, x_BPD], 1)), mask_BN)

    def forward(  # type: ignore[override]  # it reads what is embedded
        self, text: Tokens, contexts: Sequence[ImageRows], keep_BM: Tensor | None = None
    ) -> Fused:
        """Texts (B, L, D) beside the contexts' images in turn -> both; or the texts' (B, M, D) at ``keep_BM`` alone."""
        x_BND, mask_BN = beside(text, contexts)
        for i, block in enumerate(self.blocks):
            keep = keep_BM if i == len(self.blocks) - 1 else None
            x_BND = run(block, x_BND, mask_BN, keep, again=self.checkpointing and self.training)
        if not self.blocks:
            x_BND = take(x_BND, keep_BM)
        x_BND = self.norm(x_BND)
        if keep_BM is not None:
            return Fused(Tokens(x_BND))
        size = text.x.shape[1]
        masks = (None, None) if mask_BN is None else (mask_BN[:, :size], mask_BN[:, size:])
        return Fused(Tokens(x_BND[:, :size], masks[0]), Tokens(x_BND[:, size:], masks[1]))


def beside(text: Tokens, contexts: Sequence[ImageRows]) -> Tokens:
    """Each text followed by its image: (B, L + 1 + P, D)."""
    xs = [context.tokens.x.repeat(context.fold, 1, 1) for context in contexts]
    x_BND = torch.cat([text.x, torch.cat(xs) if len(xs) > 1 else xs[0]], 1)
    if text.mask is None and all(context.tokens.mask is None for context in contexts):
        return Tokens(x_BND)
    masks = [context.tokens.full_mask().repeat(context.fold, 1) for context in contexts]
    return Tokens(x_BND, torch.cat([text.full_mask(), torch.cat(masks)], 1))


def sample_patches(
    x_BPD: Tensor, mask_BP: Tensor | None, count: int, *, at_random: bool
) -> tuple[Tensor, Tensor | None]:
    """At most ``count`` of each image's real patches: (B, count, D) and their mask, None where it was None.

    Not at random, they are evenly spread over the real patches in reading order.
    """
    size, patches = x_BPD.shape[:2]
    real_BP = x_BPD.new_ones(size, patches, dtype=torch.bool) if mask_BP is None else mask_BP
    if at_random:
        draws_BP = torch.rand(size, patches, device=x_BPD.device).masked_fill(~real_BP, 2.0)
        chosen_BN = draws_BP.argsort(1)[:, :count]
    else:
        order_BP = (~real_BP).int().argsort(dim=1, stable=True)  # the real ones first
        real_B1 = real_BP.sum(1, keepdim=True)
        at_N = torch.arange(count, device=x_BPD.device)
        chosen_BN = order_BP.gather(1, torch.where(real_B1 > count, at_N * real_B1 // count, at_N))
    return take(x_BPD, chosen_BN), None if mask_BP is None else mask_BP.gather(1, chosen_BN)
