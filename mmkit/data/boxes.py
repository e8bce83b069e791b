"""The boxes that a record's targets hold, in the forms that records may have them.

A box is left, top, right, bottom in pixels of the picture, upright as its EXIF says; right and bottom are outside, so
that its width is right - left. ``boxes`` is a list of objects ``{"name": "dog", "box": [...]}``, which may also say
``label`` (a class, as a name or a number, in place of the name), ``crowd``, ``ignore``, ``area`` and ``id``; or a list,
array or tensor of nothing but boxes, beside which ``labels``, ``area`` and ``iscrowd`` may stand, as torchvision has
them. A ``tv_tensors.BoundingBoxes`` is read in its own format. Left out: rotated boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkit.data.labels import Label
from mmkit.errors import UserError

IN_PICTURE = frozenset(("boxes", "masks", "points", "detections", "phrases"))
"""Targets that lie in the picture as it is stored, and are not true of a view of it."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The N boxes of one picture.

    sides: (N, 4) float64 left, top, right, bottom. labels: of each the class as the record says it, its name rather
    than a number, or None. crowd: (N,) bool, the box is around many; ignore: (N,) bool, it is neither to be found nor
    not to be. area: (N,) float64, as it is said (COCO: the object's, not the box's), else of the box. ids: (N,) int64
    as published; -1 without.
    """

    sides: NDArray[np.float64]
    labels: Sequence[Label | None]
    crowd: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    area: NDArray[np.float64]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sides)


def boxes_in(targets: Mapping[str, Any]) -> Boxes:
    """The boxes of a record; UserError where there are none, not even an empty list, or they are no boxes."""
    given = targets.get("boxes")
    if given is None:
        has = ", ".join(targets) or "none"
        raise UserError(
            'no "boxes"; needed are [{"name": ..., "box": [left, top, right, bottom]}, ...], or [] for a picture '
            f"without objects. The record's further keys: {has}"
        )
    if not isinstance(given, list | tuple):
        given = _as_lists(given)
    if not all(isinstance(entry, Mapping) for entry in given):
        return _plain(given, targets)
    sides = [sides_of(entry.get("box"), entry) for entry in given]
    return _made(
        sides, [entry["name"] if entry.get("name") is not None else entry.get("label") for entry in given],
        [bool(entry.get("crowd")) for entry in given], [bool(entry.get("ignore")) for entry in given],
        [entry.get("area") for entry in given], [entry.get("id") for entry in given],
    )  # fmt: skip


def sides_of(value: Any, entry: Any = None) -> tuple[float, float, float, float]:
    """Four finite numbers; UserError, which shows the entry, for anything else."""
    try:
        left, top, right, bottom = (float(side) for side in value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"box {entry or value!r}: not (left, top, right, bottom); it needs a name and four numbers"
        ) from error
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise UserError(f"box {entry or value!r}: its sides must be finite numbers")
    return left, top, right, bottom


def box_area(box: Sequence[float]) -> float:
    """In square pixels; 0 for a box that has none."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _plain(given: Iterable[Any], targets: Mapping[str, Any]) -> Boxes:
    sides = [sides_of(box) for box in given]
    beside: dict[str, Sequence[Any]] = {}
    for key in ("labels", "area", "iscrowd"):
        found = targets.get(key)
        values = [None] * len(sides) if found is None else list(_as_lists(found))
        if len(values) != len(sides):
            raise UserError(f'{len(sides)} "boxes" and {len(values)} "{key}": give one for each')
        beside[key] = values
    crowd = [bool(value) for value in beside["iscrowd"]]
    return _made(
        sides, beside["labels"], crowd, [False] * len(sides), beside["area"], [None] * len(sides),
    )  # fmt: skip


def _made(
    sides: Sequence[tuple[float, ...]], labels: Sequence[Label | None], crowd: Sequence[bool], ignore: Sequence[bool],
    area: Sequence[Any], ids: Sequence[Any],
) -> Boxes:  # fmt: skip
    own = [box_area(box) if said is None else said for box, said in zip(sides, area, strict=True)]
    try:
        areas = np.array(own, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f'"area" of the boxes: {own}: must be numbers') from error
    numbers = [number if type(number) is int and abs(number) < 1 << 63 else -1 for number in ids]
    return Boxes(
        sides=np.array(sides, np.float64).reshape(-1, 4), labels=labels, crowd=np.array(crowd, bool),
        ignore=np.array(ignore, bool), area=areas, ids=np.array(numbers, np.int64),
    )  # fmt: skip


def _as_lists(value: Any) -> Any:
    """A tensor or array as lists, boxes of torchvision in our form."""
    if getattr(value, "format", None) is not None and hasattr(value, "canvas_size"):
        from torchvision.transforms.v2 import functional

        value = functional.convert_bounding_box_format(value, new_format="XYXY")
    found = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(found, list | tuple):
        raise UserError(f'"boxes": {value!r}: must be a list of {{"name": ..., "box": [...]}}, or of boxes')
    return found
