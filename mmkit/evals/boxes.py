"""Boxes and heat maps: overlap, the region under a peak, the box that a map speaks for; the boxes of a record.

A box is (left, top, right, bottom) in pixels; right and bottom are outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.data.boxes import box_area, boxes_in
from mmkit.data.records import Record
from mmkit.errors import UserError

Box = Sequence[float]
REGION_SIZE = 96
"""The longer side, in pixels, at which regions of a map are found."""


def refer_iou(a: Box, b: Box) -> float:
    """Intersection over union by the rule of REFER, 0 to 1; for all else see ``nn.boxes.iou``.

    The published evaluation of referring expressions (Kazemzadeh et al. 2014) counts pixels, edges included: boxes that
    share less than two rows or columns have none, nor has a box without an area.
    """
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 1 or high <= 1:
        return 0.0
    shared = wide * high
    return shared / (box_area(a) + box_area(b) - shared)


def points_at(peak: tuple[int, int], box: Box) -> bool:
    """Whether the pixel (x, y) lies in the box."""
    return box[0] <= peak[0] < box[2] and box[1] <= peak[1] < box[3]


def best_box(heat: Tensor, boxes: Sequence[Box], power: float = 0.5) -> int | None:
    """Which box a map (height, width) speaks for: the largest sum of the map inside over area ** ``power``.

    Grounding with detected boxes (MAttNet's detections; ALBEF, section 6, power 0.5). None where no box has a positive
    score.
    """
    best, at = 0.0, None
    for i, (left, top, right, bottom) in enumerate(boxes):
        size = (right - left) * (bottom - top)
        inside = heat[max(0, int(top)) : max(0, int(bottom)), max(0, int(left)) : max(0, int(right))]
        score = float(inside.sum()) / size**power if size > 0 else 0.0
        if score > best:
            best, at = score, i
    return at


def region_box(heat: Tensor, threshold: float) -> tuple[float, float, float, float]:
    """The box around the connected region, above ``threshold`` of the maximum, that holds a map's peak.

    heat: (height, width) float, at the picture's resolution (class activation maps, Zhou et al. 2016, section 3.2).
    Large maps are looked at at ``REGION_SIZE``. A map of zeros gives the whole picture.
    """
    size = heat.shape
    share = min(1.0, REGION_SIZE / max(size))
    high, wide = (max(1, round(side * share)) for side in size)
    if not heat.max() > 0:
        return 0.0, 0.0, float(size[1]), float(size[0])
    if share < 1:
        heat = F.interpolate(heat[None, None], size=(high, wide), mode="bilinear", antialias=True)[0, 0]
    above = (heat >= threshold * heat.max()).float()
    found = torch.zeros_like(above)
    found.view(-1)[heat.argmax()] = 1.0
    while True:
        grown = F.max_pool2d(found[None], 3, stride=1, padding=1)[0] * above
        if torch.equal(grown, found):
            break
        found = grown
    rows, columns = found.any(1).nonzero(), found.any(0).nonzero()
    down, across = size[0] / high, size[1] / wide
    sides = (columns.min() * across, rows.min() * down, (columns.max() + 1) * across, (rows.max() + 1) * down)
    left, top, right, bottom = (float(side) for side in sides)
    return left, top, right, bottom


def named_boxes(record: Record) -> list[tuple[str, Box]]:
    """The (name, box) pairs in a record's targets; UserError where they are not as they should be."""
    try:
        found = boxes_in(record.targets)
    except UserError as error:
        raise UserError(f"{record.key}: {error}") from error
    out: list[tuple[str, Box]] = []
    for name, box in zip(found.labels, found.sides.tolist(), strict=True):
        if name is None or not box_area(box):
            what = "it needs a name and four numbers" if name is None else "not (left, top, right, bottom) with an area"
            raise UserError(f"{record.key}: box {box} of {name!r}: {what}")
        out.append((str(name), tuple(box)))
    return out


def detected(record: Record) -> list[Box] | None:
    """The boxes in a record's targets to choose from; None where it has no such key, its own boxes are they then."""
    boxes = record.targets.get("detections")
    if boxes is None:
        return None
    try:
        found = [tuple(float(side) for side in box) for box in boxes]
    except (TypeError, ValueError) as error:
        raise UserError(f'{record.key}: "detections": {boxes!r}: must be a list of boxes of four numbers') from error
    for box in found:
        if len(box) != 4:
            raise UserError(f'{record.key}: "detections": box {list(box)}: not (left, top, right, bottom)')
    return list(found)
