"""Python's garbage collector at chosen steps, so that it interrupts no other and all processes at the same time.

What was built before is set apart for good (``gc.freeze``), which makes a full collection cheap; memory stays bounded
by what ``every`` steps leave behind in circles. As torchtitan does it; benchmarks/RESULTS.md says what it brings.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OLDEST = 2
"""The oldest generation that is collected before the steps: all there is, such as the run of an earlier stage."""


class Garbage:
    """every: steps between collections; 0 = when Python thinks best."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._steps = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing is collected but by ``tick``."""
        was = gc.isenabled()
        if not self.every or not was:
            yield
            return
        gc.collect(OLDEST)
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """Within ``held``, for what is no step, such as an evaluation: Python collects again."""
        was = gc.isenabled()
        gc.enable()
        try:
            yield
        finally:
            if not was:
                gc.disable()

    def tick(self) -> None:
        """After a step."""
        self._steps += 1
        if self.every and self._steps % self.every == 0:
            gc.collect()
