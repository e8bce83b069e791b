"""Found boxes of a whole data set against its own: COCO's average precision, and what chance would have.

Everything is compared in pixels of the pictures as they are, whatever the model saw of them, so that sizes are those
that COCO means. Chance knows nothing of a picture: it says of each the mean box of every class, relative to the
picture, as often as the class occurs; mean and frequency are those of the data measured on, which helps it a little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mmkit.data.boxes import boxes_in
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import look
from mmkit.data.labels import some, tidy
from mmkit.data.objects import Objects, object_names
from mmkit.data.records import Record, Source
from mmkit.data.targets import Given
from mmkit.errors import UserError
from mmkit.evals.detection.coco import SIZES, CocoAP, interval
from mmkit.evals.detection.voc import VocAP
from mmkit.evals.evaluator import Evaluator, counted
from mmkit.evals.predictions import save_predictions
from mmkit.heads.base import Detects, Grounds
from mmkit.inference.detecting import Found, check_view, detector, finder_of, in_pictures
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels

if TYPE_CHECKING:
    from rich.table import Table

Rule = Literal["coco", "lvis", "voc2007", "voc2010"]
MOST_CHANCE = 300
"""So many classes, the most frequent, chance speaks of in a picture."""


class Opened(NamedTuple):
    """A record whose picture was read: as the model sees it, its own (width, height), and its boxes."""

    record: Record
    pixels: Pixels
    size: tuple[int, int]
    truth: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """values: what ``CocoAP`` counts, and the same of chance under ``chance_ap``; of a model that can be asked also
    ``random_names_ap50``, of its boxes with random names. by_class: ap of each, None without.

    n: pictures; boxes: how many are to be found. found, names, ids: what was found in each picture, the pictures'
    published names, the classes' published numbers.
    """

    values: Mapping[str, float]
    by_class: Mapping[str, float | None]
    n: int
    boxes: int
    found: Sequence[Found]
    names: Sequence[str]
    ids: Sequence[int]
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """The numbers, with ``n`` pictures, ``boxes``, and ``classes`` that occur."""
        occurring = sum(value is not None for value in self.by_class.values())
        sizes = {"n": float(self.n), "boxes": float(self.boxes), "classes": float(occurring)}
        return {**self.values, **sizes} | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same, and ``by_class``."""
        return {**self.metrics(), "by_class": dict(self.by_class)}

    def table(self) -> Table:
        """A row for each number, times 100 as papers print them."""
        from rich.table import Table

        numbers = self.metrics()
        table = Table(title=f"{self.boxes} boxes of {numbers['classes']:.0f} classes in {self.n} pictures")
        table.add_column("average precision and recall")
        table.add_column("x 100", justify="right")
        for name, value in self.values.items():
            table.add_row(name, f"{100 * value:.1f}")
        return table

    def rows(self) -> list[Mapping[str, Any]]:
        """As COCO's server takes them: image_id, category_id, bbox (left, top, width, height), score; all of them."""
        rows: list[Mapping[str, Any]] = []
        for name, found in zip(self.names, self.found, strict=True):
            number = int(name) if name.isdecimal() and str(int(name)) == name else name
            for box, score, label in zip(found.boxes, found.scores.tolist(), found.labels.tolist(), strict=True):
                left, top, right, bottom = (round(side, 3) for side in box.tolist())
                sides = [left, top, round(right - left, 3), round(bottom - top, 3)]
                rows.append(
                    {"image_id": number, "category_id": self.ids[label], "bbox": sides, "score": round(score, 6)}
                )
        return rows


