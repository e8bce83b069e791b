"""What the classes of labelled pictures are called, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path

from mmkit.data.labels import Label, is_numeric, label_in, natural, own_names, some
from mmkit.data.records import Source, targets_of
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError


def class_names(path: str | Path) -> tuple[str, ...]:
    """The names of the classes of a class folder, a table or JSON lines with labels, sorted as people count.

    UserError where the labels are numbers, which say nothing.
    """
    source = open_source(path, {"label"})
    found = labels_in(source)
    if own_names(source) is None and all(map(is_numeric, found)):
        raise UserError(f"{path}: the labels are numbers ({some(found, 3)}); write the names of the classes")
    return tuple(map(str, found))


def labels_in(source: Source, key: str = "label") -> list[Label]:
    """The distinct labels, sorted: a source's own ``class_names``, or those of its records."""
    names = own_names(source)
    if names is not None:
        return names
    found: set[Label] = set()
    for row, value in enumerate(targets_of(source, key)):
        try:
            found.add(label_in(value, "", key))
        except UserError as error:
            raise UserError(f"{source[row].key}{error}") from error
    return sorted(found, key=natural)
