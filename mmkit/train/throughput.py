"""Samples per second, the share of the time spent waiting for data, and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

import torch

T = TypeVar("T")


class Meter:
    """Counts between two calls of ``read``; the clock starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._samples = 0
        self._steps = 0

    def timed(self, batches: Iterable[T]) -> Generator[T]:
        """The same batches, with the time to get each counted as waiting; closing it ends the workers behind them."""
        iterator = iter(batches)
        start = time.perf_counter()
        for batch in iterator:
            self._waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def count(self, samples: int) -> None:
        """A step is done: add its samples, of all processes."""
        self._samples += samples
        self._steps += 1

    def restart(self) -> None:
        """Leave out what happened since the last ``read``, such as an evaluation."""
        self._start, self._waited, self._samples, self._steps = time.perf_counter(), 0.0, 0, 0

    def a_step(self) -> dict[str, float]:
        """Seconds of a step on this process since the last ``read``, and those of them in which it waited for data."""
        steps = max(1, self._steps)
        return {
            "step_seconds": (time.perf_counter() - self._start) / steps, "data_seconds": self._waited / steps,
        }  # fmt: skip

    def read(self) -> dict[str, float]:
        """Rate (1/s), data share (0 to 1), memory (GiB) since the last call, and start again."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {"samples_per_second": self._samples / seconds, "data_share": min(1.0, self._waited / seconds)}
        self.restart()
        return values | peak_memory()


def peak_memory() -> dict[str, float]:
    """Peak resident memory of this process, and of its GPU where it uses one, in GiB."""
    values = {"peak_rss_gib": peak_rss_gib()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        values["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        values["allocation_retries"] = torch.cuda.memory_stats().get("num_alloc_retries", 0)
    return values


def peak_rss_gib() -> float:
    """Peak resident memory of this process in GiB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
