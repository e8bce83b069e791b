"""Average precision as PASCAL VOC counts it (Everingham et al. 2010, section 4.2): by class, an overlap of a half.

Detections of all pictures go by score; each takes the object that it overlaps most, which only the first may take.
Difficult objects, and crowds, neither count nor are wrong to find. The development kit counts a box's pixels from its
first to its last corner, right - left + 1; ours is outside of the box already, so that right - left is the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmkit.errors import UserError
from mmkit.evals.detection.pictures import Floats, OfPictures, Seen, ious


class VocAP(OfPictures):
    """``map`` over the classes that occur, 0 to 1. year: 2007 = the mean of the best precision at eleven recalls;
    2010 = the area under the precision made monotone.
    """

    def __init__(self, classes: int, year: Literal[2007, 2010] = 2010, overlap: float = 0.5) -> None:
        super().__init__(classes)
        if year not in (2007, 2010):
            raise UserError(f"VocAP year={year}: 2007, or 2010 for that year and after")
        self.year, self.overlap = year, overlap

    def compute(self) -> dict[str, float]:
        """The number over all pictures so far."""
        said = [value for value in self.by_class() if value is not None]
        return {"map": sum(said) / len(said)} if said else {}

    def by_class(self) -> list[float | None]:
        """Of each class; None for one without an object that counts."""
        pictures = self.pictures()
        return [self._of(pictures, label) for label in range(self.classes)]

    def _of(self, pictures: list[Seen], label: int) -> float | None:
        truth = [one.true_labels == label for one in pictures]
        objects = sum(int((own & ~(one.difficult | one.crowd)).sum()) for one, own in zip(pictures, truth, strict=True))
        if not objects:
            return None
        rows = [(i, j) for i, one in enumerate(pictures) for j in np.flatnonzero(one.labels == label)]
        scores = np.array([pictures[i].scores[j] for i, j in rows])
        right, taken = np.full(len(rows), np.nan), [np.zeros(len(own), bool) for own in truth]
        order = np.argsort(-scores, kind="stable")
        for place in order:
            i, j = rows[place]
            right[place] = self._judged(pictures[i], j, truth[i], taken[i])
        judged = right[order]
        hits = np.cumsum(np.nan_to_num(judged))
        tried = np.cumsum(~np.isnan(judged))
        counts = tried > 0
        return self._area(hits[counts] / objects, hits[counts] / tried[counts])

    def _judged(self, one: Seen, at: int, own: NDArray[np.bool_], taken: NDArray[np.bool_]) -> float:
        """1 for a hit, 0 for none, NaN for a difficult object."""
        overlaps = np.where(own, ious(one.boxes[at : at + 1], one.true_boxes)[0], -1.0)
        best = int(overlaps.argmax()) if len(overlaps) else -1
        if best < 0 or overlaps[best] < self.overlap:
            return 0.0
        if one.difficult[best] or one.crowd[best]:
            return np.nan
        hit, taken[best] = not taken[best], True
        return float(hit)

    def _area(self, recall: Floats, precision: Floats) -> float:
        if self.year == 2007:
            best = [precision[recall >= r - 1e-12].max(initial=0.0) for r in np.linspace(0, 1, 11)]
            return float(np.mean(best))
        monotone = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(recall, prepend=0.0) * monotone).sum())
