"""The rows of a data set as Arrow gives them: of Parquet files where they lie, or as ``datasets`` loads them.

``datasets`` takes seconds to import, and copies Parquet into its cache before a row of it is read. That is done for who
reads rows in no order, as training does, which Parquet's groups of rows do not serve. Which files are of which split is
told as ``datasets`` tells it; what only it can tell (names on the hub, other files, configs of a card) is left to it.
"""

from __future__ import annotations

import json
import os
import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from mmkit import network
from mmkit.errors import UserError
from mmkit.files import is_place

CARD = "README.md"
BATCH, KEPT, FAR, MOST_JUMPS = 50, 4, 1000, 8
"""Rows read at once; batches kept; rows skipped by reading them; jumps before the whole is loaded by ``datasets``."""
WORDS = {
    "train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation",
}  # fmt: skip
"""By which words ``datasets`` knows a split in the name of a folder or a file."""


def open_rows(name: str, split: str, config: str | None, in_order: bool = True) -> Rows:
    """A folder or file of Parquet, of Arrow, or a name on the hub. UserError where it cannot be loaded.

    in_order: they are read so, but for some; else ``datasets`` loads them now, before a loader's workers do so each.
    """
    place, load = Path(name), partial(_load, name, split, config)
    ours = place.suffix.lower() in (".parquet", ".arrow") or is_place(name)
    if ours and not place.exists():
        raise UserError(f"{name}: no such file or folder; the data set cannot be loaded")
    files = None if config is not None or not in_order else _parquet_files(place, split)
    if files is None and not place.exists():
        _check_reachable(name, split)
    return load() if files is None else Parquet(files, load)


class Parquet:
    """Parquet files, one after the other, read in order. copy: loads the same rows for who reads them in no order."""

    def __init__(self, files: Sequence[Path], copy: Callable[[], Rows]) -> None:
        told = list(map(_told, files))
        self.names: list[str] = told[0].schema.to_arrow_schema().names
        for file, other in zip(files, told, strict=True):
            if {*(there := other.schema.to_arrow_schema().names)} != {*self.names}:
                raise UserError(f"{file}: has the columns {', '.join(there)}; {files[0]} has {', '.join(self.names)}")
        self._about = (told[0].metadata or {}).get(b"huggingface", b"null")
        self.groups = [(file, n) for file, about in zip(files, told, strict=True) for n in range(about.num_row_groups)]
        rows = (about.row_group(n).num_rows for about in told for n in range(about.num_row_groups))
        self.copy, self._ends = copy, list(accumulate(rows))
        self.select(self.names)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_ahead", "_kept")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.select(self._columns)

    def select(self, columns: Sequence[str]) -> None:
        """From now on ``row`` gives these alone."""
        self._columns, self._lock, self._jumps = list(columns), threading.Lock(), 0
        self._loaded: Rows | None = None
        self._from(0)

    def row(self, index: int) -> dict[str, Any]:
        """One row as plain values, pictures as they are encoded; from several threads too."""
        with self._lock:
            first = self._kept[0][0] if self._kept else self._at
            if self._loaded is None and not first <= index < self._at + FAR:
                self._jump(index)
            if self._loaded is None:
                return self._read(index)
        return self._loaded.row(index)

    def _jump(self, index: int) -> None:
        group = bisect_right(self._ends, index)
        self._jumps += 1
        self._from(group)
        if self._jumps > MOST_JUMPS or index - self._at > FAR * MOST_JUMPS:
            self._loaded = self.copy()
            self._loaded.select(self._columns)

    def _from(self, group: int) -> None:
        """Go on reading where a group of rows begins."""
        self._at = self._ends[group - 1] if group else 0
        self._kept: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._ahead = self._batches(self._columns, BATCH, group)

    def _read(self, index: int) -> dict[str, Any]:
        while index >= self._at:
            start, batch = next(self._ahead)
            self._kept.append((start, batch))
            self._at = start + batch.num_rows
        start, batch = next(pair for pair in reversed(self._kept) if pair[0] <= index)
        row: dict[str, Any] = batch.slice(index - start, 1).to_pylist()[0]
        return row

    def batches(self, columns: Sequence[str], size: int = 1000) -> Iterator[tuple[int, Any]]:
        """(first row, Arrow table) of the whole, of these columns alone."""
        return self._batches(columns, size, 0)

    def _batches(self, columns: Sequence[str], size: int, group: int) -> Iterator[tuple[int, Any]]:
        import pyarrow.parquet as pq

        at = self._ends[group - 1] if group else 0
        for file, number in self.groups[group:]:
            try:
                with pq.ParquetFile(file, buffer_size=1 << 20) as opened:
                    for batch in opened.iter_batches(size, row_groups=[number], columns=columns, use_threads=False):
                        yield at, batch
                        at += batch.num_rows
            except (OSError, ValueError) as error:  # Arrow's own are ValueErrors
                raise UserError(f"{file}: damaged, or changed meanwhile ({error}); copy it again") from error

    def class_names(self, column: str) -> list[str] | None:
        """What the numbers in a column are called, where the data set knows."""
        try:
            return list(json.loads(self._about)["info"]["features"][column]["names"])
        except (ValueError, KeyError, TypeError):
            return None


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


Rows: TypeAlias = Parquet | Loaded


def _told(file: Path) -> Any:
    """What a Parquet file says of its columns and groups of rows."""
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be loaded, damaged or no Parquet ({error}); copy it again") from error


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
