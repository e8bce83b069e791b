"""More places that records come from: folders, tables, and any Hugging Face data set (Parquet, Arrow, the hub).

Left out: streaming data sets without a length, and tar shards.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mmkit.data.records import CHECK_LIMIT, Problems, Record, tidy_captions
from mmkit.errors import UserError

log = logging.getLogger(__name__)

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


class HuggingFace:
    """Any data set that ``datasets`` can load: a folder of Parquet or Arrow files or pictures, or a name on the hub.

    Args:
        name: the folder, or the name on the hub.
        split, config: as in ``datasets.load_dataset``.
        image, caption, image_id: names of columns. ``caption`` None: a task without captions; ``image_id`` None: the
            row number stands in. Pictures stay encoded until they are needed.
        targets: further columns, {name in Record.targets: column}.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        split: str = "train",
        config: str | None = None,
        image: str = "image",
        caption: str | None = "caption",
        image_id: str | None = None,
        targets: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.image, self.caption, self.image_id = str(name), image, caption, image_id
        self.targets = dict(targets or {})
        self.data = _load(self.name, split, config)
        self._check_columns()
        if type(self.data.features[image]).__name__ == "Image":
            from datasets import Image

            self.data = self.data.cast_column(image, Image(decode=False))
        self._check_captions()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.data[index]
        key = f"{self.name}[{index}]"
        return Record(
            image=self._image(row[self.image], key),
            captions=tidy_captions(row[self.caption]) if self.caption is not None else (),
            image_id=f"{self.name}:{row[self.image_id] if self.image_id is not None else index}",
            key=key,
            targets={target: row[column] for target, column in self.targets.items()},
        )

    def captions(self) -> Iterator[str]:
        """Every caption; reads that column alone."""
        if self.caption is not None:
            for batch in self.data.select_columns([self.caption]).iter(1000):
                for value in batch[self.caption]:
                    yield from tidy_captions(value)

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(key, image_id, captions) of every record; reads these columns alone, never a picture."""
        wanted = [column for column in (self.caption, self.image_id) if column is not None]
        if not wanted:
            yield from ((f"{self.name}[{index}]", f"{self.name}:{index}", ()) for index in range(len(self)))
            return
        for index, row in enumerate(self.data.select_columns(list(dict.fromkeys(wanted)))):
            name = row[self.image_id] if self.image_id is not None else index
            captions = tidy_captions(row[self.caption]) if self.caption is not None else ()
            yield f"{self.name}[{index}]", f"{self.name}:{name}", captions

    @property
    def class_names(self) -> list[str] | None:
        """What the numbers in ``targets["label"]`` are called, where the data set knows."""
        names: list[str] | None = getattr(self.data.features.get(self.targets.get("label")), "names", None)
        return names

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record; reads that column alone."""
        column = self.targets[key]
        for batch in self.data.select_columns([column]).iter(1000):
            yield from batch[column]

    def _image(self, value: Any, key: str) -> Path | bytes:
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return Path(value) if os.path.isabs(value) or not os.path.isdir(self.name) else Path(self.name) / value
        raise UserError(f"{key}: column {self.image!r} holds {type(value).__name__}, not a picture, bytes or a path")

    def _check_columns(self) -> None:
        wanted = [c for c in (self.image, self.caption, self.image_id, *self.targets.values()) if c is not None]
        unknown = [column for column in wanted if column not in self.data.column_names]
        if unknown:
            raise UserError(
                f"{self.name}: no column {', '.join(unknown)}; it has {', '.join(self.data.column_names)}. "
                "Say which column is which with image=, caption=, image_id=, targets= (--columns on the command line)"
            )

    def _check_captions(self) -> None:
        if self.caption is None:
            return
        problems, rows = Problems(self.name, unit="row"), self.data.select_columns([self.caption])
        if len(rows) > CHECK_LIMIT:
            log.info("%s: checked the first %d of %d captions only", self.name, CHECK_LIMIT, len(rows))
            rows = rows.select(range(CHECK_LIMIT))
        for number, row in enumerate(rows):
            try:
                tidy_captions(row[self.caption])
            except ValueError as error:
                problems.add(number, "bad caption", str(error))
        problems.raise_if_any(len(rows))


def _load(name: str, split: str, config: str | None) -> Any:
    import datasets

    folder = Path(name)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if not isinstance(loaded, datasets.DatasetDict):
                return loaded
            if split not in loaded:
                raise UserError(f"{name}: no split {split!r}; there are {', '.join(loaded)}")
            return loaded[split]
        if folder.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
            if folder.suffix not in kind:
                raise UserError(f"{name}: not one of {', '.join(kind)}")
            return datasets.load_dataset(kind[folder.suffix], data_files=name, split="train")
        return datasets.load_dataset(name, config, split=split)
    except UserError:
        raise
    except (OSError, ValueError, json.JSONDecodeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fetch = f"hf download --repo-type dataset {name} --local-dir FOLDER"
        hint = f" There is no such folder here; where there is a network: {fetch}, then give FOLDER"
        hint = "" if folder.exists() else hint
        raise UserError(f"data set {name!r}, split {split!r}: cannot be loaded: {reason}.{hint}") from error