@dataclass(frozen=True, kw_only=True)
class Detection(Evaluator):
    """Finds the objects in the pictures of ``source`` and compares them with its records' ``boxes``.

    head: which; None = the only one that finds objects. rule: "coco"; "lvis", 300 detections a picture, and by what the
    records say of classes that are surely absent or not all marked; "voc2007" or "voc2010". rounds: of
    drawing the pictures anew, for the interval of ``ap`` and ``ap50``; 0 = none. phrases: what is asked for, of a model
    that can be asked; None = the classes that it was trained on. groups: names of some of the classes by a name for
    them, such as those that were never boxed: ``NAME.ap``, ``NAME.ap50``, ``NAME.chance_ap`` beside. predictions: a
    file of COCO's form. UserError for a model that finds none, a transform that cannot say what it shows, and classes
    that the head has not.
    """

    head: str | None = None
    rule: Rule = "coco"
    rounds: int = 0
    phrases: tuple[str, ...] | None = None
    groups: Mapping[str, Sequence[str]] | None = None

    def names(self) -> tuple[str, ...]:
        """What the rule counts, of a model that can be asked beside what random names have, and the groups' own."""
        if self.rule.startswith("voc"):
            return ("map",)
        ends = [f"{name}_{end}" for name in ("ap", "ap50") for end in ("low", "high") if self.rounds]
        own = ("ap", "ap50", *ends, "random_names_ap50")
        parts = (*SIZES, *("rcf" if self.rule == "lvis" else ()))
        of_groups = (f"{group}.{name}" for group in self.groups or {} for name in own)
        return (*own, "ap75", *(f"ap_{part}" for part in parts), "ar_*", *of_groups)

    def needs(self, predictor: Predictor) -> tuple[Detects, Source]:
        """The head and the source."""
        if self.rule not in get_args(Rule):
            raise UserError(f"rule={self.rule!r} (--rule): there are {', '.join(get_args(Rule))}")
        if self.rounds and self.rule.startswith("voc"):
            raise UserError("rounds= (--rounds): the interval is of ap, which VOC's rules do not give")
        if self.groups and self.rule != "coco":
            raise UserError(f"groups=: they are of COCO's ap, which rule={self.rule!r} does not give")
        check_view(predictor.transform)
        source = self.opened()
        head = finder_of(predictor, self.head, self.phrases, source)
        Objects(Given(source=source), head.classes)  # whose classes are known at once where the source says them
        self._grouped(head)
        return head, source

    def _grouped(self, head: Detects) -> dict[str, list[int]]:
        """The places of each group's classes in the head's list; UserError for one that it has not."""
        places = {tidy(name): i for i, name in enumerate(head.classes)}
        for group, names in (self.groups or {}).items():
            if unknown := [name for name in names if tidy(name) not in places]:
                raise UserError(f"groups={group!r}: {some(unknown)}: no class of this model, nor asked for")
        return {group: [places[tidy(name)] for name in names] for group, names in (self.groups or {}).items()}

    def evaluate(self, predictor: Predictor) -> DetectionResult:
        """UserError for a picture without "boxes", or that cannot be read."""
        head, source = self.needs(predictor)
        objects = Objects(Given(source=source), head.classes)
        places = _places(objects, source)

        def opened(row: int) -> Opened:
            record = source[row]
            picture = load_image(record)
            try:
                truth = _truth(record, objects, places)
            except UserError as error:
                raise UserError(f"{record.key}: {error}") from error
            return Opened(record, look(predictor.transform, picture), picture.size, truth)

        def work(rows: Sequence[int], made: Sequence[Opened]) -> list[tuple[Found, dict[str, Any], str]]:
            samples = [predictor.sample(one.pixels, None, one.record) for one in made]
            with predictor.inference():
                said = head.predict(predictor.features(samples))
            found = in_pictures(said, head.classes, predictor.transform, [one.size for one in made])
            return [(own, one.truth, one.record.image_id) for own, one in zip(found, made, strict=True)]

        passed = self.passed(self.parts(predictor, len(source), opened, work))
        each = [one for part in passed.found for one in part]
        found, truth = [one for one, _, _ in each], [one for _, one, _ in each]
        measured = self._measured(head, source, found, truth)
        values = measured.compute() | self._compared(predictor, head, source, measured, found, truth)
        result = DetectionResult(
            values=values,
            by_class=dict(zip(head.classes, measured.by_class(), strict=True)), n=len(found),
            boxes=sum(int((~_ignored(one)).sum()) for one in truth), found=found,
            names=[name for _, _, name in each], ids=tuple(head.ids), left_out=passed.left_out,
        )  # fmt: skip
        save_predictions(self.predictions, result.rows)
        return result

    def _compared(
        self, predictor: Predictor, head: Detects, source: Source, measured: CocoAP | VocAP, found: Sequence[Found],
        truth: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:  # fmt: skip
        """Intervals, what chance has, of a model that can be asked also with random names, and all that of groups."""
        chance = self._measured(head, source, by_chance(found, truth), truth)
        if not isinstance(measured, CocoAP) or not isinstance(chance, CocoAP):
            return {"chance_map": chance.compute()["map"]}
        groups = self._grouped(head)
        ends = interval(measured, self.rounds, groups=groups) if self.rounds else {}
        values = {f"{key}_{end}": pair[i] for key, pair in ends.items() for i, end in enumerate(("low", "high"))}
        everything = {"": range(len(head.classes)), **groups}
        compared = {"chance_ap": (chance, "ap")}
        if isinstance(detector(predictor.heads, self.head), Grounds):
            named = self._measured(head, source, by_random_names(found), truth)
            assert isinstance(named, CocoAP)
            compared |= {"random_names_ap50": (named, "ap50")}
        for group, rows in everything.items():
            before = f"{group}." if group else ""
            if group:
                values |= {before + key: value for key, value in measured.of_classes(rows).items()}
            said = {name: metric.of_classes(rows).get(key) for name, (metric, key) in compared.items()}
            values |= {before + name: value for name, value in said.items() if value is not None}
        return values

    def _measured(
        self, head: Detects, source: Source, found: Sequence[Found], truth: Sequence[Mapping[str, Any]]
    ) -> CocoAP | VocAP:
        classes = len(head.classes)
        metric: CocoAP | VocAP
        if self.rule == "lvis":
            metric = CocoAP(classes, (300,), "lvis", _frequencies(head, source))
        else:
            metric = CocoAP(classes) if self.rule == "coco" else VocAP(classes, 2007 if "2007" in self.rule else 2010)
        metric.sync_on_compute = False  # every process has all
        metric.update([_as_dict(one) for one in found], truth)
        return metric


def by_chance(found: Sequence[Found], truth: Sequence[Mapping[str, Any]]) -> list[Found]:
    """For each picture the mean box of each class, with its share of all boxes as the score."""
    sizes = np.array([one.size for one in found], float)
    of = np.concatenate([np.full(len(one["labels"]), i) for i, one in enumerate(truth)]).astype(int)
    boxes = np.concatenate([one["boxes"] for one in truth]) / np.tile(sizes, 2)[of]
    labels, ignored = (np.concatenate(each) for each in zip(*((o["labels"], _ignored(o)) for o in truth), strict=True))
    boxes, labels = boxes[~ignored], labels[~ignored]
    classes, counts = np.unique(labels, return_counts=True)
    best = np.argsort(-counts, kind="stable")[:MOST_CHANCE]
    means = np.stack([boxes[labels == classes[i]].mean(0) for i in best]) if len(best) else np.empty((0, 4))
    return [
        Found(
            boxes=means * np.tile(size, 2), scores=counts[best] / max(1, len(labels)), labels=classes[best],
            size=one.size, classes=one.classes,
        )
        for one, size in zip(found, sizes, strict=True)
    ]  # fmt: skip


def by_random_names(found: Sequence[Found]) -> list[Found]:
    """The same boxes and scores with classes at random: what one has who finds objects and knows no words."""
    draw = np.random.default_rng(0)
    return [replace(one, labels=draw.integers(0, len(one.classes), len(one.labels))) for one in found]


def _as_dict(found: Found) -> dict[str, Any]:
    return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}


