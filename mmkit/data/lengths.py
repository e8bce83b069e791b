"""Texts as long on every rank as the longest of any: what ranks exchange must be of one shape, and padding costs time.

A batch's length is asked about when the batch is ready and answered when it is wanted, one batch later, beside the work
of the step between. Left out: unequal pictures, which get one canvas on several ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch.nn.functional as F

from mmkit.types import Batch

# From this rank's number, at once, to a call that waits for the largest of all ranks.
Ask = Callable[[int], Callable[[], int]]


def of_one_length(batches: Iterable[Batch], largest: Ask, pad_id: int, pinned: bool = False) -> Iterator[Batch]:
    """The same batches, each padded to the longest that any rank has in its place; one is read ahead.

    Every rank takes as many. pinned: in memory that a GPU copies from by itself.
    """
    iterator = iter(batches)
    waiting: tuple[Batch, Callable[[], int]] | None = None
    while True:
        batch, error = _next(iterator)
        asked = None if batch is None else (batch, largest(batch.ids.shape[1] if batch.ids is not None else 0))
        if waiting is not None:
            yield _ready(*waiting, pad_id, pinned)
        if error is not None:
            raise error
        if asked is None:
            return
        waiting = asked


def _next(batches: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
    """The next one, or what stopped it, which is told in its turn; neither at the end."""
    try:
        return next(batches, None), None
    except Exception as error:  # noqa: BLE001  # whatever it is: the batch before is good
        return None, error


def _ready(batch: Batch, longest: Callable[[], int], pad_id: int, pinned: bool) -> Batch:
    batch = widened(batch, longest(), pad_id)
    return batch.pin_memory() if pinned else batch


def widened(batch: Batch, width: int, pad_id: int) -> Batch:
    """The batch with texts of ``width`` tokens, at least as many as it has; one without words as it is."""
    if batch.ids is None or batch.mask is None or (more := width - batch.ids.shape[1]) == 0:
        return batch
    masked = batch.masked and replace(batch.masked, ids=F.pad(batch.masked.ids, (0, more), value=pad_id))
    return replace(
        batch, ids=F.pad(batch.ids, (0, more), value=pad_id), mask=F.pad(batch.mask, (0, more)), masked=masked
    )
