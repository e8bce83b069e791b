"""COCO's instances, and what is of their form: LVIS, Objects365, one's own exports, and MDETR's phrases (GoldG).

A record for each picture, also for those without a box, with the published ids of pictures, boxes and classes. Boxes
are read as left, top, width, height in pixels and given as left, top, right, bottom.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.sources.boxes.rows import Flat, ObjectRows, check_sizes, corners, four
from mmkit.data.sources.published.rows import Row
from mmkit.data.text_files import id_of, read_json
from mmkit.errors import UserError

log = logging.getLogger(__name__)

LVIS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Classes by their published ids of which a picture has none, or may have more than are boxed."""
KEPT = ("area", "id")


class Instances(ObjectRows):
    """``instances_val2017.json``, ``lvis_v1_val.json``, GoldG's ``final_mixed_train.json``, and others in their form.

    images: the folder that the file names start from; LVIS names none, its pictures are then called as in their
    address, ``val2017/000000397133.jpg``. data: what was read of the file already. outlines: whether boxes have their
    ``segmentation``, for masks; kept in memory, it is most of the file.

    ``targets``: ``boxes``, with ``crowd`` where a box is around many, the published ``area`` and ``id``; of LVIS
    ``neg_category_ids`` and ``not_exhaustive_category_ids``; where pictures have a caption and annotations
    ``tokens_positive``, ``phrases``: {caption, spans of characters, boxes by their numbers}.

    UserError for another form, classes without a name, annotations of no picture or class, boxes that are no four
    numbers, have a negative width, or look like corners or shares, and missing pictures.
    """

    def __init__(self, path: str | Path, *, images: str | Path, data: Any = None, outlines: bool = False) -> None:
        data = read_json(path, "COCO's instances") if data is None else data
        lists = ("images", "annotations", "categories")
        if not isinstance(data, Mapping) or not all(isinstance(data.get(key), list) for key in lists):
            raise UserError(f'{path}: expected an object with the lists "images", "annotations" and "categories"')
        problems = Problems(path, unit="row")
        ids, names = _categories(data["categories"], problems)
        pictures = _pictures(data["images"], problems)
        rows, flat = [row for row, _ in pictures.values()], Flat()
        spans = _read(data["annotations"], pictures, ids, flat, problems, path, outlines)
        phrased = [_with_phrases(row, spans.get(number, [])) for number, row in enumerate(rows)]
        said = {entry.get("id"): entry.get("frequency") for entry in data["categories"] if isinstance(entry, Mapping)}
        self.frequencies = [said.get(number) for number in ids]
        super().__init__(
            path, images, phrased, flat, problems, names=names, ids=list(ids), total=len(data["annotations"])
        )
        if not rows:
            raise UserError(f"{path}: no pictures in it")
        if self.empty:
            log.info("%s: %d of %d pictures have no box", path, self.empty, len(rows))


def _categories(entries: Sequence[Any], problems: Problems) -> tuple[dict[int, int], list[str]]:
    """{published id: number from 0}, in the order of the ids, and the names."""
    found: dict[int, str] = {}
    for at, entry in enumerate(entries):
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, Mapping) else (None, None)
        if type(number) is not int or not isinstance(name, str) or not name.strip():
            problems.add(f"categories[{at}]", "class without name", 'a class needs "id", a whole number, and "name"')
        elif number in found:
            problems.add(f"categories[{at}]", "class twice", f"id {number} is of {found[number]!r} before")
        else:
            found[number] = name.strip()
    order = sorted(found)
    _tell_same([found[number] for number in order], problems)
    return {number: i for i, number in enumerate(order)}, [found[number] for number in order]


def _tell_same(names: Sequence[str], problems: Problems) -> None:
    twice = [name for name, n in Counter(name.casefold() for name in names).items() if n > 1]
    if twice:
        problems.add("categories", "name of several classes", f"{', '.join(map(repr, twice[:5]))}: name each otherwise")


