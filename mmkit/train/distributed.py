"""Checkpoints that all processes write together, each its share (``torch.distributed.checkpoint``).

``step-*/`` then holds a file of each process and ``.metadata`` in place of ``task.safetensors``, and ``state.pt`` and
``meta.json`` of the first one. The folder must be one that all processes see. It is read on any number of processes,
under any engine, also by one alone.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from mmkit.errors import UserError, shortened
from mmkit.files import replace_folder
from mmkit.ranks import gather_objects, rank, together
from mmkit.train.checkpoint import copied_state, failure, finish, load_state, on_cpu, read_state, split_state
from mmkit.train.engines.base import Engine, State
from mmkit.train.resuming import SHARDS, STATE, Meta
from mmkit.train.rng import random_state

ALLOWED = {
    "torch": ("Size", "device", "memory_format"), "torch.serialization": ("_get_layout",), "pathlib": ("PosixPath",),
    "collections": ("OrderedDict",),
    "torch.distributed.checkpoint.metadata": (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
}  # fmt: skip
"""What ``.metadata``, which is a pickle, may be made of, beside the types of tensors."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module == "torch" or name in ALLOWED.get(module, ()) else None
        if found is None or (module == "torch" and name not in ALLOWED["torch"] and not isinstance(found, torch.dtype)):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong there")
        return found


