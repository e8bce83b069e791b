"""A source without the pictures that cannot be read, for ``--max-bad``: an evaluation itself takes all or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from mmkit.data.images.opening import load_image
from mmkit.data.reading import check_share, reading
from mmkit.data.records import Record, Source, described
from mmkit.errors import UserError
from mmkit.evals.classes import targets_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The records of ``source`` of which ``keep`` is true."""

    source: Source
    keep: Sequence[bool]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.source[self.rows[index]]

    @property
    def class_names(self) -> list[str] | None:
        """Those of the source, where it has some."""
        return getattr(self.source, "class_names", None)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of the source, where it has some."""
        return tuple(getattr(self.source, "splits", ()))

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, without opening pictures where the source knows how."""
        return compress(targets_of(self.source, key), self.keep)

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record, without opening pictures where the source knows how."""
        return compress(described(self.source), self.keep)


def readable(
    source: Source, max_bad: float, progress: Callable[[str, int, int], None], threads: int = 4
) -> tuple[Source, list[str]]:
    """The records whose pictures can be read, and a message for each that cannot; every picture is opened for that.

    UserError, with the first of them, where they are more than the share ``max_bad`` of all.
    """
    if not 0 <= max_bad < 1:
        raise UserError(f"--max-bad {max_bad}: give a share from 0 to 1, such as 0.01")
    bad: list[str] = []
    keep = [False] * len(source)
    for read in reading(
        range(len(source)), lambda row, _: _opens(source[row]), batch_size=256, threads=threads, bad="leave out"
    ):
        bad += read.bad
        for row in read.items:
            keep[row] = True
        progress("looking for bad pictures", read.done, len(source))
    check_share(bad, len(source), max_bad)
    if not bad:
        return source, bad
    shown = "\n  ".join(bad[:5]) + ("\n  ..." if len(bad) > 5 else "")
    log.warning("left out %d of %d pictures, which cannot be read:\n  %s", len(bad), len(source), shown)
    return Kept(source, keep, [row for row, kept in enumerate(keep) if kept]), bad


def _opens(record: Record) -> None:
    load_image(record)
