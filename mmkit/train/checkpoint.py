"""The training state on disk: written whole or not at all, read back bit for bit.

``checkpoints/step-00000100/`` holds ``task.safetensors`` (weights, teacher, queues; a tensor shared by several names is
stored once), ``state.pt`` (optimizer, scaler, random state of every process; loads with ``weights_only=True``) and
``meta.json``. A folder appears under its name only after everything in it reached the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mmkit.errors import UserError
from mmkit.files import replace_folder, to_disk
from mmkit.ranks import gather_objects
from mmkit.train.engines.base import Engine, State
from mmkit.train.resuming import META, STATE, TASK, Meta
from mmkit.train.rng import random_state
from mmkit.train.room import shown


@dataclass(frozen=True)
class Staged:
    """All of a checkpoint but its ``Meta``. tensors, aliases: of the task, see ``split_state``. state: ``state.pt``."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    state: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """Every tensor of the task, under each of its names, none sharing memory."""
        return self.tensors | {name: self.tensors[same].clone() for name, same in self.aliases.items()}


def stage(whole: State | None, scaler: dict[str, Any] | None = None, *, copied: bool = False) -> Staged:
    """What is to be saved; to be called by all processes, for their random states. Only the first one's is not empty.

    whole: ``Engine.full_state()``, which the first process alone has. copied: on the CPU and apart from what trains on,
    so that it can be written later.
    """
    states = gather_objects(random_state())
    if whole is None:
        return Staged({}, {}, {})
    tensors, aliases, rest = split_state(whole.task)
    state: dict[str, Any] = {"optimizer": whole.optimizer, "scaler": scaler, "random": states, "rest": rest}
    if copied:
        tensors, state = {name: on_cpu(value) for name, value in tensors.items()}, copied_state(state)
    return Staged(tensors, aliases, state)


def on_cpu(value: Tensor) -> Tensor:
    """A copy."""
    return value.detach().to("cpu", copy=True)


def copied_state(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of all that is in it, tensors on the CPU."""
    return deepcopy(state, {id(leaf): on_cpu(leaf) for leaf in tree_leaves(state) if isinstance(leaf, Tensor)})


def write(root: Path, meta: Meta, staged: Staged) -> Path:
    """Write ``root/step-*``; by one process. UserError where it cannot be, as on a full disk; what was there stays."""
    target, part = root / f"step-{meta.step:08d}", root / f".part-{meta.step:08d}"
    try:
        _fill(part, meta, staged)
        replace_folder(part, target)
    except (OSError, SafetensorError, RuntimeError) as error:  # the libraries' own for a full disk
        said = failure(target, error)
        shutil.rmtree(part, ignore_errors=True)
        raise said from error
    return target


def failure(target: Path, error: Exception) -> UserError:
    """What to say where a checkpoint cannot be written; to be asked before what was written of it is removed."""
    left = ""
    with suppress(OSError):
        left = f"; {shown(shutil.disk_usage(target.parent).free)} left on its disk"
    return UserError(
        f"{target}: cannot be written ({getattr(error, 'strerror', None) or error}{left}); the checkpoints before it "
        "are whole: make room, or whatever is missing there, and go on with --resume"
    )


def _fill(part: Path, meta: Meta, staged: Staged) -> None:
    """Everything of a checkpoint in the folder ``part``, until it has reached the disk."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(staged.tensors, part / TASK, metadata={"aliases": json.dumps(staged.aliases)})
    torch.save(staged.state, part / STATE)
    finish(part, meta)


def finish(part: Path, meta: Meta) -> None:
    """Write ``meta.json`` beside the other files, and wait until all of them have reached the disk."""
    sizes = {file.name: file.stat().st_size for file in part.iterdir()}
    text = json.dumps(asdict(replace(meta, files=sizes)), indent=1, ensure_ascii=False)
    (part / META).write_text(text, encoding="utf-8")
    for file in part.iterdir():
        to_disk(file)
    to_disk(part)


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """(tensors without sharing, name -> name of the same tensor, what is no tensor)."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    rest: dict[str, Any] = {}
    views: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            rest[name] = value
            continue
        storage = value.untyped_storage().data_ptr()
        view = (storage, value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and view in views:
            aliases[name] = views[view]
            continue
        views[view] = name
        value = value.detach()
        tensors[name] = value.clone().contiguous() if storage in storages else value.contiguous()
        storages.add(storage)
    return tensors, aliases, rest


def load_into(folder: Path, engine: Engine, state: Mapping[str, Any]) -> None:
    """Weights, teacher, queues and optimizer; every name must be used and present. state: as ``load_state`` read it."""
    try:
        engine.load_state(State(task=read_state(folder, state["rest"]), optimizer=state["optimizer"]))
    except RuntimeError as error:
        raise UserError(f"{folder}: does not fit this experiment: {error}") from error


def read_state(folder: Path, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that ``save`` was given."""
    with safe_open(folder / TASK, framework="pt") as file:
        state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        aliases = json.loads(file.metadata()["aliases"])
    return state | {name: state[same] for name, same in aliases.items()} | dict(rest)


def load_state(folder: Path) -> dict[str, Any]:
    """``optimizer``, ``scaler``, ``random`` (a list, one of each rank), ``rest`` (of the task, what is no tensor)."""
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)
