"""One record schema for every data set, and the JSON-lines file that holds it.

A record is a picture, the captions that describe it, and whatever else a task needs beside. A ``Source`` is anything
with a length that yields records by index; ``JsonLines`` is the native file form, others live in ``sources`` and
``openmoji``. Everything that can be known without opening a picture is checked when the source is built, before any
training. Left out: writing (any program can write JSON lines), and pictures behind URLs (download them first).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from mmkit.data.clip import Clip, as_seen
from mmkit.data.line_index import find_rows
from mmkit.data.picture_files import PictureFiles, is_url, missing
from mmkit.data.problems import Problems
from mmkit.data.row_file import RowFile
from mmkit.data.text_files import NotText, id_of, is_absent, is_null, not_utf8, one_text, parse_json
from mmkit.errors import UserError

LOOKED_AT = 1000
"""So many pictures of a file that has an index are looked for again."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture or clip with its words.

    image: a decoded picture, a path, or the encoded bytes of a file; or a ``Clip``, where something moves.
    captions: one or several; training draws one at each visit. Empty for tasks without captions.
    image_id: equal ids mean the same picture (also across records). key: a name for messages ("train.jsonl:12").
    targets: what one task needs beside (question, answers, label, boxes, ...).
    """

    image: Image.Image | Path | bytes | Clip
    captions: tuple[str, ...]
    image_id: str
    key: str
    targets: Mapping[str, Any] = field(default_factory=dict)


Choose = Callable[[int], int]


@runtime_checkable
class Source(Protocol):
    """Anything that yields records by index; from several threads at once too.

    It may also offer what opens no picture: ``captions()``, an iterator over all, and ``described()``, see there; and
    ``with_one_caption(index, choose)``, for training that reads no more: the record with caption ``choose(how many)``
    alone, which is asked once, and perhaps without what lies in the picture (boxes, phrases).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class ByNumber:
    """A source that makes each record (``_at``) when it is asked for; IndexError for a number that it has not."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._at(index)

    def _at(self, index: int) -> Record:
        raise NotImplementedError


def by_one_caption(source: Source) -> Callable[[int, Choose], Record] | None:
    """The source's ``with_one_caption``; None where it has none, or its class is one that changes ``[index]`` alone."""
    defining = (vars(kind).keys() & {"with_one_caption", "__getitem__"} for kind in type(source).__mro__)
    nearest = next(filter(None, defining), set())
    return source.with_one_caption if "with_one_caption" in nearest else None  # type: ignore[attr-defined]


def captions_of(source: Source) -> Iterator[str]:
    """Every caption of a source, without opening pictures where the source knows how."""
    quick = getattr(source, "captions", None)
    if callable(quick):
        return iter(quick())
    return (caption for index in range(len(source)) for caption in source[index].captions)


def described(source: Source) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(key, image_id, captions) of every record, without reading pictures where the source knows how."""
    quick = getattr(source, "described", None)
    if callable(quick):
        return iter(quick())
    records = (source[index] for index in range(len(source)))
    return ((record.key, record.image_id, record.captions) for record in records)


def targets_of(source: Source, key: str) -> Iterator[Any]:
    """One target of every record, None where it has none; by the source's own ``target(key)`` if it has one."""
    quick = getattr(source, "target", None)
    if callable(quick):
        return iter(quick(key))
    return (source[row].targets.get(key) for row in range(len(source)))


def parse_row(number: int, line: bytes, needs: Sequence[str], problems: Problems) -> dict[str, Any] | None:
    """The JSON object of one line, or None with the problem noted. needs: the keys that it must have."""
    try:
        row = parse_json(line.strip(), first=number == 1)
    except NotText as error:
        problems.add(number, "not UTF-8", not_utf8(error, problems.where, line))
        return None
    except ValueError as error:
        kind = "malformed JSON" if str(error).startswith("malformed JSON") else "unclear JSON"
        problems.add(number, kind, str(error))
        return None
    if not isinstance(row, dict):
        problems.add(number, "not an object", f"expected a JSON object {{...}}, found {type(row).__name__}")
        return None
    lacking = [key for key in needs if key not in row]
    if lacking:
        names = ", ".join(f'"{key}"' for key in lacking)
        has = ", ".join(f'"{key}"' for key in row) or "nothing"
        problems.add(number, "missing key", f"no key {names}; the line has {has}")
        return None
    return row


