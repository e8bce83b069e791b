"""What the published files of captions and of questions share: records in memory, with their pictures in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import Problems
from mmkit.data.records import ByNumber, Record
from mmkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record. at: its place in the file, for messages. image_id: as the file says it; None = the picture's name."""

    image: str
    captions: tuple[str, ...]
    at: int | str
    image_id: str | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)


class Rows(ByNumber):
    """The rows of one file, in order. images: the folder that their pictures' names start from.

    problems: what is wrong with the file so far; missing pictures are added, and all is raised, as of ``total`` rows.
    """

    def __init__(
        self, path: str | Path, images: str | Path, rows: list[Row], problems: Problems, total: int | None = None
    ) -> None:
        self.path, self.images, self.rows = Path(path), Path(images), rows
        check_folder(self.images, path)
        self.files = PictureFiles(self.images)
        self.files.check_rows([(row.at, row.image, row.image_id) for row in rows], problems)
        problems.raise_if_any(total)

    def __len__(self) -> int:
        return len(self.rows)

    def _at(self, index: int) -> Record:
        row = self.rows[index]
        image = self.files.name(row.image)
        return Record(
            image=self.images / image, captions=row.captions, image_id=row.image_id or image,
            key=self.key(row), targets=dict(row.targets),
        )  # fmt: skip

    def key(self, row: Row) -> str:
        """A name for messages: the file, and the place there."""
        return f"{self.path}[{row.at}]"

    def captions(self) -> Iterator[str]:
        """Every caption, without opening pictures."""
        for row in self.rows:
            yield from row.captions


def check_folder(images: Path, path: str | Path) -> None:
    """UserError where there is no folder for the pictures of a file."""
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; give the one that holds the pictures of {path}")
