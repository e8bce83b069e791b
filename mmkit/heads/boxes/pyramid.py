"""Maps of several resolutions for detectors with anchors: ViTDet's simple pyramid, or the layers of a network that has
them (Li et al. 2022, section 3; Lin et al. 2017).

ViTDet makes all maps of one, that of the last block before the final norm: finer ones by transposed convolutions,
coarser ones by pooling; there is no way from level to level. A network whose own maps shrink gets a feature pyramid
over the layers that are named. Strides follow from the picture and the maps' own grids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.types import ModelSpec, Tokens


class ChannelNorm(nn.Module):
    """A layer norm over the channels of each place of a map (B, C, h, w); its own weights, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        centred = x - x.mean(1, keepdim=True)
        normed = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class Level(nn.Sequential):
    """The layers of one level."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Maps (B, C, h, w), at ``scale`` times their resolution. real: (B, h, w) bool of what comes out, where some of
        it is padding, so that convolutions read zeros beyond a picture as at the edge of one alone.
        """
        for part in self:
            if real is not None and isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1):
                x = x * real[:, None]
            x = part(x)
        return x


def level(width: int, out: int, scale: float) -> Level:
    """One level of ViTDet: ``scale`` times the map's resolution, a power of two from 1/8 to 4."""
    half, quarter = width // 2, width // 4
    resized: dict[float, list[nn.Module]] = {
        4.0: [
            nn.ConvTranspose2d(width, half, 2, 2), ChannelNorm(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)
        ],
        2.0: [nn.ConvTranspose2d(width, half, 2, 2)],
        1.0: [], 0.5: [nn.MaxPool2d(2, 2)], 0.25: [nn.MaxPool2d(4, 4)], 0.125: [nn.MaxPool2d(8, 8)],
    }  # fmt: skip
    if scale not in resized:
        raise UserError(f"a pyramid's level of scale {scale}: there are {', '.join(map(str, resized))}")
    channels = {4.0: quarter, 2.0: half}[scale] if scale > 1 else width
    return Level(
        *resized[scale], nn.Conv2d(channels, out, 1, bias=False), ChannelNorm(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False), ChannelNorm(out),
    )  # fmt: skip


class Pyramid(nn.Module):
    """Maps by name, "0" the finest, each of ``width`` channels.

    ``strides``: pixels from cell to cell of each level, down and across.

    layers: of the tower. One makes ViTDet's pyramid with ``scales``; several, whose maps differ, a feature pyramid.
    None = the last block of a tower of one grid, or of one whose maps shrink the last layers of its four coarsest.
    """

    def __init__(
        self, spec: ModelSpec, width: int, layers: Sequence[str] | None, scales: Sequence[float] = (4.0, 2.0, 1.0, 0.5)
    ) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.layers = _usual(spec) if layers is None else tuple(layers)
        if unknown := set(self.layers) - set(spec.layers):
            raise UserError(f"no such layer of the image tower: {', '.join(sorted(unknown))}; there are {spec.layers}")
        if not self.layers or len(spec.patch) != 2:
            raise UserError("a pyramid needs a tower of pictures whose tokens after some layer can be asked for")
        if len(self.layers) == 1:
            own = spec.layer_width(self.layers[0])
            self.levels = nn.ModuleList(level(own, width, float(scale)) for scale in scales)
            self.fpn = None
            patches = [spec.layer_patch(self.layers[0])] * len(scales)
        else:
            self.levels, scales = nn.ModuleList(), (1.0,) * len(self.layers)
            patches = [spec.layer_patch(name) for name in self.layers]
            self.fpn = FeaturePyramidNetwork([spec.layer_width(name) for name in self.layers], width)
        self.strides = [(high / scale, wide / scale) for (high, wide), scale in zip(patches, scales, strict=True)]
        self.count = len(self.strides)
        self.coarsest = min(1.0, *scales)

    def forward(self, f: Features) -> OrderedDict[str, Tensor]:
        """(B, width, h, w) of each level; UserError for pictures of unequal sizes."""
        if f.batch.pixel_mask is not None:
            raise UserError("detectors with a pyramid read pictures of one size: take a transform that squashes them")
        seen = f.image_layers(self.layers)
        size = f.batch.pixels.shape[2:]
        maps = [as_map(seen[name], self.spec, size, name) for name in self.layers]
        if min(maps[0].shape[-2:]) * self.coarsest < 1:
            high, wide = maps[0].shape[-2:]
            raise UserError(
                f"pictures of {size[0]}x{size[1]} pixels have a map of {high}x{wide} tokens, too small for a level of "
                f"{self.coarsest} times that: take larger pictures, or fewer levels (scales=)"
            )
        if self.fpn is not None:
            return OrderedDict(self.fpn(OrderedDict((str(i), one) for i, one in enumerate(maps))))
        return OrderedDict((str(i), make(maps[0])) for i, make in enumerate(self.levels))


def as_map(tokens: Tokens, spec: ModelSpec, size: Sequence[int], layer: str) -> Tensor:
    """The tokens of a layer that are patches, as a map (B, D, h, w)."""
    high, wide = spec.grid(size, layer)
    first = tokens.x.shape[1] - high * wide
    return tokens.x[:, first:].mT.unflatten(2, (high, wide))


def _usual(spec: ModelSpec) -> tuple[str, ...]:
    last = {spec.layer_patch(name): name for name in spec.layers}  # of each resolution
    if len(last) > 1:
        return tuple(last.values())[-4:]
    return spec.layers[-1:]
