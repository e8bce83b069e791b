"""The rows of a data set as Arrow gives them: of Parquet files where they lie, or as ``datasets`` loads them.

``datasets`` takes seconds to import, and copies Parquet into its cache before a row of it is read. That is done for who
reads rows in no order, as training does, where pictures lie elsewhere; those in Parquet are read where they are. Which
files are of which split is told as ``datasets`` tells it; what only it can tell (names on the hub, other files, configs
of a card) is left to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mmkit import network
from mmkit.data.sources.parquet import Groups, Parquet, holds_pictures
from mmkit.errors import UserError
from mmkit.files import is_place

CARD = "README.md"
WORDS = {
    "train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation",
}  # fmt: skip
"""By which words ``datasets`` knows a split in the name of a folder or a file."""


def open_rows(name: str, split: str, config: str | None, in_order: bool = True) -> Rows:
    """A folder or file of Parquet, of Arrow, or a name on the hub. UserError where it cannot be loaded.

    in_order: they are read so, but for some; else those without pictures in them are loaded by ``datasets`` now, before
    a loader's workers do so each.
    """
    place, load = Path(name), partial(_load, name, split, config)
    ours = place.suffix.lower() in (".parquet", ".arrow") or is_place(name)
    if ours and not place.exists():
        raise UserError(f"{name}: no such file or folder; the data set cannot be loaded")
    files = None if config is not None else _parquet_files(place, split)
    if files is None and not place.exists():
        _check_reachable(name, split)
    if files is None:
        return load()
    whole = partial(Groups, files) if holds_pictures(files[0]) else load
    return Parquet(files, whole) if in_order else whole()


class Loaded:
    """What ``datasets`` loaded, as ``Parquet``."""

    def __init__(self, data: Any) -> None:
        self._features, self._data = data.features, data.with_format("arrow")
        self.names: list[str] = data.column_names
        self.select(self.names)

    def __len__(self) -> int:
        return len(self._data)

    def select(self, columns: Sequence[str]) -> None:
        """As of ``Parquet``."""
        self._selected = self._data.select_columns(list(columns))

    def row(self, index: int) -> dict[str, Any]:
        """As of ``Parquet``."""
        row: dict[str, Any] = self._selected[index].to_pylist()[0]
        return row

    def batches(self, columns: Sequence[str], size: int = 1000) -> Iterator[tuple[int, Any]]:
        """As of ``Parquet``."""
        start = 0
        for batch in self._data.select_columns(list(dict.fromkeys(columns))).iter(size):
            yield start, batch
            start += batch.num_rows

    def class_names(self, column: str) -> list[str] | None:
        """As of ``Parquet``."""
        names: list[str] | None = getattr(self._features.get(column), "names", None)
        return names

    def is_video(self, column: str) -> bool:
        """As of ``Parquet``."""
        return type(self._features.get(column)).__name__ == "Video"


Rows: TypeAlias = Parquet | Loaded


def _parquet_files(place: Path, split: str) -> list[Path] | None:
    """The Parquet files of a split; None for what is left to ``datasets``. UserError for a split that is not there."""
    if place.is_file():
        return [place] if place.suffix.lower() == ".parquet" else None
    names = [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    names = sorted(name for name in names if not re.search(r"(^|/)\.", name))
    if CARD in names:
        names.remove(CARD)
        said = (place / CARD).read_text(errors="replace")
        shards = [path == f"data/{name}-*" for name, path in re.findall(r"- split: (\S+)\s+path: (\S+)", said)]
        usual = shards and all(shards) and (said.count("config_name:"), said.count("path:")) == (1, len(shards))
        if not usual and re.search(r"^\W*(configs|config_name|data_files):", said, re.M):
            return None
    if not names or not all(re.fullmatch(r"[^_].*\.parquet", name) and "/_" not in name for name in names):
        return None
    splits = _splits(names)
    if split not in splits and re.fullmatch(r"\w+", split):
        there = list(splits)
        raise UserError(f"data set {str(place)!r}, split {split!r}: cannot be loaded: there are {there}. Give --split")
    return [place / name for name in splits[split]] if split in splits else None


def _splits(names: Sequence[str]) -> dict[str, list[str]]:
    """Paths in a folder by split: by the form of shards, by folders' names, by files', else all are for training."""
    found: dict[str, list[str]] = {}
    for name in names:
        if shard := re.match(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\.", name):
            found.setdefault(shard[1], []).append(name)
    for parts in (slice(-1), slice(-1, None)):
        for split, words in () if found else WORDS.items():
            rule = re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:[-._ 0-9]|$)")
            if fit := [name for name in names if any(map(rule.search, name.split("/")[parts]))]:
                found[split] = fit
    return found or {"train": list(names)}


def _check_reachable(name: str, split: str) -> None:
    """UserError where ``datasets`` has no copy, and the hub does not answer: it would ask for a minute."""
    from huggingface_hub import constants

    own = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")
    copies = Path(own, name.replace("/", "___")), Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    if not any(copy.exists() for copy in copies) and not network.hub_answers():
        raise UserError(_unloaded(name, split, "the Hugging Face hub cannot be reached"))


def _unloaded(name: str, split: str, reason: str) -> str:
    fetch = f"hf download --repo-type dataset {name} --local-dir FOLDER"
    hint = f" There is no such folder here; where there is a network: {fetch}, then give FOLDER"
    hint = " Give --split" if "nknown split" in reason else "" if Path(name).exists() else hint
    return f"data set {name!r}, split {split!r}: cannot be loaded: {reason.rstrip('.')}.{hint}"


def _load(name: str, split: str, config: str | None) -> Loaded:
    import datasets

    folder = Path(name)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if not isinstance(loaded, datasets.DatasetDict):
                return Loaded(loaded)
            if split not in loaded:
                raise UserError(f"{name}: no split {split!r}; there are {', '.join(loaded)}")
            return Loaded(loaded[split])
        if folder.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
            if folder.suffix.lower() not in kind:
                raise UserError(f"{name}: not one of {', '.join(kind)}")
            return Loaded(datasets.load_dataset(kind[folder.suffix.lower()], data_files=name, split="train"))
        return Loaded(datasets.load_dataset(name, config, split=split))
    except UserError:
        raise
    except (OSError, ValueError, json.JSONDecodeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(_unloaded(name, split, reason)) from error
