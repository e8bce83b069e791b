"""YOLO's text files: a line for each object, its class and centre x, centre y, width, height as shares of the picture.

The names are in a YAML file, with where the pictures of each split lie; the labels of ``images/train/1.jpg`` are
``labels/train/1.txt``, or lie beside the picture. Shares become pixels by the size of the picture, whose head is read.
A picture without a file, or with an empty one, has no objects. An outline (more than five numbers) gives the box
around it. Left out: keypoints, rotated boxes, and addresses in the YAML.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.images.opening import DAMAGE, load_image
from mmkit.data.problems import Problems
from mmkit.data.sources.boxes.rows import Flat, ObjectRows
from mmkit.data.sources.published.rows import Row
from mmkit.data.sources.walk import walk
from mmkit.data.text_files import NotText, decode, read_bytes, read_lines
from mmkit.errors import Unreadable, UserError

log = logging.getLogger(__name__)

EDGE = 1e-3
"""A share may reach beyond 0 or 1 by so much, which is rounding."""
KEY = re.compile(r"^names\s*:", re.MULTILINE)
TURNED = (5, 6, 7, 8)
"""Orientations of EXIF that exchange width and height."""


class Yolo(ObjectRows):
    """A YAML file, or the folder that holds one.

    split: "train" (default), "val" or "test", as the YAML names them. UserError, with file and line, for numbers above
    1 (pixels in place of shares), classes without a name, lines that are none, and a split that is not there. How many
    pictures have no file of labels is said: they may be forgotten.
    """

    def __init__(self, path: str | Path, *, split: str | None = None) -> None:
        file = yaml_in(path)
        said = _yaml(file)
        names = _names(said.get("names"), file)
        root = file.parent / str(said["path"]) if isinstance(said.get("path"), str) else file.parent
        root = root if root.is_dir() else file.parent
        pictures = _pictures(file, said, split or "train", root)
        problems, rows, flat, bare = Problems(file, unit="picture"), list[Row](), Flat(), 0
        for picture in pictures:
            labels = _labels(picture)
            bare += labels is None
            lines = [] if labels is None else _lines(labels, len(names), problems)
            rows.append(Row(image=os.path.relpath(picture, root), captions=(), at=str(picture)))
            size = _size(picture, problems) if lines else None
            for label, shares in lines if size is not None else []:
                box = tuple(share * side for share, side in zip(shares, (*size, *size), strict=True))  # type: ignore[misc]
                flat.add(len(rows) - 1, box, label, {})
        if bare:
            log.warning("%s: %d of %d pictures have no file of labels: background, or forgotten", file, bare, len(rows))
        super().__init__(file, root, rows, flat, problems, names=names, ids=range(len(names)), total=len(rows))

    def key(self, row: Row) -> str:
        """The picture."""
        return str(row.at)


def yaml_in(path: str | Path) -> Path:
    """The YAML file; UserError where a folder has none, or several, with names of classes."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = [file for file in sorted(path.glob("*.y*ml")) if KEY.search(file.read_text(errors="replace"))]
    if len(found) != 1:
        has = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{path}: expected one YAML file with the names of YOLO's classes; there are: {has}")
    return found[0]


def is_yolo(name: str) -> bool:
    """Whether a name is that of YOLO's YAML, or of a folder with one."""
    path = Path(name)
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    return path.is_dir() and any(KEY.search(file.read_text(errors="replace")) for file in path.glob("*.y*ml"))


def _yaml(file: Path) -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped]  # comes with accelerate

    try:
        said = yaml.safe_load(decode(read_bytes(file, "YOLO's YAML"), first=True))
    except (yaml.YAMLError, NotText) as error:
        raise UserError(f"{file}: cannot be read as YAML ({error})") from error
    if not isinstance(said, Mapping):
        raise UserError(f"{file}: expected names of classes and where the pictures lie, as YOLO has them")
    return said


def _names(value: Any, file: Path) -> list[str]:
    if isinstance(value, Mapping):
        if sorted(value) != list(range(len(value))):
            raise UserError(f'{file}: "names" must be counted from 0 without a gap: {list(value)[:10]}')
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(n, str | int) and str(n).strip() for n in value):
        raise UserError(f'{file}: "names" must be a list of the classes, in the order of their numbers')
    return [str(name).strip() for name in value]


def _pictures(file: Path, said: Mapping[str, Any], split: str, root: Path) -> list[Path]:
    """Those of a split: a folder, a list of pictures, or several of either."""
    if said.get(split) is None:
        there = ", ".join(key for key in ("train", "val", "test") if said.get(key) is not None) or "none"
        raise UserError(f"{file}: no split {split!r}; there are: {there} (--split)")
    parts = said[split] if isinstance(said[split], list) else [said[split]]
    found: list[Path] = []
    for part in map(str, parts):
        place = next((base / part for base in (root, file.parent) if (base / part).exists()), None)
        cut = part.removeprefix("../")  # as Roboflow writes them
        if place is None and (file.parent / cut).exists():
            place = file.parent / cut
        if place is None:
            raise UserError(f"{file}: {split}: no {root / part}")
        if place.is_dir():
            found += walk(place, beside=(".txt",)).pictures
        else:
            lines = (line.strip() for line in read_lines(place) if line.strip())
            found += [place.parent / line if line.startswith("./") else root / line for line in lines]
    if not found:
        raise UserError(f"{file}: {split}: no pictures")
    return found


def _labels(picture: Path) -> Path | None:
    """The last ``images`` of its path becomes ``labels``; or beside it."""
    parts = list(picture.parts)
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        other = Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
        if other.is_file():
            return other
    beside = picture.with_suffix(".txt")
    return beside if beside.is_file() else None


def _lines(file: Path, classes: int, problems: Problems) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(class, left, top, right, bottom as shares) of each line."""
    found = []
    for at, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}:{at}"
        try:
            label, *numbers = map(float, line.split())
        except ValueError:
            problems.add(where, "bad line", f"expected a class and numbers, found {line[:60]!r}")
            continue
        if not label.is_integer() or not 0 <= label < classes:
            problems.add(where, "class without name", f"class {label:g}, and there are {classes}, counted from 0")
        elif len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            problems.add(
                where, "bad line", f"{len(numbers)} numbers; needed are 4, or an outline of three points or more"
            )
        elif any(not abs(number) <= 1 + EDGE for number in numbers):
            problems.add(where, "pixels in place of shares", f"{line[:60]!r}: numbers are shares, from 0 to 1")
        elif len(numbers) == 4 and min(numbers[2:]) < 0:
            problems.add(where, "negative width or height", f"{line[:60]!r}: it is centre x, centre y, width, height")
        else:
            found.append((int(label), _corners(numbers)))
    return found


def _corners(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    across, down = numbers[::2], numbers[1::2]
    return min(across), min(down), max(across), max(down)


def _size(picture: Path, problems: Problems) -> tuple[int, int] | None:
    """(width, height) upright, by the head of the file."""
    with suppress(*DAMAGE), Image.open(picture) as image:
        wide, high = image.size
        return (high, wide) if image.getexif().get(0x0112) in TURNED else (wide, high)
    try:
        return load_image(picture).size
    except Unreadable as error:
        problems.add(str(picture), "unreadable picture", str(error))
        return None
