"""The index of tar shards: which samples they hold and where, built once, then mapped into memory by every process.

One Arrow file in the shards' folder, a batch of rows for each shard. It is made shard by shard, by several processes,
from headers and texts alone; what was made stays when the making is stopped, and a shard that did not change is not
read again. What a row holds: ``samples.schema``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import lru_cache, partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from mmkit.data.alone import alone, lock_of
from mmkit.data.problems import Problems
from mmkit.data.remote import is_url, place_of
from mmkit.data.sources.samples import DAMAGED, Trouble, scan, schema
from mmkit.data.storage import NoListing, Place
from mmkit.errors import UserError
from mmkit.files import beside, remove_folder

log = logging.getLogger(__name__)

INDEX, PARTS, ENDING = "mmkit-index.arrow", ".mmkit-index", ".tar"
FORM = "shards 3"
"""Names what stands in an index; another one is made anew."""
OPEN = 512
"""Of so many shards a process keeps at hand where their rows are."""


class Part(NamedTuple):
    """A batch of rows. name, size, changed: of the shard, see ``Place.stamp``; counts: see ``samples.Scanned``; left:
    so many times something was wrong with a sample that was left out.
    """

    name: str
    size: int
    changed: str
    rows: int
    counts: Mapping[str, int]
    left: int = 0

    @property
    def stamp(self) -> tuple[int, str]:
        """As ``Place`` gives it."""
        return self.size, self.changed


class Row(NamedTuple):
    """Where a picture or clip is, and what is said of it. targets: JSON; clip: see ``samples.schema``."""

    key: str
    start: int
    size: int
    captions: list[str] | None
    targets: str | None
    clip: list[int] | None


def build_index(
    folder: str | Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
    leave_out: bool = False,
) -> Mapping[str, int]:
    """Write the index of a folder's shards; how many shards and records it has, and how many shards were read for it.

    For an address the index is written on this machine (``Place.home``).

    workers: processes. progress: called with (done, total) shards. UserError, with shard and byte, for shards that are
    damaged and samples that are none; the others are not read again next time. leave_out: the latter are told in a
    warning and left out.
    """
    place = place_of(folder)
    index = place.home(INDEX)
    if workers < 1:
        raise UserError(f"workers = {workers}: at least 1")
    try:
        stamps = {name: place.stamp(name) for name in place.names(ENDING)}
    except NoListing as error:
        raise UserError(f"{error}; make the index where the shards lie, and put {INDEX} beside them") from error
    if not stamps:
        is_there = is_url(folder) or Path(folder).is_dir()
        raise UserError(f"{folder}: {f'no shards in it (*{ENDING})' if is_there else 'no such folder'}")
    with alone(lock_of(index), told=f"{folder}: another process makes its index; waiting for it"):
        return _build(folder, stamps, workers=workers, progress=progress, leave_out=leave_out)


def _build(
    folder: str | Path, stamps: Mapping[str, tuple[int, str]], *, workers: int,
    progress: Callable[[int, int], object] | None, leave_out: bool,
) -> Mapping[str, int]:  # fmt: skip
    """As ``build_index``. stamps: of the shards, by name."""
    place = place_of(folder)
    index, parts = place.home(INDEX), place.home(PARTS)
    kept = _kept(index, stamps, leave_out)
    todo = [name for name in stamps if name not in kept and _part(parts, name, stamps[name], leave_out) is None]
    problems, make = Problems(folder, unit="sample"), partial(_make_part, place, parts, leave_out)
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if min(workers, len(todo)) > 1 else nullcontext()
    with pool as several:
        for done, (name, rows, wrong) in enumerate((several.map if several else map)(make, todo), start=1):
            problems.rows += rows + len(wrong)
            for byte, kind, detail in wrong:
                problems.add(f"{name}:{byte}", kind, detail)
            if progress is not None:
                progress(done, len(todo))
    _tell(problems, leave_out)

    def whole() -> Iterator[Rows]:
        for name, stamp in stamps.items():
            rows = kept.get(name) or _part(parts, name, stamp, leave_out)
            if rows is None:
                raise UserError(f"{place.called(name)}: was changed while it was read; start again")
            yield rows

    about = [part for part, _ in whole()]
    write_index(index, about, (batch for _, batch in whole()))  # one file is open at a time
    remove_folder(parts)
    return {"shards": len(stamps), "records": sum(part.rows for part in about), "read": len(todo)}


def _tell(problems: Problems, leave_out: bool) -> None:
    """UserError for what is wrong; or a warning, if it is to be left out and can be."""
    if problems.counts[DAMAGED]:
        left = "; --leave-out leaves out samples, and no shards" if leave_out else ""
        problems.raise_if_any(advice=f"Fetch or write damaged shards again, or take them out of the folder{left}.")
    elif not leave_out:
        problems.raise_if_any()
    elif problems.counts:
        kinds = ", ".join(f"{n} x {kind}" for kind, n in problems.counts.most_common())
        log.warning("%s: samples are left out (%s):\n%s", problems.where, kinds, "\n".join(problems.first))


class Index:
    """The rows of an index file, mapped into memory.

    parts: of each batch of rows. Where the file is damaged or of another form: UserError.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa

        self.path = Path(path)
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            about = json.loads((self._file.schema.metadata or {})[b"mmkit"])
            if about["form"] != FORM or len(about["shards"]) != self._file.num_record_batches:
                raise ValueError(f"of the form {about['form']}")
            self.parts = [Part(*part) for part in about["shards"]]
        except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's own are ValueErrors
            raise UserError(
                f"{path}: damaged, or of another version ({error}); remove it and build it again"
            ) from error
        self.ends = array("q", accumulate(part.rows for part in self.parts))
        self._columns = lru_cache(OPEN)(self._views)

    def __len__(self) -> int:
        return self.ends[-1]

    def digest(self, times: bool = False) -> str:
        """Of the shards' names, sizes and numbers of rows. times: and of what changes when one is written anew."""
        about = [(part.name, part.size, part.rows, *([part.changed] if times else [])) for part in self.parts]
        return hashlib.blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()

    def row(self, shard: int, at: int) -> Row:
        """One row of a shard."""
        keys, starts, sizes, *rest = self._columns(shard)
        return Row(keys[at].as_py(), int(starts[at]), int(sizes[at]), *(column[at].as_py() for column in rest))

    def batch(self, shard: int) -> Any:
        """The rows of a shard as Arrow has them."""
        return self._file.get_batch(shard)

    def _views(self, shard: int) -> tuple[Any, ...]:
        batch = self.batch(shard)
        starts, sizes = (batch.column(name).to_numpy() for name in ("start", "size"))  # of the mapped file
        return batch.column("key"), starts, sizes, *(batch.column(name) for name in ("captions", "targets", "clip"))


