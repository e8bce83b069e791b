"""Pictures that a file names by path: where they are, which of the names are one picture, and which ids are of several.

``./a.png`` and ``a.png`` are one picture; so are links to one file, and names that differ in case where the file system
takes them as equal, as far as the files are looked at (``CHECK_LIMIT``).
"""

from __future__ import annotations

import filecmp
import logging
import os
import posixpath
import re
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mmkit.data.problems import Problems, is_collecting
from mmkit.data.text_files import stable_id

log = logging.getLogger(__name__)

CHECK_LIMIT = 100_000
"""Up to so many rows the existence of each picture is checked; of longer files, so many rows spread evenly."""

MOST_PAIRS = 10_000
"""So many repeated ids are looked at; of more, the first."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:image/")


NamedRow: TypeAlias = tuple[int | str, str | Sequence[str], str | None]
"""Its number, its picture or the frames of its clip, and the id that the file says, or None."""

Numbers: TypeAlias = "array[int] | memoryview | np.ndarray"


class PictureFiles:
    """The pictures of one file of records. root: what relative paths are relative to.

    A file notes each of its rows (``note``), then looks for the pictures (``check``) and at the ids (``check_ids``).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.absolute = os.path.abspath(root)
        self.same: dict[str, str] = {}
        self._ids: array[int] | memoryview = array("q")
        self._pictures: array[int] | memoryview = array("q")
        self._sample: list[tuple[int, Sequence[str], bool]] = []
        self._every = 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ids": array("q"), "_pictures": array("q"), "_sample": []}

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, image: str) -> str:
        """The one name of a picture, with slashes, relative to ``root`` where it was so."""
        if "\\" in image and os.sep == "/" and not os.path.exists(os.path.join(self.root, image)):
            image = image.replace("\\", "/")
        if image.startswith(".") or "/." in image or "//" in image:
            image = self._normal(image)
        return self.same.get(image, image)

    def _normal(self, image: str) -> str:
        name = posixpath.normpath(image)
        if ".." in image and name != image and not same_file(self.root / name, self.root / image):
            return image  # through a link, "link/.." is another folder
        return name

    def path(self, image: str) -> Path:
        """Where a picture is."""
        return self.root / self.name(image)

    def note(self, image: str, image_id: str | None, files: Sequence[str] | None = None, is_clip: bool = False) -> None:
        """One more row. image_id: as the file says it, or None where it says none.

        files: what to look for; None = the image. is_clip: which may be folders.
        """
        row, name = len(self._ids), self.name(image)
        self._ids.append(stable_id(name if image_id is None else image_id))  # type: ignore[union-attr]
        self._pictures.append(stable_id(os.path.join(self.absolute, name)))  # type: ignore[union-attr]  # as of RowFile
        if row % self._every == 0:
            self._sample.append((row, (image,) if files is None else files, is_clip))
            if len(self._sample) > 2 * CHECK_LIMIT:
                self._sample, self._every = self._sample[::2], 2 * self._every

    def take(self, ids: memoryview, pictures: memoryview, same: dict[str, str]) -> None:
        """The rows as ``note`` and ``check`` left them before."""
        self._ids, self._pictures, self.same = ids, pictures, same

    def check(self, problems: Problems, number: Callable[[int], int | str]) -> None:
        """Looks for the pictures and notes those that are missing. number: of a row, for the message."""
        stride = max(1, -(-len(self) // CHECK_LIMIT) // self._every)
        step = stride * self._every
        if step > 1:
            log.info("%s: looked for the pictures of every %d. of %d rows only", problems.where, step, len(self))
        first: dict[tuple[int, int], str] = {}
        known: dict[tuple[str, bool], bool] = {}
        for row, files, is_clip in self._sample[::stride]:
            for image in files:
                name = self.name(image)
                if (name, is_clip) not in known:
                    known[name, is_clip] = self._look(name, first, is_clip)
                if not known[name, is_clip] and not is_collecting():
                    problems.add(number(row), *missing(image, self.root / name))
        self._sample.clear()

    def check_ids(
        self, problems: Problems, number: Callable[[int], int | str], row: Callable[[int], tuple[str, str]]
    ) -> None:
        """Notes ids that are of several pictures; warns of pictures with several ids.

        row: of a row's number, its image_id and image.
        """
        told = False
        for before, here in several(self._ids, self._pictures)[:MOST_PAIRS]:
            (one, image), (other, second) = row(before), row(here)
            if one != other or same_picture(self.path(image), self.path(second)):
                continue
            problems.add(
                number(here), "one id for different pictures",
                f"image_id {other!r} is of {second} here and of {image} in {problems.unit} {number(before)}; equal ids "
                f"mean one picture. Give ids of pictures, or none",
            )  # fmt: skip
            told = True
        more = [] if told else several(self._pictures, self._ids)
        more = [pair for pair in more[:MOST_PAIRS] if row(pair[0])[0] != row(pair[1])[0]] + more[MOST_PAIRS:]
        if more:
            before, here = more[0]
            log.warning(
                "%s: pictures stand under several image_ids (%d times), and count several times: %s is %s in %s %s, "
                "%s in %s %s", problems.where, len(more), row(here)[1], row(before)[0], problems.unit, number(before),
                row(here)[0], problems.unit, number(here),
            )  # fmt: skip

    def check_rows(self, rows: Sequence[NamedRow], problems: Problems, is_clip: bool = False) -> None:
        """All of the above for rows that are in memory. is_clip: what they name may be folders."""

        def named(at: int) -> Sequence[str]:
            files = rows[at][1]
            return (files,) if isinstance(files, str) else files

        def one(at: int) -> tuple[str, str]:
            return rows[at][2] or "|".join(map(self.name, named(at))), "|".join(named(at))

        for at, (_, _, image_id) in enumerate(rows):
            self.note("|".join(named(at)), image_id, named(at), is_clip)
        self.check(problems, lambda at: rows[at][0])
        self.check_ids(problems, lambda at: rows[at][0], one)

    def _look(self, name: str, first: dict[tuple[int, int], str], is_clip: bool) -> bool:
        """Whether a picture is there, or of a clip a file or folder; names of a file met before are one with it."""
        try:
            found = os.stat(os.path.join(self.absolute, name))
        except (OSError, ValueError):
            return False
        if found.st_ino:
            other = first.setdefault((found.st_dev, found.st_ino), name)
            if other != name:
                self.same[name] = other
        return (os.path.exists if is_clip else os.path.isfile)(os.path.join(self.absolute, name))

    def hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, pictures), each (rows,) int64, ``stable_id`` of each row's."""
        return np.frombuffer(self._ids, np.int64), np.frombuffer(self._pictures, np.int64)


def several(keys: Numbers, values: Numbers) -> list[tuple[int, int]]:
    """Pairs of rows with one key and different values, one pair for each further value of a key, by row."""
    key, value = np.asarray(keys, np.int64), np.asarray(values, np.int64)
    order = np.lexsort((np.arange(len(key)), value, key))
    same = (key[order][1:] == key[order][:-1]) & (value[order][1:] != value[order][:-1])
    pairs = zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True)
    return sorted((min(pair), max(pair)) for pair in pairs)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are of one file that is there."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def same_picture(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, or of files with equal bytes."""
    try:
        return same_file(one, other) or filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):
        return False


def is_url(image: str) -> bool:
    """Whether a picture is named by an address, not by a path."""
    return _URL.match(image) is not None


def missing(image: str, path: Path) -> tuple[str, str]:
    """(kind, message) for a picture that is not there."""
    if is_url(image):
        return "URL", f"{image[:200]}: pictures behind URLs must be downloaded first (see img2dataset)"
    if os.path.isdir(path):
        return "missing picture", f"no picture {path} (a folder)"
    spelled = {"NFC": unicodedata.normalize("NFC", str(path)), "NFD": unicodedata.normalize("NFD", str(path))}
    form = next((form for form, other in spelled.items() if os.path.exists(other)), None)
    hint = f"; one whose accents are spelled otherwise is there ({form} of Unicode): rename it" if form else ""
    return "missing picture", f"no picture {path}{hint}"
