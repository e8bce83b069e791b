"""Maps of several layers of the tower, brought to one width: what Grounding DINO was published over (Liu et al. 2023,
appendix), a Swin with maps of three strides and a coarser one made of the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.boxes.pyramid import as_map
from mmkit.nn.sine import of_cells
from mmkit.types import ModelSpec
from projects.grounding.layers import Map

GROUPS = 32
"""Of the norm of each map."""


class Levels(nn.Module):
    """Each layer's tokens are normalised, projected, and normalised in groups; ``coarser`` more maps halve the last.

    ``places``: what tells the cells of each map from those of the others, added to their sine positions.
    """

    def __init__(self, spec: ModelSpec, width: int, layers: Sequence[str], coarser: int = 0) -> None:
        super().__init__()
        if width % GROUPS:
            raise UserError(f"GroundingDINO: width={width} over several maps must be a multiple of {GROUPS}")
        self.spec, self.layers = spec, tuple(layers)
        widths = [spec.layer_width(name) for name in self.layers]
        self.count = len(widths) + coarser
        self.norms = nn.ModuleList(nn.LayerNorm(own) for own in widths)
        ends = [widths[-1], *[width] * coarser]
        halves = [nn.Conv2d(ends[i], width, 3, stride=2, padding=1) for i in range(coarser)]
        self.project = nn.ModuleList([*(nn.Conv2d(own, width, 1) for own in widths), *halves])
        self.groups = nn.ModuleList(nn.GroupNorm(GROUPS, width) for _ in range(self.count))
        self.places = nn.Parameter(torch.randn(self.count, width))

    def forward(self, f: Features) -> Map:
        """UserError for pictures of unequal sizes in a batch."""
        if f.batch.pixel_mask is not None:
            raise UserError("GroundingDINO over several maps reads pictures of one size: take one that squashes")
        seen, size = f.image_layers(self.layers), f.batch.pixels.shape[2:]
        maps = [
            as_map(seen[name]._replace(x=norm(seen[name].x)), self.spec, size, name)
            for name, norm in zip(self.layers, self.norms, strict=True)
        ]
        found: list[Tensor] = []
        for i, (project, group) in enumerate(zip(self.project, self.groups, strict=True)):
            source = maps[i] if i < len(maps) else maps[-1] if i == len(maps) else found[-1]
            found.append(group(project(source)))
        shapes = tuple((one.shape[2], one.shape[3]) for one in found)
        cells = torch.cat([one.flatten(2).mT for one in found], 1)
        whole = [torch.ones(1, *shape, dtype=torch.bool, device=cells.device) for shape in shapes]
        places = [of_cells(one, cells.shape[-1], 20.0) + place for one, place in zip(whole, self.places, strict=True)]
        return Map(cells, torch.cat(places, 1).to(cells.dtype), shapes, None)
