"""What a file of no known layout comes nearest to, and what it lacks or has beyond: for messages.

The names of a file are compared with those of small examples of each layout, whatever the number of its layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mmkit.convert.layouts.layout import Layout
from mmkit.convert.tables.table import listed, names_of

NUMBERED = re.compile(r"\b(blocks|layers?|resblocks)\.\d+\.")
BODY = re.compile(r"^(\w*bert|vilt)\.")  # stands before all names of a body that has a head beside it
ENOUGH = 0.2  # share of common names from which two layouts are worth comparing


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How a file's names relate to a layout's. share: 0..1, of common names in all. lacks, beyond: some names."""

    layout: Layout
    share: float
    lacks: tuple[str, ...]
    beyond: tuple[str, ...]

    def differs(self) -> str:
        """Which names are missing and unknown."""
        return listed(4, missing=self.lacks, unknown=self.beyond)

    def describe(self) -> str:
        """The layout, and what is missing and unknown."""
        return f"{self.layout.name} ({self.layout.what}), but {self.differs() or 'its values differ'}"


def likeness(state: Mapping[str, Tensor], layout: Layout) -> Likeness | None:
    """How a file's names relate to a layout's; None for a layout without examples."""
    if layout.examples is None:
        return None
    names = [_plain(name for row in rows for name in names_of(row)) for rows in layout.examples()]
    needed, known = set.intersection(*map(set, names)), {plain for some in names for plain in some}
    given = _plain(state)
    return Likeness(
        layout=layout, share=len(known & given.keys()) / len(needed | given.keys()),
        lacks=tuple(sorted(names[0][plain] for plain in needed - given.keys())),
        beyond=tuple(sorted(given[plain] for plain in given.keys() - known)),
    )  # fmt: skip


def nearest(state: Mapping[str, Tensor], layouts: Iterable[Layout], most: int = 2) -> list[Likeness]:
    """The layouts that share most names with a file, best first; none where hardly any name is shared."""
    found = [like for layout in layouts if (like := likeness(state, layout)) and like.share >= ENOUGH]
    return sorted(found, key=lambda like: -like.share)[:most]


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Names without the numbers of layers and without what stands before a body -> one of the names as they are."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(NUMBERED.sub(r"\1.N.", BODY.sub("", name)), name)
    return found
