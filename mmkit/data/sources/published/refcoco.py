"""Referring expressions of RefCOCO, RefCOCO+ and RefCOCOg as they are published (Yu et al. 2016, Mao et al. 2016).

``Referring`` reads ``refs(unc).p``, ``refs(google).p`` and ``refs(umd).p`` with ``instances.json``, for whoever learns
or is measured with boxes. ``RefCoco`` is for grounding without boxes in training; read are: ALBEF's lists of
expressions (``refcoco+_train.json``, ``_val.json``, ``_test.json``: image, text, ref_id); for evaluation also
``refs(unc).p`` and ``instances.json`` of the data set, which hold splits and true boxes, and a ``dets.json`` of
detected boxes by image (MAttNet's), among which the model chooses. Training needs the first alone. The pickle is read
without running anything in it. Left out: masks.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import Problems
from mmkit.data.sources.published.rows import Row, Rows
from mmkit.data.text_files import read_json
from mmkit.data.texts.cleaning import clean_caption
from mmkit.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("val", "testA", "testB")
Box = tuple[float, float, float, float]


class RefCoco(Rows):
    """One record for each expression; ``image_id`` is the picture's file name, so that its expressions share it.

    Args:
        expressions: ALBEF's lists, one or several.
        images: the folder that the lists' paths start from.
        refs, instances: ``refs(unc).p`` and ``instances.json``; None for training, where boxes are not needed.
        detections: ``dets.json``: {image id: [[left, top, width, height, ...], ...]}; None = no candidates but the
            true boxes of the expression.
        splits: those that are evaluated, and reported one by one; others are left out.
        clean: ALBEF's cleaning of captions, which its checkpoints expect.

    With ``refs``, ``targets`` are: ``boxes``, one {name, box (left, top, right, bottom)}; ``detections``, boxes of the
    same form; ``split``. UserError names the file, the row and what is wrong.
    """

    def __init__(
        self, expressions: Sequence[str | Path] | str | Path, images: str | Path, *, refs: str | Path | None = None,
        instances: str | Path | None = None, detections: str | Path | None = None,
        splits: Sequence[str] = SPLITS, clean: bool = True,
    ) -> None:  # fmt: skip
        if (refs is None) != (instances is None) or (detections is not None and refs is None):
            raise UserError("RefCOCO+: refs, instances and detections belong together: splits, true boxes, candidates")
        self.images, self.clean = Path(images), clean
        self.splits: tuple[str, ...] = tuple(splits) if refs is not None else ()
        files = [expressions] if isinstance(expressions, str | Path) else list(expressions)
        boxes = _References(refs, instances, detections) if refs is not None and instances is not None else None
        self.rows: list[Row] = []
        self.files = PictureFiles(self.images)
        for path in files:
            self._read(path, boxes)
        if not self.rows:
            found = ", ".join(str(path) for path in files)
            raise UserError(f"{found}: no expression of the splits {', '.join(self.splits)}")
        if boxes is not None and detections is not None and boxes.without:
            log.warning("%s: %d pictures have no detected box; their expressions count as missed", detections,
                        len(boxes.without))  # fmt: skip

    def _read(self, path: str | Path, boxes: _References | None) -> None:
        """The expressions of one file."""
        rows, problems = _rows(Path(path)), Problems(path, unit="expression")
        found: list[tuple[int | str, str, str | None]] = []
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping) or not isinstance(row.get("image"), str) or not _text(row):
                problems.add(number, "bad row", f'needs "image" and "text", found {str(row)[:80]}')
                continue
            image, text = row["image"], clean_caption(_text(row)) if self.clean else _text(row)
            targets = {} if boxes is None else boxes.targets(row, text, number, problems)
            if targets is None or (self.splits and targets["split"] not in self.splits):
                continue
            found.append((number, image, _id(image)))
            self.rows.append(
                Row(image=image, captions=(text,), at=f"{path}:{number}", image_id=_id(image), targets=targets)
            )
        PictureFiles(self.images).check_rows(found, problems)
        problems.raise_if_any(len(rows))

    def key(self, row: Row) -> str:
        """The file of the expression and its number there."""
        return str(row.at)


class _References:
    """Split, true box and candidates of each reference."""

    def __init__(self, refs: str | Path, instances: str | Path, detections: str | Path | None) -> None:
        self.refs = {ref["ref_id"]: ref for ref in _unpickled(Path(refs))}
        whole = read_json(instances, "the instances of RefCOCO+")
        try:
            self.boxes = {entry["id"]: _corners(entry["bbox"]) for entry in whole["annotations"]}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{instances}: expected annotations with id and bbox ({error!r})") from error
        self.file = str(detections)
        self.detections = None if detections is None else read_json(detections, "detected boxes by image")
        self.without: set[str] = set()

    def targets(self, row: Mapping[str, Any], text: str, number: int, problems: Problems) -> Mapping[str, Any] | None:
        ref = self.refs.get(row.get("ref_id"))
        if ref is None or ref["ann_id"] not in self.boxes:
            problems.add(number, "unknown reference", f"ref_id {row.get('ref_id')!r} is not in the refs and instances")
            return None
        boxes = [{"name": text, "box": self.boxes[ref["ann_id"]]}]
        targets: dict[str, Any] = {"boxes": boxes, "split": ref["split"]}
        if self.detections is not None:
            image = str(ref["image_id"])
            found = self.detections.get(image, [])
            try:
                targets["detections"] = [_corners(box) for box in found]
            except (TypeError, ValueError):
                problems.add(number, "bad box", f"{self.file}: boxes of image {image}: {str(found)[:80]}")
                return None
            if not found:
                self.without.add(image)
        return targets


class Referring(Rows):
    """One record for each sentence of ``refs(unc).p`` and its like, with the box that it is about.

    Args:
        refs: the pickle; ``instances.json`` lies beside it, or is given.
        images: the folder of COCO's train2014, or that which holds it.
        split: one of those of the file ("train", "val", "testA", "testB"; umd: "test"), or several joined by "+".

    ``targets``: ``boxes``, one {name, box, id, class}; ``phrases``, the whole sentence as that of this box; ``split``,
    ``ref_id``. Google's split of RefCOCOg shows pictures of its training in its test, of which is warned.
    """

    def __init__(
        self, refs: str | Path, images: str | Path, *, instances: str | Path | None = None, split: str | None = None
    ) -> None:
        refs, self.images = Path(refs), Path(images)
        instances = refs.with_name("instances.json") if instances is None else Path(instances)
        found, problems = _unpickled(refs), Problems(refs, unit="reference")
        there = sorted({str(ref["split"]) for ref in found})
        wanted = set((split or "").split("+"))
        if not wanted <= set(there):
            raise UserError(f"{refs}: give split= (--split) as one of {', '.join(there)}, or several as one+other")
        if refs.name == "refs(google).p":
            log.warning("%s: its training and its test share pictures; refs(umd).p is the split that does not", refs)
        self.splits = tuple(name for name in there if name in wanted)
        whole = read_json(instances, "the instances of RefCOCO")
        try:
            boxes = {entry["id"]: (_corners(entry["bbox"]), entry.get("category_id")) for entry in whole["annotations"]}
            files = {entry["id"]: str(entry["file_name"]) for entry in whole["images"]}
            classes = {entry["id"]: str(entry["name"]) for entry in whole.get("categories", ())}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{instances}: expected annotations with id and bbox, images with id and file_name"
            ) from error
        inner = "train2014/" if (self.images / "train2014").is_dir() else ""
        rows: list[Row] = []
        for at, ref in enumerate(found):
            if str(ref["split"]) not in wanted:
                continue
            if ref["ann_id"] not in boxes or ref["image_id"] not in files:
                problems.add(at, "unknown reference", f"ann_id {ref['ann_id']} or image_id {ref['image_id']} is in "
                             f"{instances.name} no more")  # fmt: skip
                continue
            box, number = boxes[ref["ann_id"]]
            about = {"id": ref["ann_id"], "class": classes.get(number)}
            rows += [
                _referred(f"{inner}{files[ref['image_id']]}", str(one.get("sent", "")).strip(), box, about, ref, at)
                for one in ref.get("sentences", ()) if str(one.get("sent", "")).strip()
            ]  # fmt: skip
        super().__init__(refs, images, rows, problems, total=len(found))


def _referred(image: str, text: str, box: Box, about: Mapping[str, Any], ref: Mapping[str, Any], at: int) -> Row:
    targets = {
        "boxes": [{"name": text, "box": box, **about}],
        "phrases": [{"caption": 0, "spans": [(0, len(text))], "boxes": [0]}],
        "split": ref["split"], "ref_id": ref["ref_id"],
    }  # fmt: skip
    return Row(image=image, captions=(text,), at=at, image_id=_id(image), targets=targets)


def _corners(box: Sequence[float]) -> Box:
    """Published as (left, top, width, height, ...)."""
    left, top, width, height = (float(side) for side in box[:4])
    return left, top, left + width, top + height


def _id(image: str) -> str:
    return image.replace("\\", "/").rpartition("/")[2]


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("text")
    return text.strip() if isinstance(text, str) else ""


def _rows(path: Path) -> list[Any]:
    rows = read_json(path, "a list of expressions")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected a list of expressions with image, text and ref_id")
    return rows


class _Plain(pickle.Unpickler):
    """Lists, dicts, strings and numbers; whatever would call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")


def _unpickled(path: Path) -> list[Any]:
    try:
        refs = _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not the published list of references ({error}); nothing of it was run") from error
    needed = {"ref_id", "ann_id", "image_id", "split"}
    if not isinstance(refs, list) or not all(isinstance(ref, dict) and needed <= ref.keys() for ref in refs):
        raise UserError(f"{path}: expected a list of references with {', '.join(sorted(needed))}")
    return refs
