"""Where the rows of a large file of records lie, found and checked once, then mapped into memory by every process.

A row takes 40 bytes of one Arrow file: number of its line, first byte, size, and ids of the row and its picture. It
lies hidden beside the file of records, or in a folder of the user's where that cannot be written to. It holds for the
very file (size and time of the last change) in the very folder; else it is made anew, by one process while the others
of the machine wait. Left out: rows that were added to a file since, for which all of it is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mmkit.data.alone import alone, lock_of
from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import is_collecting
from mmkit.data.row_file import RowFile
from mmkit.errors import UserError
from mmkit.files import beside, cache_folder

log = logging.getLogger(__name__)

LARGE = 32 * 2**20
"""Bytes; smaller files are read through by every process, which takes seconds."""
FORM = "lines 1"
COLUMNS = ("line", "start", "size", "id", "picture")
_wanted: ContextVar[list[Path] | None] = ContextVar("_wanted", default=None)


@contextmanager
def indexing() -> Iterator[list[Path]]:
    """Within it an index is made, or looked up, for files of any size; the list gets their places."""
    made: list[Path] = []
    token = _wanted.set(made)
    try:
        yield made
    finally:
        _wanted.reset(token)


def find_rows(
    rows: RowFile, files: PictureFiles, needs: Collection[str], about: object,
    validate: Callable[[bool], Collection[str]],
) -> bool:  # fmt: skip
    """Fill both from an index, or by ``validate``, of which an index is then made; whether it was from an index.

    needs: what each row must hold. about: what else the rows depend on. validate: reads the file, raises UserError for
    what is wrong, and says what all rows hold if it is asked to. Where problems are collected the file is read.
    """
    places = _places(rows.path, about)
    use = not is_collecting() and any(_mapped(place, rows, files, needs) for place in places)
    if use or is_collecting() or (_wanted.get() is None and rows.length < LARGE):
        if not use:
            validate(False)
        return use
    waiting = f"{rows.path}: another process makes an index of its lines; waiting for it"
    with alone(lock_of(rows.path), told=waiting):
        if any(_mapped(place, rows, files, needs) for place in places):  # made while this process waited
            return True
        log.info("%s: reading it once, to make an index of its lines", rows.path)
        held = validate(True)
        for place in places:
            try:
                _write(place, rows, files, sorted({*held, *needs}))
            except UserError as error:
                log.info("%s; the index goes elsewhere", error)
                continue
            return _mapped(place, rows, files, needs)
    return False


def _places(path: Path, about: object) -> tuple[Path, Path]:
    """Beside the file, and in the user's own folder."""
    own = hashlib.blake2b(repr(about).encode(), digest_size=4).hexdigest() if about else ""
    name = f".{path.name}{own and f'.{own}'}.mmkit-index"
    whole = hashlib.blake2b(os.path.abspath(path).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return path.with_name(name), cache_folder() / "indexes" / f"{whole}{name}"


def _mapped(place: Path, rows: RowFile, files: PictureFiles, needs: Collection[str]) -> bool:
    """Fill both from an index; False where there is none that holds."""
    import pyarrow as pa

    if not place.is_file():
        return False
    try:
        opened = pa.ipc.open_file(pa.memory_map(str(place)))
        said = json.loads((opened.schema.metadata or {})[b"mmkit"])
        if said["form"] != FORM or said["stamp"] != [rows.length, rows.changed] or said["root"] != files.absolute:
            return False
        if not {*needs} <= {*said["held"]}:
            return False
        columns = (memoryview(column.buffers()[1]).cast("q") for column in opened.get_batch(0).columns)
        line, start, size, ids, pictures = (column[: said["rows"]] for column in columns)
        same = dict(said["same"])
    except (OSError, ValueError, KeyError, TypeError):  # Arrow's own are ValueErrors
        log.warning("%s: the index is damaged; it is made anew", place)
        return False
    rows.take(line, start, size, (_lines, place))
    files.take(ids, pictures, same)
    made = _wanted.get()
    if made is not None:
        made.append(place)
    return True


def _lines(place: Path) -> tuple[memoryview, memoryview, memoryview]:
    """Lines, starts and sizes of an index, for a copy of its rows in another process."""
    import pyarrow as pa

    opened = pa.ipc.open_file(pa.memory_map(str(place)))
    count = json.loads(opened.schema.metadata[b"mmkit"])["rows"]
    line, start, size = (memoryview(c.buffers()[1]).cast("q")[:count] for c in opened.get_batch(0).columns[:3])
    return line, start, size


def _write(place: Path, rows: RowFile, files: PictureFiles, held: list[str]) -> None:
    import pyarrow as pa

    said = {"form": FORM, "stamp": [rows.length, rows.changed], "root": files.absolute, "held": held, "rows": len(rows)}
    columns = [rows.lines, rows.starts, rows.sizes, *files.hashes()]
    arrays = [pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(column)]) for column in columns]
    schema = pa.schema([(name, pa.int64()) for name in COLUMNS], {"mmkit": json.dumps({**said, "same": files.same})})
    batch = pa.record_batch(arrays, schema=schema)
    with beside(place) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)
