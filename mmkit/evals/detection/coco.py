"""Average precision as COCO's and LVIS's servers count it, computed by faster-coco-eval (pycocotools' numbers, faster).

COCO (Lin et al. 2014): ten thresholds of overlap from 0.50 to 0.95, precision at 101 recalls, mean over classes that
occur. Pictures and boxes get numbers from 1 here, as a box numbered 0 counts as never found in either library. LVIS
(Gupta et al. 2019): a picture counts for a class only where it is known whether the class is in it, and at most so many
detections of a picture count over all classes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmkit.errors import UserError
from mmkit.evals.detection.pictures import OfPictures, Seen

Curves = tuple[NDArray[np.float64], NDArray[np.float64]]
AT_ONCE = 1_000_000
"""So many comparisons, of a picture and a class, are kept at once to be drawn from."""
SIZES = ("small", "medium", "large")
"""Below 32 x 32 pixels of area, up to 96 x 96, and above."""


class CocoAP(OfPictures):
    """``ap``, ``ap50``, ``ap75``, ``ap_small`` ..., ``ar_1`` ...: 0 to 1, without those that no object is for.

    classes: how many. most: how many detections count of a picture and a class, each a recall to report; the last is
    that of the precisions. kind: "lvis" reads ``negative`` and ``unfinished`` of each truth. frequency: with "lvis",
    how frequent each class is in training, "r", "c" or "f": adds ``ap_r``, ``ap_c``, ``ap_f``.
    """

    def __init__(
        self, classes: int, most: Sequence[int] = (1, 10, 100), kind: Literal["coco", "lvis"] = "coco",
        frequency: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(classes)
        if not most or sorted(set(most)) != list(most) or most[0] < 1:
            raise UserError(f"CocoAP most={tuple(most)}: numbers of detections, each larger than the one before")
        if kind not in ("coco", "lvis"):
            raise UserError(f"CocoAP kind={kind!r}: there are coco, lvis")
        if frequency and (len(frequency) != classes or set(frequency) - {"r", "c", "f"}):
            raise UserError(f"CocoAP frequency: one of r, c, f for each of the {classes} classes")
        self.most, self.kind, self.frequency = tuple(most), kind, tuple(frequency)
        self._counted: tuple[int, Curves] | None = None

    def compute(self) -> dict[str, float]:
        """The numbers over all pictures so far."""
        precision, recall = self.curves()
        whole = precision[..., 0]
        found = {"ap": _mean(whole), "ap50": _mean(whole[0]), "ap75": _mean(whole[5])}
        found |= {f"ap_{size}": _mean(precision[:, :, :, i]) for i, size in enumerate(SIZES, 1)}
        found |= {f"ar_{most}": _mean(recall[:, :, 0, i]) for i, most in enumerate(self.most)}
        for letter in "rcf" if self.frequency else "":
            own = np.array([one == letter for one in self.frequency])
            found[f"ap_{letter}"] = _mean(precision[:, :, own, 0])
        return {name: value for name, value in found.items() if value is not None}

    def by_class(self) -> list[float | None]:
        """``ap`` of each class; None for one that does not occur."""
        precision, _ = self.curves()
        return [_mean(precision[:, :, i, 0]) for i in range(self.classes)]

    def of_classes(self, classes: Sequence[int]) -> dict[str, float]:
        """``ap`` and ``ap50`` over some of the classes alone; neither where none of them occurs."""
        precision, _ = self.curves()
        own = precision[:, :, list(classes), 0]
        return {name: value for name, value in (("ap", _mean(own)), ("ap50", _mean(own[0]))) if value is not None}

    def curves(self) -> Curves:
        """Precisions (10 overlaps, 101 recalls, classes, 4 sizes) and recalls (10, classes, 4, most), -1 for none."""
        if self.sync_on_compute:  # whether others saw more since, this process cannot know
            return self._evaluated()
        if self._counted is None or self._counted[0] != len(self.own):
            self._counted = len(self.own), self._evaluated()
        return self._counted[1]

    def drawn(self, orders: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(orders, 10 overlaps, classes) ``ap`` over pictures as each order names them, repeated or not; -1 for none.

        What was found is compared with the truth once, whatever the number of orders, each as long as there are
        pictures.
        """
        pictures = self.pictures()
        evaluation, found = self._evaluation(pictures, separate_eval=True), np.empty((len(orders), 10, self.classes))
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        step = max(1, AT_ONCE // len(pictures))
        for first in range(0, self.classes, step):
            numbers = list(range(first, min(first + step, self.classes)))
            evaluation.params.catIds = [number + 1 for number in numbers]
            evaluation.evaluate()
            compared = evaluation._evalImgs_cpp  # of each class all pictures
            for i, order in enumerate(orders):
                evaluation._evalImgs_cpp = [compared[k * len(pictures) + j] for k in range(len(numbers)) for j in order]
                evaluation.accumulate()
                shape = (10, 101, len(numbers), len(self.most))
                found[i][:, numbers] = np.asarray(evaluation.eval["precision"]).reshape(shape)[..., -1].mean(1)
        return found

    def _evaluation(self, pictures: Sequence[Seen], **more: Any) -> Any:
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            raise UserError('average precision needs faster-coco-eval: pip install "mmkit[detection]"') from error
        truth = COCO(self._truth(pictures))
        lvis = self.kind == "lvis"
        found = truth.loadRes(_found(pictures, self.most[-1] if lvis else None))
        evaluation = COCOeval_faster(truth, found, iouType="bbox", lvis_style=lvis, **more)
        evaluation.params.maxDets = list(self.most)
        return evaluation

    def _evaluated(self) -> Curves:
        evaluation = self._evaluation(self.pictures())
        evaluation.evaluate()
        evaluation.accumulate()
        counted = evaluation.eval
        shape = (10, 101, self.classes, 4, len(self.most))
        precision = np.asarray(counted["precision"]).reshape(shape)[..., -1]
        return precision, np.asarray(counted["recall"]).reshape(shape[:1] + shape[2:])

    def _truth(self, pictures: Sequence[Seen]) -> dict[str, Any]:
        """As COCO's file of annotations; difficult boxes are crowds of one, which are neither right nor wrong."""
        images = [
            {
                "id": number, "width": 1, "height": 1, "neg_category_ids": [i + 1 for i in one.negative],
                "not_exhaustive_category_ids": [i + 1 for i in one.unfinished],
            }
            for number, one in enumerate(pictures, 1)
        ]  # fmt: skip
        annotations: list[dict[str, Any]] = []
        for number, one in enumerate(pictures, 1):
            ignored = (one.crowd | one.difficult).tolist()
            rows = zip(_sides(one.true_boxes), one.true_labels.tolist(), one.area.tolist(), ignored, strict=True)
            for box, label, area, crowd in rows:
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box,
                        "area": area, "iscrowd": int(crowd),
                    }
                )  # fmt: skip
        frequency = self.frequency or ("f",) * self.classes
        categories = [{"id": i + 1, "name": str(i + 1), "frequency": f} for i, f in enumerate(frequency)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _found(pictures: Sequence[Seen], most: int | None) -> list[dict[str, Any]]:
    """As COCO's file of results. most: how many of a picture over all classes, the best; None = all."""
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(pictures, 1):
        best = np.argsort(-one.scores, kind="stable")[:most] if most is not None else np.arange(len(one.scores))
        for box, label, score in zip(
            _sides(one.boxes[best]), one.labels[best].tolist(), one.scores[best].tolist(), strict=True
        ):
            rows.append({"image_id": number, "category_id": label + 1, "bbox": box, "score": score})
    return rows


def _sides(boxes: NDArray[np.float64]) -> list[list[float]]:
    """Left, top, width, height."""
    sides: list[list[float]] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    return sides


def _mean(values: NDArray[np.float64]) -> float | None:
    """Of those that say something; None where none does."""
    said = values[values > -1]
    return float(said.mean()) if said.size else None


def interval(
    metric: CocoAP, rounds: int = 200, seed: int = 0, groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[float, float]]:
    """The middle 95 % of ``ap`` and ``ap50`` over so many draws of the pictures with replacement (Efron 1979).

    groups: some of the classes by name, for ``NAME.ap`` and ``NAME.ap50`` of those that occur.

    A picture that is drawn twice makes average precision larger by itself (1.6 of 100 where a class has five objects):
    the interval is moved by as much as the draws' mean differs from the number. UserError for fewer than two rounds,
    and for a metric that is shared between processes.
    """
    if rounds < 2 or metric.sync_on_compute:
        raise UserError(f"an interval over {rounds} draws: give at least two, of a metric that one process has whole")
    pictures, draw = metric.pictures(), Random(seed)
    orders: list[list[int]] = []
    while len(orders) < rounds:
        order = draw.choices(range(len(pictures)), k=len(pictures))
        if any(len(pictures[i].true_boxes) for i in order):
            orders.append(order)
    found = metric.drawn(orders)
    ends: dict[str, tuple[float, float]] = {}
    for group, classes in {"": range(metric.classes), **(groups or {})}.items():
        said, own = metric.of_classes(classes), found[:, :, list(classes)]
        for name, part in (("ap", own), ("ap50", own[:, :1])):
            values = sorted(float(one[one > -1].mean()) for one in part if (one > -1).any())
            if values:
                moved = said[name] - sum(values) / len(values)
                at = [round(share * (len(values) - 1)) for share in (0.025, 0.975)]
                low, high = (values[place] + moved for place in at)
                ends[f"{group}.{name}" if group else name] = max(0.0, low), min(1.0, high)
    return ends
