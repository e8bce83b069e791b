"""Pictures sorted into folders, one for each class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkit.data.records import Record
from mmkit.data.sources.folder import SUFFIXES, pictures_in
from mmkit.errors import UserError


def is_class_folder(path: Path) -> bool:
    """Whether a folder holds pictures in folders, none beside these and no captions: what ``ClassFolder`` reads."""
    files = [p for p in path.rglob("*") if not p.name.startswith(".") and p.suffix.lower() in (*SUFFIXES, ".txt")]
    return bool(files) and all(p.parent != path and p.suffix.lower() != ".txt" for p in files)


class ClassFolder:
    """Pictures in one folder per class; ``targets["label"]`` is the index of the folder in ``class_names`` (sorted).

    ``captions`` are empty: this is for zero-shot and other classification.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        pictures = pictures_in(self.path)
        loose = [p for p in pictures if p.parent == self.path]
        if loose:
            raise UserError(f"{loose[0]}: lies beside the class folders; expected {self.path}/CLASS/{loose[0].name}")
        classes = [p.relative_to(self.path).parts[0] for p in pictures]
        self.class_names = sorted(set(classes))
        index = {name: i for i, name in enumerate(self.class_names)}
        self._rows = [(p, index[c]) for p, c in zip(pictures, classes, strict=True)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        picture, label = self._rows[index]
        name = str(picture.relative_to(self.path))
        return Record(image=picture, captions=(), image_id=name, key=str(picture), targets={"label": label})

    def target(self, key: str) -> Iterator[Any]:
        """Every label, for the key "label"."""
        yield from (label if key == "label" else None for _, label in self._rows)
