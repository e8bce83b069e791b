"""SSD (Liu et al. 2016) on any image tower: torchvision's heads and default boxes over the maps of a pyramid.

Default boxes follow from each map's own grid. In training each takes the object that it overlaps by a half, and every
object has the default box that overlaps it most; of the others the three most mistaken for each match are learned.
Pictures are squashed to one size, as officially.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Detections, Head
from mmkit.heads.boxes.objects import objects_of
from mmkit.heads.boxes.pyramid import Pyramid
from mmkit.types import HeadOutput, ModelSpec
from projects.detection.names import check_classes
from projects.detection.two_stage import detections

CODER = (10.0, 10.0, 5.0, 5.0)


class SSD(Head):
    """Judges default boxes of all places at once.

    Args:
        spec, classes, ids, width, layers: as in ``FasterRCNN``. scales: of the pyramid's levels, see ``pyramid.level``.
        smallest, largest: sides of the square default boxes of the first and the last level, as shares of the picture.
        ratios: of each level, beside the squares.
        negatives: wrong places to learn from for each match. least: of a picture without objects; 0 as officially,
            where such a picture teaches nothing.
        score, overlap, candidates, most: what is given in the end, of a class before and of a picture after doubles go.
    """

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str], ids: Sequence[int] = (), *, width: int = 256,
        layers: Sequence[str] | None = None, scales: Sequence[float] = (2.0, 1.0, 0.5, 0.25), smallest: float = 0.15,
        largest: float = 0.9, ratios: Sequence[float] = (2.0,), negatives: int = 3, least: int = 3, score: float = 0.01,
        overlap: float = 0.45, candidates: int = 400, most: int = 200,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.ids = check_classes(classes, ids)
        if not 0 < smallest < largest <= 1:
            raise UserError(f"SSD smallest={smallest}, largest={largest}: shares, 0 < smallest < largest <= 1")
        self.pyramid = Pyramid(spec, width, layers, scales)
        self.reads_layers = self.pyramid.layers
        count = self.pyramid.count
        self.boxes = DefaultBoxGenerator([list(ratios)] * count, smallest, largest)
        self.boxes.steps = [high for high, _ in self.pyramid.strides]
        self.heads = SSDHead([width] * count, self.boxes.num_anchors_per_location(), len(self.classes) + 1)
        self.coder, self.matcher = BoxCoder(CODER), SSDMatcher(0.5)
        self.negatives, self.least = negatives, least
        self.score, self.overlap, self.candidates, self.most = score, overlap, candidates, most
        for module in self.heads.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                module.bias.data.zero_()  # type: ignore[union-attr]  # each has one

    def judged(self, f: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A, C + 1) and codes (B, A, 4) of the default boxes (A, 4), which are in pixels; all float32."""
        maps = list(self.pyramid(f).values())
        found = self.heads(maps)
        size = (int(f.batch.pixels.shape[2]), int(f.batch.pixels.shape[3]))
        places = self.boxes(ImageList(f.batch.pixels, [size]), maps)[0].float()
        return found["cls_logits"].float(), found["bbox_regression"].float(), places

    def predict(self, f: Features) -> Detections:
        """Those above ``score`` that no better one of their class overlaps."""
        logits, codes, places = self.judged(f)
        high, wide = f.batch.pixels.shape[-2:]
        return detections(
            [self._kept(one, code, places, (high, wide)) for one, code in zip(logits, codes, strict=True)]
        )

    def _kept(self, logits: Tensor, codes: Tensor, places: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        scores = logits.softmax(-1)[:, 1:]
        boxes = clip_boxes_to_image(self.coder.decode_single(codes, places), size)
        best = scores.topk(min(self.candidates, len(scores)), 0)  # of each class
        keep = best.values > self.score
        rows, labels = best.indices[keep], keep.nonzero()[:, 1]
        chosen = batched_nms(boxes[rows], best.values[keep], labels, self.overlap)[: self.most]
        return {"boxes": boxes[rows[chosen]], "scores": best.values[keep][chosen], "labels": labels[chosen] + 1}

    def forward(self, f: Features) -> HeadOutput:
        """Parts: ``label``, cross-entropy, and ``box``, smooth L1, both over matches.

        A picture without a match counts as one for ``label`` where ``least`` of its places are learned from.
        """
        logits, codes, places = self.judged(f)
        with torch.autocast(logits.device.type, enabled=False):
            targets = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
            away = logits.new_zeros(())
            for i, one in enumerate(objects_of(f).by_picture(len(f.batch))):
                if len(one["boxes"]):
                    matched = self.matcher(box_iou(one["boxes"], places))
                    rows = (matched >= 0).nonzero()[:, 0]
                    targets[i, rows] = one["labels"][matched[rows]]
                    wanted = self.coder.encode_single(one["boxes"][matched[rows]], places[rows])
                    away = away + F.smooth_l1_loss(codes[i, rows], wanted, reduction="sum")
            matched_BA = targets > 0
            count_B = matched_BA.sum(1)
            chosen_BA = matched_BA | self._hard(logits.detach(), matched_BA, count_B)
            total = F.cross_entropy(logits[chosen_BA], targets[chosen_BA], reduction="sum")
            boxes = count_B.sum().float()
            labels = count_B.clamp(min=1 if self.least else 0).sum().float()
        return HeadOutput(
            parts={
                "label": (total / labels.clamp(min=1), labels),
                "box": ((away + 0 * codes.sum()) / boxes.clamp(min=1), boxes),
            }
        )  # fmt: skip

    def _hard(self, logits: Tensor, matched_BA: Tensor, count_B: Tensor) -> Tensor:
        """The most mistaken of what nothing matches, those least taken for background: (B, A) bool."""
        loss_BA = logits.logsumexp(-1) - logits[..., 0]
        wanted_B = torch.where(count_B > 0, self.negatives * count_B, self.least)
        place_BA = loss_BA.masked_fill(matched_BA, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
        return (place_BA < wanted_B[:, None]) & ~matched_BA
