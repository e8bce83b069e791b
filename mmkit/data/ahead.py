"""Blocks of records that lie elsewhere are fetched before the loader asks for them: the order is known.

A thread walks the sampler's order ahead of the batches that were given out, and others fetch what it finds. It runs so
far ahead that what waits to be read is a share of the cache. What cannot be fetched is left to whoever reads it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence, Sized
from queue import Queue
from typing import Any, Protocol

from torch.utils.data import Sampler

THREADS = 8
"""That fetch at once, of each rank."""
SHARE = 4
"""A rank's blocks that wait to be read are at most this part of the cache."""

Batch = list[tuple[int, int]]
Fetches = Callable[[int], Sequence[Callable[[], object]]]


class Batches(Protocol):
    """What gives the (epoch, index) pairs of each batch, the same ones every time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def ahead_of(sampler: Batches, source: Sized) -> Batches:
    """The sampler; where records of the source lie elsewhere, one that has their blocks fetched."""
    fetches, most = getattr(source, "fetches", None), getattr(source, "held_blocks", 0)
    return FetchedAhead(sampler, fetches, max(2, most // SHARE)) if callable(fetches) and most else sampler


class FetchedAhead(Sampler[Batch]):
    """The same batches.

    fetches: what brings a record here, by its number; equal ones are made once. most: so many of them may be made that
    no batch has asked for so far.
    """

    def __init__(self, sampler: Batches, fetches: Fetches, most: int) -> None:
        self.sampler, self.fetches, self.most = sampler, fetches, most

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        walk = _Walk(self)
        try:
            for batch in self.sampler:
                walk.step()
                yield batch
        finally:
            walk.stop()


class _Walk:
    """One walk over the order, in threads that end with it."""

    def __init__(self, of: FetchedAhead) -> None:
        self._of, self._stopped = of, False
        self._given = threading.Condition()
        self._batches, self._open = 0, 0  # given out; blocks of batches that were not
        self._found: deque[tuple[int, int]] = deque()  # (batch, new blocks of it)
        self._todo: Queue[Callable[[], object] | None] = Queue()
        names = ("walk", *(f"fetch-{n}" for n in range(THREADS)))
        works = (self._look, *[self._fetch] * THREADS)
        for name, work in zip(names, works, strict=True):
            threading.Thread(target=work, daemon=True, name=f"mmkit-{name}").start()

    def step(self) -> None:
        """A batch is given out."""
        with self._given:
            self._batches += 1
            while self._found and self._found[0][0] < self._batches:
                self._open -= self._found.popleft()[1]
            self._given.notify_all()

    def stop(self) -> None:
        """No more fetches begin."""
        with self._given:
            self._stopped = True
            self._given.notify_all()
        for _ in range(THREADS):
            self._todo.put(None)

    def _look(self) -> None:
        """Walk, and say what is to be fetched, each block once in a while."""
        lately: OrderedDict[Hashable, None] = OrderedDict()
        for number, batch in enumerate(self._of.sampler):
            wanted: dict[Any, None] = dict.fromkeys(fetch for _, index in batch for fetch in self._of.fetches(index))
            new = [fetch for fetch in wanted if fetch not in lately]
            lately.update(wanted)
            while len(lately) > SHARE * self._of.most:
                lately.popitem(last=False)
            with self._given:
                while self._open and self._open + len(new) > self._of.most and not self._stopped:
                    self._given.wait()
                if self._stopped:
                    return
                if number >= self._batches:
                    self._open += len(new)
                    self._found.append((number, len(new)))
            for fetch in new:
                self._todo.put(fetch)

    def _fetch(self) -> None:
        while (fetch := self._todo.get()) is not None and not self._stopped:
            fetch()
