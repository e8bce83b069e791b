"""Several sources as one, in which a picture still has one id and an id one picture."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mmkit.data.clip import Clip
from mmkit.data.labels import Label, own_names
from mmkit.data.order import WINDOW, Mixed, Order, order_of, part_seed, shares_of
from mmkit.data.picture_files import PictureFiles, several
from mmkit.data.records import ByNumber, Record, Source, captions_of, described, targets_of
from mmkit.data.text_files import stable_id
from mmkit.errors import UserError

log = logging.getLogger(__name__)


class Joined(ByNumber):
    """Several sources as one, one after the other. parts: sources, or partials that make them.

    weights: training takes records of the parts in this proportion, (3, 1) or (0.75, 0.25), whatever their sizes: each
    position of a run is of one part by a keyed draw, each part has its own order, and a small one is visited more often
    than a large one. What goes through a source once, as an evaluator does, is not concerned. None = every record once.

    Two parts may each have a ``1.jpg`` or an image_id 1 of their own. So where an id is the picture's name, its whole
    path stands in; and where another id is of different pictures in different parts, too, and that is said. So it is
    with labels: numbers of ``class_names`` stay where all parts have the same, else their names stand in.
    """

    def __init__(self, parts: Sequence[Source | partial[Any]], weights: Sequence[float] | None = None) -> None:
        if not parts:
            raise UserError("Joined: no parts; give at least one source")
        if weights is not None and len(weights) != len(parts):
            raise UserError(f"Joined: {len(weights)} weights for {len(parts)} parts; give one for each")
        self.shares = None if weights is None else shares_of(weights)
        self.parts: list[Source] = [part() if isinstance(part, partial) else part for part in parts]
        if any(getattr(part, "shares", None) for part in self.parts):
            raise UserError("Joined: a part has weights of its own; join all parts at once, by products of weights")
        self._ends = list(accumulate(map(len, self.parts)))
        names = [own_names(part) for part in self.parts]
        self.class_names = names[0] if all(other == names[0] for other in names) else None
        self._names = names if self.class_names is None else [None] * len(names)
        self._ambiguous = self._look()

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> Record:
        at = bisect_right(self._ends, index)
        record, names = self.parts[at][index - (self._ends[at - 1] if at else 0)], self._names[at]
        if names is not None and "label" in record.targets:
            record = replace(record, targets={**record.targets, "label": _named(record.targets["label"], names)})
        return self._own(record)

    def order(self, *, seed: int = 0, block: int | None = None, window: int | None = None) -> Order | Mixed:
        """In which order training takes the records; see ``mmkit.data.order.order_of``."""
        made = (order_of(part, seed=seed, block=block, window=window) for part in self.parts)
        orders = [one for one in made if isinstance(one, Order)]  # all: no part has weights
        if self.shares is None:
            blocks, windows = [one.block for one in orders], [one.window for one in orders if one.block > 1]
            return Order(size=len(self), seed=seed, block=max(blocks), window=min(windows, default=WINDOW))
        own = [replace(one, seed=part_seed(seed, number)) for number, one in enumerate(orders)]
        told = (
            getattr(part, "path", None) or getattr(part, "name", None) or type(part).__name__ for part in self.parts
        )
        return Mixed(parts=tuple(own), shares=self.shares, seed=seed, names=tuple(map(str, told)))

    @property
    def digest(self) -> str:
        """Which samples these are, as far as the parts say; see ``Shards``."""
        return " ".join(getattr(part, "digest", "") for part in self.parts).strip()

    @property
    def held_blocks(self) -> int:
        """As of ``Shards``: of the part whose cache is smallest, of those that have one."""
        return min((held for part in self.parts if (held := getattr(part, "held_blocks", 0))), default=0)

    def fetches(self, index: int) -> Sequence[Callable[[], object]]:
        """As of ``Shards``; none for a record of this machine."""
        at = bisect_right(self._ends, index)
        own = getattr(self.parts[at], "fetches", None)
        return own(index - (self._ends[at - 1] if at else 0)) if callable(own) else ()

    def captions(self) -> Iterator[str]:
        """Every part's."""
        for part in self.parts:
            yield from captions_of(part)

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, without opening pictures where the parts know how."""
        for part, names in zip(self.parts, self._names, strict=True):
            for value in targets_of(part, key):
                yield value if names is None or key != "label" else _named(value, names)

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record, as ``described`` gives them."""
        for part in self.parts:
            if _files(part) is None:
                yield from described(part)
                continue
            for index in range(len(part)):
                record = self._own(part[index])
                yield record.key, record.image_id, record.captions

    def _own(self, record: Record) -> Record:
        files = _paths(record)
        if files and (_is_name(record) or record.image_id in self._ambiguous):
            return replace(record, image_id="|".join(map(os.path.abspath, files)))
        return record

    def _look(self) -> frozenset[str]:
        """The ids that are of different pictures in different parts, apart from names."""
        hashes = [files.hashes() for files in map(_files, self.parts) if files is not None]
        if len(hashes) < 2:
            return frozenset()
        ids, pictures = (np.concatenate(both) for both in zip(*hashes, strict=True))
        twice = {int(ids[row]) for row, _ in several(ids, pictures)}
        if not twice:
            return frozenset()
        found = {
            record.image_id
            for part in self.parts if _files(part) is not None
            for record in map(part.__getitem__, range(len(part)))
            if stable_id(record.image_id) in twice and not _is_name(record)
        }  # fmt: skip
        if found:
            some = ", ".join(sorted(found)[:5])
            log.warning(
                "%d image_ids are of different pictures in different parts (%s); there a picture's path is its id",
                len(found), some,
            )  # fmt: skip
        return frozenset(found)


def _named(label: Any, names: Sequence[Label]) -> Any:
    """What a number is called; everything else as it is."""
    return names[label] if type(label) is int and 0 <= label < len(names) else label


def _files(part: Source) -> PictureFiles | None:
    files = getattr(part, "files", None)
    return files if isinstance(files, PictureFiles) else None


def _is_name(record: Record) -> bool:
    """Whether an id is the picture's path, or the end of it."""
    paths, names = [path.as_posix() for path in _paths(record)], record.image_id.split("|")
    if len(paths) != len(names):
        return False
    return all(path == name or path.endswith(f"/{name}") for path, name in zip(paths, names, strict=True))


def _paths(record: Record) -> list[Path]:
    """Of a record's picture, or of the files of its clip."""
    if isinstance(record.image, Clip):
        return list(record.image.files())
    return [record.image] if isinstance(record.image, Path) else []
