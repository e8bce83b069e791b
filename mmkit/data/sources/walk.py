"""Which files below a folder are pictures: links are followed, hidden things are not, what is left out is counted."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mmkit.data.clip import FILMS
from mmkit.data.images.formats import SUFFIXES, suffix_of
from mmkit.errors import UserError

log = logging.getLogger(__name__)

TARS = (".tar", ".tgz", ".gz", ".zip", ".bz2", ".xz", ".7z")
HIDDEN = frozenset((
    "__macosx", "@eadir", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "#recycle",
    "system volume information",
))  # fmt: skip
"""What systems put into folders beside what begins with a full stop."""


@dataclass
class Walk:
    """What lies below a folder. pictures: sorted paths, where there are none those of videos; beside: files that may be
    of these; films: all videos; left_out: how many things of which kind were not taken.
    """

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)
    films: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        """What was left out, in words; "" where that is nothing."""
        return ", ".join(f"{n} x {kind}" for kind, n in sorted(self.left_out.items()))


def walk(folder: str | Path, beside: Iterable[str] = ()) -> Walk:
    """All pictures below a folder, or all videos where there are no pictures.

    beside: endings of files that belong to them, which are not counted as left out.

    UserError where there is no such folder, or one below it may not be read.
    """
    top = Path(folder)
    if not top.is_dir():
        raise UserError(f"{top}: no such folder")
    found = Walk(top)
    _into(top, [Path(os.path.realpath(top))], found, frozenset(beside))
    if not found.pictures:
        found.pictures = found.films
        found.left_out.subtract(path.suffix.lower() for path in found.films)
        found.left_out += Counter()  # without what is 0 now
    found.pictures.sort()
    own = {picture.with_suffix("") for picture in found.pictures}
    alone = [path for path in found.beside if path.with_suffix("") not in own]
    found.left_out.update(f"{path.suffix.lower()} without its picture" for path in alone)
    return found


def pictures_in(folder: str | Path, beside: Iterable[str] = ()) -> list[Path]:
    """The pictures that ``walk`` finds; UserError where there are none. What is left out is said."""
    found = walk(folder, beside)
    packed = next((ending for ending in TARS if ending in found.left_out), None)
    if found.pictures:
        if found.left_out:
            log.info("%s: left out, as they are no pictures: %s", folder, found.told())
        return found.pictures
    if packed is not None:
        raise UserError(
            f"{folder}: holds {found.told()}, no pictures; unpack them: for f in {folder}/*{packed}; do "
            f"{unpack_by(packed, folder).replace(packed, '$f')}; done"
        )
    told = f"; it holds {found.told()}" if found.left_out else ""
    raise UserError(f"{folder}: no pictures in it ({', '.join(sorted(SUFFIXES))}){told}")


def unpack_by(archive: str, folder: str | Path) -> str:
    """The command that unpacks an archive into a folder."""
    return f"unzip {archive} -d {folder}" if archive.endswith(".zip") else f"tar -xf {archive} -C {folder}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data."""
    return name.startswith(".") or name.casefold() in HIDDEN


def _into(folder: Path, above: list[Path], found: Walk, beside: frozenset[str]) -> None:
    """above: the real paths of the folders that led here, this one the last."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        path = folder / entry.name
        if is_hidden(entry.name):
            found.left_out["hidden"] += 1
        elif entry.is_dir():
            real = Path(os.path.realpath(path))
            if entry.is_symlink() and any(real == place or real in place.parents for place in above):
                found.left_out["link to a folder that it lies in"] += 1
            else:
                _into(path, [*above, real], found, beside)
        elif not entry.is_file():
            found.left_out["link to nothing" if entry.is_symlink() else "no file"] += 1
        elif is_picture(path):
            found.pictures.append(path)
        elif path.suffix.lower() in beside:
            found.beside.append(path)
        else:
            found.films += [path] if path.suffix.lower() in FILMS else []
            found.left_out[path.suffix.lower() or "file without an ending"] += 1


def is_picture(path: Path) -> bool:
    """By its ending; where it has none, by how it begins."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return suffix_of(start) is not None
