"""One writer for a run's folder: a lock of the operating system, which ends with its process however that ends."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmkit.errors import UserError
from mmkit.parent import begun_anew
from mmkit.ranks import on_first

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger("mmkit.train")

LOCK = ".mmkit-lock"
PATIENCE = 120.0
"""Seconds in which the lock of a process that has ended comes free, also where its node has gone."""
_held: set[int] = set()


@contextmanager
def one_writer(out: Path) -> Iterator[None]:
    """Nobody else writes to the folder ``out`` inside the block; to be entered by all processes, the first one locks.

    What a launcher or a queue starts anew waits a while for the end of the process before. A folder that is not there
    is made, and goes away again if nothing came to be in it. UserError where another process has it, or it cannot be
    made. Where the file system has no locks, a log line says so.
    """
    taken: list[int | None] = []
    made: list[bool] = []

    def take() -> None:
        made.append(make_folder(out))
        taken.append(_take_in_time(out, PATIENCE if begun_anew() else 0.0))

    try:
        on_first(take)
        yield
    finally:
        if taken and taken[0] is not None:
            _release(out / LOCK, taken[0])
        if made and made[0]:
            with suppress(OSError):  # it holds what the run wrote
                out.rmdir()


def make_folder(out: Path) -> bool:
    """Make the folder, where it is not yet there; whether it was made. UserError where it cannot be."""
    there = is_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror}); give another --out") from error
    return not there


def is_folder(out: Path) -> bool:
    """Whether it is there; UserError for a name that no folder can have, as a too long one."""
    try:
        if "\0" in str(out):
            raise OSError(0, "its name has a zero byte")
        return out.is_dir()
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror}); give another --out") from error


def _take_in_time(out: Path, seconds: float) -> int | None:
    """As ``_take``, once the other one has let go, for which it may have so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            return _take(out)
        except Locked as error:
            if time.monotonic() >= end:
                raise
            logger.info("%s", error)
            time.sleep(min(5.0, max(0.1, seconds / 20)))


class Locked(UserError):
    """Another process has the folder."""


def _take(out: Path) -> int | None:
    """The open, locked file; None where there are no locks."""
    path = out / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
        try:
            _lock(handle)
        except (BlockingIOError, PermissionError) as error:
            who = os.pread(handle, 200, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(handle)
            raise Locked(
                f"{out}: another run writes there{f' ({who})' if who else ''}; wait for its end, or give another --out"
            ) from error
        except OSError as error:
            os.close(handle)
            logger.warning("%s: no locks here (%s): see to it that no other run writes there", out, error.strerror)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # the one who had it has removed the file meanwhile
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _held.add(handle)
    return handle


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(path: Path, handle: int) -> None:
    if sys.platform != "win32":  # an open file cannot be removed there
        path.unlink(missing_ok=True)
    _held.discard(handle)
    os.close(handle)


def _forget() -> None:
    """A forked child shares the lock, and would keep it beyond the end of its parent."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
