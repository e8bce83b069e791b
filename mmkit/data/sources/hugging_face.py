"""Any data set that ``datasets`` can load: Parquet, Arrow, the hub. Left out: streaming without a length."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmkit.data.clip import Clip, as_seen
from mmkit.data.picture_files import CHECK_LIMIT, MOST_PAIRS, NamedRow, PictureFiles, is_url, missing
from mmkit.data.problems import Problems, is_collecting
from mmkit.data.records import Record, tidy_captions
from mmkit.data.sources.arrow import open_rows
from mmkit.data.sources.parquet import BATCH, Parquet
from mmkit.data.text_files import id_of, is_absent, is_null
from mmkit.errors import UserError

log = logging.getLogger(__name__)

CHECKED = 256 * 2**20
"""After so many bytes of rows no further pictures are looked for before a run."""


class HuggingFace:
    """Any data set that ``datasets`` can load: a folder of Parquet or Arrow files or pictures, or a name on the hub.

    Args:
        name: the folder, or the name on the hub.
        split, config: as in ``datasets.load_dataset``.
        image, caption, image_id: names of columns. ``caption`` None: a task without captions; Where
            ``image_id`` is None, or says nothing, the picture stands in: equal bytes or equal paths are one. Relative
            paths begin at the folder, or at that of the file. Pictures stay encoded until they are needed.
        video: the column of clips, in the place of ``image``: videos as bytes or paths, as ``datasets`` keeps them, or
            lists of frames. A column of ``datasets.Video`` is one without being named so.
        targets: further columns, {name in Record.targets: column}.
        in_order: most rows will be read one after the other, as evaluation does, and training does not.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        split: str = "train",
        config: str | None = None,
        image: str = "image",
        video: str | None = None,
        caption: str | None = "caption",
        image_id: str | None = None,
        targets: Mapping[str, str] | None = None,
        in_order: bool = False,
    ) -> None:
        self.name, self.image, self.caption, self.image_id = str(name), video or image, caption, image_id
        self.targets = dict(targets or {})
        self.rows = open_rows(self.name, split, config, in_order)
        self.is_clip = video is not None or self.rows.is_video(image)
        place = Path(self.name)
        self.root = place if place.is_dir() else place.parent if place.is_file() else None
        self.files = PictureFiles(self.root or Path())
        self.rows.select(self._check_columns())
        self._check_captions()
        self._check_pictures()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.rows.row(index)
        key = f"{self.name}[{index}]"
        image = self._seen(row[self.image], key)
        return Record(
            image=image,
            captions=self._captions(row[self.caption], key) if self.caption is not None else (),
            image_id=self._id(row[self.image_id] if self.image_id is not None else None, image),
            key=key,
            targets={
                target: self._image(row[column], key) if _is_picture(row[column]) else row[column]
                for target, column in self.targets.items()
                if not is_null(row[column])
            },
        )

    def captions(self) -> Iterator[str]:
        """Every caption; reads that column alone."""
        if self.caption is not None:
            for value in self._column(self.caption):
                yield from tidy_captions(value)

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record. Pictures are not decoded; read only where they are the ids."""
        wanted = [column for column in (self.caption, self.image_id) if column is not None]
        for start, batch in self.rows.batches(wanted if self.image_id is not None else [*wanted, self.image]):
            for at in range(batch.num_rows):
                key, given, image = f"{self.name}[{start + at}]", None, None
                if self.image_id is not None:
                    given = batch[self.image_id][at].as_py()
                    image = self._seen(self.rows.row(start + at)[self.image], key) if is_absent(given) else b""
                else:
                    image = self._seen(batch[self.image][at].as_py(), key)
                captions = tidy_captions(batch[self.caption][at].as_py()) if self.caption is not None else ()
                yield key, self._id(given, image), captions

    def _column(self, column: str) -> Iterator[Any]:
        for _, batch in self.rows.batches([column]):
            yield from batch[column].to_pylist()

    def _id(self, given: Any, image: Path | bytes | Clip) -> str:
        """What the column says, or what the picture or clip is."""
        own = id_of(given)
        return _identity(image) if own is None else f"{self.name}:{own}"

    @property
    def neighbours(self) -> tuple[int, int] | None:
        """How many rows are best read together, and how many such blocks stay in memory; None = it does not matter."""
        return getattr(self.rows, "neighbours", None)

    @property
    def class_names(self) -> list[str] | None:
        """What the numbers in ``targets["label"]`` are called, where the data set knows."""
        column = self.targets.get("label")
        return None if column is None else self.rows.class_names(column)

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record; reads that column alone."""
        column = self.targets.get(key)
        yield from (None for _ in range(len(self))) if column is None else self._column(column)

    def _seen(self, value: Any, key: str) -> Path | bytes | Clip:
        """The picture or clip of a cell."""
        if self.is_clip and isinstance(value, list):
            if not value:
                raise UserError(f"{key}: column {self.image!r} holds 0 frames; a clip has at least one")
            return Clip([self._image(frame, f"{key}, frame {i}") for i, frame in enumerate(value)])
        found = self._image(value, key)
        return Clip(found) if self.is_clip else as_seen(found) if isinstance(found, Path) else found

    def _image(self, value: Any, key: str) -> Path | bytes:
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if isinstance(value, str) and value.strip():
            return self._path(value, key)
        what = "nothing" if not value else type(value).__name__
        hint = f"; the frames of a clip: --columns video={self.image}" if isinstance(value, list) else ""
        raise UserError(f"{key}: column {self.image!r} holds {what}, not a picture, bytes or a path{hint}")

    def _captions(self, value: Any, key: str) -> tuple[str, ...]:
        try:
            return tidy_captions(value)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error

    def _path(self, value: str, key: str) -> Path:
        if is_url(value):
            raise UserError(f"{key}: {missing(value, Path(value))[1]}")
        if self.root is None and not os.path.isabs(value):
            raise UserError(f"{key}: {value} is relative, and {self.name} is no folder; download the data set into one")
        return Path(value) if self.root is None else self.files.path(value)

    def _check_columns(self) -> list[str]:
        """Those that are read; UserError where one is not there."""
        wanted = [c for c in (self.image, self.caption, self.image_id, *self.targets.values()) if c is not None]
        unknown = [column for column in wanted if column not in self.rows.names]
        if unknown:
            raise UserError(
                f"{self.name}: no column {', '.join(unknown)}; it has {', '.join(self.rows.names)}. "
                "Say which column is which with image= or video=, caption=, image_id=, targets= (--columns on the "
                "command line)"
            )
        return list(dict.fromkeys(wanted))

    def _check_captions(self) -> None:
        if self.caption is None:
            return
        problems, rows = Problems(self.name, unit="row"), len(self)
        if rows > CHECK_LIMIT:
            log.info("%s: checked the first %d of %d captions only", self.name, CHECK_LIMIT, rows)
        for number, value in enumerate(islice(self._column(self.caption), CHECK_LIMIT)):
            try:
                tidy_captions(value)
            except ValueError as error:
                problems.add(number, "bad caption", str(error))
        self._count_empty(self.caption, "bad caption", CHECK_LIMIT, problems)
        problems.raise_if_any(rows)

    def _count_empty(self, column: str, kind: str, start: int, problems: Problems) -> None:
        """Notes groups of rows from ``start`` on in which the column is empty, where the files count that."""
        for first, rows, empty in self.rows.without(column, start) if isinstance(self.rows, Parquet) else ():
            problems.add(first, kind, f"column {column!r} is empty in {empty} of the {rows} rows from here on")

    def _check_pictures(self) -> None:
        """Rows without a picture, paths of missing ones, and ids of several pictures, told by their sizes."""
        problems = Problems(self.name, unit="row")
        columns = [self.image] if self.image_id is None else [self.image, self.image_id]
        first: dict[str, tuple[int, int]] = {}
        paths: list[NamedRow] = []
        compared, read = 0, 0
        for start, batch in self.rows.batches(columns, BATCH):
            if read > CHECKED and not is_collecting():
                what = "%s: looked at the first %d of %d pictures only; see `mmkit data check`"
                log.info(what, self.name, start, len(self))
                self._count_empty(self.image, "no picture", start, problems)
                break
            read += batch.nbytes
            sizes, names = _sizes_and_paths(batch[self.image])
            ids = batch[self.image_id].to_pylist() if self.image_id is not None else [None] * batch.num_rows
            for at, (size, name, given) in enumerate(zip(sizes, names, ids, strict=True), start=start):
                try:
                    image_id = id_of(given)
                except ValueError as error:
                    problems.add(at, "bad image_id", f"column {self.image_id!r} {error}")
                    continue
                if not size and not name:
                    problems.add(at, "no picture", f"column {self.image!r} is empty")
                elif not size and self.root is not None:
                    paths.append((at, name, image_id))
                elif image_id is not None and size:
                    before, length = first.setdefault(image_id, (at, size))
                    compared += before != at
                    if length != size or (before != at and compared <= MOST_PAIRS and not self._same(before, at)):
                        what = f"image_id {image_id!r} is of another picture in row {before}; equal ids mean one"
                        problems.add(at, "one id for different pictures", what)
        if paths:
            self.files.check_rows(paths, problems, self.is_clip)
        problems.raise_if_any(len(self))

    def _same(self, one: int, other: int) -> bool:
        before, here = (self._seen(self.rows.row(row)[self.image], f"{self.name}[{row}]") for row in (one, other))
        return _identity(before) == _identity(here)


