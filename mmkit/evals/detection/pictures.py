"""What metrics of boxes are given, picture by picture, and how it is brought together from several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmkit import ranks
from mmkit.errors import UserError

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One picture: what was found in it, and what is there. Boxes (N, 4) are left, top, right, bottom in its pixels.

    labels count from 0. crowd: a box around many, which may be found any number of times, or not. difficult: VOC's,
    which neither counts nor is wrong to find. area: in square pixels, of the outline where there is one. number: of the
    picture in its data; None where nobody said it. negative, unfinished: LVIS's classes that are surely not in the
    picture, and those of which not all are marked.
    """

    boxes: Floats
    scores: Floats
    labels: Whole
    true_boxes: Floats
    true_labels: Whole
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    area: Floats
    number: int | None = None
    negative: tuple[int, ...] = ()
    unfinished: tuple[int, ...] = field(default=())


def seen(found: Mapping[str, Any], truth: Mapping[str, Any], classes: int) -> Seen:
    """One picture in torchmetrics' form: found has boxes, scores, labels; truth boxes, labels and what else is known.

    Of a truth without ``area`` it is the box's. UserError for numbers that do not belong together, labels that are none
    of so many classes, and scores or boxes that are not finite.
    """
    boxes, true_boxes = (_array(one["boxes"], np.float64).reshape(-1, 4) for one in (found, truth))
    scores, labels = _array(found["scores"], np.float64), _array(found["labels"], np.int64)
    true_labels = _array(truth["labels"], np.int64)
    for name, values, rows in (
        ("scores", scores, boxes),
        ("labels", labels, boxes),
        ("true labels", true_labels, true_boxes),
    ):
        if values.shape != (len(rows),):
            raise UserError(f"average precision: {values.shape} {name} for {len(rows)} boxes; give one for each")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(true_boxes).all()):
        raise UserError("average precision: boxes or scores that are not finite; this model, or its data, is broken")
    for name, values in (("labels", labels), ("true labels", true_labels)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise UserError(f"average precision: {name} from {values.min()} to {values.max()}, and {classes} classes")
    none = np.zeros(len(true_boxes), bool)
    size = true_boxes[:, 2:] - true_boxes[:, :2]
    return Seen(
        boxes=boxes, scores=scores, labels=labels, true_boxes=true_boxes, true_labels=true_labels,
        crowd=_array(truth["iscrowd"], np.bool_) if "iscrowd" in truth else none,
        difficult=_array(truth["difficult"], np.bool_) if "difficult" in truth else none,
        area=_array(truth["area"], np.float64) if "area" in truth else size.prod(1),
        number=int(truth["image_id"]) if "image_id" in truth else None,
        negative=tuple(truth["negative"]) if "negative" in truth else (),
        unfinished=tuple(truth["unfinished"]) if "unfinished" in truth else (),
    )  # fmt: skip


def _array(value: Any, kind: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value, kind)


def ious(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M) float64; 0 where both are empty."""
    a, b = a[:, None], b[None]
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0).prod(-1)
    whole = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    found: Floats = shared / np.where(whole > 0, whole, 1.0)
    return found


class OfPictures:
    """A metric over pictures with torchmetrics' ``update`` and ``compute``.

    sync_on_compute: whether ``compute`` brings together what all processes saw; each calls it then. A picture that
    several of them saw, by ``image_id``, counts once.
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise UserError(f"average precision over {classes} classes: give at least one")
        self.classes = classes
        self.sync_on_compute = True
        self.own: list[Seen] = []

    def update(self, prediction: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """A batch: what was found in each picture, and what is there; see ``seen``."""
        if len(prediction) != len(targets):
            raise UserError(f"average precision: predictions of {len(prediction)} pictures, and {len(targets)} truths")
        self.own += [seen(found, truth, self.classes) for found, truth in zip(prediction, targets, strict=True)]

    def pictures(self) -> list[Seen]:
        """Those of all processes, in the order of their numbers where each has one; UserError where there is no box."""
        shares = ranks.gather_objects(self.own) if self.sync_on_compute else [self.own]
        found = [one for share in shares for one in share]
        if all(one.number is not None for one in found):
            once = {one.number: one for one in reversed(found)}
            found = [once[number] for number in sorted(once, key=lambda n: n or 0)]
        if not any(len(one.true_boxes) for one in found):
            raise UserError(f"average precision: {len(found)} pictures, and none of them has a box to be found")
        return found

    def reset(self) -> None:
        """Forget all."""
        self.own = []
