"""One record schema for every data set, and the JSON-lines file that holds it.

A record is a picture, the captions that describe it, and whatever else a task needs beside. A ``Source`` is anything
with a length that yields records by index; ``JsonLines`` is the native file form, others live in ``sources.py`` and
``openmoji.py``. Everything that can be known without opening a picture is checked when the source is built, before any
training. Left out: writing (any program can write JSON lines), and pictures behind URLs (download them first).
"""

from __future__ import annotations

import json
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, Protocol, runtime_checkable

from PIL import Image

from mmkit.errors import UserError

log = logging.getLogger(__name__)

CHECK_LIMIT = 100_000
"""Up to so many rows the existence of each picture is checked; of longer files, so many rows spread evenly."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture with its words.

    image: a decoded picture, a path, or the encoded bytes of a file.
    captions: one or several; training draws one at each visit. Empty for tasks without captions.
    image_id: equal ids mean the same picture (also across records). key: a name for messages ("train.jsonl:12").
    targets: what one task needs beside (question, answers, label, boxes, ...).
    """

    image: Image.Image | Path | bytes
    captions: tuple[str, ...]
    image_id: str
    key: str
    targets: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Anything that yields records by index.

    It may also offer what opens no picture: ``captions()``, an iterator over all, and ``described()``, see there.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def captions_of(source: Source) -> Iterator[str]:
    """Every caption of a source, without opening pictures where the source knows how."""
    quick = getattr(source, "captions", None)
    if callable(quick):
        yield from quick()
        return
    for index in range(len(source)):
        yield from source[index].captions


def described(source: Source) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(key, image_id, captions) of every record, without reading pictures where the source knows how."""
    quick = getattr(source, "described", None)
    if callable(quick):
        yield from quick()
        return
    for index in range(len(source)):
        record = source[index]
        yield record.key, record.image_id, record.captions


class Problems:
    """Collects what is wrong with the rows of one file, then raises all of it as one message."""

    def __init__(self, where: str | Path, unit: str = "line", show: int = 5) -> None:
        self.where, self.unit, self.show = where, unit, show
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []
        self.rows = 0

    def add(self, number: int | str, kind: str, detail: str) -> None:
        """Row ``number`` has a problem of this kind ("missing picture")."""
        self.counts[kind] += 1
        if len(self.first) < self.show:
            self.first.append(f"  {self.where}:{number}: {detail}")

    def raise_if_any(self, rows: int | None = None) -> None:
        """UserError with the first few rows and the counts by kind, or nothing. rows: of how many; None = ``rows``."""
        total = sum(self.counts.values())
        if not total:
            return
        kinds = ", ".join(f"{n} x {kind}" for kind, n in self.counts.most_common())
        more = f"\n  ... and {total - len(self.first)} more" if total > len(self.first) else ""
        raise UserError(
            f"{self.where}: {total} of {self.rows if rows is None else rows} {self.unit}s cannot be used ({kinds}):\n"
            + "\n".join(self.first)
            + more
            + f"\nCorrect or remove these {self.unit}s."
        )


def parse_row(number: int, line: bytes, needs: Sequence[str], problems: Problems) -> dict[str, Any] | None:
    """The JSON object of one line, or None with the problem noted. needs: the keys that it must have."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.add(number, "not UTF-8", f"not UTF-8 (byte {error.start} of the line); save the file as UTF-8")
        return None
    except json.JSONDecodeError as error:
        problems.add(number, "malformed JSON", f"malformed JSON: {error.msg} at column {error.colno}")
        return None
    if not isinstance(row, dict):
        problems.add(number, "not an object", f"expected a JSON object {{...}}, found {type(row).__name__}")
        return None
    missing = [key for key in needs if key not in row]
    if missing:
        names = ", ".join(f'"{key}"' for key in missing)
        has = ", ".join(f'"{key}"' for key in row) or "nothing"
        problems.add(number, "missing key", f"no key {names}; the line has {has}")
        return None
    return row


