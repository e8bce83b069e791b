"""Faster R-CNN (Ren et al. 2015) on any image tower: torchvision's parts over ViTDet's pyramid or a network's own maps.

Anchors follow from the grid: a level of stride s has anchors of ``anchor`` x s pixels. What torchvision infers and gets
wrong for patches that are no power of two, the scale of each map, is said to it; what it draws from the global random
numbers is drawn from the head's own stream, so that a sample has the same draws on any number of processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from mmkit.draws import Draws
from mmkit.features import Features
from mmkit.heads.base import Detections, Head
from mmkit.heads.boxes.objects import objects_of
from mmkit.heads.boxes.pyramid import Pyramid
from mmkit.types import HeadOutput, ModelSpec
from projects.detection.names import check_classes


class FasterRCNN(Head):
    """Proposes boxes, then names and mends them.

    Args:
        spec: of a model with layers to ask for.
        classes, ids: as in ``DETR``.
        width: channels of the pyramid. hidden: of the two layers that judge a box. layers, scales: see ``Pyramid``.
        anchor: the side of a square anchor, in strides of its level. ratios: height by width.
        sampled: how many anchors, and how many boxes, of a picture are learned from in a step.
        proposed: boxes that go on in training, and in evaluation. score, overlap, most: which are given in the end.
    """

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str], ids: Sequence[int] = (), *, width: int = 256, hidden: int = 1024,
        layers: Sequence[str] | None = None, scales: Sequence[float] = (4.0, 2.0, 1.0, 0.5), anchor: float = 8.0,
        ratios: Sequence[float] = (0.5, 1.0, 2.0), sampled: tuple[int, int] = (256, 512),
        proposed: tuple[int, int] = (2000, 1000), score: float = 0.05, overlap: float = 0.5, most: int = 100,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.ids = check_classes(classes, ids)
        self.pyramid = Pyramid(spec, width, layers, scales)
        self.reads_layers = self.pyramid.layers
        self.ratios = tuple(ratios)
        count = self.pyramid.count
        sides = [anchor * (high * wide) ** 0.5 for high, wide in self.pyramid.strides]
        generator = Anchors(sides, self.ratios, self.pyramid.strides)
        before = {"training": proposed[0], "testing": proposed[1]}
        self.rpn = RegionProposalNetwork(
            generator, RPNHead(width, len(self.ratios)), 0.7, 0.3, sampled[0], 0.5, before, before, 0.7
        )
        pool = MultiScaleRoIAlign([str(i) for i in range(count)], 7, 2)
        pool.scales = [1 / high for high, _ in self.pyramid.strides]  # it would take them for powers of two
        pool.map_levels = initLevelMapper(0, count - 1, canonical_scale=sides[0], canonical_level=0)
        self.roi = RoIHeads(
            pool, TwoMLPHead(width * 49, hidden), FastRCNNPredictor(hidden, len(self.classes) + 1), 0.5, 0.5,
            sampled[1], 0.25, None, score, overlap, most,
        )  # fmt: skip

    def predict(self, f: Features) -> Detections:
        """Those above ``score`` that no better one of their class overlaps."""
        maps, images = self._seen(f)
        proposals, _ = self.rpn(images, maps)
        found, _ = self.roi(maps, proposals, images.image_sizes)
        return detections(found)

    def forward(self, f: Features) -> HeadOutput:
        """Parts: ``objectness`` and ``rpn_box`` over sampled anchors, ``label`` and ``box`` over sampled boxes."""
        maps, images = self._seen(f)
        truth = objects_of(f).by_picture(len(f.batch))
        anchors, boxes = Sampler(self.rpn.fg_bg_sampler, f, "anchors"), Sampler(self.roi.fg_bg_sampler, f, "boxes")
        with torch.autocast(f.batch.pixels.device.type, enabled=False):
            maps = OrderedDict((name, one.float()) for name, one in maps.items())
            proposals, first = self._in_training(self.rpn, anchors, images, maps, truth)
            _, second = self._in_training(self.roi, boxes, maps, proposals, images.image_sizes, truth)
        return HeadOutput(
            parts={
                "objectness": (first["loss_objectness"], anchors.count),
                "rpn_box": (first["loss_rpn_box_reg"], anchors.count),
                "label": (second["loss_classifier"], boxes.count), "box": (second["loss_box_reg"], boxes.count),
            }
        )  # fmt: skip

    def _in_training(self, part: nn.Module, sampler: Sampler, *given: object) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What a part of torchvision's says with losses, which it gives in training mode alone."""
        mode, own = part.training, part.fg_bg_sampler
        part.train()
        part.fg_bg_sampler = sampler  # type: ignore[assignment]
        try:
            found: tuple[list[Tensor], dict[str, Tensor]] = part(*given)
            return found
        finally:
            part.train(mode)
            part.fg_bg_sampler = own

    def _seen(self, f: Features) -> tuple[OrderedDict[str, Tensor], ImageList]:
        maps = self.pyramid(f)
        high, wide = f.batch.pixels.shape[-2:]
        return maps, ImageList(f.batch.pixels, [(high, wide)] * len(f.batch))


class Anchors(AnchorGenerator):
    """Anchors of one size a level, at each cell's corner as torchvision has them, whose strides need not be whole.

    torchvision divides the picture by the grid and rounds down, which misplaces those of a patch of 14 pixels.
    """

    def __init__(self, sides: Sequence[float], ratios: Sequence[float], strides: Sequence[tuple[float, float]]) -> None:
        super().__init__(tuple((side,) for side in sides), (tuple(ratios),) * len(sides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """(A, 4) for each picture: left, top, right, bottom in pixels."""
        like = feature_maps[0]
        strides = [[torch.tensor(side, device=like.device) for side in pair] for pair in self.strides]
        self.set_cell_anchors(like.dtype, like.device)
        found = torch.cat(self.grid_anchors([list(one.shape[-2:]) for one in feature_maps], strides))
        return [found] * len(image_list.image_sizes)


class Sampler:
    """torchvision's balanced choice of positives and negatives, with the draws of each picture's own stream.

    like: the one in whose place it stands. count: how many it chose, of all pictures.
    """

    def __init__(self, like: object, f: Features, name: str) -> None:
        self.most, self.share = like.batch_size_per_image, like.positive_fraction  # type: ignore[attr-defined]
        self.draws: Draws = f.random(f"detection {name}")
        self.count = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each picture's labels (n,), above 0, 0, or -1 for neither: which are chosen, (n,) uint8 each."""
        noise = self.draws.uniform(max(len(own) for own in labels))
        positive: list[Tensor] = []
        negative: list[Tensor] = []
        for own, row in zip(labels, noise, strict=True):
            order = row[: len(own)].argsort()
            yes, no = (order[chosen[order]] for chosen in (own >= 1, own == 0))
            yes = yes[: int(self.most * self.share)]
            no = no[: self.most - len(yes)]
            self.count += len(yes) + len(no)
            for rows, chosen in ((positive, yes), (negative, no)):
                rows.append(torch.zeros_like(own, dtype=torch.uint8).index_fill_(0, chosen, 1))
        return positive, negative


def detections(found: list[dict[str, Tensor]]) -> Detections:
    """Results of torchvision, whose labels count from 1."""
    of = [torch.full_like(one["labels"], i) for i, one in enumerate(found)]
    return Detections(
        torch.cat([one["boxes"] for one in found]).float(), torch.cat([one["scores"] for one in found]).float(),
        torch.cat([one["labels"] for one in found]) - 1, torch.cat(of),
    )  # fmt: skip
