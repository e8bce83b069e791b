"""What a model said, one row for each question, picture or query, in a file: the one mechanism of all evaluators.

The ending of the file says its form: ``.json`` is one list, as evaluation servers take it; ``.jsonl`` a row a line;
``.csv`` a table, in which what is no single value stands as JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mmkit.errors import UserError
from mmkit.files import check_writable, writing
from mmkit.ranks import on_first

Rows = Sequence[Mapping[str, Any]]
FORMS = (".json", ".jsonl", ".csv")
_late: ContextVar[list[UserError] | None] = ContextVar("late", default=None)


def check_predictions(path: str | Path | None) -> None:
    """UserError where the file cannot be written or its ending says no form; before any work."""
    if path is None:
        return
    if Path(path).suffix.lower() not in FORMS:
        raise UserError(f"--predictions {path}: the ending says the form; give one of {', '.join(FORMS)}")
    check_writable(path, f"--predictions {path}")


def save_predictions(path: str | Path | None, rows: Callable[[], Rows]) -> None:
    """Write the rows, whole or not at all; the first process makes and writes them, all wait. Nothing without a path.

    Every process calls this. What cannot be written is an error at once, or within ``told_last`` at its end.
    """
    if path is None:
        return
    try:
        on_first(lambda: _write(Path(path), rows()))
    except UserError as error:
        if (late := _late.get()) is None:
            raise
        late.append(error)


@contextmanager
def told_last() -> Iterator[None]:
    """Inside, predictions that cannot be written cost no numbers: that is raised at the end, when these are shown."""
    late: list[UserError] = []
    before = _late.set(late)
    try:
        yield
    finally:
        _late.reset(before)
    if late:
        raise late[0]


def _write(path: Path, rows: Rows) -> None:
    form = path.suffix.lower()
    with writing(path, newline="" if form == ".csv" else None) as file:
        if form == ".csv":
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows([_cell(row.get(column)) for column in columns] for row in rows)
        elif form == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            file.write("[" + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]\n")


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)
