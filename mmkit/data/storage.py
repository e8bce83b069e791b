"""Files in one place, read at any byte: the only thing that must be written anew for what lies elsewhere.

A place says which files it has, what changes when a file does, and gives ranges of bytes. ``remote`` has the class for
what lies elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mmkit.errors import UserError
from mmkit.files import cache_folder, read_at

OPEN = 128
"""So many files are held open; systems allow a process some hundreds."""


Stamp = tuple[int, str]
"""The bytes of a file, and what differs once it was written anew."""


class NoListing(UserError):
    """A place that does not say which files it has."""


class Place(Protocol):
    """Files by name. Threads and processes may share one; names have ``/`` between folders, as on any system."""

    def names(self, ending: str) -> list[str]:
        """The files with this ending, sorted. NoListing where a place cannot say."""
        ...

    def stamp(self, name: str) -> Stamp:
        """UserError where it is not there."""
        ...

    def differs(self, name: str, stamp: Stamp) -> bool:
        """Whether a file surely has another stamp by now, as far as it is known without asking for each."""
        ...

    def read(self, name: str, start: int, size: int, stamp: Stamp | None = None) -> bytes:
        """A range of bytes, fewer where the file ends. UserError for a file that has not this ``stamp`` any more."""
        ...

    def called(self, name: str) -> str:
        """A file's name for messages."""
        ...

    def home(self, name: str) -> Path:
        """Where a file that is made from the others is written, on this machine."""
        ...

    def local(self, name: str) -> Path | None:
        """A file as one of this machine, or None where there is none of this name."""
        ...


class Folder:
    """A folder and those below it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._opened = lru_cache(OPEN)(self._open)  # what is dropped is closed when the last thread is done with it

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.root,)

    def names(self, ending: str) -> list[str]:
        """As of ``Place``; what is hidden is not taken."""
        return sorted(name for name in self._below() if name.lower().endswith(ending))

    def _below(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=_unreadable):
            real = os.path.realpath(folder)
            folders[:] = [name for name in folders if not (name.startswith(".") or _leads_back(folder, name, real))]
            here = Path(folder).relative_to(self.root)
            yield from ((here / name).as_posix() for name in files if not name.startswith("."))

    def differs(self, name: str, stamp: Stamp) -> bool:
        """As of ``Place``."""
        return self.stamp(name) != stamp

    def home(self, name: str) -> Path:
        """As of ``Place``: in the folder itself, or with the user where it cannot be written to."""
        own = self.root / name
        return own if own.is_file() or os.access(self.root, os.W_OK) or not self.root.is_dir() else self._kept(name)

    def local(self, name: str) -> Path | None:
        """As of ``Place``."""
        return next((file for file in (self.root / name, self._kept(name)) if file.is_file()), None)

    def _kept(self, name: str) -> Path:
        whole = hashlib.blake2b(os.path.abspath(self.root).encode(errors="surrogateescape"), digest_size=8)
        return cache_folder() / "indexes" / whole.hexdigest() / name

    def stamp(self, name: str) -> Stamp:
        """As of ``Place``: size and time of the last change."""
        try:
            return _stamp((self.root / name).stat())
        except OSError as error:
            raise UserError(f"{self.called(name)}: cannot be read ({error.strerror})") from error

    def read(self, name: str, start: int, size: int, stamp: Stamp | None = None) -> bytes:
        """As of ``Place``."""
        file, pieces = self._opened(name), []
        try:
            if stamp is not None and _stamp(os.fstat(file.fileno())) != stamp:
                raise UserError(f"{self.called(name)}: was changed while it was in use; start again, and write copies")
            while size and (piece := read_at(file, start, size)):
                pieces.append(piece)
                start, size = start + len(piece), size - len(piece)
        except OSError as error:
            raise UserError(f"{self.called(name)}: cannot be read from byte {start} ({error.strerror})") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def called(self, name: str) -> str:
        """Its path."""
        return os.path.join(self.root, name)

    def _open(self, name: str) -> BinaryIO:
        try:
            return (self.root / name).open("rb", buffering=0)
        except OSError as error:
            raise UserError(f"{self.called(name)}: cannot be read ({error.strerror})") from error


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # of the folder itself, which its caller tells
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _leads_back(folder: str, name: str, real: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    place = os.path.join(folder, name)
    return os.path.islink(place) and Path(real).is_relative_to(os.path.realpath(place))


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, str(found.st_mtime_ns)
