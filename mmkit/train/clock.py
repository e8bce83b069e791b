"""The time that a run has trained, and for a run by the clock (``run.minutes``) how many steps that will be.

Only steps count, with the waiting for their data: no evaluation, no saving, not the time between stop and resume. On
several processes the clock of the first one decides. It is asked about once a second; in between each process reckons
with the same pace, so that all have the same learning rate and stop at the same step without waiting for one another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmkit.ranks import on_first, world_size

ENDLESS = 10**12
"""More steps than any run takes."""


class Clock:
    """``minutes``: of the whole run, None = without end. ``seconds``: trained so far, as all processes know it."""

    def __init__(self, minutes: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = math.inf if minutes is None else 60 * minutes
        self.seconds = 0.0
        self._now = now
        self._own = 0.0
        self._since: float | None = None
        self._pace, self._next, self._asked, self._last = 0.0, 0, 1, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """It runs inside, from ``seconds`` on."""
        self._own, self._last, self._since = self.seconds, self.seconds, self._now()
        self._next, self._asked = 0, 1
        try:
            yield
        finally:
            self._own, self._since = self._read(), None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count."""
        if self._since is None:
            yield
            return
        self._own, self._since = self._read(), None
        try:
            yield
        finally:
            self._since = self._now()

    def tick(self) -> None:
        """A step is done; to be called by all processes."""
        if world_size() > 1 and self.limit < math.inf:
            self._agree()
        else:
            self.seconds = self._read()

    def over(self) -> bool:
        """Whether the time is used up."""
        return self.seconds >= self.limit

    def steps(self, done: int) -> int:
        """How many steps the whole time has room for, by those that are done; ``ENDLESS`` before the first."""
        return max(done + 1, round(self.limit * done / self.seconds)) if done and self.seconds else ENDLESS

    def _read(self) -> float:
        return self._own if self._since is None else self._own + self._now() - self._since

    def _agree(self) -> None:
        if self._next == 0:
            self.seconds, self._pace, self._next = on_first(self._measure)
        else:
            self.seconds += self._pace
        self._next -= 1

    def _measure(self) -> tuple[float, float, int]:
        """(seconds so far, seconds a step, steps until the next measurement, which never reach beyond the end)."""
        now = self._read()
        pace = max(1e-9, (now - self._last) / self._asked)
        self._last, self._asked = now, max(1, int(min(1.0, self.limit - now) / pace))
        return now, pace, self._asked
