"""What is wrong with the rows of one file, collected and told in one message."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mmkit.errors import UserError


class Problems:
    """Collects what is wrong with the rows of one file, then raises all of it as one message."""

    def __init__(self, where: str | Path, unit: str = "line", show: int = 5) -> None:
        self.where, self.unit, self.show = where, unit, show
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []
        self.rows = 0

    def add(self, number: int | str, kind: str, detail: str) -> None:
        """Row ``number`` has a problem of this kind ("missing picture")."""
        self.counts[kind] += 1
        if len(self.first) < self.show:
            self.first.append(f"  {self.where}:{number}: {detail}")

    def raise_if_any(self, rows: int | None = None) -> None:
        """UserError with the first few rows and the counts by kind, or nothing. rows: of how many; None = ``rows``."""
        total = sum(self.counts.values())
        if not total:
            return
        kinds = ", ".join(f"{n} x {kind}" for kind, n in self.counts.most_common())
        more = f"\n  ... and {total - len(self.first)} more" if total > len(self.first) else ""
        raise UserError(
            f"{self.where}: {total} of {self.rows if rows is None else rows} {self.unit}s cannot be used ({kinds}):\n"
            + "\n".join(self.first)
            + more
            + f"\nCorrect or remove these {self.unit}s."
        )
