"""The first few pictures of a source, for a detector that shall learn them by heart before it is trusted with more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from mmkit.data.boxes import boxes_in
from mmkit.data.records import ByNumber, Record, Source
from mmkit.errors import UserError


@dataclass(frozen=True)
class Few(ByNumber):
    """The first ``n`` records with an object that is no crowd, by published number where pictures have one.

    Crowds are left out. UserError where there are fewer.
    """

    source: partial[Any]
    n: int = 8

    def __len__(self) -> int:
        return self.n

    @cached_property
    def whole(self) -> Source:
        """All records."""
        made: Source = self.source()
        return made

    @property
    def object_names(self) -> list[str] | None:
        """Those of the source."""
        return getattr(self.whole, "object_names", None)

    @property
    def object_ids(self) -> list[int] | None:
        """Likewise."""
        return getattr(self.whole, "object_ids", None)

    @cached_property
    def rows(self) -> list[int]:
        """The numbers of the records."""
        found = [row for row in range(len(self.whole)) if not boxes_in(self.whole[row].targets).crowd.all()]
        names = {row: self.whole[row].image_id for row in found}
        if all(name.isdecimal() for name in names.values()):
            found.sort(key=lambda row: int(names[row]))
        if len(found) < self.n:
            raise UserError(f"few: {len(found)} pictures with an object; {self.n} were asked for (n=)")
        return found[: self.n]

    def _at(self, index: int) -> Record:
        record = self.whole[self.rows[index]]
        boxes = record.targets["boxes"]
        crowds = boxes_in(record.targets).crowd
        kept = [box for box, crowd in zip(boxes, crowds, strict=True) if not crowd]
        return replace(record, targets={**record.targets, "boxes": kept})
