"""From published forms to mmkit's own: one JSON object per line, pictures by path; and sources by their short names.

For ``mmkit data import``. Records keep what they hold: captions, image ids, and all targets that JSON can say. Pictures
that are files stay where they are, named relative to the new file; those made in memory are saved beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmkit.data.records import Source
from mmkit.data.sources.built_in import split_of
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.forms import FORMATS
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.sources.readers import Options, read_published, read_table
from mmkit.errors import UserError


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
    if kind == "csv":
        given.refuse(path, but=("columns", "images"))
        return read_table(path, frozenset(), given)
    form = form_of(path)
    own = "karpathy" if form == "albef" else form
    if own in FORMATS and own != kind:
        raise UserError(f"{path}: seems to be of another form: mmkit data import {own}")
    return read_published(path, frozenset(), given, kind)
