"""Pascal VOC's XML, one file a picture, and exports in its form.

Corners are inclusive and counted from 1 there: left and top less one are ours, right and bottom as they are. The
picture is that beside the XML, or in ``JPEGImages``, with the XML's own name, since the name inside is often
another's. Left out: segmentation, parts (the "head" of a person), actions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmkit.data.images.formats import SUFFIXES
from mmkit.data.problems import Problems
from mmkit.data.sources.boxes.rows import Flat, ObjectRows, four
from mmkit.data.sources.published.rows import Row
from mmkit.data.text_files import read_bytes, read_lines
from mmkit.errors import UserError

log = logging.getLogger(__name__)

FOLDERS = ("JPEGImages", "images", "")
"""Where pictures may lie, from the folder that holds ``Annotations``."""


class Voc(ObjectRows):
    """A folder with ``Annotations`` and ``JPEGImages``, or with XML files beside their pictures.

    split: a list in ``ImageSets/Main`` ("train", "val", "trainval", "test", or any other); None = every XML. Classes
    are those that occur, in the order of the alphabet. ``difficult`` objects have ``ignore``: they are neither to be
    found nor not to be. UserError names the file for what is no such XML, and for missing pictures.
    """

    def __init__(self, folder: str | Path, *, split: str | None = None) -> None:
        folder = Path(folder)
        xml = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
        problems = Problems(folder, unit="file")
        found = [(name, _objects(xml / f"{name}.xml", problems)) for name in _names(folder, xml, split)]
        labels = sorted({label for _, objects in found for label, _, _ in objects})
        number = {label: i for i, label in enumerate(labels)}
        rows, flat, zeros = list[Row](), Flat(), 0
        for name, objects in found:
            rows.append(Row(image=_picture(folder, xml, name), captions=(), at=f"{name}.xml"))
            for label, (left, top, right, bottom), said in objects:
                zeros += min(left, top) < 1
                box = (max(0.0, left - 1), max(0.0, top - 1), right, bottom)
                flat.add(len(rows) - 1, box, number[label], said)
        if zeros:
            log.warning(
                "%s: %d boxes begin before the first pixel, which VOC calls 1; they were cut there", folder, zeros
            )
        super().__init__(
            folder, folder, rows, flat, problems, names=labels, ids=range(1, len(labels) + 1), total=len(found)
        )

    def key(self, row: Row) -> str:
        """The XML file."""
        return f"{self.path}/{row.at}"


def is_voc(folder: str | Path) -> bool:
    """Whether a folder holds VOC's XML."""
    path = Path(folder)
    if not path.is_dir():
        return False
    inner = path / "Annotations"
    return any(_is_annotation(file) for file in _first((inner if inner.is_dir() else path).glob("*.xml"), 3))


def _first(files: Iterator[Path], n: int) -> list[Path]:
    return [file for file, _ in zip(files, range(n), strict=False)]


def _is_annotation(file: Path) -> bool:
    with file.open("rb") as opened:
        return b"<annotation" in opened.read(1000)


def _names(folder: Path, xml: Path, split: str | None) -> list[str]:
    if split is None:
        return sorted(file.stem for file in xml.glob("*.xml"))
    lists = folder / "ImageSets" / "Main"
    file = lists / f"{split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)) or "none"
        raise UserError(f"{folder}: no split {split!r}: no {file}; there are: {there}")
    return [line.split()[0] for line in read_lines(file) if line.strip()]


def _picture(root: Path, xml: Path, name: str) -> str:
    """Its path below ``root``; where there is none, the usual one, which is then missed by name."""
    places = FOLDERS if xml != root else ("",)
    for place in places:
        for suffix in (".jpg", *SUFFIXES):
            if (root / place / f"{name}{suffix}").is_file():
                return f"{place}/{name}{suffix}".lstrip("/")
    return f"{places[0]}/{name}.jpg".lstrip("/")


def _objects(
    file: Path, problems: Problems
) -> Sequence[tuple[str, tuple[float, float, float, float], Mapping[str, Any]]]:
    """(name, box as it stands, what else) of each."""
    try:
        tree = ElementTree.fromstring(read_bytes(file, "VOC's annotation"))
    except ElementTree.ParseError as error:
        problems.add(file.name, "malformed XML", f"{error}")
        return []
    found = []
    for at, entry in enumerate(tree.iter("object")):
        label, where = (entry.findtext("name") or "").strip(), f"{file.name}: object {at}"
        try:
            box = four([entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")])
        except ValueError as error:
            problems.add(where, "bad box", f"its bndbox {error}")
            continue
        if not label:
            problems.add(where, "class without name", 'the object has no "name"')
        elif box[2] < box[0] or box[3] < box[1]:
            problems.add(where, "right before left", f"{list(box)}: xmax < xmin, or ymax < ymin")
        else:
            difficult = (entry.findtext("difficult") or "0").strip() == "1"
            found.append((label, box, {"ignore": True} if difficult else {}))
    return found
