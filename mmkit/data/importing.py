"""From published forms to mmkit's own: one JSON object per line, pictures by path; and sources by their short names.

For ``mmkit data import``. Records keep what they hold: captions, image ids, and all targets that JSON can say. Pictures
that are files stay where they are, named relative to the new file; those made in memory are saved beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmkit.data.formats import FORMATS
from mmkit.data.image_io import load_image
from mmkit.data.karpathy import Karpathy
from mmkit.data.records import Record, Source
from mmkit.data.sources.built_in import split_of
from mmkit.data.sources.coco_captions import CocoCaptions
from mmkit.data.sources.open import open_source
from mmkit.data.sources.table import Table
from mmkit.data.vqa_files import AnswerLists, VisualGenomeQA, VQAFiles
from mmkit.errors import UserError


def open_format(
    kind: str, path: str, *, images: str | Path | None = None, annotations: str | Path | None = None,
    split: str | None = None, columns: Mapping[str, str] | None = None, pictures: str | None = None,
) -> Source:  # fmt: skip
    """A source of one of ``FORMATS``. images: the folder of the pictures, default that of the file."""
    _refuse(kind, {"annotations": (annotations, ("vqa",)), "split": (split, ("karpathy", "records"))})
    _refuse(kind, {"columns": (columns, ("csv", "records")), "pictures": (pictures, ("vqa",))})
    _refuse(kind, {"images": (images, tuple(f for f in FORMATS if f != "builtin"))})
    folder = Path(images) if images is not None else Path(path).parent
    makers: dict[str, Callable[[], Source]] = {
        "karpathy": lambda: Karpathy(path, folder, split=split),
        "coco": lambda: CocoCaptions(path, images=folder),
        "vqa": lambda: VQAFiles(path, annotations, images=folder, pictures=pictures),
        "vg-qa": lambda: VisualGenomeQA(path, images=folder),
        "albef-vqa": lambda: AnswerLists(path, images=folder),
        "csv": lambda: Table(path, columns=columns, images=folder),
        "records": lambda: open_source(path, columns=columns, split=split, images=images),
        "builtin": lambda: split_of(path),
    }
    if kind not in makers:
        raise UserError(f"format {kind!r}; there are {', '.join(FORMATS)}")
    return makers[kind]()


def _refuse(kind: str, given: Mapping[str, tuple[object, tuple[str, ...]]]) -> None:
    for name, (value, fit) in given.items():
        if value and kind not in fit:
            what = f"the format {kind}; it is for {', '.join(fit)}" if fit else kind
            raise UserError(f"--{name}: has no meaning for {what}")


def write_records(
    source: Source, path: str | Path, *, limit: int | None = None, progress: Callable[[int, int], object] | None = None
) -> int:
    """Write a new file of JSON lines, which appears when it is whole; the number of records.

    limit: only the first so many. progress: called with (done, total). Pictures in memory are saved as PNG in the
    folder ``STEM-images`` beside the file. UserError for a file that is there already or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists already; name a new file, or remove it")
    n = len(source) if limit is None else min(limit, len(source))
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for i in range(n):
                file.write(json.dumps(_row(source[i], path, f"{i:06d}"), ensure_ascii=False) + "\n")
                if progress is not None:
                    progress(i + 1, n)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return n


def _row(record: Record, path: Path, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"image": _picture(record.image, path, name), "image_id": record.image_id}
    if record.captions and "question" not in record.targets:
        row["caption"] = list(record.captions) if len(record.captions) > 1 else record.captions[0]
    for key, value in record.targets.items():
        # a target may be a picture too (the second one of a pair)
        is_picture = isinstance(value, Image.Image | Path | bytes)
        row[key] = _picture(value, path, f"{name}-{key}") if is_picture else value
    return row


def _picture(image: Image.Image | Path | bytes, path: Path, name: str) -> str:
    """The picture's path relative to the file, saved first where it has none."""
    if isinstance(image, Path):
        return Path(os.path.relpath(image, path.parent)).as_posix()
    folder = path.with_name(f"{path.stem}-images")
    folder.mkdir(exist_ok=True)
    load_image(image).save(folder / f"{name}.png")
    return f"{folder.name}/{name}.png"
