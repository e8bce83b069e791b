"""What GLIP is made of (Li et al. 2022, section 3): maps, deep fusion, word-region alignment.

Between the fusions cells read their neighbours: by the dynamic head, as published (``dynamic.py``), or by a 3 x 3
convolution, shared by all levels, to which what came in is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.boxes.pyramid import ChannelNorm, level
from mmkit.nn.block import PostNormBlock
from mmkit.nn.both_ways import BothWays
from mmkit.types import ModelSpec
from projects.grounding.cells import Cells, flat
from projects.grounding.dynamic import DynamicLayer
from projects.grounding.layers import Words


class Levels(nn.Module):
    """The maps of a tower's last tokens: ViTDet's simple pyramid, or with ``scales=(1.0,)`` the plain map alone.

    ``strides``: pixels from cell to cell of each level, down and across.
    """

    def __init__(self, spec: ModelSpec, width: int, scales: Sequence[float]) -> None:
        super().__init__()
        if not scales or len(spec.patch) != 2:
            raise UserError("GLIP reads the patches of pictures, at one scale or several (scales=)")
        self.spec, self.scales = spec, tuple(float(scale) for scale in scales)
        self.levels = nn.ModuleList(level(spec.image_width, width, scale) for scale in self.scales)
        high, wide = spec.patch
        self.strides = [(high / scale, wide / scale) for scale in self.scales]

    def shapes(self, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each level, for pictures of so many pixels; UserError where one has none."""
        if len(size) != 2:
            raise UserError("GLIP reads pictures, and these are clips")
        high, wide = self.spec.grid(size)
        if min(high, wide) * min(self.scales) < 1:
            raise UserError(
                f"pictures of {size[0]}x{size[1]} pixels have a map of {high}x{wide} tokens, too small for a level of "
                f"{min(self.scales)} times that: take larger pictures, or fewer levels (scales=)"
            )
        return tuple((int(high * scale), int(wide * scale)) for scale in self.scales)

    def real(self, f: Features) -> Tensor | None:
        """(B, P) bool, which cells are picture; None where all are."""
        if f.batch.pixel_mask is None:
            return None
        if min(self.scales) < 1:
            raise UserError("levels coarser than the patches need pictures of one size: take scales from 1 up")
        size = f.batch.pixels.shape[2:]
        own = (F.interpolate(f.batch.pixel_mask[:, None].float(), size=self.spec.grid(size)) > 0).float()
        return torch.cat(
            [F.interpolate(own, size=shape).flatten(1) > 0 for shape in self.shapes(size)], 1
        )  # fmt: skip

    def forward(self, f: Features) -> Cells:
        """Of the tokens of the patches."""
        size = f.batch.pixels.shape[2:]
        shapes, real, grid = self.shapes(size), self.real(f), self.spec.grid(size)
        tokens = f.image.x[:, self.spec.class_tokens :].mT.unflatten(2, (grid[0], grid[1]))
        masks: Sequence[Tensor | None] = [None] * len(shapes)
        if real is not None:
            parts = real.split([high * wide for high, wide in shapes], 1)
            masks = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        maps = [make(tokens, mask) for make, mask in zip(self.levels, masks, strict=True)]
        return Cells(flat(maps), shapes, real)


class Convolution(nn.Module):
    """A 3 x 3 convolution over each level, its norm and GELU, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, seen: Cells) -> Cells:
        """Of the same shape."""
        return seen._replace(x=seen.x + flat([F.gelu(self.norm(self.conv(one))) for one in seen.maps()]))


class FusionLayer(nn.Module):
    """Cells and words read each other; then words the words of their phrase, by a layer of BERT, and cells their
    neighbours (section 3.2).
    """

    def __init__(
        self, width: int, text_width: int, read: int, heads: int, text_heads: int, dropout: float, scale: float,
        dynamic: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fusion = BothWays(width, text_width, read, heads, scale=scale, dropout=dropout)
        self.text = PostNormBlock(text_width, text_heads, 4 * text_width, dropout=dropout)
        self.image = DynamicLayer(width) if dynamic else Convolution(width)

    def forward(self, seen: Cells, text: Words) -> tuple[Cells, Words]:
        """Both, having read each other."""
        cells, words = self.fusion(seen.x, text.x, seen.real, text.real)
        return self.image(seen._replace(x=cells)), text._replace(x=self.text(words, text.reads))


class Alignment(nn.Module):
    """What each cell says of each word (section 3.1): the product with the word's own, L2-normalised and halved, map,
    by a temperature, and what the word says alone. All is unlikely at the start.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.bias = nn.Parameter(torch.zeros(text_width))
        self.start = nn.Parameter(torch.tensor(-4.595))  # the logit of 0.01
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """(B, P, D), (B, L, D') -> (B, P, L) float32; what stands at padding has no meaning."""
        with torch.autocast(x.device.type, enabled=False):
            words = F.normalize(words.float(), dim=-1)
            logits = x.float() @ self.project(words / 2).mT / self.log_scale.exp()
            return (logits + (words @ self.bias + self.start)[:, None]).clamp(-50_000, 50_000)
