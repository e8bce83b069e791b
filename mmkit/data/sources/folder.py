"""Folders of pictures, each with its captions in a text file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmkit.data.records import Problems, Record
from mmkit.errors import UserError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


def pictures_in(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted; UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
    return found


class Folder:
    """Pictures with their captions beside them: ``a.jpg`` and ``a.txt``, one caption per line of the text file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[tuple[Path, tuple[str, ...]]] = []
        problems = Problems(self.path, unit="picture")
        pictures = pictures_in(self.path)
        for picture in pictures:
            text, name = picture.with_suffix(".txt"), str(picture.relative_to(self.path))
            if not text.is_file():
                problems.add(name, "missing caption", f"no {text.name} beside it")
                continue
            captions = tuple(line.strip() for line in text.read_text("utf-8-sig").splitlines() if line.strip())
            if not captions:
                problems.add(name, "empty caption", f"{text.name} is empty")
            self._rows.append((picture, captions))
        problems.raise_if_any(len(pictures))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        picture, captions = self._rows[index]
        name = str(picture.relative_to(self.path))
        return Record(image=picture, captions=captions, image_id=name, key=str(picture))

    def captions(self) -> Iterator[str]:
        """Every caption."""
        for _, captions in self._rows:
            yield from captions