def rows_of(path: Path, needs: Sequence[str], problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line of a JSON-lines file that holds the keys; the others are noted in ``problems``."""
    for number, _, line in RowFile(path, "JSON lines").physical_lines():
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
    if not texts or not all(any(letter.isprintable() and letter != " " for letter in text) for text in texts):
        raise ValueError('"caption" is empty; give it some words, or remove the line')
    return tuple(one_text(text, "caption") for text in texts)


class FileRecords:
    """Records that are rows of a file, each read when it is asked for: what JSON lines and tables share.

    Who derives from it sets ``path``, ``root`` (of relative pictures), ``rows`` and ``files``.
    """

    path: Path
    root: Path
    rows: RowFile
    files: PictureFiles

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lines(self) -> Sequence[int]:
        """The number of each row's line in the file."""
        return self.rows.lines

    def __getitem__(self, index: int) -> Record:
        row = self._row(index)
        names, is_clip = named_in(row)
        names, caption = tuple(map(self.files.name, names)), row.pop("caption", None)
        row.pop("video" if is_clip else "image")
        paths, image = tuple(self.root / name for name in names), identity(names)
        return Record(
            image=Clip(paths[0] if len(paths) == 1 else paths) if is_clip else as_seen(paths[0]),
            captions=tidy_captions(caption) if caption else (), image_id=id_of(row.pop("image_id", None)) or image,
            key=f"{self.path}:{self.lines[index]}", targets=row,
        )  # fmt: skip

    def captions(self) -> Iterator[str]:
        """Every caption in the order of the file."""
        for index in range(len(self)):
            caption = self._row(index).get("caption")
            if caption:
                yield from tidy_captions(caption)

    def _row(self, index: int) -> dict[str, Any]:
        """What a row says, by our names for its keys, without what is empty."""
        raise NotImplementedError

    def _identity(self, index: int) -> tuple[str, str]:
        found = self._row(index)
        names, _ = named_in(found)
        return id_of(found.get("image_id")) or identity([self.files.name(name) for name in names]), identity(names)

    def _check_pictures(self, problems: Problems) -> None:
        """UserError for missing pictures, ids of several, and all that is in ``problems``."""
        self.files.check(problems, lambda row: self.lines[row])
        self.files.check_ids(problems, lambda row: self.lines[row], self._identity)
        problems.raise_if_any()

    def _look_again(self) -> None:
        """Some of the pictures that were there when the index was made; UserError for those that are gone."""
        problems, rows = Problems(self.path), range(0, len(self), -(-len(self) // LOOKED_AT))
        for row in rows:
            names, is_clip = named_in(self._row(row))
            for name in names:
                if not (os.path.exists if is_clip else os.path.isfile)(self.files.path(name)):
                    problems.add(self.lines[row], *missing(name, self.files.path(name)))
        problems.raise_if_any(len(rows))


class JsonLines(FileRecords):
    """A file with one JSON object per line.

    ``{"image": "pictures/1.jpg", "caption": "a dog", "image_id": "1", "label": 3}``: ``image`` is a path relative to
    the file (or to ``root``), ``caption`` a string or a list of strings, ``image_id`` optional (the image's path stands
    in where it is missing, null or empty). In the place of ``image`` may stand ``video``: the path of a video, of an
    animated picture, of an array (``.npy``) or of a folder of frames, or a list of frames' paths. Every other key
    becomes an entry of ``Record.targets``, but for those that are null. Only byte offsets stay in memory, of files from
    32 MB up in an index (``line_index``); threads may read.

    Args:
        path: the file, UTF-8.
        root: where relative pictures are; default the folder of the file.
        needs: the keys that every line must have, besides ``image``.
        columns: {key as above: key in the file}, where the file calls them otherwise.

    Raises:
        UserError: before anything is trained, for malformed JSON, missing keys, empty captions, missing pictures, and
            one image_id for several pictures, with file and line; later, for a file that was changed meanwhile.
    """

    def __init__(
        self, path: str | Path, *, root: str | Path | None = None, needs: Sequence[str] = ("caption",),
        columns: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.needs = tuple(dict.fromkeys(("image", *needs)))
        self.columns = {field: key for field, key in (columns or {}).items() if field != key}
        self.rows = RowFile(self.path, f"JSON lines with the keys {', '.join(self.needs)}")
        self.files = PictureFiles(self.root)
        self._check_form()
        about = () if root is None and not self.columns else (str(root), sorted(self.columns.items()))
        if find_rows(self.rows, self.files, self.needs, about, self._validate):
            self._look_again()

    def _row(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = parse_json(self.rows[index].strip(), first=self.lines[index] == 1)
        if self.columns:
            found = renamed(found, self.columns)
        return {key: value for key, value in found.items() if not is_null(value)}

    def _validate(self, look: bool = False) -> Collection[str]:
        """What all rows hold, if one is to ``look``."""
        problems, held = Problems(self.path), None
        for number, start, line in self.rows.physical_lines():
            if not line.strip():
                continue
            problems.rows += 1
            found = self._checked(number, line, problems)
            if found is not None:
                row, image_id = found
                self.rows.add(number, start, len(line))
                self.files.note(identity(named_in(row)[0]), image_id, *named_in(row))
                if look:
                    held = [key for key in (held or row) if not is_absent(row.get(key)) and row[key] != []]
        if not problems.rows:
            raise UserError(f"{self.path}: the file is empty")
        self._check_pictures(problems)
        return held or ()

    def _check_form(self) -> None:
        """UserError for what is JSON, but not one object per line, and for tables."""
        begin, name = self.rows.beginning().removeprefix(b"\xef\xbb\xbf"), quote(str(self.path))
        other = quote(str(self.path.with_suffix(".lines.jsonl")))
        is_list = begin.lstrip().startswith(b"[")
        if is_list or re.match(rb'\s*\{\s*\n\s*"', begin):
            what, taken = ("one JSON list", "'.[]'") if is_list else ("JSON over several lines", ".")
            raise UserError(
                f"{self.path}:1: this is {what}; mmkit reads one JSON object per line. "
                f"Convert it into another file: jq -c {taken} {name} > {other}"
            )
        suffix = self.path.suffix.lower()
        if suffix in (".csv", ".tsv", ".parquet", ".arrow", ".tar"):
            kind = "csv" if suffix in (".csv", ".tsv") else "records"
            raise UserError(
                f"{self.path}: not JSON lines, but {suffix}; write such lines with: "
                f"mmkit data import {kind} {name} {other}"
            )

    def _checked(
        self, number: int, line: bytes, problems: Problems
    ) -> tuple[dict[str, Any], str | None] | None:  # fmt: skip
        """What a line says, and the id that it gives; or None with the problem noted."""
        row = parse_row(number, line, (), problems)
        if row is None:
            return None
        row = renamed(row, self.columns)
        there = {*row, "image"} if "video" in row and not is_null(row["video"]) else row.keys()
        lacking = [self.columns.get(key, key) for key in self.needs if key not in there]
        if lacking:
            names, has = (", ".join(f'"{key}"' for key in keys) for keys in (lacking, row))
            how = f"; rename it, or say which is which: --columns {lacking[0]}=KEY (for training: of mmkit data import)"
            say = how if row and lacking[0] in self.needs else ""
            problems.add(number, "missing key", f"no key {names}; the line has {has or 'nothing'}{say}")
            return None
        caption = row.get("caption")
        try:
            files, _ = named_in(row)
        except ValueError as error:
            problems.add(number, _kind(str(error)), str(error))
            return None
        if url := next(filter(is_url, files), None):
            problems.add(number, *missing(url, Path(url)))
        else:
            try:
                if "caption" in self.needs or not (caption is None or caption in ("", []) or is_absent(caption)):
                    tidy_captions(caption)
                for key in self.needs[1:]:
                    if is_null(row[key]):
                        raise ValueError(f'"{key}" is {json.dumps(row[key])}; give it a value, or remove the line')
                return row, _checked_id(row.get("image_id"))
            except ValueError as error:
                problems.add(number, _kind(str(error)), str(error))
        return None


def named_in(row: Mapping[str, Any]) -> tuple[Sequence[str], bool]:
    """The paths that a row names, and whether they are of a clip; ValueError says what is wrong with them."""
    video, image = row.get("video"), row.get("image")
    if is_null(video):
        if not isinstance(image, str) or not image.strip():
            raise ValueError(f'"image" must be a path, not {json.dumps(image, default=str)[:80]}')
        return (image,), False
    if not is_null(image):
        raise ValueError('"video" stands beside "image", which is another thing to look at; give one of them')
    names = [video] if isinstance(video, str) else video
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(
            f'"video" must be a path or a list of frames\' paths, not {json.dumps(video, default=str)[:80]}'
        )
    if not names:
        raise ValueError('"video" is an empty list: 0 frames; a clip has at least one')
    return names, True


def identity(names: Sequence[str]) -> str:
    """The name of a picture or clip by the paths of its files."""
    return "|".join(names)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row by our names for its keys. columns: {ours: the file's}."""
    if not columns:
        return dict(row)
    theirs = set(columns.values())
    kept = {key: value for key, value in row.items() if key not in theirs and key not in columns}
    return {field: row[key] for field, key in columns.items() if key in row} | kept


def _checked_id(value: Any) -> str | None:
    try:
        return id_of(value)
    except ValueError as error:
        raise ValueError(f'"image_id" {error}') from error


def _kind(message: str) -> str:
    what = message.split('"')[1] if message.startswith('"') else "row"
    return f"empty {what}" if "is empty" in message else f"bad {what}"
