"""The samples of one tar shard as rows of its index, and what is wrong with it.

A sample is what has one name up to the first full stop: its picture, its video (``.mp4``) or its frames (``.000.jpg``,
``.001.jpg``); its captions in ``.txt`` (one a line), or where that says nothing under "caption" in ``.json``; its label
in ``.cls``; and all else that its ``.json`` says, but for what img2dataset notes of a download. Left out: several
pictures of one sample.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmkit.data.clip import FILMS
from mmkit.data.images.formats import SUFFIXES
from mmkit.data.labels import whole
from mmkit.data.records import tidy_captions
from mmkit.data.sources.tar_members import Ahead, BadTar, Member, members
from mmkit.data.sources.walk import is_hidden
from mmkit.data.storage import Place
from mmkit.data.text_files import NotText, decode, id_of, is_null, parse_json, split_lines

NOTED = frozenset((
    "caption", "width", "height", "url", "key", "status", "error_message", "original_width", "original_height", "exif",
    "sha256", "md5",
))  # fmt: skip
"""Keys of ``.json`` that are columns of their own, or of no use to training."""
TOGETHER = "names occur once, and the files of a sample stand one behind the other"
DAMAGED = "damaged shard"
READ = (".txt", ".json", ".cls")
FRAME = re.compile(r"\.(?:frame[-_]?)?([0-9]+)(\.[a-z0-9]+)")
"""What a frame of a clip ends in: its number and a picture's ending."""

Trouble = tuple[int, str, str]
"""The byte in the shard, the kind, and what is wrong."""


class Scanned(NamedTuple):
    """rows: an Arrow batch of the good samples; found: what is wrong; counts: how many of them have which target."""

    rows: Any
    found: list[Trouble]
    counts: dict[str, int]


def schema() -> Any:
    """The columns of an index. captions, width, height (pixels) and targets (the JSON of an object) may be null.

    start, size: the bytes of the picture, of the video, or from the first frame to the last. clip: null for a picture,
    [] for a video; for frames in their order the first byte and the length of each, one after the other.
    """
    import pyarrow as pa

    return pa.schema({
        "key": pa.string(), "start": pa.int64(), "size": pa.int64(), "captions": pa.list_(pa.string()),
        "width": pa.int32(), "height": pa.int32(), "targets": pa.string(), "clip": pa.list_(pa.int64()),
    })  # fmt: skip


def scan(place: Place, name: str, stamp: tuple[int, str]) -> Scanned:
    """All of one shard."""
    import pyarrow as pa

    found: list[Trouble] = []
    columns: list[list[Any]] = [[] for _ in schema()]
    counts: Counter[str] = Counter()
    read = Ahead(lambda start, size: place.read(name, start, size, stamp))
    for sample in _samples(read, stamp[0], found):
        seen = sample.seen()
        if seen is None:
            has = ", ".join(sorted(sample.endings))
            found.append((sample.at, "no picture", f"{sample.key}: a sample without a picture; it has {has}"))
            continue
        if sample.is_bad:
            continue
        try:
            captions, said = sample.words()
            size, targets = (_side(said.get("width")), _side(said.get("height"))), sample.targets(said)
        except ValueError as error:
            what = str(error)
            kind = "bad caption" if "caption" in what or ".txt" in what else "bad values"
            found.append((sample.at, kind, f"{sample.key}: {what}"))
            continue
        counts.update(targets.keys())
        kept = json.dumps(targets, ensure_ascii=False) if targets else None
        row = (sample.key, seen.start, seen.size, captions or None, *size, kept, seen.clip)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return Scanned(pa.record_batch(columns, schema=schema()), found, dict(sorted(counts.items())))


class _Seen(NamedTuple):
    """Where what a sample shows lies; see ``schema``."""

    start: int
    size: int
    clip: list[int] | None