def _truth(record: Record, objects: Objects, places: Mapping[int, int]) -> dict[str, Any]:
    """As the metrics take it: what is to be ignored is difficult; LVIS's classes by their places in the head's list."""
    boxes, said = boxes_in(record.targets), {}
    for ours, theirs in (("negative", "neg_category_ids"), ("unfinished", "not_exhaustive_category_ids")):
        if theirs in record.targets:
            said[ours] = [places[number] for number in record.targets[theirs] if number in places]
    return {
        "boxes": boxes.sides, "labels": objects.numbers(boxes), "area": boxes.area, "iscrowd": boxes.crowd,
        "difficult": boxes.ignore, **said,
    }  # fmt: skip


def _places(objects: Objects, source: Source) -> dict[int, int]:
    """Published numbers of classes, where the source says them, to places in the head's list."""
    ids: Sequence[int] = getattr(source, "object_ids", None) or ()
    names = object_names(source) or ()
    return {number: objects.number[tidy(name)] for number, name in zip(ids, names, strict=False)}


def _ignored(truth: Mapping[str, Any]) -> NDArray[np.bool_]:
    ignored: NDArray[np.bool_] = truth["iscrowd"] | truth["difficult"]
    return ignored


def _frequencies(head: Detects, source: Source) -> tuple[str, ...]:
    """LVIS's of each of the head's classes; none where the source does not say them all."""
    values: Sequence[str | None] = getattr(source, "frequencies", None) or ()
    said = {tidy(name): value for name, value in zip(object_names(source) or (), values, strict=False) if value}
    wanted = [tidy(name) for name in head.classes]
    return tuple(said[name] for name in wanted) if said.keys() >= set(wanted) else ()
