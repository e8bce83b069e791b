"""One process at a time, of those of this machine that would make the same thing."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmkit.files import cache_folder

log = logging.getLogger(__name__)


@contextmanager
def alone(lock: Path, *, wait: float = -1, told: str = "") -> Iterator[None]:
    """Alone among the processes and threads that name the same file, which a lock is; it ends with its process.

    wait: seconds for another one to let go, after which the block is entered all the same; -1 = however long it takes.
    told: what the log says before it waits. Where no lock can be had, the log says so, and nobody waits.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            if told:
                log.info("%s", told)
            with suppress(Timeout):
                held.acquire(timeout=wait)
    except (OSError, NotImplementedError) as error:  # the latter of file systems without locks
        log.info("%s: no locks there (%s); each process may do the same work", lock, error)
    try:
        yield
    finally:
        held.release()


def lock_of(path: str | Path) -> Path:
    """The lock of what is made of a file or folder, in the user's own folder, so that data may be write-protected."""
    whole = os.path.abspath(path).encode(errors="surrogateescape")
    return cache_folder() / "locks" / hashlib.blake2b(whole, digest_size=8).hexdigest()
