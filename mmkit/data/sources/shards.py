"""Tar shards as img2dataset, video2dataset and WebDataset write them, read at random where they lie, through an index.

Nothing is unpacked or converted, and nothing of the index is copied into a process. They lie in a folder, or elsewhere:
see ``mmkit.data.remote``. Left out: compressed shards.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from mmkit.data.blocks import BLOCK, LIMIT, Blocks
from mmkit.data.clip import Clip
from mmkit.data.order import WINDOW
from mmkit.data.problems import Problems
from mmkit.data.records import ByNumber, Record
from mmkit.data.remote import Fetch, Remote, is_url, place_of
from mmkit.data.sources.index import ENDING, INDEX, OPEN, Index, Row, shard_of
from mmkit.data.sources.walk import walk
from mmkit.data.storage import Folder, NoListing
from mmkit.data.text_files import id_of
from mmkit.errors import UserError

log = logging.getLogger(__name__)

WHERE = {
    "caption": "neither a .txt with words beside it, nor a .json with a caption",
    "label": 'neither a .cls beside it, nor a .json with "label"',
}  # fmt: skip


FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".zip", ".gz", ".txt")
"""What ends so is no folder of shards, though its address could be one's."""


class Shards(ByNumber):
    """The samples of the tar files in a folder; ``mmkit data index`` makes what it needs first.

    Args:
        path: the folder, or the address of one (``s3://...``), of which blocks are kept on this machine.
        needs: what each sample must have: "caption", or a target such as "label".
        min_size: pixels; samples whose shorter side is less are left out, by the width and height in their ``.json``.
        captioned: samples without a caption are left out.
        cache, cache_gb: for an address, the folder of the blocks and how large it may become; see ``blocks.Blocks``.

    Raises:
        UserError: where there is no index, where shards changed since, came or went, and, with shard and byte, for
            samples that lack what is needed.
    """

    def __init__(
        self, path: str | Path, *, needs: Collection[str] = ("caption",), min_size: int = 0, captioned: bool = False,
        cache: str | Path | None = None, cache_gb: float | None = None,
    ) -> None:  # fmt: skip
        self.is_remote = is_url(path)
        if not self.is_remote and (cache, cache_gb) != (None, None):
            raise UserError(f"{path}: a cache is for shards that lie elsewhere; these lie on this machine")
        self.path = str(path).rstrip("/") if self.is_remote else Path(path)
        self.place = place_of(path, Blocks(cache, gb=cache_gb) if self.is_remote else None)
        self.min_size, self.captioned = min_size, captioned
        file = self.place.local(INDEX)
        if file is None:
            raise UserError(f"{path}: tar shards without an index; make it, once: mmkit data index {path}")
        self._file = file
        self._open()
        self._tell_small_cache()
        self._check_shards()
        left = sum(part.left for part in self.index.parts)
        if left:
            log.warning("%s: its index leaves samples out, in which %d things were wrong", path, left)
        self._ends = self._choose()
        keys = dict.fromkeys(key for part in self.index.parts for key in part.counts)
        self.targets: Mapping[str, str] = {key: key for key in keys if key != "image_id"}
        for key in needs:
            self._check_has(key)

    def _open(self) -> None:
        self.index = Index(self._file)
        self._chosen = lru_cache(OPEN)(self._rows_of)

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key not in ("index", "_chosen")}
        return {**kept, "_made": self.index.digest(times=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()
        if vars(self).pop("_made") != self.index.digest(times=True):
            raise UserError(f"{self.path}: the index was made anew while it was in use; start again")

    @property
    def digest(self) -> str:
        """Which samples these are: a run is resumed on the same alone."""
        return self.index.digest()

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> Record:
        shard, at = shard_of(self._ends, index)
        part, row = self.index.parts[shard], self.index.row(shard, int(self._chosen(shard)[at]) if self._picks else at)
        read = self.place.read(part.name, row.start, row.size, part.stamp)
        targets = json.loads(row.targets) if row.targets else {}
        return Record(
            image=_shown(read, row), captions=tuple(row.captions or ()),
            image_id=self._id(part.name, row.key, targets.pop("image_id", None)),
            key=self._called(part.name, row.start, row.key), targets=targets,
        )  # fmt: skip

    def _id(self, shard: str, key: str, given: Any) -> str:
        own = id_of(given)
        return f"{self.place.called(shard)}:{key}" if own is None else f"{self.path}:{own}"

    def _called(self, shard: str, start: int, key: str) -> str:
        return f"{self.place.called(shard)}:{start} ({key})"

    @property
    def neighbours(self) -> tuple[int, int] | None:
        """As many records as lie in one block are read together, where blocks are fetched; see ``order.order_of``."""
        if not self.is_remote:
            return None
        return max(1, BLOCK * len(self.index) // max(1, sum(part.size for part in self.index.parts))), WINDOW

    def _tell_small_cache(self) -> None:
        held, whole = self.held_blocks, sum(part.size for part in self.index.parts)
        if held and held < 2 * WINDOW and held * BLOCK < whole:
            log.warning(
                "%s: %d blocks are kept here, and a run mixes %d of them at a time: they will be fetched again and "
                "again. Set %s to %.0f or more, or data.window to %d",
                self.path, held, WINDOW, LIMIT, 2 * WINDOW * BLOCK / 1e9 + 1, max(1, held // 2),
            )  # fmt: skip

    @property
    def held_blocks(self) -> int:
        """So many blocks this machine may keep; 0 where none are fetched."""
        return self.place.cache.limit // BLOCK if isinstance(self.place, Remote) else 0

    def fetches(self, index: int) -> Sequence[Fetch]:
        """What brings a record's bytes to this machine, each a call; equal ones bring the same."""
        if not isinstance(self.place, Remote):
            return ()
        shard, at = shard_of(self._ends, index)
        part, row = self.index.parts[shard], self.index.row(shard, int(self._chosen(shard)[at]) if self._picks else at)
        return self.place.fetches(part.name, row.start, row.size, part.stamp)

    def captions(self) -> Iterator[str]:
        """Every caption; no shard is read."""
        for _, batch in self._batches("captions"):
            yield from batch.column("captions").flatten().to_pylist()

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record; no shard is read."""
        for name, batch in self._batches("key", "start", "captions", "targets"):
            for row in batch.to_pylist():
                given = json.loads(row["targets"]).get("image_id") if row["targets"] else None
                called = self._called(name, row["start"], row["key"])
                yield called, self._id(name, row["key"], given), tuple(row["captions"] or ())

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, None where it has none; no shard is read."""
        for _, batch in self._batches("targets"):
            for text in batch.column("targets").to_pylist():
                yield json.loads(text).get(key) if text else None

    def _batches(self, *columns: str) -> Iterator[tuple[str, Any]]:
        """(shard, its rows that are not left out, as Arrow has them, of these columns)."""
        import pyarrow as pa

        for shard, part in enumerate(self.index.parts):
            batch = self.index.batch(shard).select(list(columns))
            yield part.name, batch.take(pa.array(self._chosen(shard))) if self._picks else batch

    @property
    def _picks(self) -> bool:
        return self.min_size > 0 or self.captioned

    def _choose(self) -> array[int]:
        """Where the records of each shard end."""
        if not self._picks:
            return self.index.ends
        ends = array("q", accumulate(len(self._rows_of(shard)) for shard in range(len(self.index.parts))))
        log.info("%s: %d of %d samples are left out", self.path, len(self.index) - ends[-1], len(self.index))
        if not ends[-1]:
            raise UserError(
                f"{self.path}: all samples are left out (min_size={self.min_size}, captioned={self.captioned})"
            )
        return ends

    def _rows_of(self, shard: int) -> Any:
        """The numbers of the rows of a shard that are not left out, an array."""
        import numpy as np
        import pyarrow.compute as pc

        batch, chosen = self.index.batch(shard), np.ones(self.index.parts[shard].rows, bool)
        if self.captioned:
            chosen &= batch.column("captions").is_valid().to_numpy(zero_copy_only=False)
        if self.min_size > 0:
            sides = pc.min_element_wise(batch.column("width"), batch.column("height"), skip_nulls=False)
            if sides.null_count:
                at = sides.is_null().index(True).as_py()
                called = self._called(self.index.parts[shard].name, batch.column("start")[at], batch.column("key")[at])
                raise UserError(f"{called}: no width and height in its .json, by which min_size would choose")
            chosen &= sides.to_numpy() >= self.min_size
        return np.flatnonzero(chosen)

    def _check_shards(self) -> None:
        known, again = {part.name: part.stamp for part in self.index.parts}, f"mmkit data index {self.path}"
        try:
            there = self.place.names(ENDING)
        except NoListing:  # the index names them; what changed is seen when it is read
            there = list(known)
        for name in sorted(known.keys() ^ {*there}):
            what = "is gone" if name in known else "is not in the index"
            raise UserError(f"{self.place.called(name)}: {what}; make the index again: {again}")
        for name in there:
            if self.place.differs(name, known[name]):
                raise UserError(f"{self.place.called(name)}: was changed after its index; make it again: {again}")

    def _check_has(self, needed: str) -> None:
        """UserError for samples that lack it; only shards that are known to have such are looked into."""
        if needed == "image":
            return
        problems, where = Problems(self.path, unit="sample"), WHERE.get(needed, f'no .json with "{needed}" beside it')
        for shard, part in enumerate(self.index.parts):
            batch = self.index.batch(shard)
            if needed == "caption":
                lacks = 0 if self.captioned else batch.column("captions").null_count
            else:
                lacks = part.counts.get(needed, 0) < part.rows
            for at in (self._chosen(shard).tolist() if self._picks else range(part.rows)) if lacks else ():
                row = self.index.row(shard, at)
                if not (row.captions if needed == "caption" else needed in json.loads(row.targets or "{}")):
                    problems.add(f"{part.name}:{row.start}", f"missing {needed}", f"{row.key}: {where}")
        problems.raise_if_any(len(self))


def _shown(read: bytes, row: Row) -> bytes | Clip:
    """The picture or clip of a row, of the bytes from its ``start`` on."""
    if row.clip is None:
        return read
    frames = [
        read[at - row.start : at - row.start + size] for at, size in zip(row.clip[::2], row.clip[1::2], strict=True)
    ]
    return Clip(frames or read)


def is_shards(name: str) -> bool:
    """Whether a folder has an index of shards, or holds tar files and no pictures, below it too; or is an address."""
    path = Path(name)
    if is_url(name):
        return path.suffix.lower() not in FILES
    if not path.is_dir():
        return False
    place = Folder(path)
    return place.local(INDEX) is not None or (bool(place.names(ENDING)) and not walk(path).pictures)
