"""Embeddings of many pictures and their captions, written to one file (Parquet or safetensors).

The work is done in parts that are kept beside the result until it is whole, so that a run that was stopped goes on
where it was, also where pictures or shards came to the end of the data meanwhile; the result itself appears at once or
not at all. A picture that cannot be read is named and left out. Several processes share the parts, over a disk that all
of them see, and the first one puts them together: the file is that of one process. Left out: tokens before pooling.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmkit.data.clip import Clip
from mmkit.data.reading import check_share, reading
from mmkit.data.records import Record, Source
from mmkit.data.video.opening import pictures_of
from mmkit.errors import UserError
from mmkit.files import beside, check_ending, write_tensors
from mmkit.inference import EMBEDDED_AS
from mmkit.inference.fingerprint import fingerprint
from mmkit.inference.predictor import Predictor
from mmkit.ranks import gather_objects, on_first, rank, together, world_size

log = logging.getLogger(__name__)

PART_BATCHES = 32
"""How many batches make a part."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was written. unreadable: messages, one for each picture that was left out; resumed: rows from before."""

    pictures: int
    texts: int
    width: int
    unreadable: tuple[str, ...]
    resumed: int


@dataclass(frozen=True)
class _Part:
    """Rows of the result: the embeddings of its pictures and of all their captions.

    about: lists, with an entry for each picture, of ``keys``, ``paths``, ``image_ids``, ``captions`` (a list each); and
    ``unreadable``, messages.
    """

    about: Mapping[str, Any]
    images: Tensor
    texts: Tensor


