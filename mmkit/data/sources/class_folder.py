"""Pictures sorted into folders, one for each class."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.clip import as_seen
from mmkit.data.labels import natural, same_names, some
from mmkit.data.records import Record
from mmkit.data.sources.walk import is_hidden, pictures_in, walk
from mmkit.errors import UserError

log = logging.getLogger(__name__)

SPLITS = frozenset((
    "train", "training", "trn", "val", "valid", "validation", "dev", "test", "testing", "tst", "eval", "evaluation",
    "holdout", "minival", "testdev", "train2014", "val2014", "test2014", "train2017", "val2017", "test2017",
))  # fmt: skip
"""Folders of these names are parts of a data set, not classes."""


def is_class_folder(path: Path) -> bool:
    """Whether a folder holds pictures in folders, none beside these and no captions: what ``ClassFolder`` reads."""
    found = walk(path)
    return bool(found.pictures) and ".txt" not in found.left_out and all(p.parent != path for p in found.pictures)


class ClassFolder:
    """Pictures in one folder per class; ``targets["label"]`` is the index of the folder in ``class_names``.

    These are sorted as people count: "2" and "class_2" stand before "10" and "class_10". ``captions`` are empty: this
    is for zero-shot and other classification. Links are followed; hidden folders and files (``.ipynb_checkpoints``,
    ``__MACOSX``, ``Thumbs.db``, ...) are not looked at. What else is no picture, and a folder without pictures, is
    said. A file that several links name is one picture of a class.

    UserError for pictures beside the folders, and for folders in folders (``train/cat``), which say two things of a
    picture; folders of one name in every class (``cat/images``) are passed through.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        found = pictures_in(self.path)
        loose = [p for p in found if p.parent == self.path]
        if loose:
            raise UserError(f"{loose[0]}: lies beside the class folders; expected {self.path}/CLASS/{loose[0].name}")
        _check_layout(self.path, found)
        of_class: defaultdict[str, dict[str, Path]] = defaultdict(dict)
        for picture in found:
            of_class[picture.relative_to(self.path).parts[0]].setdefault(os.path.realpath(picture), picture)
        self.class_names = sorted(of_class, key=natural)
        self._rows = [(p, i) for i, name in enumerate(self.class_names) for p in of_class[name].values()]
        self._tell(found, of_class)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        picture, label = self._rows[index]
        name = str(picture.relative_to(self.path))
        return Record(image=as_seen(picture), captions=(), image_id=name, key=str(picture), targets={"label": label})

    def target(self, key: str) -> Iterator[Any]:
        """Every label, for the key "label"."""
        yield from (label if key == "label" else None for _, label in self._rows)

    def _tell(self, pictures: Sequence[Path], of_class: dict[str, dict[str, Path]]) -> None:
        """What one would like to know of what was found."""
        folders = (p for p in self.path.iterdir() if p.is_dir() and not is_hidden(p.name))
        empty = sorted((p.name for p in folders if p.name not in of_class), key=natural)
        if empty:
            log.warning("%s: folders without pictures, left out of the classes: %s", self.path, some(empty))
        if len(pictures) > len(self):
            log.warning("%s: %d links name a picture that its class has already", self.path, len(pictures) - len(self))
        times = Counter(real for files in of_class.values() for real in files)
        twice = sum(n > 1 for n in times.values())
        if twice:
            log.warning("%s: %d pictures lie in several class folders, so have several classes", self.path, twice)
        for group in same_names(of_class):
            log.warning(
                "%s: the folders %s have one name; as classes that are told by their names they are one",
                self.path, " and ".join(map(repr, group)),
            )  # fmt: skip


def _check_layout(path: Path, pictures: Sequence[Path]) -> None:
    """UserError for folders in folders."""
    inner: defaultdict[str, set[str]] = defaultdict(set)  # of each class, the folders right in it; "" = none
    holders: dict[Path, None] = {}  # the folders of those that hold pictures
    for picture in pictures:
        parts = picture.relative_to(path).parts
        inner[parts[0]].add(parts[1] if len(parts) > 2 else "")
        if len(parts) > 2:
            holders[picture.parent.parent] = None
    nested = [name for name, below in inner.items() if "" not in below]
    splits = [name for name in inner if name.casefold() in SPLITS]
    if len(splits) == len(inner) or any(name in nested for name in splits):
        what = f"{some(splits)}: parts of a data set, not classes"
    elif nested and not (len(nested) == len(inner) > 1 and len(set.union(*inner.values())) == 1):
        what = f"{some(nested)}: hold folders, so the class of a picture may be the outer or the inner one"
    else:
        return
    likely = sorted(holders, key=lambda p: (not _is_test(p), natural(str(p)))) if nested else []
    give = f"Give the folder that holds the class folders: {some(likely, 3)}" if likely else ""
    raise UserError(
        f"{path}: {what}. {give or 'Sort the pictures into one folder for each class'}, or list the pictures in a CSV "
        "with the columns path and label"
    )


def _is_test(folder: Path) -> bool:
    return any(part.casefold().startswith(("test", "val", "dev")) for part in folder.parts[-2:])
