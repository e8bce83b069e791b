"""Records from a table: CSV, TSV, or cells between semicolons or bars, with a header; see ``TableFile`` for its rules.

Left out: several captions in one cell (give each a row).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.line_index import find_rows
from mmkit.data.picture_files import PictureFiles, is_url, missing
from mmkit.data.problems import Problems
from mmkit.data.records import FileRecords, tidy_captions
from mmkit.data.sources.delimited import TableFile
from mmkit.errors import UserError

NAMES: Mapping[str, Sequence[str]] = {
    "image": ("image", "path", "filepath", "file_path", "file_name", "filename", "image_path"),
    "caption": ("caption", "title", "text"), "image_id": ("image_id",), "label": ("label", "class"),
    "question": ("question",), "answers": ("answers", "answer"), "video": ("video", "video_path"),
}  # fmt: skip
"""What the column of a field may be called, where nobody says it; open_clip's are filepath and title."""


class Table(FileRecords):
    """A table with a picture or clip in each row, and its caption, label or question.

    A clip is named by the path of a video, of an animated picture, of an array or of a folder of frames, in the column
    ``video``, where there is none of pictures. A picture may have several rows. ``targets`` are text as it is written;
    an empty cell is as if there was none.

    Args:
        path: the file, UTF-8.
        columns: {field: column}; ``image`` or ``video``, ``caption``, ``image_id``, and any other, a target. Those of
            ``NAMES`` that are not given are looked for; targets only if they are in ``needs`` or ``may``.
        images: where relative paths begin; default the folder of the file.
        needs: the fields, besides ``image``, that no row may lack; None = caption, if the table has one.
        may: further targets, which are read where the table has them.

    Raises:
        UserError: with file and line, before anything is trained, for what ``TableFile`` refuses, empty cells that are
            needed, missing pictures, and one image_id for several pictures.
    """

    def __init__(
        self, path: str | Path, *, columns: Mapping[str, str] | None = None, images: str | Path | None = None,
        needs: Sequence[str] | None = None, may: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.path = Path(path)
        named = dict(columns or {})
        self.seen = _seen(self.path, named)
        fields = (self.seen, "caption", "image_id", *(needs or ()), *may)
        wanted = {field: NAMES.get(field, (field,)) for field in dict.fromkeys(fields)}
        self.table = TableFile(self.path, wanted=wanted, named=named, needs=(self.seen, *(needs or ())))
        found = self.table.columns
        if needs is None:
            needs = ("caption",) if "caption" in found else ()
            if not found.keys() - {self.seen, "image_id"} and len(self.table.header) > len(found):
                TableFile(self.path, wanted=wanted, named=named, needs=(self.seen, "caption"))  # says what it has
        self.needs = tuple(dict.fromkeys((self.seen, *needs)))
        self.root = Path(images) if images is not None else self.path.parent
        self.rows, self.files = self.table.rows, PictureFiles(self.root)
        about = () if images is None and not named else (str(images), sorted(named.items()))
        if find_rows(self.rows, self.files, self.needs, about, self._read):
            self._look_again()

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record; None where its cell is empty."""
        for index in range(len(self)):
            yield self.table[index].get(key)

    def _row(self, index: int) -> dict[str, Any]:
        return self.table[index]

    def _read(self, look: bool) -> Collection[str]:
        """What all rows hold, if one is to ``look``."""
        problems, columns, held = Problems(self.path), self.table.columns, None
        for row in self.table.scan(problems):
            line, image = self.lines[-1], row.get(self.seen, "")
            empty = [self.table.header[columns[field]] for field in self.needs if field not in row]
            if empty:
                problems.add(line, "empty cell", f"nothing in the column {', '.join(empty)}")
            elif is_url(image):
                problems.add(line, *missing(image, Path(image)))
            else:
                try:
                    tidy_captions(row.get("caption", "none"))
                except ValueError as error:
                    problems.add(line, "bad caption", str(error))
                else:
                    self.files.note(image, row.get("image_id"), is_clip=self.seen == "video")
                    if look:
                        held = [field for field in (held or row) if row.get(field, "").strip()]
                    continue
            self.rows.drop_last()
        if not len(self) and not problems.counts:
            raise UserError(f"{self.path}: the table has no rows")
        self._check_pictures(problems)
        return held or ()


def _seen(path: Path, named: Mapping[str, str]) -> str:
    """What the rows of a table show: "image" or "video"."""
    if {"image", "video"} <= named.keys():
        raise UserError(
            f"{path}: --columns image={named['image']},video={named['video']}: a record shows a picture or a clip"
        )
    if "image" in named or "video" in named:
        return "video" if "video" in named else "image"
    try:
        there = TableFile(
            path, wanted={field: NAMES[field] for field in ("image", "video")}, named={}, needs=()
        ).columns
    except UserError:
        return "image"  # what is wrong is told by who reads it
    return "video" if there.keys() == {"video"} else "image"


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
