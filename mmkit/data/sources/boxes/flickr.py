"""Flickr30k Entities (Plummer et al. 2015): five sentences a picture, whose phrases are chained to boxes.

``Sentences/ID.txt`` holds ``[/EN#283585/people A man] in [/EN#283586/clothing a hat]``; the captions are these without
the marks, and each phrase's characters are known from taking them out. ``Annotations/ID.xml`` holds the boxes of each
number, inclusive and counted from 1 as VOC's. Left out: which phrases are one chain across sentences, but for
``entity``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmkit.data.problems import Problems
from mmkit.data.sources.boxes.rows import Flat, ObjectRows, four
from mmkit.data.sources.published.rows import Row
from mmkit.data.text_files import read_bytes, read_lines
from mmkit.errors import UserError

PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\]]+)+)\s+([^\]]*?)\s*\]")
NOTHING = "0"
"""The number of phrases that name nothing to be seen."""
PICTURES = ("flickr30k-images", "flickr30k_images", "images", "")


class FlickrEntities(ObjectRows):
    """The folder that holds ``Sentences`` and ``Annotations``.

    images: the folder of the pictures; None = one of ``flickr30k-images``, ``images`` in it. split: of ``train.txt``,
    ``val.txt``, ``test.txt``; None = all that have sentences. ``targets``: ``boxes``, each with its ``entity`` and as
    ``name`` the first phrase of it; ``phrases``, {caption: which of the five, spans: its characters, boxes: their
    numbers, none where the phrase has no box, entity, types}.
    """

    def __init__(self, folder: str | Path, *, images: str | Path | None = None, split: str | None = None) -> None:
        folder = Path(folder)
        root = Path(images) if images is not None else next(folder / p for p in PICTURES if (folder / p).is_dir())
        problems, rows, flat = Problems(folder, unit="picture"), list[Row](), Flat()
        for name in _names(folder, split):
            sentences = [_read(line) for line in read_lines(folder / "Sentences" / f"{name}.txt") if line.strip()]
            if not sentences or any("[/EN#" in text for text, _ in sentences):
                problems.add(name, "bad sentences", f"Sentences/{name}.txt: a phrase is not closed, or there is none")
                continue
            boxes = _boxes(folder / "Annotations" / f"{name}.xml", name, problems)
            rows.append(_row(name, sentences, boxes, len(rows), flat))
        super().__init__(folder, root, rows, flat, problems, names=["phrase"], ids=[0], total=len(rows))
        if not rows:
            raise UserError(f"{folder}: no sentences in it")


def is_flickr(name: str) -> bool:
    """Whether a folder is one of these."""
    return (Path(name) / "Sentences").is_dir() and (Path(name) / "Annotations").is_dir()


def _names(folder: Path, split: str | None) -> list[str]:
    if split is None:
        return sorted(file.stem for file in (folder / "Sentences").glob("*.txt"))
    file = folder / f"{split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
        raise UserError(f"{folder}: no split {split!r}: no {file}; there are: {there}")
    return [line.strip() for line in read_lines(file) if line.strip()]


def _read(line: str) -> tuple[str, list[dict[str, Any]]]:
    """A caption, and its phrases, whose characters are counted while it is built."""
    text, done, phrases = "", 0, []
    for match in PHRASE.finditer(line := line.strip()):
        text += line[done : match.start()]
        words = match[3]
        span = (len(text), len(text) + len(words))
        text, done = text + words, match.end()
        phrases.append({"spans": [span], "entity": match[1], "types": match[2].strip("/").split("/")})
    return text + line[done:], phrases


def _boxes(file: Path, name: str, problems: Problems) -> Sequence[tuple[str, tuple[float, float, float, float]]]:
    """(entity, box) of all that have one."""
    try:
        tree = ElementTree.fromstring(read_bytes(file, "annotations of Flickr30k Entities"))
    except ElementTree.ParseError as error:
        problems.add(name, "malformed XML", f"{file}: {error}")
        return []
    found = []
    for entry in tree.iter("object"):
        corners = entry.find("bndbox")
        if corners is None:  # a scene, or nothing to be seen
            continue
        try:
            left, top, right, bottom = four([corners.findtext(side) for side in ("xmin", "ymin", "xmax", "ymax")])
        except ValueError as error:
            problems.add(name, "bad box", f"{file}: bndbox {error}")
            continue
        found += [((one.text or "").strip(), (left - 1, top - 1, right, bottom)) for one in entry.iter("name")]
    return found


def _row(
    name: str, sentences: Sequence[tuple[str, list[dict[str, Any]]]], boxes: Sequence[tuple[str, Any]], index: int,
    flat: Flat,
) -> Row:  # fmt: skip
    numbers: dict[str, list[int]] = {}
    called: dict[str, str] = {}
    phrases: list[Mapping[str, Any]] = []
    for text, found in sentences:
        for one in found:
            ((first, last),) = one["spans"]
            called.setdefault(one["entity"], text[first:last])
    for i, (entity, box) in enumerate(boxes):
        numbers.setdefault(entity, []).append(i)
        flat.add(index, box, 0, {"name": called.get(entity, "unnamed"), "label": None, "entity": entity})
    for i, (_, found) in enumerate(sentences):
        for one in found:
            own = [] if one["entity"] == NOTHING else numbers.get(one["entity"], [])
            phrases.append({"caption": i, **one, "boxes": own})
    captions = tuple(text for text, _ in sentences)
    return Row(image=f"{name}.jpg", captions=captions, at=name, image_id=name, targets={"phrases": phrases})
