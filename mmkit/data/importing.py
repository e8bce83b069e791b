"""From published forms to mmkit's own: one JSON object per line, pictures by path; and sources by their short names.

For ``mmkit data import``. Records keep what they hold: captions, image ids, and all targets that JSON can say. Pictures
that are files stay where they are, named relative to the new file; those made in memory are saved beside it. Of a
table's columns those go along that are known or named; the others are said.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from mmkit.data.records import Source
from mmkit.data.sources.built_in import split_of
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.forms import FORMATS
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.sources.published.video import VIDEO_FORMS, read_video
from mmkit.data.sources.questions import Asked
from mmkit.data.sources.readers import Options, read_published, read_table
from mmkit.data.sources.table import Table
from mmkit.errors import UserError

log = logging.getLogger(__name__)


def open_format(kind: str, path: str, **options: Any) -> Source:
    """A source of one of ``FORMATS``. options: those of ``Options``; questions may have no answers."""
    given = Options(**options, answers_needed=False)
    if kind not in FORMATS:
        raise UserError(f"format {kind!r}; there are {', '.join(FORMATS)}")
    if kind == "records":
        return open_source(path, **asdict(given))
    if kind == "builtin":
        given.refuse(path)
        return split_of(path)
    if kind in VIDEO_FORMS:
        given.refuse(path, but=("images", *(("split",) if kind == "msrvtt_full" else ()), "annotations"))
        return read_video(kind, path, given.images, given.split, given.annotations)
    if kind == "csv":
        given.refuse(path, but=("columns", "images"))
        source = read_table(path, frozenset(), given)
        _tell_left(path, source.source if isinstance(source, Asked) else source)
        return source
    form = form_of(path)
    own = "karpathy" if form == "albef" else form
    if own in FORMATS and own != kind:
        raise UserError(f"{path}: seems to be of another form: mmkit data import {own}")
    return read_published(path, frozenset(), given, kind)


def _tell_left(path: str, source: Source) -> None:
    if isinstance(source, Table):
        taken = source.table.columns.values()
        left = [name for at, name in enumerate(source.table.header) if at not in taken and name.strip()]
        if left:
            more = ",".join(f"{name}={name}" for name in left)
            log.warning("%s: columns that are left out: %s; to keep them: --columns %s", path, ", ".join(left), more)
