"""COCO's own files of captions, and others in their form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.sources.published.rows import Row, Rows
from mmkit.data.text_files import id_of, read_json
from mmkit.errors import UserError

log = logging.getLogger(__name__)


class CocoCaptions(Rows):
    """COCO's own ``captions_val2014.json``: a record for each picture with all its captions, in the file's order.

    images: the folder that the file names start from. data: what was read of the file already. Pictures without
    captions are left out, and counted. UserError for another form, annotations of no picture, one id for two pictures,
    and missing pictures.
    """

    def __init__(self, path: str | Path, *, images: str | Path, data: Any = None) -> None:
        data = read_json(path, "COCO's captions") if data is None else data
        if not isinstance(data, Mapping) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
            raise UserError(f'{path}: expected an object with the lists "images" and "annotations"')
        problems = Problems(path, unit="row")
        captions, named = _captions(data, problems), _named(data["images"], problems)
        told = [(name, tuple(captions[number])) for number, name in named.items() if captions[number]]
        if len(told) < len(named):
            log.info("%s: left out %d pictures without captions", path, len(named) - len(told))
        rows = [Row(image=name, captions=texts, at=at) for at, (name, texts) in enumerate(told)]
        super().__init__(path, images, rows, problems, total=len(data["annotations"]))
        if not rows:
            raise UserError(f"{path}: no captions in it")


def _named(images: list[Any], problems: Problems) -> dict[str, str]:
    """{id: file name} of every picture."""
    found: dict[str, str] = {}
    for at, image in enumerate(images):
        number, name = _id(image), image.get("file_name") if isinstance(image, Mapping) else None
        if number is None or not isinstance(name, str) or not name.strip():
            problems.add(f"images[{at}]", "bad picture", 'a picture needs "id" and "file_name"')
        elif found.setdefault(number, name) != name:
            what = f"id {number} is of {found[number]} before, and of {name} here"
            problems.add(f"images[{at}]", "one id for different pictures", what)
    return found


def _id(image: Any) -> str | None:
    try:
        return id_of(image.get("id")) if isinstance(image, Mapping) else None
    except ValueError:
        return None


def _captions(data: Mapping[str, Any], problems: Problems) -> dict[str, list[str]]:
    """{id of a picture: its captions}."""
    found: dict[str, list[str]] = {number: [] for image in data["images"] if (number := _id(image)) is not None}
    for at, row in enumerate(data["annotations"]):
        caption = row.get("caption") if isinstance(row, Mapping) else None
        number = _id({"id": row.get("image_id")}) if isinstance(row, Mapping) else None
        if number not in found or not isinstance(caption, str) or not caption.strip():
            problems.add(at, "bad annotation", '"image_id" is of no picture of the file, or "caption" is empty')
        else:
            found[number].append(caption.strip())
    return found
