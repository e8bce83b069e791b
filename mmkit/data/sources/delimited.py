"""Tables as text: a header, then a row for each record, separated by commas, tabs, semicolons or bars.

Cells stay the text that they are written as: "007" and "1.0" are no numbers here. Between commas (semicolons, bars) the
quoting of RFC 4180 holds, strictly: what other readers guess at (a quote that is never closed, letters behind a closing
one) swallows rows, and is an error with its line. Between tabs a quote is a letter like any other, unless a cell is
quoted as a whole, and a cell is of one line. Python's csv reads; pyarrow's gives no lines and joins such rows silently.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmkit.data.problems import Problems
from mmkit.data.row_file import RowFile
from mmkit.data.sources.walk import SUFFIXES
from mmkit.data.text_files import NotText, decode, not_utf8
from mmkit.errors import UserError

TABLES = (".csv", ".tsv")
SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_LONE = "\ufdd0"
"""Stands for a carriage return inside a cell while csv reads, which would end a row there; no text holds it."""

_LARGEST = 1 << 30


class TableFile:
    """The cells of a table by row. UserError, with file and line, for all that makes a cell's place doubtful.

    wanted: {field: the names that its column may have, the best first}; case, spaces, "-" and "_" do not matter.
    named: {field: its column}, as the user says it. needs: the fields without which there is no row.
    Rows whose cells are all empty are passed over. ``scan`` must be used once, to its end, before rows are asked for.
    """

    def __init__(
        self, path: str | Path, *, wanted: Mapping[str, Sequence[str]], named: Mapping[str, str], needs: Sequence[str]
    ) -> None:
        self.path = Path(path)
        fields = {**{field: names[0] for field, names in wanted.items()}, **named}
        self.rows = RowFile(self.path, f"a table with the columns {', '.join(fields[field] for field in needs)}")
        self._body = 0
        self.header, self.separator = self._header(wanted, named)
        self.columns = self._columns(wanted, named, needs)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, str]:
        """{field: text} of a row, without cells that are empty."""
        return self._named(_split(decode(self.rows[index]), self.separator))

    def scan(self, problems: Problems) -> Iterator[dict[str, str]]:
        """Every row in order, each noted for ``[]`` as it is given; what cannot be read is noted in ``problems``."""
        for number, start, size, text in self._records(problems):
            try:
                cells = _split(text, self.separator)
            except (csv.Error, StopIteration) as error:
                problems.add(number, "broken row", self._reason(text, error))
                continue
            if not any(cells):
                continue
            if len(cells) != len(self.header):
                problems.add(number, "other number of cells", self._miscounted(len(cells)))
                continue
            if self._swallows(text):
                what = "a quoted cell holds line breaks and what looks like another row; is a quote missing?"
                problems.add(number, "broken row", what)
                continue
            self.rows.add(number, start, size)
            yield self._named(cells)

    def _named(self, cells: Sequence[str]) -> dict[str, str]:
        return {field: cells[at] for field, at in self.columns.items() if cells[at]}

    def _header(self, wanted: Mapping[str, Sequence[str]], named: Mapping[str, str]) -> tuple[list[str], str]:
        names = {_plain(name) for names in wanted.values() for name in names} | {_plain(n) for n in named.values()}
        for number, _, line in self.rows.physical_lines():
            self._body = number
            try:
                text = decode(line, first=number == 1)
            except NotText as error:
                raise UserError(f"{self.path}:{number}: {not_utf8(error, self.path, line)}") from error
            if not text.strip() or re.fullmatch(r"sep=.\s*", text):
                continue
            if "\r" in text.rstrip("\r\n"):
                raise UserError(f"{self.path}:{number}: its lines end in \\r alone; save it with line feeds")
            found = []
            for separator in SEPARATORS:
                try:
                    header = _split(text, separator)
                except (csv.Error, StopIteration):
                    continue
                found.append((sum(_plain(name) in names for name in header), len(header), header, separator))
            *_, header, separator = max(found, key=lambda one: one[:2])
            if len(header) == 1 and len(found) < len(SEPARATORS):
                raise UserError(f"{self.path}:{number}: a quote in the header is not closed")
            return header, separator
        raise UserError(f"{self.path}: the file is empty")

    def _columns(
        self, wanted: Mapping[str, Sequence[str]], named: Mapping[str, str], needs: Sequence[str]
    ) -> dict[str, int]:
        columns, lacking = {}, []
        for field in dict.fromkeys((*wanted, *named)):
            names = [named[field]] if field in named else wanted[field]
            at = next((at for at in map(self._column, names) if at is not None), None)
            if at is not None:
                columns[field] = at
            elif field in named or field in needs:
                lacking.append(" or ".join(names))
        if lacking:
            bare = any(Path(cell).suffix.lower() in SUFFIXES for cell in self.header)
            hint = "The first line must name the columns. " if bare else ""
            cut = f"separated by {SEPARATORS[self.separator]}" if len(self.header) > 1 else "one column"
            raise UserError(
                f"{self.path}:{self._body}: no column {', '.join(lacking)}; the header has {', '.join(self.header)} "
                f"({cut}). {hint}Rename the columns, or say which is which with --columns "
                f"{','.join(f'{field}=COLUMN' for field in needs)} (for training: of mmkit data import)"
            )
        return columns

    def _column(self, name: str) -> int | None:
        """Where a column is: by its very name, else by the name in any case; UserError where several have it."""
        exact = [at for at, other in enumerate(self.header) if other == name.strip()]
        found = exact or [at for at, other in enumerate(self.header) if _plain(other) == _plain(name)]
        if len(found) > 1:
            same = ", ".join(repr(self.header[at]) for at in found)
            raise UserError(f"{self.path}:{self._body}: {len(found)} columns are called {name} ({same}); rename one")
        return found[0] if found else None

    def _records(self, problems: Problems) -> Iterator[tuple[int, int, int, str]]:
        """(first line, first byte, bytes, text) of every row; between commas a row may be of several lines."""
        pending: list[str] = []
        begun = size = first = 0
        for number, start, line in self.rows.physical_lines():
            if number <= self._body or (not pending and not line.strip()):
                continue
            problems.rows += not pending
            try:
                text = decode(line)
            except NotText as error:
                problems.add(number, "not UTF-8", not_utf8(error, self.path, line))
                pending = []
                continue
            if not pending:
                first, begun, size = number, start, 0
            goes_on = bool(pending) and '"' not in text  # a quote that is open stays so
            pending.append(text)
            size += len(line)
            if goes_on or (self.separator != "\t" and _open(pending, self.separator)):
                continue
            yield first, begun, size, "".join(pending)
            pending = []
        if pending:
            yield first, begun, size, "".join(pending)

    def _swallows(self, text: str) -> bool:
        lines = text.rstrip("\r\n").split("\n")[1:]
        cells = (cell.strip(' "\r').lower() for line in lines for cell in line.split(self.separator))
        return any(cell.endswith(tuple(SUFFIXES)) for cell in cells)

    def _reason(self, text: str, error: Exception) -> str:
        if "unexpected end" in str(error) or isinstance(error, StopIteration):
            return "a quote is opened in this row and never closed; write quotes inside a cell twice"
        return (
            f"letters stand behind a closing quote ({text.strip()[:60]!r}); quote the whole cell, and write quotes "
            "inside it twice"
        )

    def _miscounted(self, n: int) -> str:
        quotes = "" if self.separator == "\t" else f"; a cell with {SEPARATORS[self.separator]} must be in quotes"
        few = "; a cell may not hold a line break" if self.separator == "\t" and n < len(self.header) else ""
        return f"{n} cells, the header has {len(self.header)}{quotes if n > len(self.header) else few}"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _split(text: str, separator: str) -> list[str]:
    """The cells of one row, without spaces around; csv.Error for quotes that are not well formed."""
    if separator == "\t":
        return [_unquoted(cell) for cell in text.removesuffix("\n").removesuffix("\r").split("\t")]
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST))
    text = text.replace("\r\n", "\n").replace("\r", _LONE)
    lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
    cells = next(csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True))
    return [cell.replace(_LONE, "\r").strip() for cell in cells]


def _unquoted(cell: str) -> str:
    """A cell between tabs; quotes around the whole of it are no part of it, if those inside are doubled."""
    cell = cell.strip(" ")
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"').strip()
    return cell.strip()


def _open(lines: Sequence[str], separator: str) -> bool:
    """Whether a row that begins with these lines goes on in the next."""
    if '"' not in lines[-1]:
        return False
    try:
        _split("".join(lines), separator)
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def columns_of(text: str | None, known: Sequence[str] | None = None) -> dict[str, str]:
    """``image=path,label=class`` as {field: column}; UserError for another form, or a field that is not known."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else ():
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not field or not column or field in columns or (known is not None and field not in known):
            those = "" if known is None else f", with FIELD one of {', '.join(known)}"
            raise UserError(f"--columns {text}: write FIELD=COLUMN, separated by commas{those}")
        columns[field] = column
    return columns
