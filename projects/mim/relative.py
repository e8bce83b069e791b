"""The ViT of BEiT and SimMIM: relative positions as a bias of attention, and scaled layers.

Bao et al. 2022, appendix; the bias is Swin's with three more rows for the class token. One table for all blocks while
pre-training (``shared``), or one for each. BEiT's keys have no bias; ours have one, which no softmax can tell. Left
out: another grid than that of training, which would need the table resized, and patches that are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.data.images.size import height_width
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.models.vision import Vision
from mmkit.nn.attention import SelfAttention
from mmkit.nn.block import PreNormBlock
from mmkit.types import grid_of


class RelativeBias(nn.Module):
    """What is added to the scores of every pair of tokens by where they are to each other, for each head.

    grid: (rows, columns) of patches, row-major, behind one class token. It begins at 0.
    """

    index: Tensor

    def __init__(self, grid: Sequence[int], heads: int) -> None:
        super().__init__()
        rows, columns = grid
        pairs = (2 * rows - 1) * (2 * columns - 1)
        self.table = nn.Parameter(torch.zeros(pairs + 3, heads))
        places_P2 = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        apart_PP2 = places_P2[:, None] - places_P2[None] + torch.tensor([rows - 1, columns - 1])
        index = torch.full((1 + rows * columns,) * 2, pairs)
        index[1:, 1:] = apart_PP2[..., 0] * (2 * columns - 1) + apart_PP2[..., 1]
        index[1:, 0], index[0, 0] = (
            pairs + 1,
            pairs + 2,
        )  # patch to class, class to itself; the first row is class to patch
        self.register_buffer("index", index, persistent=False)

    def forward(self, tokens: int) -> Tensor:
        """(H, N, N); UserError where there are other than ``tokens``."""
        if tokens != len(self.index):
            raise UserError(
                f"relative positions of {len(self.index) - 1} patches, and a picture of {tokens - 1}: this tower reads "
                "pictures of one size"
            )
        return self.table[self.index].permute(2, 0, 1)


class RelativeAttention(SelfAttention):
    """Self-attention whose scores have the bias. It is given as a list, so that several may share one."""

    def __init__(self, width: int, heads: int, bias: list[RelativeBias]) -> None:
        super().__init__(width, heads)
        self._bias = bias

    def forward(self, x_BND: Tensor, *rest: Tensor | None) -> Tensor:  # type: ignore[override]
        """(B, N, D) -> (B, N, D). There is no mask, and all tokens are wanted."""
        if any(given is not None for given in rest):
            raise UserError("relative positions need whole pictures, and all of their tokens")
        q, k, v = self._split_parts(self.qkv(x_BND), 3)
        bias = self._bias[0](x_BND.shape[1]).to(q.dtype)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(-2))


class RelativeBlock(PreNormBlock):
    """x + scale1 * attention(norm(x)), then x + scale2 * mlp(norm(x)). scale: where both begin; 0 = there are none."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, bias: list[RelativeBias], scale: float, drop_path: float = 0.0
    ) -> None:
        super().__init__(width, heads, mlp_width, drop_path=drop_path)
        self.attn = RelativeAttention(width, heads, bias)
        self.scale1 = nn.Parameter(torch.full((width,), scale)) if scale else None
        self.scale2 = nn.Parameter(torch.full((width,), scale)) if scale else None

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, keep_BM: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        attended, one = self.attn(self.norm1(x_BND), mask_BN, keep_BM), x_BND.new_ones(())
        x_BND = x_BND + self.drop_path(attended * (one if self.scale1 is None else self.scale1))
        changed = self.mlp(self.norm2(x_BND))
        return x_BND + self.drop_path(changed * (one if self.scale2 is None else self.scale2))


class RelativeViT(ViT):
    """A ViT with a class token and, in place of absolute positions, which stay 0, the bias."""

    def __init__(
        self, image_size: Sequence[int], patch: Sequence[int], *, depth: int, width: int, heads: int, drop_path: float,
        scale: float, shared: bool, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            image_size, patch, depth=depth, width=width, heads=heads, drop_path=drop_path, checkpointing=checkpointing
        )
        grid = grid_of(image_size, patch)
        biases = [RelativeBias(grid, heads) for _ in range(1 if shared else depth)]
        self.relative = nn.ModuleList(biases)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            RelativeBlock(width, heads, 4 * width, [biases[0 if shared else i]], scale, rate)
            for i, rate in enumerate(rates)
        )
        nn.init.zeros_(self.positions.table)
        self.positions.table.requires_grad_(False)
        with torch.no_grad():
            for i, block in enumerate(self.blocks):
                for layer in (module for module in block.modules() if isinstance(module, nn.Linear)):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
                for name in ("attn.proj.weight", "mlp.fc2.weight"):
                    block.get_parameter(name).div_(math.sqrt(2 * (i + 1)))


def relative_sight(
    *, image_size: int | tuple[int, int] = 224, patch: int = 16, depth: int = 12, width: int = 768, heads: int = 12,
    drop_path: float = 0.1, scale: float = 0.1, shared: bool = True, checkpointing: bool = False,
) -> Vision:  # fmt: skip
    """Pictures alone through such a tower; as BEiT's ViT-B/16 in pre-training. Patches can be replaced alone."""
    model = Vision(RelativeViT(
        height_width(image_size), (patch, patch), depth=depth, width=width, heads=heads, drop_path=drop_path,
        scale=scale, shared=shared, checkpointing=checkpointing,
    ))  # fmt: skip
    model.spec = replace(model.spec, hides=("replace",))
    return model
