"""What the classes of labelled pictures are called, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkit.data.labels import Label, is_numeric, label_in, natural, own_names, some
from mmkit.data.records import Source
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


def targets_of(source: Source, key: str) -> Iterator[Any]:
    """One target of every record, None where it has none; by the source's own ``target(key)`` if it has one."""
    quick = getattr(source, "target", None)
    if callable(quick):
        yield from quick(key)
        return
    for row in range(len(source)):
        yield source[row].targets.get(key)


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
