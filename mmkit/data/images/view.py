"""One draw of a transform, for everything that it is to be true of: pictures, boxes, points, masks and words.

A transform's random choices are made once, before any pixel is looked at (``draw``); the view that comes of it shows a
picture, as many further pictures of its size as there are (frames of a clip), and moves whatever lies in them. All that
moves is one affine map of pixel edges, which gives what torchvision's v2 kernels give for boxes, points and masks, each
step of the transform taken for itself (but that a point is a place there, as a box is, and no pixel: mirrored it is the
width less x). Left out: parts that change sides in a mirror (left eye, right eye).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkit.data.texts.mirror import Edit, edited, moved, swaps
from mmkit.errors import UserError
from mmkit.types import RawPixels

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the place (x, y) becomes (a x + b y + c, d x + e y + f). Pixel (i, j) reaches from i to i + 1."""
Spans = Sequence[tuple[int, int]]
"""Characters of a text, each (first, behind the last)."""
Outside = Literal["clip", "centre", "drop", "keep"]
"""What becomes of a box that reaches out of the view. "clip": it is cut at the edge, and goes where nothing is left;
"centre": the same for boxes whose centre is inside, the others go; "drop": all go that are not wholly inside; "keep":
all stay as they are."""

INSIDE = 1e-3
"""Pixels by which a box may reach out, which is rounding."""
ROUNDED = 6
"""Decimals of a pixel: a box that touches the edge is not seen there."""


def scaled(across: float, down: float) -> Affine:
    """Stretched from the corner (0, 0)."""
    return across, 0.0, 0.0, 0.0, down, 0.0


def shifted(right: float, down: float) -> Affine:
    """Moved by so many pixels."""
    return 1.0, 0.0, right, 0.0, 1.0, down


def mirrored(width: float) -> Affine:
    """Left and right exchanged."""
    return -1.0, 0.0, width, 0.0, 1.0, 0.0


def inverse(move: Affine) -> Affine:
    """The way back."""
    a, b, c, d, e, f = move
    whole = a * e - b * d
    return e / whole, -b / whole, (b * f - c * e) / whole, -d / whole, a / whole, (c * d - a * f) / whole


def _after(first: Affine, then: Affine) -> Affine:
    """The one map that both are."""
    a, b, c, d, e, f = first
    p, q, r, s, t, u = then
    return p * a + q * d, p * b + q * e, p * c + q * f + r, s * a + t * d, s * b + t * e, s * c + t * f + u


@dataclass(frozen=True, kw_only=True)
class View:
    """What a transform shows of pictures of one size.

    whole, size: (width, height) of the pictures, and of what is shown of them. paint: picture -> pixels. moves: from
    the picture to the view, one after the other. swapped: where the view is mirrored, the edits of each of the texts
    that it was drawn for; else None.
    """

    whole: tuple[int, int]
    size: tuple[int, int]
    paint: Callable[[Image.Image], RawPixels]
    moves: tuple[Affine, ...] = ()
    swapped: Mapping[str, Sequence[Edit]] | None = field(default=None)

    @cached_property
    def matrix(self) -> Affine:
        """From places in the picture to places in the view."""
        return reduce(_after, self.moves, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))

    def picture(self, image: Image.Image) -> RawPixels:
        """What is seen of an RGB picture of the size ``whole``, or of each frame of a clip. ValueError for another."""
        if image.size != self.whole:
            raise ValueError(f"a picture of {image.size}, and the view was drawn for {self.whole}")
        return self.paint(image)

    def points(self, points: Any) -> NDArray[np.float64]:
        """(..., 2) places (x, y) in the picture -> in the view; beyond its edges where they are not seen."""
        a, b, c, d, e, f = self.matrix
        places = np.asarray(points, np.float64).reshape(-1, 2)
        x, y = places.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], -1).reshape(np.shape(points))

    def boxes(self, boxes: Any) -> NDArray[np.float64]:
        """(N, 4) left, top, right, bottom in the picture -> the boxes around them in the view, not cut at its edge."""
        sides = np.asarray(boxes, np.float64).reshape(-1, 4)
        a, b, c, d, e, f = self.matrix
        if b == 0 == d:
            moved = sides * (a, e, a, e) + (c, f, c, f)
            return moved if a > 0 else moved[:, (2, 1, 0, 3)]
        corners = self.points(sides[:, ((0, 1), (2, 1), (2, 3), (0, 3))])
        return np.concatenate([corners.min(1), corners.max(1)], -1)

    def masks(self, masks: Any) -> NDArray[np.bool_]:
        """(N, height, width) bool of the picture -> (N, height, width) of the view, each pixel the nearest one's."""
        given, (width, height) = np.asarray(masks, bool), self.size
        if given.shape[1:] != self.whole[::-1]:
            raise ValueError(f"masks of {given.shape}, and the view was drawn for pictures of {self.whole}")
        a, b, c, d, e, f = inverse(self.matrix)
        x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
        column, row = (np.floor(place + 1e-6).astype(int) for place in (a * x + b * y + c, d * x + e * y + f))
        inside = (column >= 0) & (column < self.whole[0]) & (row >= 0) & (row < self.whole[1])
        out = np.zeros((len(given), height, width), bool)
        out[:, inside] = given[:, row[inside], column[inside]]
        return out

    def words(self, text: str) -> str:
        """A text as it is true of the view: left and right change places where it is mirrored."""
        return edited(text, self._edits(text))

    def spans(self, text: str, spans: Spans) -> list[tuple[int, int]]:
        """Where characters of a text stand in ``words(text)``."""
        edits = self._edits(text)
        return [moved(span, edits) for span in spans]

    def _edits(self, text: str) -> Sequence[Edit]:
        if self.swapped is None:
            return ()
        edits = self.swapped[text] if text in self.swapped else swaps(text)
        if edits is None:
            raise ValueError(f"{text!r}: the view is mirrored, and was not drawn for this text")
        return edits


def kept(
    boxes: NDArray[np.float64], size: tuple[int, int], outside: Outside, min_visible: float = 0.0, min_size: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Boxes (N, 4) of a view of ``size``, (width, height), by a rule: cut, which of them stay, the share that is seen.

    min_visible: of its area, for a box to stay; min_size: pixels of its shorter side that are seen. By any rule but
    "keep" a box without an area goes.
    """
    if outside not in get_args(Outside):
        raise UserError(f"outside={outside!r}: there are {', '.join(get_args(Outside))}")
    if outside == "keep":
        return boxes, np.ones(len(boxes), bool), np.ones(len(boxes))
    cut = boxes.round(ROUNDED).clip(0, (*size, *size))
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    area = whole.prod(1)
    share = sides.prod(1) / np.where(area > 0, area, 1)
    stays = (sides > 0).all(1) & (share >= min_visible) & (sides.min(1, initial=np.inf) >= min_size)
    if outside == "centre":
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        stays &= ((centre >= 0) & (centre < size)).all(1)
    elif outside == "drop":
        stays &= (np.abs(cut - boxes) <= INSIDE).all(1)
    return cut, stays, share
