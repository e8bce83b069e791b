"""Progress of long work: a bar with rate and time left on a terminal, else a plain line now and then, on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 20.0
Progress = Callable[[str, int, int], None]


@contextmanager
def progress(shown: bool = True) -> Iterator[Progress]:
    """Yields ``report(what, done, total)``. Silent where not ``shown``."""
    if not shown:
        yield lambda what, done, total: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _Plain()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import TaskProgressColumn as Rate

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(show_speed=True),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


class _Plain:
    def __init__(self) -> None:
        self.last = time.monotonic()
        self.began: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        began = self.began.setdefault(what, now)
        if now - self.last < PLAIN_LINE_SECONDS:
            return
        self.last = now
        rate = done / max(now - began, 1e-9)
        log.info("%s: %d of %d, %.3g a second, %.0f s left", what, done, total, rate, (total - done) / rate)
