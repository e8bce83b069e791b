"""What may be wrong with boxes: outside, empty, in the wrong order, in another form than the file's.

``REFUSED`` are those that no rule can mend, since a wrong number would come of them; the others are left out or cut by
the rule of whoever reads the boxes (``images.view.Outside``), and counted by ``mmkit data check``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mmkit.data.boxes import Boxes

ORDER, CORNERS, SHARES = "right before left", "width and height in place of corners", "shares in place of pixels"
SIZES = "corners in place of width and height"
REFUSED = (ORDER, CORNERS, SHARES, SIZES)
EMPTY, OUTSIDE, OUT, TWICE = "empty box", "box outside", "box reaches out", "box twice"
SLACK = 1.0
"""Pixels by which a box may reach out of its picture, which is rounding."""


def misplaced(found: Boxes, size: tuple[int, int] | None) -> Iterator[tuple[int, str, str]]:
    """(number of the box, kind, what) of all that is wrong in one picture. size: (width, height), where it is known."""
    sides, (wide, high) = found.sides, size or (np.inf, np.inf)
    shares = are_shares(sides, size)
    fits = _fits_as_sizes(sides, (wide, high))
    seen: dict[tuple[object, ...], int] = {}
    for i, (left, top, right, bottom) in enumerate(sides.tolist()):
        box = f"[{left:g}, {top:g}, {right:g}, {bottom:g}]"
        if right < left or bottom < top:
            kind = CORNERS if fits else ORDER
            what = "it would lie inside as left, top, width, height" if fits else "right < left, or bottom < top"
            yield i, kind, f"{box}: {what}; a box is left, top, right, bottom"
        elif shares:
            yield i, SHARES, f"{box}: all sides are from 0 to 1; a box is in pixels"
        elif right == left or bottom == top:
            yield i, EMPTY, f"{box}: no area"
        elif right <= 0 or bottom <= 0 or left >= wide or top >= high:
            yield i, OUTSIDE, f"{box}: beside its picture of {wide} x {high}"
        elif min(left, top) < -SLACK or right > wide + SLACK or bottom > high + SLACK:
            yield i, OUT, f"{box}: reaches out of its picture of {wide} x {high}"
        first = seen.setdefault((left, top, right, bottom, str(found.labels[i])), i)
        if first != i:
            yield i, TWICE, f"{box}: the same box with the same name stands before"


def are_shares(sides: NDArray[np.float64], size: tuple[int, int] | None) -> bool:
    """Whether all boxes of a picture, which is larger, have sides from 0 to 1, and not only 0 and 1."""
    larger = size is None or min(size) > 2
    return bool(larger and len(sides) and (sides >= 0).all() and (sides <= 1).all() and (sides % 1 != 0).any())


def are_corners(
    sides: NDArray[np.float64], sizes: NDArray[np.float64], slack: float = SLACK, share: float = 0.2
) -> bool:
    """Whether boxes (N, 4) left, top, width, height of pictures of ``sizes`` (N, 2), width and height, are corners.

    More than a share of them reach out of their picture as they stand, and as corners all lie inside.
    """
    right, bottom = sides[:, 2:].T
    inside = (sides[:, 2:] > sides[:, :2]).all(1) & (sides[:, 2:] <= sizes + slack).all(1)
    out = (sides[:, :2] + sides[:, 2:] > sizes + slack).any(1)
    return bool(len(right) == len(bottom) > 1 and inside.all() and out.mean() > share)


def _fits_as_sizes(sides: NDArray[np.float64], size: Sequence[float]) -> bool:
    """Whether all boxes lie inside, and have an area, as left, top, width, height."""
    return bool((sides[:, 2:] > 0).all() and (sides[:, :2] + sides[:, 2:] <= np.add(size, SLACK)).all())