def shard_of(ends: array[int], index: int) -> tuple[int, int]:
    """The batch in which a row is, and its number there. ends: of each batch."""
    shard = bisect_right(ends, index)
    return shard, index - (ends[shard - 1] if shard else 0)


Rows = tuple[Part, Any]


def _kept(index: Path, stamps: Mapping[str, tuple[int, str]], leave_out: bool) -> dict[str, Rows]:
    """The rows of an earlier index whose shards did not change since; without ``leave_out`` those of whole shards."""
    if not index.is_file():
        return {}
    try:
        found = Index(index)
    except UserError:
        return {}
    same = [n for n, part in enumerate(found.parts) if stamps.get(part.name) == part.stamp]
    return {found.parts[n].name: (found.parts[n], found.batch(n)) for n in same if leave_out or not found.parts[n].left}


def _part_of(parts: Path, name: str) -> Path:
    return parts / quote(name, safe="")


def _part(parts: Path, name: str, stamp: tuple[int, str], leave_out: bool) -> Rows | None:
    """The rows of a shard that were written on the way; None where they were not, or the shard changed since."""
    return _kept(_part_of(parts, name), {name: stamp}, leave_out).get(name)


def _make_part(place: Place, parts: Path, leave_out: bool, name: str) -> tuple[str, int, list[Trouble]]:
    """Read a shard and write its rows; its name, how many, and what is wrong, for which nothing is written."""
    stamp = place.stamp(name)
    rows, found, counts = scan(place, name, stamp)
    if not found or (leave_out and all(kind != DAMAGED for _, kind, _ in found)):
        write_index(_part_of(parts, name), [Part(name, *stamp, rows.num_rows, counts, len(found))], [rows])
    return name, rows.num_rows, found


def write_index(path: Path, parts: Sequence[Part], batches: Iterable[Any]) -> None:
    """Write the rows of these shards, a batch for each, as one file, whole or not at all."""
    import pyarrow as pa

    about = {"mmkit": json.dumps({"form": FORM, "shards": parts})}
    columns = schema().with_metadata(about)
    with beside(path) as place, pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, columns) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(about))
