"""The objects of a batch that a head is to find, by one rule for all heads.

Left out are boxes around many (``crowd``) and those to be ignored (``ignore``), where the batch says so, and degenerate
ones: those whose right edge is not beyond the left, or whose bottom is not below the top.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkit.features import Features
from mmkit.types import Batch


class Objects(NamedTuple):
    """boxes (N, 4) float32 left, top, right, bottom in pixels of the view; labels (N,), of (N,) int64, by picture."""

    boxes: Tensor
    labels: Tensor
    of: Tensor

    def by_picture(self, pictures: int, first: int = 1) -> list[dict[str, Tensor]]:
        """As torchvision's detectors take them. first: the label of the first class; 0 is the background there."""
        own = [self.of == i for i in range(pictures)]
        return [{"boxes": self.boxes[rows], "labels": self.labels[rows] + first} for rows in own]


def objects_of(f: Features) -> Objects:
    """Those of the batch's ``boxes`` (N, 4), ``labels`` (N,) and ``box_of`` (N,) that are to be found."""
    boxes, labels, of = f.target("boxes").float(), f.target("labels"), f.target("box_of")
    wanted = (boxes[:, 2:] > boxes[:, :2]).all(1)
    for name in ("crowd", "ignore"):
        if name in f.batch.targets:
            wanted &= ~f.target(name)
    rows = wanted.nonzero()[:, 0]
    rows = rows[of[rows].argsort(stable=True)]
    return Objects(boxes[rows], labels[rows], of[rows])


def sizes(batch: Batch) -> Tensor:
    """(B, 2) float32: width and height in pixels of each picture in its batch, without padding."""
    height, width = batch.pixels.shape[-2:]
    if batch.pixel_mask is None:
        return torch.tensor([[width, height]], dtype=torch.float32, device=batch.pixels.device).expand(len(batch), -1)
    return torch.stack([batch.pixel_mask.any(1).sum(1), batch.pixel_mask.any(2).sum(1)], 1).float()
