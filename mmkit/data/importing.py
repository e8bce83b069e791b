"""From published forms to mmkit's own: one JSON object per line, pictures by path; and sources by their short names.

For ``mmkit data import``. Records keep what they hold: captions, image ids, and all targets that JSON can say. Pictures
that are files stay where they are, named relative to the new file; those made in memory are saved beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mmkit.data.records import Source
from mmkit.data.sources.built_in import split_of
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.coco_captions import CocoCaptions
from mmkit.data.sources.published.forms import FORMATS
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.sources.published.vqa import AnswerLists, GQAQuestions, VisualGenomeQA, VQAFiles
from mmkit.data.sources.table import Table
from mmkit.data.writing import write_records
from mmkit.errors import UserError

__all__ = ["open_format", "write_records"]


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
        "gqa": lambda: GQAQuestions(path, images=folder),
        "csv": lambda: Table(path, columns=columns, images=folder),
        "records": lambda: open_source(path, columns=columns, split=split, images=images),
        "builtin": lambda: split_of(path),
    }
    if kind not in makers:
        raise UserError(f"format {kind!r}; there are {', '.join(FORMATS)}")
    form = form_of(path) if Path(path).suffix.lower() == ".json" else "unknown"
    own = "karpathy" if form == "albef" else form
    if kind not in ("records", "builtin") and own in FORMATS and kind != own:
        raise UserError(f"{path}: seems to be of another form: mmkit data import {own}")
    return makers[kind]()


def _refuse(kind: str, given: Mapping[str, tuple[object, tuple[str, ...]]]) -> None:
    for name, (value, fit) in given.items():
        if value and kind not in fit:
            what = f"the format {kind}; it is for {', '.join(fit)}" if fit else kind
            raise UserError(f"--{name}: has no meaning for {what}")
