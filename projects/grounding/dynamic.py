"""A layer of the dynamic head (Dai et al. 2021, https://arxiv.org/abs/2106.08322), which GLIP has between its fusions.

Three attentions one after the other: where to look (a deformable convolution over each level and its neighbours), how
much each of these levels says, and how each channel bends. Coarser maps are enlarged before they are read: the official
code reads them first, by places that were made for the finer map. Everything in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from mmkit.errors import UserError
from projects.grounding.cells import Cells, flat

GROUPS = 16


class DynamicReLU(nn.Module):
    """The larger of two lines for each channel, which follow from the mean of the map (Chen et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // 4), nn.Linear(width // 4, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same; a ReLU where both linear maps give nothing."""
        bent = F.hardsigmoid(self.fc2(self.fc1(x.mean((2, 3))).relu())) - 0.5
        slope, rise, other, shift = bent[..., None, None].chunk(4, 1)
        return torch.maximum(x * (2 * slope + 1) + rise, x * 2 * other + shift)


class Deformed(nn.Module):
    """A modulated deformable 3 x 3 convolution (Zhu et al. 2019) and its group norm."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = DeformConv2d(width, width, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor, away: Tensor, weight: Tensor) -> Tensor:
        """away: (B, 18, h, w), down and across for each of nine places; weight: (B, 9, h, w), of what comes out."""
        made: Tensor = self.norm(self.conv(x, away, weight))
        return made


class DynamicLayer(nn.Module):
    """Levels are read from the finest to the coarsest, each half of the one before; pictures of one size alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % GROUPS:
            raise UserError(f"GLIP dynamic=True: width={width} must be a multiple of {GROUPS}")
        self.places = nn.Conv2d(width, 27, 3, padding=1)
        self.own, self.finer, self.coarser = (Deformed(width, stride) for stride in (1, 2, 1))
        self.says = nn.Conv2d(width, 1, 1)
        self.bend = DynamicReLU(width)
        nn.init.normal_(self.says.weight, std=0.01)
        nn.init.zeros_(self.says.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, seen: Cells) -> Cells:
        """Of the same shapes; UserError where some cells are padding."""
        if seen.real is not None:
            raise UserError("GLIP dynamic=True reads pictures of one size: take a transform that squashes them")
        with torch.autocast(seen.x.device.type, enabled=False):
            maps = seen._replace(x=seen.x.float()).maps()
            return seen._replace(x=flat([self._level(maps, level) for level in range(len(maps))]))

    def _level(self, maps: list[Tensor], level: int) -> Tensor:
        own = maps[level]
        high, wide = own.shape[-2:]
        away, weight = self.places(own).split([18, 9], 1)
        weight = weight.sigmoid()
        read = [self.own(own, away, weight)]
        if level:
            read.append(self.finer(maps[level - 1][..., : 2 * high, : 2 * wide], away, weight))
        if level + 1 < len(maps):
            larger = F.interpolate(maps[level + 1], size=(high, wide), mode="bilinear")
            read.append(self.coarser(larger, away, weight))
        said = [one * F.hardsigmoid(self.says(one.mean((2, 3), keepdim=True)).relu()) for one in read]
        bent: Tensor = self.bend(torch.stack(said).mean(0))
        return bent
