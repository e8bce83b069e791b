"""What the classes of labelled pictures are called, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path

from mmkit.data.labels import is_numeric, label_in, natural, some
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError


def class_names(path: str | Path) -> tuple[str, ...]:
    """The names of the classes of a class folder, a table or JSON lines with labels, sorted as people count.

    UserError where the labels are numbers, which say nothing.
    """
    source = open_source(path, {"label"})
    names = getattr(source, "class_names", None)
    if names is not None:
        return tuple(map(str, names() if callable(names) else names))
    found = set()
    for row, value in enumerate(source.target("label")):  # type: ignore[attr-defined]  # every such source has it
        try:
            found.add(label_in(value, "", "label"))
        except UserError as error:
            raise UserError(f"{source[row].key}{error}") from error
    if all(map(is_numeric, found)):
        raise UserError(
            f"{path}: the labels are numbers ({some(sorted(found, key=natural), 3)}); write the names of the classes"
        )
    return tuple(str(label) for label in sorted(found, key=natural))
