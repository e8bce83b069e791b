"""The rows of a text file by number, each a range of its bytes that is read when it is asked for.

Only numbers stay in memory, or in a mapped file (``line_index``). Reading moves no file position, so that threads and
forked processes may share one object; a pickled one opens the file anew. A file that changed since its rows were found
is an error that names it, never a row cut elsewhere.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmkit.errors import UserError
from mmkit.files import read_at


class RowFile:
    """A file whose rows are noted one by one with ``add`` while it is read through ``physical_lines``.

    what: what the file should be, for the message of UserError where it is missing or a folder.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path = Path(path)
        self.starts: array[int] | memoryview = array("q")
        self.sizes: array[int] | memoryview = array("q")
        self.lines: array[int] | memoryview = array("q")
        self._again: tuple[Any, ...] | None = None
        if not self.path.is_file():
            reason = "is a folder, not a file" if self.path.is_dir() else "no such file"
            raise UserError(f"{self.path}: {reason}; expected {what}")
        self._file: BinaryIO | None = None
        self._stamp = self._stamp_of(self._opened())

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of a row with its line end; IndexError beyond the last; negative numbers count from it."""
        return self._read(self.starts[index], self.sizes[index])

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_file": None}
        return state if self._again is None else state | dict.fromkeys(("lines", "starts", "sizes"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._again is not None:
            mapped, place = self._again
            self.lines, self.starts, self.sizes = mapped(place)

    @property
    def length(self) -> int:
        """The bytes of the file."""
        return self._stamp[0]

    @property
    def changed(self) -> int:
        """The time of its last change, in nanoseconds."""
        return self._stamp[1]

    def take(self, lines: memoryview, starts: memoryview, sizes: memoryview, again: tuple[Any, ...]) -> None:
        """The rows as they were noted before. again: (function, argument) that give these three to a copy."""
        self.lines, self.starts, self.sizes, self._again = lines, starts, sizes, again

    def add(self, line: int, start: int, size: int) -> None:
        """One more row: the number of its first line in the file, from 1, and its bytes."""
        self.lines.append(line)  # type: ignore[union-attr]  # an array, until an index is taken
        self.starts.append(start)  # type: ignore[union-attr]
        self.sizes.append(size)  # type: ignore[union-attr]

    def drop_last(self) -> None:
        """The row that was noted last is none."""
        for numbers in (self.lines, self.starts, self.sizes):
            numbers.pop()  # type: ignore[union-attr]

    def physical_lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(number, first byte, bytes with the end) of every line, blank ones too; only a line feed ends one."""
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, start, line
                start += len(line)
        self._check_unchanged(self._opened())

    def beginning(self, size: int = 1000) -> bytes:
        """The first bytes of the file."""
        return self._read(0, min(size, self._stamp[0]))

    def _opened(self) -> BinaryIO:
        if self._file is None:
            try:
                self._file = self.path.open("rb", buffering=0)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        return self._file

    def _stamp_of(self, file: BinaryIO) -> tuple[int, int]:
        found = os.fstat(file.fileno())
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self, file: BinaryIO) -> None:
        if self._stamp_of(file) != self._stamp:
            raise UserError(f"{self.path}: the file was changed while it was in use; start again, and write copies")

    def _read(self, start: int, size: int) -> bytes:
        file = self._opened()
        self._check_unchanged(file)
        pieces, missing = [], size
        while missing:
            piece = read_at(file, start + size - missing, missing)
            if not piece:
                raise UserError(f"{self.path}: the file became shorter while it was in use; start again")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)
