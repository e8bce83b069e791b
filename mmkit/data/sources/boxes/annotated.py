"""A folder with COCO's annotations in it, as COCO itself and annotation tools lay it out: which file, which pictures.

``annotations/instances_val2017.json`` with ``val2017`` or ``images/val2017``; ``train/_annotations.coco.json`` beside
its pictures, and one such file in a folder with ``images``, or with another folder that holds the pictures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkit.data.sources.boxes.coco import Instances
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.text_files import read_json
from mmkit.errors import UserError

END = 1 << 16
FILE = "_annotations.coco.json"


def is_coco_folder(name: str) -> bool:
    """Whether a name is that of a folder with annotations that have boxes."""
    return Path(name).is_dir() and bool(_files(Path(name)))


def read_coco_folder(
    name: str, *, split: str | None = None, images: str | Path | None = None, outlines: bool = False
) -> Instances:
    """The instances of the folder's one file, or of the one that ``split`` names; UserError where that is unclear.

    images: the folder of the pictures; None = the usual one in which the first of them lies. outlines: as of
    ``Instances``.
    """
    folder, found = Path(name), _files(Path(name))
    chosen = [file for file in found if split is None or split in (file.parent.name, *_words(file))]
    if len(chosen) != 1:
        there = ", ".join(str(file.relative_to(folder)) for file in found)
        what = "give one of them" if split is None else f"split {split!r} names {len(chosen)} of them"
        raise UserError(f"{folder}: {what}, or --split: {there}")
    [file] = chosen
    data = read_json(file, "COCO's instances")
    places = [images] if images is not None else _places(folder, file)
    return Instances(file, images=_holding(places, data), data=data, outlines=outlines)


def _files(folder: Path) -> list[Path]:
    places = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob(f"*/{FILE}")])
    return [file for file in places if _has_boxes(file)]


def _has_boxes(file: Path) -> bool:
    """By the file's beginning and end, which a large one need not be read for."""
    if form_of(file) != "coco":
        return False
    with file.open("rb") as opened:
        text = opened.read(END)
        opened.seek(max(0, file.stat().st_size - END))
        text += opened.read()
    return b'"categories"' in text or b'"bbox"' in text


def _words(file: Path) -> set[str]:
    """What a split may be called: "val2017" and "val" of instances_val2017.json."""
    stem = file.stem.removeprefix("instances_")
    return {stem, stem.rstrip("0123456789")}


def _places(folder: Path, file: Path) -> list[str | Path]:
    stem = file.stem.removeprefix("instances_")
    others = sorted(path for path in folder.iterdir() if path.is_dir())
    usual = [folder / part / stem for part in ("", "images", "Images")]
    return [*usual, folder / "images", file.parent, *others, folder]


def _holding(places: Sequence[str | Path], data: Any) -> str | Path:
    """The first place in which the first picture lies, else the last."""
    pictures = data.get("images") if isinstance(data, dict) else None
    first = pictures[0].get("file_name") if pictures and isinstance(pictures[0], dict) else None
    there = (place for place in places if isinstance(first, str) and os.path.isfile(os.path.join(place, first)))
    return next(there, places[-1])
