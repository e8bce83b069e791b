"""Progress of long work: a bar with rate and time left on a terminal, else a plain line now and then, on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 20.0


class Progress(Protocol):
    """What long work calls as it goes on."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` parts of the work ``what`` are done; the note stands beside it."""


@contextmanager
def progress(shown: bool = True, *, keep: bool = False) -> Iterator[Progress]:
    """Yields what is to be told of progress. Silent where not ``shown``; keep: the bar stays when the work is done."""
    if not shown:
        yield lambda what, done, total, note="": None
    elif sys.stderr.isatty():
        with _bars(keep) as report:
            yield report
    else:
        yield _Plain()


@contextmanager
def _bars(keep: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=not keep) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, completed=done, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)

        yield report


class _Plain:
    """A line after some seconds, and the last one of work that took so long or has a note."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.began: dict[str, tuple[float, int]] = {}

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        began, first = self.began.setdefault(what, (now, done))
        if now - self.last < PLAIN_LINE_SECONDS and not (note and done == total):
            return
        self.last = now
        about = f"{what} {done}/{total}"
        if done > first and now > began:
            rate = (done - first) / (now - began)
            about += f", {rate:.3g} a second, {clock((total - done) / rate)} left"
        log.info("%s", f"{about}  {note}".rstrip())


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