def embed_files(
    predictor: Predictor, source: Source, out: str | Path, *, batch_size: int = 64, texts: bool = True,
    max_bad_fraction: float = 0.1,
) -> Embedded:  # fmt: skip
    """Embed every record's picture, and with ``texts`` its captions, and write ``out`` (.parquet or .safetensors).

    Of a model that reads pictures alone there are no texts.

    Parquet has the columns ``key``, ``image`` (path, where there is one), ``image_id``, ``embedding`` (E float32),
    ``captions`` and ``caption_embeddings``. Safetensors has ``image`` (n, E) and ``text`` (m, E) float32,
    ``text_image`` (m,) int64, the picture's row of each text, and ``about`` (bytes,) uint8, the UTF-8 of a JSON object
    with the lists ``keys``, ``images``, ``image_ids`` and ``captions``; it is put together in memory, Parquet is not.

    To be called by all processes. UserError where the model has no joint space, more than ``max_bad_fraction`` of the
    pictures (and more than one) cannot be read, or the file cannot be written; what is done so far is kept for the next
    call.
    """
    out = Path(out)
    check_ending(out, *EMBEDDED_AS)
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file")
    if not predictor.model.spec.embed_dim:
        raise UserError("this model has no joint space of image and text, so that its pictures have no embedding")
    folder, texts = out.with_name(f".{out.name}.parts"), texts and predictor.reads_words
    kind = fingerprint(predictor, [f"batch {batch_size}", f"texts {texts}"], ["{}"])
    size, total = PART_BATCHES * batch_size, len(source)
    paths = [folder / f"{number:06d}.safetensors" for number in range(-(-total // size))]

    def made() -> tuple[dict[int, list[str]], int]:
        """The parts of this process: by number what could not be read, and the rows that were there before."""
        bad: dict[int, list[str]] = {}
        resumed = 0
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(rank(), len(paths), world_size()):
            records = [source[i] for i in range(number * size, min(total, (number + 1) * size))]
            part = _read(paths[number], kind, records)
            if part is None:
                part = _made(predictor, records, batch_size, texts, number * size, total)
                _write(paths[number], kind, records, part)
            else:
                resumed += len(records)
                predictor.progress("pictures", number * size + len(records), total)
            bad[number] = part.about["unreadable"]
            _check(bad, total, max_bad_fraction)
        return bad, resumed

    try:
        found = gather_objects(together(made))
        bad = {number: messages for part, _ in found for number, messages in part.items()}
        unreadable = _check(bad, total, max_bad_fraction)
        pictures, rows = on_first(lambda: _put_together(out, paths, predictor.model.spec.embed_dim))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    return Embedded(
        pictures=pictures, texts=rows, width=predictor.model.spec.embed_dim, unreadable=unreadable,
        resumed=sum(resumed for _, resumed in found),
    )  # fmt: skip


def _put_together(out: Path, paths: Sequence[Path], width: int) -> tuple[int, int]:
    """Write the result and remove its parts: how many pictures and texts."""
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise UserError(f"{absent[0]}: not seen by the first process; put --out on a disk that all processes share")
    written = (_parquet if out.suffix.lower() == ".parquet" else _safetensors)(out, map(_kept, paths), width)
    shutil.rmtree(out.with_name(f".{out.name}.parts"))
    return written


def _check(bad: Mapping[int, Sequence[str]], total: int, most: float) -> tuple[str, ...]:
    """The messages of parts in the order of the records; UserError where they are too many."""
    told = [message for number in sorted(bad) for message in bad[number]]
    check_share(told, total, most, "max_bad_fraction, --max-bad", few=1)
    return tuple(told)


def _made(
    predictor: Predictor, records: Sequence[Record], batch_size: int, texts: bool, done: int, total: int
) -> _Part:
    good: list[Record] = []
    bad: list[str] = []
    images: list[Tensor] = [torch.empty(0, predictor.model.spec.embed_dim)]

    for read in reading(records, predictor.pixels, batch_size=batch_size, threads=predictor.threads, bad="leave out"):
        good += read.items
        bad += read.bad
        if read.made:
            images.append(predictor.embed_image(predictor.encode_pixels(read.made)))
        predictor.progress("pictures", done + read.done, total)
    for message in bad:
        log.warning("left out: %s", message)
    about: dict[str, Any] = {
        "keys": [record.key for record in good], "image_ids": [record.image_id for record in good],
        "paths": ["|".join(map(str, _files_of(record))) for record in good],
        "captions": [list(record.captions) if texts else [] for record in good], "unreadable": bad,
    }  # fmt: skip
    flat = [caption for group in about["captions"] for caption in group]
    return _Part(about, torch.cat(images), predictor.encode_text(flat, batch_size))


def _write(path: Path, kind: str, records: Sequence[Record], part: _Part) -> None:
    about = {"kind": kind, "records": [_mark(record) for record in records], **part.about}
    write_tensors(path, {"images": part.images, "texts": part.texts, "about": _bytes_of(about)})


def _read(path: Path, kind: str, records: Sequence[Record]) -> _Part | None:
    """A part that was made before, of the same model, settings and records; else None."""
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    same = about["kind"] == kind and about["records"] == [_mark(record) for record in records]
    return _kept(path) if same else None


def _mark(record: Record) -> list[Any]:
    """What must be as it was for an embedding to be used again: the record, and its picture as far as is cheap to see.

    A mended picture, another one of that name, and new captions are embedded anew.
    """
    mark: list[Any] = [record.key, record.image_id, *record.captions]
    for file in _files_of(record):
        with suppress(OSError, ValueError):
            for part in pictures_of(file) if file.is_dir() else [file]:
                state = part.stat()
                mark += [state.st_size, state.st_mtime_ns]
    if isinstance(record.image, bytes):
        mark.append(zlib.crc32(record.image))
    return mark


def _files_of(record: Record) -> list[Path]:
    """The paths of a record's picture, or of the files of its clip."""
    if isinstance(record.image, Clip):
        return list(record.image.files())
    return [record.image] if isinstance(record.image, Path) else []


def _kept(path: Path) -> _Part:
    with safe_open(path, framework="pt") as file:
        return _Part(_about(file), file.get_tensor("images"), file.get_tensor("texts"))


def _bytes_of(about: dict[str, Any]) -> Tensor:
    """As uint8, the JSON's UTF-8: a header may hold 100 MB and no more."""
    text = json.dumps(about, ensure_ascii=False).encode("utf-8", "backslashreplace")  # JSON's own escapes
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _about(file: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(bytes(file.get_tensor("about").numpy()))
    return about


def _utf8(text: str) -> str:
    r"""The same, but for the bytes of a file's name that are no UTF-8: "\udcff" for the byte 255."""
    return text.encode("utf-8", "backslashreplace").decode()


def _parquet(out: Path, parts: Iterator[_Part], width: int) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), width)
    schema = pa.schema({
        "key": pa.string(), "image": pa.string(), "image_id": pa.string(), "embedding": vector,
        "captions": pa.list_(pa.string()), "caption_embeddings": pa.list_(vector),
    })  # fmt: skip
    pictures = texts = 0
    with beside(out) as half, pq.ParquetWriter(half, schema) as writer:
        for part in parts:
            counts = [len(group) for group in part.about["captions"]]
            ends = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
            columns: list[Any] = [
                pa.array(map(_utf8, part.about["keys"]), pa.string()),
                pa.array([_utf8(path) or None for path in part.about["paths"]], pa.string()),
                pa.array(map(_utf8, part.about["image_ids"]), pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(part.images.flatten().numpy()), width),
                pa.array(part.about["captions"], pa.list_(pa.string())),
                pa.ListArray.from_arrays(
                    pa.array(ends.numpy()),
                    pa.FixedSizeListArray.from_arrays(pa.array(part.texts.flatten().numpy()), width),
                ),
            ]
            writer.write_table(pa.table(columns, schema=schema))
            pictures, texts = pictures + len(part.images), texts + sum(counts)
    return pictures, texts


def _safetensors(out: Path, parts: Iterator[_Part], width: int) -> tuple[int, int]:
    found = list(parts)
    lists = ("keys", "paths", "image_ids", "captions")
    told = {name: [entry for part in found for entry in part.about[name]] for name in lists}
    rows = [row for row, group in enumerate(told["captions"]) for _ in group]
    tensors = {
        "image": torch.cat([part.images for part in found]), "text": torch.cat([part.texts for part in found]),
        "text_image": torch.tensor(rows, dtype=torch.int64),
    }  # fmt: skip
    about = {
        "keys": told["keys"], "images": told["paths"], "image_ids": told["image_ids"],
        "captions": [caption for group in told["captions"] for caption in group],
    }  # fmt: skip
    write_tensors(out, tensors | {"about": _bytes_of(about)})
    return len(tensors["image"]), len(rows)
