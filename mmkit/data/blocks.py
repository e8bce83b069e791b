"""Blocks of files that lie elsewhere, kept in a folder of this machine up to a size, for all its processes.

A block is one file, written beside and renamed, so that whoever finds it finds all of it. Processes that want the same
block wait for the one that fetches it. What was opened longest ago goes first. Nothing here is needed again: a folder
that is emptied at any time costs reads alone.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from zlib import crc32

from mmkit.data.alone import alone
from mmkit.errors import UserError
from mmkit.files import cache_folder

log = logging.getLogger(__name__)

BLOCK = 8 << 20
"""Bytes of a block; the last one of a file is shorter."""
LIMIT = "MMKIT_BLOCKS_GB"
"""The environment variable that says how large the folder may become; ``LIMIT_GB`` without it."""
LIMIT_GB = 20.0
ROOM = 0.9
"""What is left of the limit after blocks were removed."""
LOCKS = 1021
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
STALE = 3600.0
"""Seconds after which a part that nobody finished is removed."""


def limit_gb() -> float:
    """The limit that holds now, in GB (10 to the 9); UserError where ``MMKIT_BLOCKS_GB`` is no number above 0."""
    said = os.environ.get(LIMIT)
    try:
        value = LIMIT_GB if said is None else float(said)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{LIMIT}={said!r}: give gigabytes, such as {LIMIT}=200")
    return value


class Blocks:
    """Blocks in a folder. May be used by threads and processes at once, and travels to a worker.

    folder: default ``MMKIT_CACHE`` (``~/.cache/mmkit``) / blocks; on a disk of this machine, not one that nodes share.
    gb: what it may hold; default ``MMKIT_BLOCKS_GB``, or 20. Threads that fetch at once may pass it by a block each.
    wait: seconds for another process's fetch, after which it is fetched here too.
    """

    def __init__(self, folder: str | Path | None = None, *, gb: float | None = None, wait: float = 300.0) -> None:
        self.folder, self.wait = Path(folder) if folder is not None else cache_folder() / "blocks", wait
        self.limit = int((limit_gb() if gb is None else gb) * 1e9)
        if self.limit < BLOCK:
            raise UserError(f"{self.folder}: a cache of {self.limit} bytes holds no block of {BLOCK}; give it more")
        try:
            (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(
                f"{self.folder}: blocks cannot be kept there ({error.strerror}); MMKIT_CACHE names another folder"
            ) from error

    def read(self, file: str, number: int, length: int, start: int, size: int, fetch: Callable[[], bytes]) -> bytes:
        """Bytes ``start`` to ``start + size`` of a block of ``length`` bytes, which is fetched where it is not kept."""
        kept = self._kept(file, number, length, start, size)
        if kept is not None:
            return kept
        with self.alone(f"{crc32(f'{file}/{number}'.encode()) % LOCKS:04d}"):
            kept = self._kept(file, number, length, start, size)
            if kept is not None:
                return kept
            block = fetch()
            self._keep(file, number, block)
        return block[start : start + size]

    def _kept(self, file: str, number: int, length: int, start: int, size: int) -> bytes | None:
        """From the disk; None where the block is not there, or not whole, as after a power cut."""
        path = self._path(file, number)
        try:
            with path.open("rb", buffering=0) as opened:
                about = os.fstat(opened.fileno())
                if about.st_size != length:
                    return None
                if time.time() - about.st_mtime > 60:
                    os.utime(path)
                opened.seek(start)
                return opened.read(size)
        except OSError:
            return None

    def _path(self, file: str, number: int) -> Path:
        return self.folder / file / f"{number:06d}"

    def _keep(self, file: str, number: int, block: bytes) -> None:
        path = self._path(file, number)
        part = path.with_name(f".{secrets.token_hex(6)}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(block)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if error.errno not in FULL:
                raise UserError(f"{path}: a block cannot be kept ({error.strerror})") from error
            log.warning("%s: the disk is full; blocks are removed, and this one is not kept", self.folder)
            self._remove(most=int(ROOM * self._held()))
            return
        self._count(len(block))

    def _count(self, added: int) -> None:
        """Note what was added, and make room where it is too much."""
        note = self.folder / ".held"
        with self.alone("count"):
            try:
                held = int(note.read_text()) + added
            except (OSError, ValueError):
                held = self._held()
            if held > self.limit:
                held = self._remove(most=int(ROOM * self.limit))
            with suppress(OSError):
                note.write_text(str(held))

    def _held(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """(when it was opened last, bytes, path) of every block; parts that nobody finished are removed."""
        for folder in os.scandir(self.folder):
            for entry in os.scandir(folder) if folder.is_dir() and folder.name != ".locks" else (folder,):
                with suppress(OSError):  # another process removes too
                    about = entry.stat()
                    if not entry.name.endswith(".part"):
                        if entry is not folder:
                            yield about.st_mtime, about.st_size, entry.path
                    elif time.time() - about.st_mtime > STALE:
                        os.unlink(entry.path)

    def _remove(self, most: int) -> int:
        """Remove the blocks that were opened longest ago until at most so many bytes are held; how many are."""
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:
            if held <= most:
                break
            with suppress(OSError):
                os.unlink(path)
                held -= size
        return held

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Alone among the processes and threads that use the folder; not where another one has not let go in time."""
        return alone(self.folder / ".locks" / name, wait=self.wait)