class Reader(dcp.FileSystemReader):
    """The library's, which makes nothing of ``.metadata`` but what tells of tensors; UserError where it is damaged."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See the library."""
        path = Path(self.path) / SHARDS
        try:
            with path.open("rb") as file:
                metadata = _Unpickler(file).load()
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
            raise UserError(f"{path}: damaged or missing ({error}); take another checkpoint") from error
        if not isinstance(metadata, Metadata):
            raise UserError(f"{path}: damaged; take another checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


@dataclass(frozen=True)
class StagedShards:
    """What one process writes: tensors by "task.NAME" or "optimizer.NAME.MOMENT", and ``state.pt`` of the first one."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def own_group(minutes: float) -> Any:
    """A group for what is written beside the training; to be called by all processes."""
    return dist.new_group(backend="gloo", timeout=timedelta(minutes=minutes))


def stage(state: State, scaler: dict[str, Any] | None, *, copied: bool) -> StagedShards:
    """``Engine.state()`` as it is written; by all processes. copied: see ``checkpoint.stage``."""
    shards = {name: value for name, value in state.task.items() if isinstance(value, DTensor)}
    tensors, aliases, rest = split_state({name: value for name, value in state.task.items() if name not in shards})
    first: dict[int, str] = {}
    for name, value in shards.items():
        if (same := first.setdefault(id(value), name)) == name:
            tensors[name] = value
        else:
            aliases[name] = same
    found = {f"task.{name}": value for name, value in tensors.items()} | _moments(state)
    steps = {number: {"step": of["step"]} for number, of in state.optimizer["state"].items()}
    others: dict[str, Any] = {
        "optimizer": dict(state.optimizer) | {"state": steps}, "scaler": scaler, "rest": rest, "aliases": aliases,
        "random": gather_objects(random_state()),
    }  # fmt: skip
    if copied:
        found, others = {name: on_cpu(value) for name, value in found.items()}, copied_state(others)
    return StagedShards(found, others)


def _moments(state: State) -> dict[str, Tensor]:
    """The optimizer's averages."""
    names = names_of(state.optimizer)
    return {
        f"optimizer.{names[number]}.{key}": value
        for number, of in state.optimizer["state"].items() for key, value in of.items() if key != "step"
    }  # fmt: skip


def names_of(optimizer: Mapping[str, Any]) -> dict[int, str]:
    """The parameters' names by their numbers in an optimizer's state."""
    return {
        number: name
        for group in optimizer["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }


def write(root: Path, meta: Meta, staged: StagedShards, among: Any) -> Path:
    """Write ``root/step-*``; by all processes, which speak in the group ``among``. Errors are those of all.

    The folder has its name after every share has reached the disk. UserError where it cannot be written.
    """
    target, part = root / f"step-{meta.step:08d}", root / f".part-{meta.step:08d}"

    def begin() -> None:
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)

    def end() -> None:
        if rank() == 0:
            _check_all_here(part)
            torch.save(staged.state, part / STATE)
            finish(part, meta)
            replace_folder(part, target)

    try:
        together(begin, among)
        together(lambda: _save(part, staged, among), among)
        together(end, among)
    except Exception as error:  # whatever it is, nothing of it may be left
        said = failure(target, error)
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise said from error
    return target


def _save(part: Path, staged: StagedShards, among: Any) -> None:
    """Write the share of this process. What stops one process stops all here, by the library."""
    try:
        dcp.save(staged.tensors, storage_writer=dcp.FileSystemWriter(part, sync_files=True), process_group=among)
    except CheckpointException as error:  # no Exception, and of every process that failed one
        raise next(iter(error.failures.values()))[0] from error


def _check_all_here(part: Path) -> None:
    """UserError where the other processes wrote to folders of the same name on other machines."""
    named = {info.relative_path for info in Reader(part).read_metadata().storage_data.values()}
    if missing := sorted(name for name in named if not (part / name).is_file()):
        raise UserError(
            f"of what other processes wrote {shortened(missing)} is not there: all machines must see the same folder"
        )


def load_into(folder: Path, engine: Engine, state: Mapping[str, Any]) -> None:
    """Weights, teacher, queues and optimizer, of any engine; each process reads what it holds.

    state: as ``checkpoint.load_state`` read it. UserError where a name or a shape is not that of this run.
    """
    now = engine.state()
    same = {f"task.{name}": f"task.{other}" for name, other in state["aliases"].items()}
    wanted = {f"task.{name}": value for name, value in now.task.items() if isinstance(value, Tensor)} | _moments(now)
    places = {name: value for name, value in wanted.items() if name not in same}
    _check_fits(folder, places)
    _read(folder, places)
    task = {name: places[same.get(f"task.{name}", f"task.{name}")] for name in now.task if f"task.{name}" in wanted}
    optimizer, names = state["optimizer"], names_of(state["optimizer"])
    moments = {
        number: of | {
            key: places[place]
            for key in ("exp_avg", "exp_avg_sq") if (place := f"optimizer.{names[number]}.{key}") in places
        }
        for number, of in optimizer["state"].items()
    }  # fmt: skip
    try:
        engine.load_state(State(task=task | dict(state["rest"]), optimizer=optimizer | {"state": moments}))
    except RuntimeError as error:
        raise UserError(f"{folder}: does not fit this experiment: {error}") from error


def _check_fits(folder: Path, places: Mapping[str, Tensor]) -> None:
    found, here = shapes_in(folder), {name: tuple(value.shape) for name, value in places.items()}
    if wrong := sorted(name for name in found.keys() | here.keys() if found.get(name) != here.get(name)):
        what = [f"{name} {found.get(name, 'absent')} -> {here.get(name, 'absent')}" for name in wrong]
        raise UserError(f"{folder}: does not fit this experiment: {shortened(what)}")


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a checkpoint of shards, by name."""
    known = Reader(folder).read_metadata().state_dict_metadata
    return {name: tuple(one.size) for name, one in known.items() if isinstance(one, TensorStorageMetadata)}


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint of shards, whole, on the CPU, by "task.NAME" or "optimizer.NAME.MOMENT"."""
    known = Reader(folder).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in known.items() if isinstance(one, TensorStorageMetadata)
    }  # fmt: skip
    _read(folder, found)
    return found


def read_task(folder: Path, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of the task in any checkpoint, as ``checkpoint.read_state``."""
    if not (folder / SHARDS).is_file():
        return read_state(folder, rest)
    aliases = load_state(folder)["aliases"]
    found = {name.removeprefix("task."): x for name, x in read_whole(folder).items() if name.startswith("task.")}
    return found | {name: found[same] for name, same in aliases.items()} | dict(rest)


def _read(folder: Path, places: dict[str, Tensor]) -> None:
    """Into the tensors; what is wrong with a file is a UserError."""
    try:
        with warnings.catch_warnings():  # where one process reads alone, the library wonders
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(places, storage_reader=Reader(folder), no_dist=True)
    except CheckpointException as error:
        kind = type(next(iter(error.failures.values()))[0]).__name__
        raise UserError(
            f"{folder}: damaged (its shares cannot be read: {kind}); resume from another checkpoint, or copy it again"
        ) from error
