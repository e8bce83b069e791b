"""Boxes as detectors read them: any number of objects a picture, flat, in pixels of the view.

``Objects`` is for ``Data.targets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmkit.data.boxes import Boxes, boxes_in
from mmkit.data.images.view import Outside, View, inverse, kept
from mmkit.data.labels import Label, same_names, some, tidy
from mmkit.data.masks import masks_in
from mmkit.data.misplaced import REFUSED, misplaced
from mmkit.data.records import Source
from mmkit.data.targets import Given
from mmkit.data.texts.mirror import swap_left_right
from mmkit.errors import UserError


def object_names(source: object) -> list[str] | None:
    """What a source says that the numbers in its boxes' ``label`` are called, in order; None where it does not."""
    names = getattr(source, "object_names", None)
    return None if names is None else list(names)


def classes_in(source: Source, name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the classes that a source says, or that its records name, and their published numbers, if any.

    UserError, which begins with ``name``, where its boxes have no names.
    """
    names = object_names(source)
    ids: Sequence[int] = getattr(source, "object_ids", None) or ()
    if names is None:
        found = {label for row in range(len(source)) for label in boxes_in(source[row].targets).labels}
        if not found or not all(isinstance(label, str) for label in found):
            raise UserError(f"{name}: its boxes have no names, so that nothing tells the classes; give each a name")
        names = sorted(map(str, found))
    return tuple(names), tuple(ids)


class Objects:
    """The boxes of each picture as the view shows it, with the numbers of their classes.

    Args:
        given: what the run gives.
        classes: their names; None = those that the training data say (``object_names``); () = there are none, and every
            label is 0. Names are compared without regard to case, ``_`` and white space.
        outside: what becomes of a box that reaches out of the view, see ``Outside``; "keep" for evaluation.
        min_visible: the share of a box's area that must be seen, 0 to 1; min_size: the pixels of its shorter side.
        crowds: False = boxes around many are left out. masks: True = each box needs a mask, see ``data/masks.py``.

    A batch of B pictures with N objects gets ``boxes`` (N, 4) float32 left, top, right, bottom in pixels of the view;
    ``labels`` (N,) int64; ``box_of`` (N,) int64, whose picture's each is, in order; ``crowd``, ``ignore`` (N,) bool;
    ``area`` (N,) float32, what is seen of it, in pixels of the view; ``box_ids`` (N,) int64 as published, -1 without;
    with ``masks=True`` ``masks`` (N, H, W) bool, which pixels of the view it covers, H and W those of the largest view;
    ``sizes`` (B, 2) int64, height and width of each view; ``back`` (B, 2, 3) float32, the affine map from places (x, y)
    of the view to those of the picture; and on the host ``box_counts`` and ``left_out``, lists of B numbers: how many
    objects there are, and how many the rules took. A picture without objects is no special case: (0, 4).

    Raises:
        UserError: for a record without "boxes" (an empty list is fine), a class that is none of ``classes``, and boxes
            of which no rule can make true ones (``misplaced.REFUSED``: right before left, shares in place of pixels).
    """

    reads_view = True

    def __init__(
        self, given: Given, classes: Sequence[str] | None = None, *, outside: Outside = "clip",
        min_visible: float = 0.0, min_size: float = 0.0, crowds: bool = True,
        masks: bool = False,
    ) -> None:  # fmt: skip
        if outside not in get_args(Outside) or not 0 <= min_visible <= 1 or min_size < 0:
            raise UserError(
                f"Objects outside={outside!r}, min_visible={min_visible}, min_size={min_size}: there are "
                f"{', '.join(get_args(Outside))}; a share from 0 to 1; pixels"
            )
        self.classes, self.own = _classes(classes, given.source)
        self.outside, self.min_visible, self.min_size, self.crowds = outside, min_visible, min_size, crowds
        self.masks = masks
        self.number = {tidy(name): i for i, name in enumerate(self.classes)}
        self.mirrored = [self.number.get(tidy(swap_left_right(name) or "")) for name in self.classes]

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """Those of one record in its view."""
        view: View = targets["view"]
        found = boxes_in(targets)
        for _, kind, what in misplaced(found, view.whole):
            if kind in REFUSED:
                raise UserError(f"{kind}: {what}")
        whole = len(found)
        moved, stays, share = kept(view.boxes(found.sides), view.size, self.outside, self.min_visible, self.min_size)
        stays &= ~found.crowd | self.crowds
        a, b, _, d, e, _ = view.matrix
        area = found.area * share * abs(a * e - b * d)
        labels = self.numbers(found, mirrored=view.swapped is not None)
        masks = {"masks": view.masks(masks_in(targets, view.whole))[stays]} if self.masks else {}
        return masks | {
            "stays": stays, "boxes": moved[stays].astype(np.float32), "labels": labels[stays],
            "crowd": found.crowd[stays], "ignore": found.ignore[stays], "area": area[stays].astype(np.float32),
            "box_ids": found.ids[stays], "size": view.size[::-1], "back": inverse(view.matrix),
            "left_out": whole - int(stays.sum()),
        }  # fmt: skip

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        counts = [len(one["labels"]) for one in encoded]
        names = ("boxes", "labels", "crowd", "ignore", "area", "box_ids")
        out: dict[str, Any] = {name: torch.from_numpy(np.concatenate([one[name] for one in encoded])) for name in names}
        if self.masks:
            out["masks"] = _on_one_canvas([one["masks"] for one in encoded])
        return out | {
            "box_of": torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
            "sizes": torch.tensor([one["size"] for one in encoded]),
            "back": torch.tensor([one["back"] for one in encoded], dtype=torch.float32).view(-1, 2, 3),
            "box_counts": counts, "left_out": [one["left_out"] for one in encoded],
        }  # fmt: skip

    def upright(self, targets: Mapping[str, Any]) -> bool:
        """Whether the record has a class that a mirror makes another one, which ``classes`` has not: a left shoe."""
        if None not in self.mirrored:
            return False
        return any(self.mirrored[i] is None for i in self.numbers(boxes_in(targets), mirrored=False).tolist())

    def numbers(self, found: Boxes, mirrored: bool = False) -> np.ndarray:
        """The places of their classes among ``classes``: (N,) int64; of their mirror images where they have others."""
        numbers = [self._number(label) if self.classes else 0 for label in found.labels]
        if mirrored and self.classes:
            numbers = [i if (other := self.mirrored[i]) is None else other for i in numbers]
        return np.array(numbers, np.int64)

    def _number(self, label: Label | None) -> int:
        if label is None:
            raise UserError("a box has no class: neither name nor label")
        own = self.own or self.classes
        if type(label) is int and not 0 <= label < len(own):
            raise UserError(f"a box has the class {label}, and there are {len(own)}, counted from 0")
        found = self.number.get(tidy(own[label] if type(label) is int else str(label)))
        if found is None:
            raise UserError(
                f"a box has the class {label!r}, which is none of the {len(self.classes)}: {some(self.classes)}"
            )
        return found


def _on_one_canvas(masks: Sequence[NDArray[np.bool_]]) -> torch.Tensor:
    """Those of several views, (n, h, w) each, one after the other and as large as the largest view."""
    high, wide = (max(one.shape[side] for one in masks) for side in (1, 2))
    out = np.zeros((sum(map(len, masks)), high, wide), bool)
    first = 0
    for one in masks:
        out[first : first + len(one), : one.shape[1], : one.shape[2]] = one
        first += len(one)
    return torch.from_numpy(out)


def _classes(classes: Sequence[str] | None, source: Source | None) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The names, and the source's own; UserError where two of them are one, or the source has others."""
    own = object_names(source)
    if classes is None and own is None:
        raise UserError(
            "data.targets: Objects needs the names of the classes, which these data do not say: give classes=, or "
            "classes=() where objects have none"
        )
    names = tuple(own or ()) if classes is None else tuple(classes)
    if double := same_names(names):
        raise UserError(f"classes: {' and '.join(map(repr, double[0]))} are one name; give each class its own")
    known = {tidy(name) for name in names}
    if names and (unknown := [name for name in own or () if tidy(name) not in known]):
        raise UserError(f"the training data have classes that are none of the {len(names)}: {some(unknown)}")
    return names, None if own is None else tuple(own)
