"""COCO and Flickr30k as retrieval is measured on: Karpathy's splits and ALBEF's lists, read as they are published.

Karpathy and Fei-Fei (2015) published ``dataset_coco.json`` and ``dataset_flickr30k.json``: one object with ``images``,
each with ``filename``, ``filepath`` (COCO), ``split``, and ``sentences`` whose ``raw`` are the captions. ALBEF
published lists: ``coco_train.json`` with one caption a row, ``coco_karpathy_test.json`` with all of a picture's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import Problems
from mmkit.data.records import tidy_captions
from mmkit.data.sources.published.rows import Row, Rows, check_folder
from mmkit.data.text_files import id_of, read_json
from mmkit.errors import UserError

log = logging.getLogger(__name__)

WHAT = (
    "dataset_coco.json or dataset_flickr30k.json (in caption_datasets.zip, at "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip), or one of ALBEF's lists"
)


class Karpathy(Rows):
    """The pictures of one split with all their captions.

    Args:
        path: the JSON file of Karpathy, or one of ALBEF's lists.
        images: the folder of the pictures: that which holds ``train2014`` and ``val2014``, or the pictures themselves.
            Leading folders of a name that are not there are left out ("coco/val2014/NAME" may lie as "NAME").
        split: of Karpathy's file: "train", "val", "test", or several joined by "+"; on COCO one trains on
            "train+restval". ALBEF's lists are of one split and need none.
        per: "picture" gives a record for each picture with all its captions; "caption" one for each caption, which is
            what the published training counts as an epoch.

    Raises:
        UserError: for another form of file, an unknown split, empty captions and missing pictures.
    """

    def __init__(
        self, path: str | Path, images: str | Path, *, split: str | None = None,
        per: Literal["picture", "caption"] = "picture",
    ) -> None:  # fmt: skip
        self.path, self.images, self.empty_captions, self.further_ids = Path(path), Path(images), 0, 0
        if per not in ("picture", "caption"):
            raise UserError(f"{self.path}: per={per!r}; give 'picture' or 'caption'")
        check_folder(self.images, path)
        self.files = PictureFiles(self.images)
        data = read_json(self.path, WHAT)
        problems = Problems(self.path, unit="row")
        if isinstance(data, Mapping) and isinstance(data.get("images"), list):
            rows = self._published(data["images"], split, problems)
        elif isinstance(data, list):
            rows = self._listed(data, split, problems)
        else:
            raise UserError(
                f'{self.path}: expected an object with "images" (dataset_coco.json) or a list of rows with "image" and '
                '"caption" (coco_karpathy_test.json)'
            )
        super().__init__(path, images, self._located(rows, problems), problems)
        if self.empty_captions:
            log.warning("%s: left out %d empty captions", self.path, self.empty_captions)
        if self.further_ids:
            log.warning("%s: %d rows give a picture another image_id than before; each picture is one", self.path,
                        self.further_ids)  # fmt: skip
        if per == "caption":
            self.rows = [replace(row, captions=(caption,)) for row in self.rows for caption in row.captions]

    def _published(self, entries: Sequence[Any], split: str | None, problems: Problems) -> list[Row]:
        there = sorted({str(entry["split"]) for entry in entries if isinstance(entry, Mapping) and "split" in entry})
        if entries and not there:
            raise UserError(f'{self.path}: none of its {len(entries)} entries has a "split", as dataset_coco.json has')
        wanted = set(split.split("+")) if split else set()
        if entries and (not wanted or not wanted <= set(there)):
            what = f"split={split!r} is none of them" if split else "a split is needed"
            raise UserError(
                f"{self.path}: {what}; give split= (--split) as one of {', '.join(there)}, or several as one+other"
            )
        rows: list[Row] = []
        for at, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or not {"filename", "sentences", "split"} <= entry.keys():
                problems.rows += 1
                problems.add(at, "missing key", 'expected an object with "filename", "sentences" and "split"')
            elif str(entry["split"]) in wanted:
                problems.rows += 1
                folder = f"{entry['filepath']}/" if entry.get("filepath") else ""
                name = f"{folder}{entry['filename']}"
                try:
                    texts = [sentence["raw"] for sentence in entry["sentences"]]
                except (TypeError, KeyError):
                    form = '"sentences" must be a list of objects with the caption as "raw"'
                    problems.add(at, "bad caption", f"{form}, not {json.dumps(entry['sentences'])[:80]}")
                    continue
                rows += self._row(name, texts, entry.get("imgid"), at, problems)
        return rows

    def _listed(self, entries: Sequence[Any], split: str | None, problems: Problems) -> list[Row]:
        if split is not None:
            raise UserError(f"{self.path}: split={split!r}, but a list is of one split; leave it out")
        found: dict[str, Row] = {}
        for at, entry in enumerate(entries):
            problems.rows += 1
            if not isinstance(entry, Mapping) or not {"image", "caption"} <= entry.keys():
                problems.add(at, "missing key", 'expected an object with "image" and "caption"')
                continue
            if not isinstance(entry["image"], str) or not entry["image"].strip():
                what = f'"image" must be a path, not {json.dumps(entry["image"])[:80]}'
                problems.add(at, "bad image", what)
                continue
            name = self.files.name(entry["image"])
            for row in self._row(name, entry["caption"], entry.get("image_id"), at, problems):
                first = found.setdefault(name, row)
                if first is row:
                    continue
                if None not in (first.image_id, row.image_id) and first.image_id != row.image_id:
                    self.further_ids += 1
                found[name] = replace(  # rows of one picture become one
                    first, captions=first.captions + row.captions, image_id=first.image_id or row.image_id
                )
        return list(found.values())

    def _row(self, name: str, texts: Any, image_id: Any, at: int, problems: Problems) -> list[Row]:
        """One row, or none with the problem noted. An empty caption beside others is left out and counted."""
        if isinstance(texts, list):
            kept = [text for text in texts if not isinstance(text, str) or text.strip()]
            if kept and len(kept) < len(texts):
                self.empty_captions += len(texts) - len(kept)
                texts = kept
        try:
            captions = tidy_captions(texts)
        except ValueError as error:
            problems.add(at, "bad caption", str(error))
            return []
        try:
            return [Row(image=name, captions=captions, image_id=id_of(image_id), at=at)]
        except ValueError as error:
            problems.add(at, "bad image_id", f'"image_id" {error}')
            return []

    def _located(self, rows: list[Row], problems: Problems) -> list[Row]:
        """The rows with paths that are there, by the form of the first."""
        if not rows:
            problems.raise_if_any()
            raise UserError(f"{self.path}: no pictures in it")
        forms = _forms(rows[0].image)
        cut = next((i for i, form in enumerate(forms) if (self.images / form).is_file()), 0)
        return [replace(row, image=_cut(row.image, cut)) for row in rows]


def _cut(name: str, folders: int) -> str:
    forms = _forms(name)
    return forms[min(folders, len(forms) - 1)]


def _forms(name: str) -> list[str]:
    """The path with fewer and fewer leading folders: "coco/val2014/a.jpg", "val2014/a.jpg", "a.jpg"."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[i:]) for i in range(len(parts))]
