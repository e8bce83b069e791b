"""What a run writes down: one JSON line an event, its trackers, and lines or a progress bar for people.

Only the first process writes; every process may call everything, and nothing here waits for another process.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmkit.errors import UserError
from mmkit.files import write_text
from mmkit.train.trackers import Trackers

logger = logging.getLogger("mmkit.train")


class RunLog:
    """``metrics.jsonl`` in the run's folder; ``trackers`` get the same numbers.

    A run that resumes at ``start_step`` first drops the lines of later steps, which the abandoned process wrote. Where
    it evaluates that step again, as the process may have ended before the run did, this stands for what was found then.
    """

    def __init__(
        self, folder: Path, *, writes: bool, start_step: int = 0, trackers: Callable[[], Trackers] | None = None
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.writes = writes
        self._start_step = start_step
        self._trackers: Trackers | None = None
        if writes:
            keep_until(self.path, start_step)
            self._trackers = None if trackers is None else trackers()

    def event(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """One line ``{"event": ..., "step": ..., "time": ..., **values}``; numbers also go to the trackers.

        UserError where it cannot be written, as on a full disk.
        """
        if not self.writes:
            return
        line = {"event": event, "step": step, "time": round(time.time(), 3), **values}
        if event == "eval" and step == self._start_step:
            keep(self.path, lambda one: (one["event"], one["step"]) != ("eval", step))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, or whatever is missing there, and go "
                "on with --resume"
            ) from error
        if self._trackers is not None and event in ("train", "eval"):
            numbers = {f"{event}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
            self._trackers.log(numbers, step)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._trackers is not None:
            self._trackers.flush()

    def close(self) -> None:
        """Write what is buffered and let go of the files."""
        if self._trackers is not None:
            self._trackers.close()


def keep_until(path: Path, step: int) -> None:
    """Drop the events after ``step`` from a metrics file, and a last line that was cut off."""
    keep(path, lambda event: event["step"] <= step)


def keep(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop the events of a metrics file that are not wanted, and a last line that was cut off."""
    if path.is_file():
        write_text(path, "".join(f"{line}\n" for line, event in events_in(path) if wanted(event)))


def events_in(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, event) of a metrics file that may not be there, without a line that was cut off."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):
            yield line, json.loads(line)


def summary(values: Mapping[str, float]) -> str:
    """Loss, its parts, rate and data share, as a short text."""
    shown = [name for name in values if name.split(".")[0] in ("loss", "losses")]
    parts = [f"{name.removeprefix('losses.')} {values[name]:.3f}" for name in shown]
    if "samples_per_second" in values:
        parts.append(f"{values['samples_per_second']:.1f} samples/s, {values['data_share']:.0%} waiting for data")
    return "  ".join(parts)