class _Sample:
    """The files of one name."""

    def __init__(self, key: str, at: int) -> None:
        self.key, self.at = key, at
        self.picture: Member | None = None
        self.frames: dict[int, Member] = {}
        self.texts: dict[str, bytes] = {}
        self.endings: set[str] = set()
        self.is_bad = False

    def take(self, member: Member, ending: str, read: Ahead) -> tuple[str, str] | None:
        """Note what is a picture or a text; what is wrong with it as (kind, what)."""
        if ending in self.endings:
            return "repeated key", f"{member.name}: the sample has such a file already"
        self.endings.add(ending)
        if ending in READ:
            self.texts[ending] = read(member.start, member.size)
        frame = FRAME.fullmatch(ending)
        if frame and frame[2] in SUFFIXES:
            first = self.picture or self.frames.get(int(frame[1]))
            if first is not None:
                return "several pictures", f"{member.name}: stands beside {first.name}; a clip has each frame once"
            self.frames[int(frame[1])] = member
            return None
        if ending not in SUFFIXES and ending not in FILMS:
            return None
        other = self.picture or next(iter(self.frames.values()), None)
        if other is not None:
            return "several pictures", f"{member.name}: the sample has another picture ({other.name}); keep one"
        self.picture = member
        return None

    def seen(self) -> _Seen | None:
        """What it shows; None where it shows nothing."""
        if self.picture is not None:
            is_film = self.picture.name.lower().endswith(tuple(FILMS))
            return _Seen(self.picture.start, self.picture.size, [] if is_film else None)
        if not self.frames:
            return None
        frames = [self.frames[number] for number in sorted(self.frames)]
        start, end = min(one.start for one in frames), max(one.start + one.size for one in frames)
        return _Seen(start, end - start, [value for one in frames for value in (one.start, one.size)])

    def words(self) -> tuple[list[str], dict[str, Any]]:
        """The captions, and what ``.json`` says. ValueError for what is no caption and no object."""
        captions = [line.strip() for line in split_lines(self._text(".txt")) if line.strip()]
        said = parse_json(self.texts.get(".json", b"{}"), first=True)
        if not isinstance(said, dict):
            raise ValueError("the .json is no object {...}")
        given = said.get("caption")
        if captions or not given or (isinstance(given, str) and not given.strip()):
            return captions, said
        return list(tidy_captions(given)), said

    def targets(self, said: dict[str, Any]) -> dict[str, Any]:
        """What is kept of ``.json``, and the label of ``.cls``. ValueError for what cannot be."""
        kept = {key: value for key, value in said.items() if key not in NOTED and not is_null(value)}
        try:
            id_of(kept.get("image_id"))
        except ValueError as error:
            raise ValueError(f'"image_id" {error}') from error
        label = self._text(".cls").strip()
        if ".cls" not in self.texts:
            return kept
        if not label:
            raise ValueError("the .cls is empty; it should hold a label")
        number = whole(label)
        value = label if number is None else number
        if kept.setdefault("label", value) != value:
            raise ValueError(f'the .cls says {value!r}, and "label" in the .json {kept["label"]!r}')
        return kept

    def _text(self, ending: str) -> str:
        try:
            return decode(self.texts.get(ending, b""), first=True)
        except NotText as error:
            raise ValueError(f"the {ending} is not UTF-8 ({error}, byte {error.at + 1} of it)") from error


def _side(value: Any) -> int | None:
    """A side of a picture in pixels, as ``.json`` tells it; None where it says nothing that can be one."""
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _samples(read: Ahead, length: int, found: list[Trouble]) -> Iterator[_Sample]:
    """The samples of a shard; what is repeated, and where it is damaged, goes into ``found``."""
    keys: set[str] = set()
    sample: _Sample | None = None
    try:
        for member in members(read, length):
            folder, slash, file = member.name.rpartition("/")
            stem, dot, ending = file.partition(".")
            key, ending = folder + slash + stem, (dot + ending).lower()
            if is_hidden(file):
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, member.at)
                if key in keys:
                    sample.is_bad = True
                    found.append((member.at, "repeated key", f"{key}: a sample of this name came before; {TOGETHER}"))
                keys.add(key)
            trouble = sample.take(member, ending, read)
            if trouble is not None:
                sample.is_bad = True
                found.append((member.at, *trouble))
    except BadTar as error:
        found.append((error.at, DAMAGED, str(error)))
    if sample is not None:
        yield sample
