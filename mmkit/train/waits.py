"""How long the processes of a run wait for one another, and what is said where one of them does not come.

Long (``run.timeout_minutes``) at the start, in the first step, which may compile, and wherever one works and the others
wait: evaluations, saves, the end. Short (``run.step_timeout_minutes``) inside a step after the first, which all take
alike: who does not come then hangs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from mmkit.config import Run
from mmkit.ranks import group


class Waits:
    """One instance for one run in this process. ``done``: the last step that was taken, None before the first."""

    def __init__(self, run: Run) -> None:
        self.long = timedelta(minutes=run.timeout_minutes)
        self.short = min(self.long, timedelta(minutes=run.step_timeout_minutes))
        set_timeout(self.long)
        self.done: int | None = None
        self._in_step = False

    @contextmanager
    def in_step(self, number: int) -> Iterator[None]:
        """Inside, step ``number`` (from 1) is taken: after the first one in this process all wait a short time only."""
        if self.done is not None:
            set_timeout(self.short)
        self._in_step = True
        yield
        self._in_step = False
        if self.done is not None:
            set_timeout(self.long)
        self.done = number

    def where(self) -> str:
        """What stands before a message about a process that does not come."""
        if self.done is None:
            return f"before the first step was done (run.timeout_minutes = {self.long / timedelta(minutes=1):g}): "
        name, limit = ("step_timeout_minutes", self.short) if self._in_step else ("timeout_minutes", self.long)
        return f"after step {self.done} (run.{name} = {limit / timedelta(minutes=1):g}): "


def set_timeout(timeout: timedelta) -> None:
    """From here on every call to other processes waits so long, in all groups of this process."""
    if (dist := group()) is None:
        return
    for one in list(dist.distributed_c10d._world.pg_map):
        if hasattr(dist, "set_timeout"):
            dist.set_timeout(timeout, one)
            continue
        with warnings.catch_warnings():  # before torch 2.15
            warnings.simplefilter("ignore")
            dist.distributed_c10d._set_pg_timeout(timeout, one)
