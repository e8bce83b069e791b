"""All that is wrong with a source, counted by kind, for ``mmkit data check``: what training or evaluation trips over.

What readers refuse is collected here and not raised, so that one look finds everything; each picture is opened once,
whatever the number of its records. Left out: what only a tokenizer can know.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.boxes import boxes_in
from mmkit.data.clip import Clip
from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.labels import Label, label_in
from mmkit.data.misplaced import REFUSED, misplaced
from mmkit.data.problems import Problems, collecting
from mmkit.data.reading import reading
from mmkit.data.records import Record, Source
from mmkit.data.sources.open import open_source
from mmkit.data.video.opening import open_clip
from mmkit.errors import UserError

log = logging.getLogger(__name__)

LONG = 77
"""Captions of more words (or letters, where there are no spaces) are longer than most models read."""

SHOWN = 100
"""So many messages of each kind of trouble are kept."""

ONE_ID = "one id for different pictures"

Picture = Image.Image | Path | bytes | Clip
ClassesOf = Callable[[Source], Callable[[Label], str | None]]


@dataclass(kw_only=True)
class Summary:
    """What a source holds and what is wrong with it.

    Sizes are of the pictures, and of the frames of clips, in pixels; lengths are of captions in words (or characters,
    for captions without spaces), and of clips in frames.
    images: distinct ids. bad_images: distinct pictures that are missing or cannot be read. duplicate_images: ids whose
    picture has the very bytes of another's. boxed: how many boxes each class has. noted: {kind: number} of what a rule
    leaves out or cuts, and what may be meant, of boxes (empty ones, pictures without any). problems: {kind: number},
    empty where nothing is wrong; bad: a message for each, the first of each kind; warnings: what does not stop
    anything, but may not be meant.
    """

    records: int = 0
    images: int = 0
    captions: int = 0
    distinct_captions: int = 0
    bad_images: int = 0
    duplicate_images: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    clips: int = 0
    shortest_clip: int | None = None
    longest_clip: int | None = None
    longest_caption: int = 0
    long_captions: int = 0
    captions_per_image: float = 0.0
    without_caption: int = 0
    without_answers: int = 0
    boxes: int = 0
    boxed: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_named(
    spec: str, progress: Callable[[int, int], object] | None = None, classes: ClassesOf | None = None, **options: Any
) -> Summary:  # fmt: skip
    """Open what a name stands for, and check it; each warning is logged once. options: of ``open_source``.

    progress: called with (done, total); classes: see ``check``. UserError where it cannot be opened at all.
    """
    heard = BufferingHandler(sys.maxsize)
    heard.setLevel(logging.WARNING)
    logger = logging.getLogger("mmkit.data")
    logger.addHandler(heard)
    try:
        with collecting() as found:
            source = open_source(spec, answers_needed=False, **options)
    finally:
        logger.removeHandler(heard)
    total = len(source)
    summary = check(source, None if progress is None else lambda done: progress(done, total), found, classes)
    for message in summary.warnings:
        log.warning("%s", message)
    summary.warnings = [record.getMessage() for record in heard.buffer] + summary.warnings
    return summary


def check(
    source: Source, progress: Callable[[int], object] | None = None, found: Sequence[Problems] = (),
    classes: ClassesOf | None = None,
) -> Summary:  # fmt: skip
    """Open every picture, several at a time.

    progress: called with the number of records done so far. found: what its reader met. classes: from the source to
    what says what is wrong with a label, or None.
    """
    look = _Look(found, None if classes is None else classes(source))
    for batch in reading(_visits(source), _open_new, batch_size=64):
        for visit, opened in zip(batch.items, batch.made, strict=True):
            if isinstance(visit.record, Record):
                look.at(visit, visit.record, opened)
            else:
                look.trouble("unusable record", visit.record, visit.index)
            if progress is not None:
                progress(visit.index + 1)
    return look.summary(len(source))


@dataclass(frozen=True)
class _Visit:
    """A record, or why there is none; its pictures with their names ("" for those in memory), and which are new."""

    index: int
    record: Record | str
    pictures: tuple[tuple[str, Picture], ...] = ()
    new: tuple[bool, ...] = ()


@dataclass(frozen=True)
class _Opened:
    """size: None where the picture cannot be read, and trouble and message say why. digest: of the file's bytes, or
    "" for what is none of a file. frames: of a clip; else 0.
    """

    size: tuple[int, int] | None = None
    frames: int = 0
    digest: str | None = None
    trouble: str = ""
    message: str = ""


def _visits(source: Source) -> Iterator[_Visit]:
    """Every record in order; each picture is new once."""
    seen: set[str] = set()
    for index in range(len(source)):
        try:
            record = source[index]
        except UserError as error:
            yield _Visit(index, str(error))
            continue
        images = [record.image, *(value for value in record.targets.values() if isinstance(value, Picture))]
        pictures, new = tuple((_name(image), image) for image in images), []
        for name, _ in pictures:
            new.append(not name or name not in seen)
            seen.add(name)
        yield _Visit(index, record, pictures, tuple(new))


def _name(image: Picture) -> str:
    if isinstance(image, Clip):
        return "|".join(map(str, image.files())) or (_digest(image.frames) if isinstance(image.frames, bytes) else "")
    return str(image) if isinstance(image, Path) else _digest(image) if isinstance(image, bytes) else ""


def _open_new(visit: _Visit, _: int) -> tuple[_Opened | None, ...]:
    """What became of each picture; None for those that are not new."""
    return tuple(
        _opened(visit.record if i == 0 else image, name, image) if new and isinstance(visit.record, Record) else None
        for i, ((name, image), new) in enumerate(zip(visit.pictures, visit.new, strict=True))
    )


def _opened(what: Record | Picture | str, name: str, image: Picture) -> _Opened:
    files = [image] if isinstance(image, Path) else list(image.files()) if isinstance(image, Clip) else []
    try:
        if isinstance(image, Clip):
            size, frames = _looked_through(image, what.key if isinstance(what, Record) else None)
        else:
            size, frames = load_image(what).size, 0  # type: ignore[arg-type]  # no clip
        whole = b"".join(file.read_bytes() for file in files if file.is_file())
        return _Opened(size, frames, _digest(whole) if whole else name)
    except BadImage as error:
        gone, kind = any(not os.path.exists(file) for file in files), "clip" if isinstance(image, Clip) else "picture"
        return _Opened(trouble=f"missing {kind}" if gone else f"unreadable {kind}", message=str(error))


def _looked_through(image: Clip, name: str | None) -> tuple[tuple[int, int], int]:
    """(width, height) of the frames, and how many there are; every one is decoded."""
    clip = open_clip(image, name)
    first = clip.take([0])[0]
    for start in range(0, clip.count, 16):
        clip.take([0, *range(start, min(start + 16, clip.count))])
    return first.size, clip.count


class _Look:
    """What was seen so far."""

    def __init__(self, found: Sequence[Problems], wrong: Callable[[Label], str | None] | None) -> None:
        self.wrong = wrong
        self.counts: Counter[str] = Counter()
        self.told: list[str] = []
        self.known = {number for problems in found if problems.unit == "row" for number in problems.numbers}
        self.ids_told = any(ONE_ID in problems.counts for problems in found)
        for problems in found:
            self.counts.update(problems.counts)
            self.told += [message.strip() for message in problems.first]
        self.shown: Counter[str] = Counter()
        self.sizes: set[tuple[int, int]] = set()
        self.frames: list[int] = []
        self.opened: dict[str, str | None] = {}  # picture -> digest; None where it cannot be read
        self.ids: dict[str, str] = {}
        self.captions: Counter[str] = Counter()
        self.targets: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.size_of: dict[str, tuple[int, int] | None] = {}
        self.boxes, self.boxed, self.noted = 0, Counter[str](), Counter[str]()
        self.first_noted: dict[str, str] = {}
        self.longest = self.long = self.silent = self.unanswered = self.asked = self.labelled = self.bad = 0
        self.unlabelled: list[str] = []

    # number: of a row of a data set, whose reader may have told of it
    def trouble(self, kind: str, message: str, number: int | None = None) -> None:
        if number is not None and number in self.known:
            return
        self.counts[kind] += 1
        self.shown[kind] += 1
        if self.shown[kind] <= SHOWN:
            self.told.append(message)

    def at(self, visit: _Visit, record: Record, opened: Sequence[_Opened | None]) -> None:
        self._words(record)
        self._targets(record)
        digest, *_ = [self._picture(name, new) for (name, _), new in zip(visit.pictures, opened, strict=True)]
        if "boxes" in record.targets:
            self._boxes(record, self.size_of.get(visit.pictures[0][0]) or (opened[0].size if opened[0] else None))
        first = self.ids.setdefault(record.image_id, digest or "")
        if digest and not first:
            self.ids[record.image_id] = digest
        if digest and first and first != digest and not self.ids_told:
            what = f"{record.key}: image_id {record.image_id!r} is of another picture than before; equal ids mean one"
            self.trouble(ONE_ID, what)

    def _words(self, record: Record) -> None:
        self.silent += not record.captions
        self.captions.update(text.lower() for text in record.captions)
        for text in record.captions:
            length = len(text.split()) if " " in text else len(text)
            self.longest, self.long = max(self.longest, length), self.long + (length > LONG)

    def _targets(self, record: Record) -> None:
        self.targets.update(record.targets.keys())
        if "question" in record.targets:
            self.asked += 1
            self.unanswered += not record.targets.get("answers")
        if "label" not in record.targets:
            self.unlabelled.append(record.key)
            return
        self.labelled += 1
        try:
            label = label_in(record.targets["label"], record.key)
        except UserError as error:
            self.trouble("bad label", str(error))
            return
        self.labels[str(label)] += 1
        wrong = None if self.wrong is None else self.wrong(label)
        if wrong is not None:
            self.trouble("label of no class", f"{record.key}: {wrong}")

    def _boxes(self, record: Record, size: tuple[int, int] | None) -> None:
        """size: (width, height) of the picture, where it can be read."""
        try:
            found = boxes_in(record.targets)
        except UserError as error:
            self.trouble("bad box", f"{record.key}: {error}")
            return
        self.boxes += len(found)
        self._note("picture without boxes", record.key, not len(found))
        for i, label in enumerate(found.labels):
            self.boxed[_called(record.targets["boxes"], i, label)] += 1
            self._note("crowd", record.key, bool(found.crowd[i]))
            self._note("ignored box", record.key, bool(found.ignore[i]))
            self._note("id 0", f"{record.key}: box {i}", found.ids[i] == 0)
            if label is None:
                self.trouble("class without name", f"{record.key}: box {i} has neither name nor label")
        for i, kind, what in misplaced(found, size):
            where = f"box {i}" if found.ids[i] < 0 else f"box {i}, id {found.ids[i]},"
            if kind in REFUSED:
                self.trouble(kind, f"{record.key}: {where} {what}")
            else:
                self._note(kind, f"{record.key}: {where} {what}")

    def _note(self, kind: str, where: str, is_so: bool = True) -> None:
        if is_so:
            self.noted[kind] += 1
            self.first_noted.setdefault(kind, where)

    def _picture(self, name: str, new: _Opened | None) -> str | None:
        """The digest of a picture's bytes; None where it cannot be read, "" where it is none of a file."""
        if new is None:
            return self.opened[name]
        if new.size is None:
            self.bad += 1
            self.trouble(new.trouble, new.message)
        else:
            self.sizes.add(new.size)
            self.frames += [new.frames] if new.frames else []
        if name:
            self.size_of[name] = new.size
            self.opened[name] = new.digest
        return new.digest

    def summary(self, records: int) -> Summary:
        if self.labelled and self.unlabelled:
            some = ", ".join(self.unlabelled[:3])
            self.counts["no label"] += len(self.unlabelled)
            self.told.append(f"{len(self.unlabelled)} records without a label, beside {self.labelled} with one: {some}")
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        digests = [digest for digest in self.ids.values() if digest]
        double = len(digests) - len(set(digests))
        mixed = self.silent if self.captions else 0
        warnings = [
            message for number, message in (
                (double, f"{double} pictures are copies of others under another id; they count as different"),
                (self.long, f"{self.long} captions are longer than {LONG} words; models cut them"),
                (mixed, f"{mixed} records have no caption, others have"),
                (self.unanswered, f"{self.unanswered} of {self.asked} questions have no answers"),
            ) if number
        ]  # fmt: skip
        warnings += [f"{n} x {kind}, the first: {self.first_noted[kind]}" for kind, n in self.noted.most_common()]
        return Summary(
            records=records, images=len(self.ids), captions=self.captions.total(),
            distinct_captions=len(self.captions), bad_images=self.bad, duplicate_images=double,
            smallest=by_area[0] if by_area else None, largest=by_area[-1] if by_area else None, clips=len(self.frames),
            shortest_clip=min(self.frames, default=None), longest_clip=max(self.frames, default=None),
            longest_caption=self.longest, long_captions=self.long, without_caption=self.silent,
            without_answers=self.unanswered, captions_per_image=self.captions.total() / max(1, len(self.ids)),
            boxes=self.boxes, boxed=dict(self.boxed.most_common()), noted=dict(self.noted.most_common()),
            targets=dict(self.targets), labels=dict(self.labels), bad=self.told, warnings=warnings,
            problems={kind: number for kind, number in self.counts.most_common() if number},
        )  # fmt: skip


def _called(boxes: Any, number: int, label: Label | None) -> str:
    """What the class of a box is called."""
    entry = boxes[number] if isinstance(boxes, list | tuple) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    return str(label if name is None else name)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
