"""A table with a picture and its class in each row."""

from __future__ import annotations

from pathlib import Path

from mmkit.data.sources.table import NAMES, Table


class ClassTable(Table):
    """A table with a header and one picture a row; ``targets["label"]`` is what the label column says, as text.

    path: the file, UTF-8. image, label: the names of the columns with the picture's path, relative to the file (or to
    ``root``), and with its class; columns of other usual names (``Table``) are found where these are the defaults.
    UserError, with file and line, for what ``Table`` refuses, and for empty labels.
    """

    def __init__(
        self, path: str | Path, *, image: str = "path", label: str = "label", root: str | Path | None = None
    ) -> None:
        given = {"image": image, "label": label}
        named = {field: column for field, column in given.items() if column not in NAMES[field]}
        super().__init__(path, columns=named, images=root, needs=("label",))
