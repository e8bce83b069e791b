"""A table with a picture and its class in each row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mmkit.data.records import CHECK_LIMIT, Problems, Record
from mmkit.errors import UserError


class ClassTable:
    """A CSV or TSV file with a header and one picture a row; ``targets["label"]`` is what the label column says.

    path: the file, UTF-8; separated by tabs if its header holds one. image, label: the names of the columns with the
    picture's path, relative to the file (or to ``root``), and with its class. UserError, with file and line, for
    missing columns, empty labels and missing pictures.
    """

    def __init__(
        self, path: str | Path, *, image: str = "path", label: str = "label", root: str | Path | None = None
    ) -> None:
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self._rows: list[tuple[int, str, str]] = []
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; expected a table with the columns {image}, {label}")
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                self._read(file, image, label)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path}: not a table in UTF-8 ({error}); save it as CSV, UTF-8") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        line, image, label = self._rows[index]
        return Record(
            image=self.root / image, captions=(), image_id=image, key=f"{self.path}:{line}", targets={"label": label}
        )

    def target(self, key: str) -> Iterator[Any]:
        """Every label, for the key "label"."""
        yield from (label if key == "label" else None for _, _, label in self._rows)

    def _read(self, file: TextIO, image: str, label: str) -> None:
        header = file.readline()
        file.seek(0)
        table = csv.DictReader(file, delimiter="\t" if "\t" in header else ",")
        names = table.fieldnames or []
        missing = [name for name in (image, label) if name not in names]
        if missing:
            raise UserError(
                f"{self.path}:1: no column {', '.join(missing)}; the header has {', '.join(names) or 'nothing'}. Say "
                "which is which with --columns image=NAME,label=NAME"
            )
        problems = Problems(self.path)
        for row in table:
            where, what = (row[image] or "").strip(), (row[label] or "").strip()
            self._rows.append((table.line_num, where, what))
            if not where or not what:
                problems.add(table.line_num, "empty cell", f"no {label if where else image} in this row")
            elif len(self._rows) <= CHECK_LIMIT and not (self.root / where).is_file():
                problems.add(table.line_num, "missing picture", f"no picture {self.root / where}")
        if not self._rows:
            raise UserError(f"{self.path}: the table has no rows")
        problems.raise_if_any(len(self._rows))
