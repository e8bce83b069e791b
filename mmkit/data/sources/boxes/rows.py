"""What the sources of boxes share: boxes of many pictures in flat arrays, records with names of classes and ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmkit.data.misplaced import SIZES, are_corners, are_shares
from mmkit.data.problems import Problems
from mmkit.data.records import Record
from mmkit.data.sources.published.rows import Row, Rows
from mmkit.errors import UserError

AS_CORNERS = (
    "its boxes look like [left, top, right, bottom], which lie in their pictures, where this form has [left, top, "
    "width, height], of which many reach out"
)


@dataclass(kw_only=True)
class Flat:
    """Boxes as they are read, one after the other; ``ObjectRows`` keeps arrays of them, 57 bytes each.

    row: which row's each is. area: NaN, ids: -1 where nothing is said. entries: what few say besides.
    """

    sides: list[tuple[float, float, float, float]] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    entries: list[Mapping[str, Any] | None] = field(default_factory=list)

    def add(self, row: int, sides: tuple[float, float, float, float], label: int, entry: Mapping[str, Any]) -> None:
        """One more."""
        self.sides.append(sides)
        self.row.append(row)
        self.labels.append(label)
        number = entry.get("id")
        known = {"area", "crowd"} | ({"id"} if type(number) is int and 0 <= number < 1 << 63 else set())
        self.area.append(entry["area"] if entry.get("area") is not None else math.nan)
        self.ids.append(number if type(number) is int and "id" in known else -1)
        self.crowd.append(bool(entry.get("crowd")))
        self.entries.append({key: value for key, value in entry.items() if key not in known} or None)


class ObjectRows(Rows):
    """Records with boxes; ``targets["boxes"]`` is a list of {name, box, label, ...}, empty where there is nothing.

    names, ids: of the classes, in the order of ``label``: what they are called, and their published numbers.
    """

    def __init__(
        self, path: str | Path, images: str | Path, rows: list[Row], flat: Flat, problems: Problems, *,
        names: Sequence[str], ids: Sequence[int], total: int | None = None,
    ) -> None:  # fmt: skip
        self.object_names, self.object_ids = list(names), list(ids)
        order = np.argsort(np.array(flat.row, np.int64), kind="stable")
        self._sides = np.array(flat.sides, np.float64).reshape(-1, 4)[order]
        self._labels = np.array(flat.labels, np.int64)[order]
        self._area, self._ids = np.array(flat.area, np.float64)[order], np.array(flat.ids, np.int64)[order]
        self._crowd = np.array(flat.crowd, bool)[order]
        self._entries = [flat.entries[i] for i in order.tolist()] if any(flat.entries) else []
        self._starts = np.searchsorted(np.array(flat.row, np.int64)[order], np.arange(len(rows) + 1))
        super().__init__(path, images, rows, problems, total=total)

    def _at(self, index: int) -> Record:
        record = super()._at(index)
        boxes = [self._box(i) for i in range(*self._starts[index : index + 2].tolist())]
        record.targets["boxes"] = boxes  # type: ignore[index]  # a dict of this record
        return record

    def _box(self, i: int) -> dict[str, Any]:
        label = int(self._labels[i])
        found = {"name": self.object_names[label], "box": tuple(self._sides[i].tolist()), "label": label}
        if not np.isnan(self._area[i]):
            found["area"] = float(self._area[i])
        if self._ids[i] >= 0:
            found["id"] = int(self._ids[i])
        if self._crowd[i]:
            found["crowd"] = True
        return found | dict(self._entries[i] or {} if self._entries else {})

    @cached_property
    def empty(self) -> int:
        """How many pictures have no box."""
        return int((np.diff(self._starts) == 0).sum())


def four(value: Any) -> tuple[float, float, float, float]:
    """Four finite numbers; ValueError for anything else."""
    try:
        a, b, c, d = (float(side) for side in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"needs four numbers, not {str(value)[:80]}") from error
    if not np.isfinite((a, b, c, d)).all():
        raise ValueError(f"needs four finite numbers, not {str(value)[:80]}")
    return a, b, c, d


def corners(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Left, top, width, height as left, top, right, bottom."""
    left, top, width, height = box
    return left, top, left + width, top + height


def check_sizes(path: str | Path, given: Sequence[tuple[float, ...]], sizes: Sequence[tuple[float, float]]) -> None:
    """UserError where boxes (N, 4) left, top, width, height of a file are of another form. sizes: of their pictures."""
    boxes, whole = np.array(given, np.float64).reshape(-1, 4), np.array(sizes, np.float64).reshape(-1, 2)
    known = np.isfinite(whole).all(1) & (boxes[:, 2:] != 0).all(1)
    if are_corners(boxes[known], whole[known]):
        raise UserError(f"{path}: {SIZES}: {AS_CORNERS}")
    if len(boxes) > 1 and are_shares(boxes, None):
        raise UserError(f"{path}: shares in place of pixels: all {len(boxes)} boxes have numbers from 0 to 1")