def _pictures(entries: Sequence[Any], problems: Problems) -> dict[str, tuple[Row, tuple[int, tuple[float, float]]]]:
    """{id: its row, and (number of the row, (width, height) as far as they are said)}."""
    found: dict[str, tuple[Row, tuple[int, tuple[float, float]]]] = {}
    for at, entry in enumerate(entries):
        number, name = (_id(entry.get("id")), _name(entry)) if isinstance(entry, Mapping) else (None, "")
        if number is None or not name:
            problems.add(f"images[{at}]", "bad picture", 'a picture needs "id", and "file_name" or "coco_url"')
            continue
        if number in found:
            problems.add(f"images[{at}]", "picture twice", f"id {number} is of {found[number][0].image} before")
            continue
        caption = entry.get("caption")
        said = isinstance(caption, str) and bool(caption.strip())
        targets = {key: entry[key] for key in LVIS if isinstance(entry.get(key), list)}
        if said:
            targets["eval_spans"] = entry.get("tokens_positive_eval")
        row = Row(
            image=name, captions=(str(caption),) if said else (), at=f"images[{at}]", targets=targets,
            image_id=None if said else number,  # MDETR gives each sentence a number of its own
        )  # fmt: skip
        found[number] = row, (len(found), _size(entry))
    return found


def _name(entry: Mapping[str, Any]) -> str:
    name, url = entry.get("file_name"), entry.get("coco_url")
    if isinstance(name, str) and name.strip():
        return name
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""


def _size(entry: Mapping[str, Any]) -> tuple[float, float]:
    wide, high = (
        float(side) if isinstance(side, int | float) and side > 0 else math.nan
        for side in (entry.get("width"), entry.get("height"))
    )
    return wide, high


def _id(value: Any) -> str | None:
    try:
        return id_of(value)
    except ValueError:
        return None


def _read(
    entries: Sequence[Any], pictures: Mapping[str, tuple[Row, tuple[int, tuple[float, float]]]], ids: Mapping[int, int],
    flat: Flat, problems: Problems, path: str | Path, outlines: bool,
) -> dict[int, list[Any]]:  # fmt: skip
    """The boxes into ``flat``; {number of a row: the ``tokens_positive`` of each of its boxes}."""
    spans: dict[int, list[Any]] = {}
    given: list[tuple[float, ...]] = []
    sizes: list[tuple[float, float]] = []
    twice: Counter[Any] = Counter()
    for at, entry in enumerate(entries):
        where = f"annotations[{at}]"
        picture = pictures.get(str(_id(entry.get("image_id")))) if isinstance(entry, Mapping) else None
        if picture is None:
            problems.add(where, "annotation of no picture", '"image_id" is of none of "images"')
            continue
        label = ids.get(entry.get("category_id"))
        if label is None:
            problems.add(where, "unknown class", f'category_id {entry.get("category_id")!r} is of none of "categories"')
            continue
        try:
            box = four(entry.get("bbox"))
        except ValueError as error:
            problems.add(where, "bad box", f'"bbox" {error}')
            continue
        if box[2] < 0 or box[3] < 0:
            problems.add(where, "negative width or height", f'"bbox" {list(box)}: it is left, top, width, height')
            continue
        row, size = picture[1]
        said = {key: entry[key] for key in KEPT if type(entry.get(key)) in (int, float)}
        said |= {"segmentation": entry.get("segmentation")} if outlines else {}
        twice[said.get("id")] += "id" in said
        flat.add(row, corners(box), label, said | ({"crowd": True} if entry.get("iscrowd") else {}))
        spans.setdefault(row, []).append(entry.get("tokens_positive"))
        given.append(box)
        sizes.append(size)
    check_sizes(path, given, sizes)
    if double := [number for number, n in twice.items() if n > 1]:
        log.warning("%s: %d ids are of several annotations, the first: %s", path, len(double), double[0])
    return spans


def _with_phrases(row: Row, spans: Sequence[Any]) -> Row:
    """With what its caption says of its boxes, in the order of evaluation where that is given."""
    if not row.captions:
        return row
    order = row.targets.get("eval_spans") or []
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {_spans(one): [] for one in order}
    for box, said in enumerate(spans):
        groups.setdefault(_spans(said), []).append(box)
    phrases = [{"caption": 0, "spans": list(said), "boxes": boxes} for said, boxes in groups.items() if said]
    targets = {key: value for key, value in row.targets.items() if key != "eval_spans"} | {"phrases": phrases}
    return Row(image=row.image, captions=row.captions, at=row.at, image_id=row.image_id, targets=targets)


def _spans(value: Any) -> tuple[tuple[int, int], ...]:
    """Character spans in order; what is none is left out."""
    pairs = value if isinstance(value, list | tuple) else []
    return tuple(sorted((int(a), int(b)) for a, b in pairs if type(a) is type(b) is int and 0 <= a < b))
