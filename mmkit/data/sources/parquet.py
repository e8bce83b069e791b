"""The rows of Parquet files where they lie: in order by small batches, or at random by whole groups of rows.

A row alone cannot be decoded, its group can: 1.7 ms for a hundred pictures of 32 kB. So what reads at random keeps the
last groups, and says how many rows are best read together. Left out: files that are not on a disk.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmkit.errors import UserError

log = logging.getLogger(__name__)

BATCH, KEPT, FAR, MOST_JUMPS = 50, 4, 1000, 8
"""Rows read at once; batches kept; rows skipped by reading them; jumps before the whole is read in another way."""
MEMORY = 128 * 2**20
"""Bytes of decoded groups that a process keeps, or two groups where these are larger."""
OPEN = 32
"""So many files are held open."""


class Parquet:
    """Parquet files, one after the other, read in order. copy: gives the same rows to who reads them in no order."""

    def __init__(self, files: Sequence[Path], copy: Callable[[], Any]) -> None:
        told = list(map(_told, files))
        self.names: list[str] = told[0].schema.to_arrow_schema().names
        for file, other in zip(files, told, strict=True):
            if {*(there := other.schema.to_arrow_schema().names)} != {*self.names}:
                raise UserError(f"{file}: has the columns {', '.join(there)}; {files[0]} has {', '.join(self.names)}")
        self._about = (told[0].metadata or {}).get(b"huggingface", b"null")
        self.files, self.copy, self.bytes = list(files), copy, 0
        self._ends, self._first = array("q"), array("q")  # rows up to the end of each group; each file's first group
        for about in told:
            self._first.append(len(self._ends))
            for group in map(about.row_group, range(about.num_row_groups)):
                self._ends.append(len(self) + group.num_rows)
                self.bytes += group.total_byte_size
        self.select(self.names)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_ahead", "_kept")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.select(self._columns)

    def select(self, columns: Sequence[str]) -> None:
        """From now on ``row`` gives these alone."""
        self._columns, self._lock, self._jumps = list(columns), threading.Lock(), 0
        self._loaded: Any = None
        self._from(0)

    def row(self, index: int) -> dict[str, Any]:
        """One row as plain values, pictures as they are encoded; from several threads too."""
        with self._lock:
            first = self._kept[0][0] if self._kept else self._at
            if self._loaded is None and not first <= index < self._at + FAR:
                self._jump(index)
            if self._loaded is None:
                return self._read(index)
        row: dict[str, Any] = self._loaded.row(index)
        return row

    def _jump(self, index: int) -> None:
        group = bisect_right(self._ends, index)
        self._jumps += 1
        self._from(group)
        if self._jumps > MOST_JUMPS or index - self._at > FAR * MOST_JUMPS:
            self._loaded = self.copy()
            self._loaded.select(self._columns)

    def _from(self, group: int) -> None:
        """Go on reading where a group of rows begins."""
        self._at = self._ends[group - 1] if group else 0
        self._kept: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._ahead = self._batches(self._columns, BATCH, group)

    def _read(self, index: int) -> dict[str, Any]:
        while index >= self._at:
            start, batch = next(self._ahead)
            self._kept.append((start, batch))
            self._at = start + batch.num_rows
        start, batch = next(pair for pair in reversed(self._kept) if pair[0] <= index)
        row: dict[str, Any] = batch.slice(index - start, 1).to_pylist()[0]
        return row

    def batches(self, columns: Sequence[str], size: int = 1000) -> Iterator[tuple[int, Any]]:
        """(first row, Arrow table) of the whole, of these columns alone."""
        return self._batches(columns, size, 0)

    def _batches(self, columns: Sequence[str], size: int, group: int) -> Iterator[tuple[int, Any]]:
        import pyarrow.parquet as pq

        at = self._ends[group - 1] if group else 0
        for file, number in map(self._place, range(group, len(self._ends))):
            try:
                with pq.ParquetFile(file, buffer_size=1 << 20) as opened:
                    for batch in opened.iter_batches(size, row_groups=[number], columns=columns, use_threads=False):
                        yield at, batch
                        at += batch.num_rows
            except (OSError, ValueError) as error:  # Arrow's own are ValueErrors
                raise UserError(f"{file}: damaged, or changed meanwhile ({error}); copy it again") from error

    def _place(self, group: int) -> tuple[Path, int]:
        """The file of a group of rows, and its number there."""
        file = bisect_right(self._first, group) - 1
        return self.files[file], group - self._first[file]

    def without(self, column: str, start: int) -> Iterator[tuple[int, int, int]]:
        """(first row, rows, how many of them say nothing in a column) of the groups from the row ``start`` on in which
        some do, by what the files count themselves; of a picture: neither bytes nor a path.
        """
        for file, about in enumerate(map(_told, self.files)):
            leaves = [about.schema.column(n).path for n in range(about.num_columns)]
            own = [leaves.index(leaf) for leaf in (column, f"{column}.bytes", f"{column}.path") if leaf in leaves]
            for number in range(about.num_row_groups):
                group, here = self._first[file] + number, about.row_group(number)
                told = [here.column(n).statistics for n in own] if self._ends[group] > start else []
                if told and all(one is not None and one.null_count for one in told):
                    empty = told[0].null_count if len(told) == 1 else self._empty(self.files[file], number, column)
                    if empty:
                        yield self._ends[group] - here.num_rows, here.num_rows, empty

    def _empty(self, file: Path, number: int, column: str) -> int:
        """In how many rows of a group a picture has neither bytes nor a path."""
        import pyarrow.compute as pc

        with _open(file) as opened:
            found = opened.read_row_group(number, columns=[column], use_threads=False)[column]
        silent = [pc.is_null(pc.struct_field(found, name)) for name in ("bytes", "path")]
        return int(pc.sum(pc.and_(*silent)).as_py() or 0)

    def class_names(self, column: str) -> list[str] | None:
        """What the numbers in a column are called, where the data set knows."""
        names = self._told_of(column, "names")
        return list(names) if isinstance(names, list) else None

    def is_video(self, column: str) -> bool:
        """Whether the data set says that a column holds videos."""
        return self._told_of(column, "_type") == "Video"

    def _told_of(self, column: str, what: str) -> Any:
        try:
            return json.loads(self._about)["info"]["features"][column][what]
        except (ValueError, KeyError, TypeError):
            return None


class Groups(Parquet):
    """Parquet files with pictures in them, read at random: the groups of rows that were read last stay decoded.

    neighbours: so many rows are best read together, and so many such blocks stay; None where all groups do.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files, lambda: self)
        self.copy = None  # type: ignore[assignment]  # it jumps wherever it likes
        number, size = max(1, len(self._ends)), self.bytes // max(1, len(self._ends))
        rows = -(-len(self) // number)
        kept = MEMORY // max(1, size)  # blocks begin anywhere, so that each lies in two groups
        self.neighbours = None if self.bytes <= MEMORY else (max(1, rows), max(1, kept // 2))
        self._stamps = [_stamp(file) for file in self.files]
        if size > 2 * MEMORY:
            log.warning(
                "%s: a group of rows has %d MB, and each process that reads keeps two of them; files that are written "
                "with row_group_size=100 are read faster and take less memory", self.files[0], size >> 20,
            )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key not in ("_tables", "_opened")}

    def select(self, columns: Sequence[str]) -> None:
        """As of ``Parquet``."""
        super().select(columns)
        self._tables: dict[int, Any] = {}
        self._opened = lru_cache(OPEN)(_open)
        self._process = os.getpid()

    def row(self, index: int) -> dict[str, Any]:
        """As of ``Parquet``."""
        if self._process != os.getpid():  # after a fork, of which a lock may be held and files are shared
            self.select(self._columns)
        group = bisect_right(self._ends, index)
        with self._lock:
            table = self._table(group)
        first = self._ends[group - 1] if group else 0
        row: dict[str, Any] = table.slice(index - first, 1).to_pylist()[0]
        return row

    def _table(self, group: int) -> Any:
        """A group of rows, decoded now or lately."""
        table = self._tables.pop(group, None)
        if table is None:
            file, number = self._place(group)
            try:
                if _stamp(file) != self._stamps[bisect_right(self._first, group) - 1]:
                    raise UserError(f"{file}: was changed while it was in use; start again, and write copies")
                table = self._opened(file).read_row_group(number, columns=self._columns, use_threads=False)
            except (OSError, ValueError) as error:  # Arrow's own are ValueErrors
                raise UserError(f"{file}: damaged, or changed meanwhile ({error}); copy it again") from error
            room = MEMORY - table.nbytes
            while len(self._tables) > 1 and sum(kept.nbytes for kept in self._tables.values()) > room:
                del self._tables[next(iter(self._tables))]  # that was read longest ago
        self._tables[group] = table
        return table


def holds_pictures(file: Path) -> bool:
    """Whether a column holds encoded pictures or videos, alone, as ``datasets`` writes them, or in lists."""
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            kind = next((field.type for field in kind if field.name == "bytes"), kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return any(map(is_bytes, _told(file).schema.to_arrow_schema().types))


def _open(file: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file)


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _told(file: Path) -> Any:
    """What a Parquet file says of its columns and groups of rows."""
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be loaded, damaged or no Parquet ({error}); copy it again") from error
