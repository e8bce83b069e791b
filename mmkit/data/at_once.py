"""Batches that the training process itself makes on a CPU are made several at once.

A step of training leaves nothing of what they are made of in the processor's caches; so the first samples after a step
take far longer than the next ones. Left out: batches that take long to make, which gain nothing by it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MOST = 8
"""Batches that are made at once, at most."""
SECONDS = 0.05
"""After so long no further one is begun."""


def several_at_once(batches: Iterable[T]) -> Iterator[T]:
    """The same batches. What goes wrong with one is raised when its turn comes."""
    iterator = iter(batches)
    ended: Exception | None = None
    while ended is None:
        made: list[T] = []
        start = time.perf_counter()
        try:
            while len(made) < MOST and (not made or time.perf_counter() - start < SECONDS):
                made.append(next(iterator))
        except Exception as error:  # noqa: BLE001  # is raised below, StopIteration left out
            ended = error
        yield from made
    if not isinstance(ended, StopIteration):
        raise ended
