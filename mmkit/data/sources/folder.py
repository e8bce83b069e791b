"""Folders of pictures, each with its captions in a text file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmkit.data.clip import as_seen
from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import Problems
from mmkit.data.records import Record
from mmkit.data.sources.walk import pictures_in
from mmkit.data.text_files import read_lines
from mmkit.errors import UserError


class Folder:
    """Pictures with their captions beside them: ``a.jpg`` and ``a.txt``, one caption per line of the text file.

    captions_needed: False = pictures may have none. UserError for missing, empty and undecodable captions.
    """

    def __init__(self, path: str | Path, *, captions_needed: bool = True) -> None:
        self.path = Path(path)
        self._rows: list[tuple[Path, tuple[str, ...]]] = []
        problems, self.files = Problems(self.path, unit="picture"), PictureFiles(self.path)
        pictures = pictures_in(self.path, beside=(".txt",))
        for picture in pictures:
            text, name = picture.with_suffix(".txt"), str(picture.relative_to(self.path))
            if not text.is_file() and not captions_needed:
                self._rows.append((picture, ()))
                continue
            if not text.is_file():
                problems.add(name, "missing caption", f"no {text.name} beside it")
                continue
            try:
                captions = tuple(line.strip() for line in read_lines(text) if line.strip())
            except UserError as error:
                problems.add(name, "unreadable caption", str(error))
                continue
            if not captions and captions_needed:
                problems.add(name, "empty caption", f"{text.name} is empty")
            self._rows.append((picture, captions))
        self.files.check_rows([(name, name, None) for name in self._names()], Problems(self.path))
        problems.raise_if_any(len(pictures))

    def _names(self) -> list[str]:
        return [picture.relative_to(self.path).as_posix() for picture, _ in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        picture, captions = self._rows[index]
        name = self.files.name(picture.relative_to(self.path).as_posix())
        return Record(image=as_seen(picture), captions=captions, image_id=name, key=str(picture))

    def captions(self) -> Iterator[str]:
        """Every caption."""
        for _, captions in self._rows:
            yield from captions


class Pictures(Folder):
    """All pictures below a folder, sorted, with their names in it as keys; captions where a ``.txt`` lies beside.

    UserError, before any work, for captions in another encoding.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, captions_needed=False)

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        return replace(record, key=str(Path(str(record.image)).relative_to(self.path)))
