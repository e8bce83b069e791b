"""Tar shards as img2dataset and WebDataset write them, read at random where they lie, through an index of them.

Nothing is unpacked or converted, and nothing of the index is copied into a process. Left out: shards that are not on a
disk (``storage.Place`` is what they need), compressed shards, and targets beside captions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.records import ByNumber, Record
from mmkit.data.sources.index import ENDING, INDEX, Index
from mmkit.data.sources.walk import walk
from mmkit.data.storage import Folder
from mmkit.errors import UserError


class Shards(ByNumber):
    """The samples of the tar files in a folder; ``mmkit data index`` makes what it needs first.

    needs: "caption" = each must have one. UserError where there is no index, where shards changed since, came or went,
    and for missing captions, with shard and byte.
    """

    def __init__(self, path: str | Path, *, needs: Collection[str] = ("caption",)) -> None:
        self.path, self.place = Path(path), Folder(path)
        if not (self.path / INDEX).is_file():
            raise UserError(f"{path}: tar shards without an index; make it, once: mmkit data index {path}")
        self.index = Index(self.path / INDEX)
        self._check_shards()
        if "caption" in needs:
            self._check_captions()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.index = Index(self.path / INDEX)

    def __len__(self) -> int:
        return len(self.index)

    def _at(self, index: int) -> Record:
        shard, key, start, size, captions = self.index.row(index)
        name = self.index.shards[shard]
        image = self.place.read(name, start, size, self.index.stamps[shard])
        return Record(
            image=image, captions=tuple(captions or ()), image_id=f"{name}:{key}", key=self._called(name, start, key)
        )

    def _called(self, name: str, start: int, key: str) -> str:
        return f"{self.place.called(name)}:{start} ({key})"

    def captions(self) -> Iterator[str]:
        """Every caption; no shard is read."""
        for shard in range(len(self.index.shards)):
            yield from self.index.batch(shard).column("captions").flatten().to_pylist()

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record; no shard is read."""
        for shard, name in enumerate(self.index.shards):
            for row in self.index.batch(shard).to_pylist():
                called = self._called(name, row["start"], row["key"])
                yield called, f"{name}:{row['key']}", tuple(row["captions"] or ())

    def _check_shards(self) -> None:
        known, again = dict(zip(self.index.shards, self.index.stamps, strict=True)), f"mmkit data index {self.path}"
        there = self.place.names(ENDING)
        for name in sorted(known.keys() ^ {*there}):
            what = "is gone" if name in known else "is not in the index"
            raise UserError(f"{self.place.called(name)}: {what}; make the index again: {again}")
        for name in there:
            if self.place.stamp(name) != known[name]:
                raise UserError(f"{self.place.called(name)}: was changed after its index; make it again: {again}")

    def _check_captions(self) -> None:
        problems = Problems(self.path, unit="sample")
        for shard, name in enumerate(self.index.shards):
            batch = self.index.batch(shard)
            column = batch.column("captions")
            for at in range(len(column)) if column.null_count else ():
                if not column[at].is_valid:
                    key, start = batch.column("key")[at].as_py(), batch.column("start")[at].as_py()
                    detail = f"{key}: neither a .txt with words beside it, nor a .json with a caption"
                    problems.add(f"{name}:{start}", "missing caption", detail)
        problems.raise_if_any(len(self))


def is_shards(name: str) -> bool:
    """Whether a folder has an index of shards, or holds tar files and no pictures, below it too."""
    path = Path(name)
    return (path / INDEX).is_file() or (path.is_dir() and bool(Folder(path).names(ENDING)) and not walk(path).pictures)
