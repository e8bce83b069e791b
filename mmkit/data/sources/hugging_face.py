"""Any data set that ``datasets`` can load: Parquet, Arrow, the hub. Left out: streaming without a length."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkit.data.records import CHECK_LIMIT, Problems, Record, tidy_captions
from mmkit.errors import UserError

log = logging.getLogger(__name__)


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
        column = self.targets.get(key)
        if column is None:
            yield from (None for _ in range(len(self)))
            return
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
