"""The one loop that opens pictures: threads read ahead of whoever uses them, and batches come out in order.

What cannot be read stops the loop, or is left out and told, as the caller says. The number of threads that torch works
with is not touched: what readers do (Pillow, NumPy) starts none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Literal, TypeVar

from mmkit.errors import Unreadable, UserError

Item = TypeVar("Item")
Made = TypeVar("Made")
Bad = Literal["raise", "leave out"]


@dataclass(frozen=True)
class Read(Generic[Item, Made]):
    """One batch. items: those whose picture was read, in order; made: what became of each of them.

    left, bad: the others, and a message for each. done: how many were given in this batch and those before.
    """

    items: tuple[Item, ...]
    made: tuple[Made, ...]
    left: tuple[Item, ...]
    bad: tuple[str, ...]
    done: int


def batches(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """The items in order, ``size`` at a time; the last batch may be smaller. UserError for a size below 1."""
    if size < 1:
        raise UserError(f"batch_size={size}: must be at least 1")
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def reading(
    items: Iterable[Item], make: Callable[[Item, int], Made], *, batch_size: int, threads: int = 4, bad: Bad = "raise"
) -> Iterator[Read[Item, Made]]:
    """``make(item, number)`` of every item, in batches, one batch ahead.

    items: pictures, or what leads to them, such as the numbers of records. make: opens the picture, and raises
    Unreadable where it cannot; called in ``threads`` threads, several at a time. bad: "raise" the first Unreadable, or
    "leave out" the item. Other errors are raised where they occur. A batch of which all are bad is empty.
    """

    def tried(item: Item, number: int) -> Made | Unreadable:
        try:
            return make(item, number)
        except Unreadable as error:
            if bad == "raise":
                raise
            return error

    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="mmkit-reading")
    waiting: deque[tuple[int, tuple[Item, ...], list[Future[Made | Unreadable]]]] = deque()
    first = 0
    try:
        for chunk in batches(items, batch_size):
            waiting.append((first, chunk, [pool.submit(tried, item, first + i) for i, item in enumerate(chunk)]))
            first += len(chunk)
            if len(waiting) > 1:
                yield _read(*waiting.popleft())
        while waiting:
            yield _read(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check_share(bad: Sequence[str], total: int, share: float, what: str = "--max-bad", few: int = 0) -> None:
    """UserError, with the first messages, where none can be read, or more than ``share`` (0 to 1) of ``total`` cannot.

    what: the name of the setting, for the message. few: so many are left out of the smallest of sources, unless
    ``share`` is 0.
    """
    shown = "".join(f"\n  {message}" for message in bad[:5]) + ("\n  ..." if len(bad) > 5 else "")
    if bad and len(bad) == total:
        raise UserError(f"none of the {total} pictures can be read:{shown}")
    if len(bad) > (share and max(few, share * total)):
        raise UserError(
            f"{len(bad)} of {total} pictures cannot be read, more than the {100 * share:g} % that may be left out:"
            f"{shown}\nMend or remove them, or allow more ({what})"
        )


def _read(first: int, chunk: tuple[Item, ...], jobs: Sequence[Future[Made | Unreadable]]) -> Read[Item, Made]:
    found = [job.result() for job in jobs]
    return Read(
        items=tuple(item for item, made in zip(chunk, found, strict=True) if not isinstance(made, Unreadable)),
        made=tuple(made for made in found if not isinstance(made, Unreadable)),
        left=tuple(item for item, made in zip(chunk, found, strict=True) if isinstance(made, Unreadable)),
        bad=tuple(str(made) for made in found if isinstance(made, Unreadable)),
        done=first + len(chunk),
    )