def _identity(image: Path | bytes | Clip) -> str:
    """What a picture or clip is: its path or paths, or a digest of its bytes."""
    if isinstance(image, Clip):
        frames: Any = image.frames
        return "|".join(map(_identity, frames)) if isinstance(frames, list) else _identity(frames)
    return image.as_posix() if isinstance(image, Path) else hashlib.blake2b(image, digest_size=16).hexdigest()


def _is_picture(value: Any) -> bool:
    """Whether a value is a picture as ``datasets`` keeps it."""
    return isinstance(value, dict) and value.keys() == {"bytes", "path"}


def columns_in(name: str | Path, split: str = "train", config: str | None = None) -> list[str]:
    """The names of a data set's columns; UserError where it cannot be loaded."""
    return open_rows(str(name), split, config).names


def _sizes_and_paths(column: Any) -> tuple[list[Any], list[Any]]:
    """The number of bytes, and the path, of each picture of an Arrow column, None where there is none; reads neither
    the bytes of pictures nor, where they are in a mapped file, their pages. Of a list of frames: the bytes of all, or
    the paths of those that have no bytes; None where a frame has neither.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing: list[Any] = [None] * len(column)
    if pa.types.is_struct(column.type):
        fields = {field.name for field in column.type if not pa.types.is_null(field.type)}
        data = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist() if "bytes" in fields else nothing
        return data, pc.struct_field(column, "path").to_pylist() if "path" in fields else nothing
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pc.binary_length(column).to_pylist(), nothing
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return nothing, column.to_pylist()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _of_lists(pc.list_value_length(column).to_pylist(), *_sizes_and_paths(pc.list_flatten(column)))
    return [1] * len(column), nothing  # of some other form, which is told as it is read


def _of_lists(lengths: list[int | None], sizes: list[Any], paths: list[Any]) -> tuple[list[Any], list[Any]]:
    """The frames of all rows, one behind the other, by row."""
    all_sizes: list[Any] = []
    all_paths: list[Any] = []
    start = 0
    for length in lengths:
        end = start + (length or 0)
        lacking = [path for size, path in zip(sizes[start:end], paths[start:end], strict=True) if not size]
        whole = end > start and all(lacking)
        all_sizes.append(sum(sizes[start:end]) if whole and not lacking else None)
        all_paths.append(lacking if whole and lacking else None)
        start = end
    return all_sizes, all_paths