def rows_of(path: Path, needs: Sequence[str], problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line of a JSON-lines file that holds the keys; the others are noted in ``problems``."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            problems.rows += 1
            row = parse_row(number, line, needs, problems)
            if row is not None:
                yield number, row


def tidy_captions(value: object) -> tuple[str, ...]:
    """The captions in a ``caption`` value, a string or a list of strings; ValueError says what is wrong with it."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'"caption" must be a string or a list of strings, not {json.dumps(value, default=str)[:80]}')
    if not texts or not all(text.strip() for text in texts):
        raise ValueError('"caption" is empty; give it some words, or remove the line')
    return tuple(text.strip() for text in texts)


class JsonLines:
    """A file with one JSON object per line.

    ``{"image": "pictures/1.jpg", "caption": "a dog", "image_id": "1", "label": 3}``: ``image`` is a path relative to
    the file (or to ``root``), ``caption`` a string or a list of strings, ``image_id`` optional (the image path stands
    in). Every other key becomes an entry of ``Record.targets``. Only byte offsets stay in memory.

    Args:
        path: the file, UTF-8.
        root: where relative pictures are; default the folder of the file.
        needs: the keys that every line must have, besides ``image``.

    Raises:
        UserError: before anything is trained, for malformed JSON, missing keys, empty captions and missing pictures,
            with file and line.
    """

    def __init__(
        self, path: str | Path, *, root: str | Path | None = None, needs: Sequence[str] = ("caption",)
    ) -> None:
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.needs = tuple(dict.fromkeys(("image", *needs)))
        self._file: tuple[int, BinaryIO] | None = None
        if not self.path.is_file():
            what = "is a folder, not a file" if self.path.is_dir() else "no such file"
            raise UserError(f"{self.path}: {what}; expected JSON lines with the keys {', '.join(self.needs)}")
        self.offsets, self.lines = array("q"), array("q")
        self._validate()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = dict(self._row(index))
        image = row.pop("image")
        caption = row.pop("caption", None)
        return Record(
            image=self.root / image,
            captions=tidy_captions(caption) if caption else (),
            image_id=str(row.pop("image_id", image)),
            key=f"{self.path}:{self.lines[index]}",
            targets=row,
        )

    def captions(self) -> Iterator[str]:
        """Every caption in the order of the file."""
        for index in range(len(self)):
            caption = self._row(index).get("caption")
            if caption:
                yield from tidy_captions(caption)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _row(self, index: int) -> Mapping[str, Any]:
        if self._file is None or self._file[0] != os.getpid():  # a forked worker must not share the file position
            self._file = (os.getpid(), self.path.open("rb"))
        self._file[1].seek(self.offsets[index])
        row: Mapping[str, Any] = json.loads(self._file[1].readline().decode("utf-8-sig"))
        return row

    def _validate(self) -> None:
        problems, offset, pictures = Problems(self.path), 0, []
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and line.decode("utf-8-sig", "replace").lstrip().startswith("["):
                    other = self.path.with_suffix(".lines.jsonl")
                    raise UserError(
                        f"{self.path}:1: this is one JSON list; mmkit reads one JSON object per line. "
                        f"Convert it into another file: jq -c '.[]' {quote(str(self.path))} > {quote(str(other))}"
                    )
                if line.strip():
                    self.offsets.append(offset)
                    self.lines.append(number)
                    pictures.append(self._check_line(number, line, problems))
                offset += len(line)
        if not len(self):
            raise UserError(f"{self.path}: the file is empty")
        self._check_pictures(pictures, problems)
        problems.raise_if_any(len(self))

    def _check_line(self, number: int, line: bytes, problems: Problems) -> str | None:
        """The picture that the line names, or None with the problem noted."""
        row = parse_row(number, line, self.needs, problems)
        if row is None:
            return None
        image = row.get("image")
        if "image" in row and (not isinstance(image, str) or not image.strip()):
            problems.add(number, "bad image", f'"image" must be a path, not {json.dumps(image)[:80]}')
            return None
        if "caption" in row and ("caption" in self.needs or row["caption"]):
            try:
                tidy_captions(row["caption"])
            except ValueError as error:
                problems.add(number, "empty caption" if "empty" in str(error) else "bad caption", str(error))
                return None
        return image

    def _check_pictures(self, pictures: list[str | None], problems: Problems) -> None:
        step = 1
        if len(pictures) > CHECK_LIMIT:
            step = -(-len(pictures) // CHECK_LIMIT)
            log.info("%s: looked for the pictures of every %d. of %d rows only", self.path, step, len(pictures))
        for index in range(0, len(pictures), step):
            image = pictures[index]
            if image is None or os.path.isfile(os.path.join(self.root, image)):
                continue
            number = self.lines[index]
            if image.startswith(("http://", "https://")):
                problems.add(number, "URL", f"{image}: pictures behind URLs must be downloaded first (see img2dataset)")
            else:
                problems.add(number, "missing picture", f"no picture {self.root / image}")
