"""Loading workers: what starts them, and what is said where one of them ends."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmkit.errors import UserError

log = logging.getLogger(__name__)

MOST = 256_000_000
"""Bytes that may be sent to each worker. Sources of mmkit send what they open, and not what is in it."""


def context_for(served: bool, *sent: Any) -> Any:
    """How workers are started: where ``served``, by a server that has none of this process's threads and devices.

    Else as Python does by itself. A fork of a process whose threads are at work may wait for ever, and copies page by
    page what it only reads. What a server's forks work on is sent to them: data of a user's own that cannot be (a
    lambda, an open file), or are larger than ``MOST``, are forked as before.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if served and method == "fork":
        try:
            pickle.Pickler(_Nowhere()).dump(sent)
            method = "forkserver"
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            log.info("loading workers are forked, as the data cannot be sent to another process (%s)", error)
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["mmkit.data.server", "mmkit.data.loader"])
    return context


class _Nowhere:
    """A file that keeps nothing, and takes no more than ``MOST``."""

    written = 0

    def write(self, data: bytes) -> int:
        self.written += len(data)
        if self.written > MOST:
            raise pickle.PicklingError(f"it is more than {MOST / 1e6:.0f} MB")
        return len(data)


@contextmanager
def named_workers() -> Iterator[None]:
    """A loading worker that ends inside is named in a UserError."""
    try:
        yield
    except RuntimeError as error:
        if (found := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error))) is None:
            raise
        signal = re.search(r"killed by signal: ([^.]+)", found[2])
        how = "has ended" if signal is None else f"was ended by a signal ({signal[1].strip()})"
        raise UserError(
            f"a loading worker (process {found[1]}) {how}, as the system does where the memory ends, or a library "
            "that reads pictures may: lower data.workers, or the batch; what was saved is whole: go on with --resume"
        ) from error
