"""Functions of boxes, thin over torchvision.ops: (N, 4) left, top, right, bottom in pixels; right and bottom outside.

Everything is computed in float32, whatever comes in: the areas of large boxes overflow half precision. A box that has
no area has no overlap with any (torchvision's functions give NaN for two of them); NaN in a box stays NaN, so that
whoever guards a loss can name it. Left out: rotated boxes, distance and complete IoU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

__all__ = [
    "area", "batched_nms", "clip", "giou", "giou_pairs", "iou", "iou_pairs", "moved", "nms", "overlaps", "relative",
    "share_inside", "to_centres", "to_corners",
]  # fmt: skip


def to_centres(boxes: Tensor) -> Tensor:
    """Corners to centre x, centre y, width, height; (..., 4) float32."""
    return ops.box_convert(boxes.float(), "xyxy", "cxcywh")


def to_corners(boxes: Tensor) -> Tensor:
    """The way back."""
    return ops.box_convert(boxes.float(), "cxcywh", "xyxy")


def relative(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (N, 4) as shares, 0 to 1, of pictures of ``sizes`` (N, 2), height and width. Of the picture, not the canvas
    that it is padded to.
    """
    return boxes.float() / sizes.flip(-1).repeat(1, 2)


def moved(boxes: Tensor, maps: Tensor) -> Tensor:
    """Boxes (N, 4), each by its own affine map (N, 2, 3) that turns nothing (``Objects``: ``back``): (N, 4) float32."""
    scale, shift = maps[:, [0, 1], [0, 1]], maps[:, :, 2]
    corners = boxes.float().view(-1, 2, 2) * scale[:, None] + shift[:, None]
    return torch.cat([corners.amin(1), corners.amax(1)], -1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...) float32 square pixels; 0 where right is not beyond left, or bottom beyond top."""
    return (boxes[..., 2:].float() - boxes[..., :2].float()).clamp(min=0).prod(-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut at the edges of a picture of this size, (height, width); (N, 4) float32."""
    return ops.clip_boxes_to_image(boxes.float(), size)


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """The area in both, for shapes that broadcast but for the last axis."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def _divided(part: Tensor, whole: Tensor) -> Tensor:
    """0 where the whole is 0, in its gradient too."""
    return part / torch.where(whole == 0, torch.ones_like(whole), whole)


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union."""
    shared = _shared(a, b)
    union = area(a) + area(b) - shared
    return _divided(shared, union), union


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of boxes (..., 4) that broadcast: (...) float32 each.

    Pairs of all with all are ``overlaps(a[..., :, None, :], b[..., None, :, :])``, with any dimensions before them.
    """
    a, b = a.float(), b.float()
    found, union = _iou(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    around = (high - low).clamp(min=0).prod(-1)
    return found, found - torch.where(around == 0, torch.ones_like(around), _divided(around - union, around))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each with each: (N, 4), (M, 4) -> (N, M) float32, 0 to 1."""
    return _iou(a.float()[:, None], b.float())[0]


def iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """The same of boxes in one row: (N, 4), (N, 4) -> (N,)."""
    return _iou(a.float(), b.float())[0]


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each with each: (N, M) float32, above -1 and at most 1.

    -1 for two boxes that have no area.
    """
    return overlaps(a[:, None], b)[1]


def giou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """The same of boxes in one row: (N,)."""
    return overlaps(a, b)[1]


def share_inside(a: Tensor, b: Tensor) -> Tensor:
    """The share of each of ``a`` that lies in each of ``b``: (N, M) float32; COCO's overlap with a crowd."""
    a, b = a.float(), b.float()
    return _divided(_shared(a[:, None], b[None]), area(a)[:, None].expand(-1, len(b)))


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """(K,) int64: those that stay, best first, where one that overlaps a better one by more than the threshold goes."""
    return ops.nms(boxes.float(), scores.float(), threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """The same within each group, such as a class of a picture; groups: (N,) int64."""
    return ops.batched_nms(boxes.float(), scores.float(), groups, threshold)
