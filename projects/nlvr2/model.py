"""ALBEF for two pictures and one sentence (Li et al. 2021, https://arxiv.org/abs/2107.07651, sections 5 and A).

Each fusion layer becomes two: the first of a pair reads the left picture, the second the right one. The two have their
own weights except the keys and values of cross-attention, which they share, so that a picture is projected once for a
pair. Everything comes from a pre-trained ALBEF, each fusion layer twice. Left out: more than two pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mmkit.convert.tables.table import depth_of
from mmkit.encoders.text import FusionEncoder, ImageContext, TextEncoder
from mmkit.errors import UserError
from mmkit.models.albef import ALBEF
from mmkit.models.sizes.albef import albef
from mmkit.nn.attention import CrossAttention, KeyValues
from mmkit.nn.block import PostNormBlock
from mmkit.protocol import ImageTower
from mmkit.types import Tokens

FUSION = "fusion.blocks."


class PairALBEF(ALBEF):
    """An ALBEF with ``pair_context`` for two pictures; one picture alone is read as both.

    Args:
        image, text: as in ALBEF.
        fusion: an even number of layers; this ties the keys and values of layers 2 i and 2 i + 1.
        embed_dim: E of the joint space of the pre-training, which then stays as it was, without gradient: choosing
            hard negatives needs it. 0 leaves it out.
    """

    def __init__(self, image: ImageTower, text: TextEncoder, fusion: FusionEncoder, embed_dim: int = 0) -> None:
        super().__init__(image, text, fusion, embed_dim)
        if len(fusion.blocks) % 2:
            raise UserError(f"two pictures need an even number of fusion layers, not {len(fusion.blocks)}")
        crosses = self._crosses()
        for left, right in zip(crosses[::2], crosses[1::2], strict=True):
            right.kv = left.kv
        if embed_dim:
            for part in (self.image_proj, self.text_proj, self.temperature):
                cast(nn.Module, part).requires_grad_(False)

    def image_context(self, image: Tokens) -> ImageContext:
        """One picture for each text, which every layer reads."""
        read = [cross.project(image.x, image.mask) for cross in self._crosses()[::2]]
        return ImageContext(tuple(layer for layer in read for _ in range(2)))

    def pair_context(self, pairs: Tokens) -> ImageContext:
        """The left pictures of B texts, then the right ones: (2 B, P, D). Even layers read left, odd ones right."""
        size = len(pairs.x) // 2
        layers: list[KeyValues] = []
        for cross in self._crosses()[::2]:
            both = cross.project(pairs.x, pairs.mask)
            layers += [_part(both, slice(None, size)), _part(both, slice(size, None))]
        return ImageContext(tuple(layers))

    def read_pairs(self, text: Tokens, pairs: Tokens) -> Tensor:
        """Texts (B, L, D) with their pictures (2 B, P, D), as in ``pair_context`` -> the fused [CLS] (B, D)."""
        keep_BM = torch.zeros(len(text.x), 1, dtype=torch.int64, device=text.x.device)
        return self.fuse(text, [self.pair_context(pairs)], keep_BM).first

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its parameters from the state of a pre-trained ALBEF, each fusion layer twice, or from another such model.

        ``state`` has mmkit's names ("model.fusion.blocks.0..."). UserError where the number of layers does not fit.
        """
        own, theirs = len(self.fusion.blocks), depth_of(state, f"model.{FUSION}")
        if theirs not in (own, own // 2):
            raise UserError(
                f"a model of {own // 2} pairs of fusion layers starts from {own // 2} such layers, or from another "
                f"one of {own // 2} pairs; this state has {theirs}"
            )
        found: dict[str, Tensor] = {}
        for name, _ in self.named_parameters():
            source = f"model.{name}" if theirs == own else f"model.{_single(name)}"
            if source in state:
                found[name] = state[source]
        return found

    def _crosses(self) -> list[CrossAttention]:
        blocks = [cast(PostNormBlock, block) for block in self.fusion.blocks]
        return [block.cross for block in blocks if block.cross is not None]


def _part(both: KeyValues, rows: slice) -> KeyValues:
    return KeyValues(both.k[rows], both.v[rows], None if both.mask is None else both.mask[rows])


def _single(name: str) -> str:
    """The name in an ALBEF of what a parameter of a pair of layers is made from."""
    if not name.startswith(FUSION):
        return name
    number, _, rest = name.removeprefix(FUSION).partition(".")
    return f"{FUSION}{int(number) // 2}.{rest}"


def pair_albef(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 6, fusion_pairs: int = 6, text_width: int = 768,
    text_heads: int = 12, text_mlp_width: int | None = None, embed_dim: int = 0, dropout: float = 0.1,
    checkpointing: bool = False,
) -> PairALBEF:  # fmt: skip
    """Of any size, with the arguments of ``mmkit.models.sizes.albef.albef``; ``fusion_pairs`` are its fusion layers."""
    parts = albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, image_depth=image_depth,
        image_width=image_width, image_heads=image_heads, text_depth=text_depth, fusion_depth=2 * fusion_pairs,
        text_width=text_width, text_heads=text_heads, text_mlp_width=text_mlp_width, dropout=dropout,
        checkpointing=checkpointing,
    )  # fmt: skip
    return PairALBEF(parts.image, parts.text, parts.fusion, embed_dim)


def pair_base(
    vocab_size: int = 30_522, *, image_size: int | tuple[int, int] = 384, max_tokens: int = 512, embed_dim: int = 0,
    checkpointing: bool = False,
) -> PairALBEF:  # fmt: skip
    """What ``albef_base`` becomes: 259.4 M parameters with its classifier."""
    return pair_albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, embed_dim=embed_dim, checkpointing=checkpointing
    )


def pair_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, embed_dim: int = 0,
    dropout: float = 0.0,
) -> PairALBEF:  # fmt: skip
    """What ``albef_mini`` becomes, the quickstart's model."""
    return pair_albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=12, image_depth=4, image_width=128,
        image_heads=4, text_depth=2, fusion_pairs=2, text_width=128, text_heads=4, embed_dim=embed_dim,
        dropout=dropout,
    )  # fmt: skip
