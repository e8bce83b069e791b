"""What is wrong with the rows of one file, collected and told in one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mmkit.errors import UserError

_collected: ContextVar[list[Problems] | None] = ContextVar("_collected", default=None)
MOST = 100
"""So many messages of one file are kept where problems are collected."""


@contextmanager
def collecting() -> Iterator[list[Problems]]:
    """Within it, problems are collected in the list and not raised, for one who wants to know of all; sources then
    hold the rows that can be used, and do not look whether pictures are there.
    """
    found: list[Problems] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def is_collecting() -> bool:
    """Whether problems are collected, not raised."""
    return _collected.get() is not None


class Problems:
    """Collects what is wrong with the rows of one file, then raises all of it as one message."""

    def __init__(self, where: str | Path, unit: str = "line", show: int = 5) -> None:
        self.where, self.unit, self.show = where, unit, MOST if is_collecting() else show
        self.numbers: set[int | str] = set()
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []
        self.rows = 0

    def add(self, number: int | str, kind: str, detail: str) -> None:
        """Row ``number`` has a problem of this kind ("missing picture")."""
        self.counts[kind] += 1
        self.numbers.add(number)
        if len(self.first) < self.show:
            self.first.append(f"  {self.where}:{number}: {detail}")

    def raise_if_any(self, rows: int | None = None, advice: str | None = None) -> None:
        """UserError with the first few rows and the counts by kind, or nothing.

        rows: of how many; None = ``rows``. advice: what to do; None = to correct or remove them.
        """
        total = sum(self.counts.values())
        if not total:
            return
        collected = _collected.get()
        if collected is not None:
            collected.append(self)
            return
        kinds = ", ".join(f"{n} x {kind}" for kind, n in self.counts.most_common())
        more = f"\n  ... and {total - len(self.first)} more" if total > len(self.first) else ""
        whole = f"{total} of {self.rows if rows is None else rows} {self.unit}s cannot be used ({kinds})"
        first = "\n".join(self.first)
        advice = advice or f"Correct or remove these {self.unit}s."
        raise UserError(f"{self.where}: {whole}:\n{first}{more}\n{advice}")
