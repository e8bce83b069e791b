"""ODVG's lines (object detection and visual grounding; mmdetection, Open-GroundingDino): one JSON object a picture.

``detection`` holds instances with ``bbox`` (corners in pixels), ``label`` (from 0) and ``category``; ``grounding`` a
caption and regions, each with ``bbox`` (one or several) and ``phrase``. Spans are those of ``tokens_positive``; a
phrase without them is looked for in the caption as whole words, and refused where it stands there more than once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.records import rows_of
from mmkit.data.sources.boxes.rows import Flat, ObjectRows, four
from mmkit.data.sources.published.rows import Row
from mmkit.data.text_files import parse_json


class Odvg(ObjectRows):
    """Lines of detection, of grounding, or of both; images: the folder that ``filename`` starts from.

    Classes are those of detection in the order of their labels; boxes of grounding have the phrase as their ``name``.
    UserError, with file and line, for labels with several names, boxes that are none, and phrases that their caption
    does not say, or says more than once.
    """

    def __init__(self, path: str | Path, *, images: str | Path) -> None:
        problems = Problems(path, unit="line")
        rows, flat, names = list[Row](), Flat(), dict[int, str]()
        for number, entry in rows_of(Path(path), ("filename",), problems):
            row = Row(image=str(entry["filename"]), captions=(), at=number)
            said = entry.get("grounding")
            if isinstance(said, Mapping):
                row = _grounded(row, said, len(rows), flat, problems)
            elif isinstance(entry.get("detection"), Mapping):
                _detected(entry["detection"], number, len(rows), flat, names, problems)
            else:
                problems.add(number, "missing key", 'no "detection" and no "grounding"')
            rows.append(row)
        if sorted(names) != list(range(len(names))):
            missing = next(i for i in range(max(names)) if i not in names)
            names |= {i: f"class {i}" for i in range(max(names)) if i not in names}
            problems.add("labels", "class without name", f"no instance has the label {missing}, and others go beyond")
        super().__init__(
            path, images, rows, flat, problems, names=[names[i] for i in sorted(names)] or ["object"],
            ids=range(max(1, len(names))), total=problems.rows,
        )  # fmt: skip

    def key(self, row: Row) -> str:
        """The file and the line."""
        return f"{self.path}:{row.at}"


def is_odvg(name: str) -> bool:
    """Whether the first line of a file is one of these."""
    path = Path(name)
    if path.suffix.lower() not in (".jsonl", ".json", ".odvg", ".txt") or not path.is_file():
        return False
    with path.open("rb") as file:
        line = file.readline(1 << 20)
    try:
        first = parse_json(line.strip(), first=True)
    except ValueError:
        return False
    return isinstance(first, dict) and "filename" in first and not {"detection", "grounding"}.isdisjoint(first)


def _detected(
    said: Mapping[str, Any], number: int, row: int, flat: Flat, names: dict[int, str], problems: Problems
) -> None:  # fmt: skip
    for entry in _list(said, "instances", number, problems):
        label, name = entry.get("label"), entry.get("category")
        if type(label) is not int or label < 0 or not isinstance(name, str) or not name.strip():
            problems.add(number, "class without name", 'an instance needs "label", from 0, and "category"')
        elif names.setdefault(label, name.strip()) != name.strip():
            problems.add(number, "label of several classes", f"{label} is {names[label]!r} before, and {name!r} here")
        elif (box := _box(entry.get("bbox"), number, problems)) is not None:
            flat.add(row, box, label, {})


def _grounded(row: Row, said: Mapping[str, Any], index: int, flat: Flat, problems: Problems) -> Row:
    caption, number = said.get("caption"), int(row.at)
    if not isinstance(caption, str) or not caption.strip():
        problems.add(number, "empty caption", 'the "grounding" has no "caption"')
        return row
    phrases, count = [], 0
    for entry in _list(said, "regions", number, problems):
        phrase = entry.get("phrase")
        spans = _spans(entry.get("tokens_positive")) or _found(caption, phrase, number, problems)
        given = entry.get("bbox")
        several = isinstance(given, list) and all(isinstance(one, list) for one in given)
        boxes = [_box(one, number, problems) for one in (given if several and given else [given])]
        first = count
        for box in boxes:
            if box is not None and spans:
                flat.add(index, box, 0, {"name": " ".join(caption[a:b] for a, b in spans), "label": None})
                count += 1
        if spans:
            phrases.append({"caption": 0, "spans": spans, "boxes": list(range(first, count))})
    return Row(image=row.image, captions=(caption,), at=row.at, targets={"phrases": phrases})


def _list(said: Mapping[str, Any], key: str, number: int, problems: Problems) -> Iterator[Mapping[str, Any]]:
    entries = said.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        problems.add(number, "missing key", f'"{key}" must be a list of objects, not {json.dumps(entries)[:60]}')
        return
    yield from entries


def _box(value: Any, number: int, problems: Problems) -> tuple[float, float, float, float] | None:
    try:
        left, top, right, bottom = four(value)
    except ValueError as error:
        problems.add(number, "bad box", f'"bbox" {error}')
        return None
    if right < left or bottom < top:
        problems.add(number, "right before left", f"[{left:g}, {top:g}, {right:g}, {bottom:g}]: ODVG's are corners")
        return None
    return left, top, right, bottom


def _spans(value: Any) -> list[tuple[int, int]]:
    pairs = value if isinstance(value, list) else []
    return sorted((pair[0], pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2)


def _found(caption: str, phrase: Any, number: int, problems: Problems) -> list[tuple[int, int]]:
    """Where a phrase stands as whole words, once."""
    said: Sequence[str] = phrase if isinstance(phrase, list) else [phrase]
    if not all(isinstance(one, str) and one.strip() for one in said):
        problems.add(number, "empty phrase", f'"phrase": {phrase!r}')
        return []
    spans = []
    for one in said:
        places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(one.strip())}(?!\w)", caption, re.IGNORECASE)]
        if len(places) != 1:
            what = "does not say" if not places else f"says {len(places)} times"
            problems.add(number, "unclear phrase", f"the caption {what} {one!r}; give its characters: tokens_positive")
            return []
        spans += places
    return sorted(spans)
