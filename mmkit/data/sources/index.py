"""The index of tar shards: which samples they hold and where, built once, then mapped into memory by every process.

One Arrow file in the shards' folder, a batch of rows for each shard. It is made shard by shard, by several processes,
from headers and texts alone; what was made stays when the making is stopped, and a shard that did not change is not
read again. A sample is what has one name up to the first full stop: its picture, and its captions in ``.txt`` (one a
line) or under "caption" in ``.json``. Left out: what else stands in ``.json``, and pictures of several kinds.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmkit.data.images.formats import SUFFIXES
from mmkit.data.problems import Problems
from mmkit.data.records import tidy_captions
from mmkit.data.sources.tar_members import Ahead, BadTar, Member, members
from mmkit.data.sources.walk import is_hidden
from mmkit.data.storage import Folder, Place
from mmkit.data.text_files import NotText, decode, parse_json, split_lines
from mmkit.errors import UserError
from mmkit.files import beside, remove_folder

INDEX, PARTS, ENDING = "mmkit-index.arrow", ".mmkit-index", ".tar"
FORM = "shards 1"
"""Names what stands in an index; another one is made anew."""

Trouble = tuple[int, str, str]
"""The byte in the shard, the kind, and what is wrong."""


def build_index(
    folder: str | Path, *, workers: int = 1, progress: Callable[[int, int], object] | None = None
) -> Mapping[str, int]:
    """Write the index of a folder's shards; how many shards and records it has, and how many shards were read for it.

    workers: processes. progress: called with (done, total) shards. UserError, with shard and byte, for shards that are
    damaged and samples that are none; the others are not read again next time.
    """
    place, index, parts = Folder(folder), Path(folder) / INDEX, Path(folder) / PARTS
    if workers < 1:
        raise UserError(f"workers = {workers}: at least 1")
    stamps = {name: place.stamp(name) for name in place.names(ENDING)}
    if not stamps:
        raise UserError(f"{folder}: {f'no shards in it (*{ENDING})' if place.root.is_dir() else 'no such folder'}")
    kept = _kept(index, stamps)
    todo = [name for name in stamps if name not in kept and _part(parts, name, stamps[name]) is None]
    problems, make = Problems(folder, unit="sample"), partial(_make_part, place, parts)
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if min(workers, len(todo)) > 1 else nullcontext()
    with pool as several:
        for done, (name, rows, found) in enumerate((several.map if several else map)(make, todo), start=1):
            problems.rows += rows
            for byte, kind, detail in found:
                problems.add(f"{name}:{byte}", kind, detail)
            if progress is not None:
                progress(done, len(todo))
    problems.raise_if_any()
    batches = {name: kept.get(name) or _part(parts, name, stamps[name]) for name in stamps}
    about = [(name, *stamps[name], batch.num_rows) for name, batch in batches.items() if batch is not None]
    if len(about) < len(stamps):
        raise UserError(f"{folder}: shards were changed while they were read; start again")
    _write(index, about, batches.values())
    remove_folder(parts)
    return {"shards": len(stamps), "records": sum(rows for *_, rows in about), "read": len(todo)}


class Index:
    """The rows of an index file, mapped into memory: key, byte and size of the picture, captions or None.

    shards, stamps: of each batch of rows, see ``Place.stamp``. Where the file is damaged or of another form: UserError.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa

        self.path = Path(path)
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            about = json.loads((self._file.schema.metadata or {})[b"mmkit"])
            if about["form"] != FORM or len(about["shards"]) != self._file.num_record_batches:
                raise ValueError(f"of the form {about['form']}")
        except (OSError, ValueError, KeyError) as error:  # Arrow's own are ValueErrors
            raise UserError(
                f"{path}: damaged, or of another version ({error}); remove it and build it again"
            ) from error
        self.shards: list[str] = [name for name, *_ in about["shards"]]
        self.stamps: list[tuple[int, str]] = [(size, changed) for _, size, changed, _ in about["shards"]]
        self._ends = array("q", accumulate(rows for *_, rows in about["shards"]))
        self._columns: dict[int, tuple[Any, ...]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def row(self, index: int) -> tuple[int, str, int, int, list[str] | None]:
        """Number of the shard, key, first byte and size of the picture, captions."""
        shard = bisect_right(self._ends, index)
        at = index - (self._ends[shard - 1] if shard else 0)
        if shard not in self._columns:
            keys, starts, sizes, captions = self.batch(shard).columns
            self._columns[shard] = keys, starts.to_numpy(), sizes.to_numpy(), captions  # views
        keys, starts, sizes, captions = self._columns[shard]
        return shard, keys[at].as_py(), int(starts[at]), int(sizes[at]), captions[at].as_py()

    def batch(self, shard: int) -> Any:
        """The rows of a shard as Arrow has them."""
        return self._file.get_batch(shard)


def _kept(index: Path, stamps: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """The rows of an earlier index whose shards did not change since."""
    if not index.is_file():
        return {}
    try:
        found = Index(index)
    except UserError:
        return {}
    pairs = zip(found.shards, found.stamps, strict=True)
    return {name: found.batch(n) for n, (name, stamp) in enumerate(pairs) if stamps.get(name) == stamp}


def _part_of(parts: Path, name: str) -> Path:
    return parts / quote(name, safe="")


def _part(parts: Path, name: str, stamp: tuple[int, str]) -> Any | None:
    """The rows of a shard that were written on the way; None where they were not, or the shard changed since."""
    found = _kept(_part_of(parts, name), {name: stamp})
    return found.get(name)


def _make_part(place: Place, parts: Path, name: str) -> tuple[str, int, list[Trouble]]:
    """Read a shard and write its rows; its name, how many, and what is wrong, for which nothing is written."""
    stamp = place.stamp(name)
    batch, found = scan(place, name, stamp)
    if not found:
        _write(_part_of(parts, name), [(name, *stamp, batch.num_rows)], [batch])
    return name, batch.num_rows, found


def _write(path: Path, shards: list[tuple[str, int, str, int]], batches: Any) -> None:
    import pyarrow as pa

    about = {"mmkit": json.dumps({"form": FORM, "shards": shards})}
    schema = _schema().with_metadata(about)
    with beside(path) as place, pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(about))


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema({"key": pa.string(), "start": pa.int64(), "size": pa.int64(), "captions": pa.list_(pa.string())})


def scan(place: Place, name: str, stamp: tuple[int, str]) -> tuple[Any, list[Trouble]]:
    """The rows of one shard as an Arrow batch, and what is wrong with it."""
    import pyarrow as pa

    found: list[Trouble] = []
    columns: list[list[Any]] = [[], [], [], []]
    read = Ahead(lambda start, size: place.read(name, start, size, stamp))
    for sample in _samples(read, stamp[0], found):
        try:
            row = sample.row()
        except ValueError as error:
            found.append((sample.at, "bad caption", f"{sample.key}: {error}"))
            continue
        if row is None:
            found.append((sample.at, "no picture", f"{sample.key}: a sample without a picture"))
            continue
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return pa.record_batch(columns, schema=_schema()), found


class _Sample:
    """The files of one name."""

    def __init__(self, key: str, at: int) -> None:
        self.key, self.at = key, at
        self.picture: Member | None = None
        self.texts: dict[str, bytes] = {}

    def take(self, member: Member, ending: str, read: Ahead) -> bool:
        """Note what is a picture or a text; False for a second one."""
        if ending in SUFFIXES:
            is_new, self.picture = self.picture is None, member
            return is_new
        is_new = ending not in self.texts
        if ending in (".txt", ".json"):
            self.texts[ending] = read(member.start, member.size)
        return is_new

    def row(self) -> tuple[str, int, int, list[str] | None] | None:
        """Key, first byte and size of the picture, captions; None without one. ValueError for what is no caption."""
        if self.picture is None:
            return None
        return self.key, self.picture.start, self.picture.size, self._captions() or None

    def _captions(self) -> list[str]:
        if ".txt" in self.texts:
            try:
                return [line.strip() for line in split_lines(decode(self.texts[".txt"], first=True)) if line.strip()]
            except NotText as error:
                raise ValueError(f"the .txt is not UTF-8 ({error}, byte {error.at + 1} of it)") from error
        said = parse_json(self.texts.get(".json", b"{}"), first=True)
        if not isinstance(said, dict):
            raise ValueError("the .json is no object {...}")
        return list(tidy_captions(said["caption"])) if said.get("caption") else []


def _samples(read: Ahead, length: int, found: list[Trouble]) -> Iterator[_Sample]:
    """The samples of a shard; what is repeated, and where it is damaged, goes into ``found``."""
    keys: set[str] = set()
    sample: _Sample | None = None
    try:
        for member in members(read, length):
            folder, slash, file = member.name.rpartition("/")
            stem, dot, ending = file.partition(".")
            key, ending = folder + slash + stem, (dot + ending).lower()
            if is_hidden(file):
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, member.at)
                if key in keys:
                    found.append((member.at, "repeated key", f"{key}: a sample of this name came before"))
                keys.add(key)
            if not sample.take(member, ending, read):
                found.append((member.at, "repeated key", f"{member.name}: the sample has such a file already"))
    except BadTar as error:
        found.append((error.at, "damaged shard", str(error)))
    if sample is not None:
        yield sample
