"""The training state on disk: written whole or not at all, read back bit for bit.

``checkpoints/step-00000100/`` holds ``task.safetensors`` (weights, teacher, queues; a tensor shared by several names is
stored once), ``state.pt`` (optimizer, scaler, random state of every process; loads with ``weights_only=True``) and
``meta.json``. A folder appears under its name only after everything in it reached the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmkit.errors import UserError
from mmkit.files import replace_folder, to_disk
from mmkit.ranks import gather_objects, on_first
from mmkit.train.engines.base import Engine, State
from mmkit.train.resuming import META, STATE, TASK, Meta
from mmkit.train.rng import random_state


def save(root: Path, meta: Meta, state: State | None, scaler: dict[str, Any] | None = None) -> Path:
    """Write ``root/step-*`` on the first process; to be called by all of them, for their random states.

    state: ``Engine.full_state()``, which the first process alone has. UserError where it cannot be written, as on a
    full disk; what was there before stays.
    """
    states = gather_objects(random_state())
    target = root / f"step-{meta.step:08d}"

    def write() -> None:
        assert state is not None
        part = root / f".part-{meta.step:08d}"
        try:
            _fill(part, meta, state, {"scaler": scaler, "random": states})
            replace_folder(part, target)
        except (OSError, SafetensorError, RuntimeError) as error:  # the libraries' own for a full disk
            shutil.rmtree(part, ignore_errors=True)
            raise UserError(
                f"{target}: cannot be written ({getattr(error, 'strerror', None) or error}); the checkpoints before it "
                "are whole: make room, or whatever is missing there, and go on with --resume"
            ) from error

    on_first(write)
    return target


def _fill(part: Path, meta: Meta, state: State, others: dict[str, Any]) -> None:
    """Everything of a checkpoint in the folder ``part``, until it has reached the disk."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors, aliases, rest = split_state(state.task)
    save_file(tensors, part / TASK, metadata={"aliases": json.dumps(aliases)})
    torch.save({"optimizer": state.optimizer, "rest": rest} | others, part / STATE)
    sizes = {file.name: file.stat().st_size for file in part.iterdir()}
    text = json.dumps(asdict(replace(meta, files=sizes)), indent=1, ensure_ascii=False)
    (part / META).write_text(text, encoding="utf-8")
    for file in part.iterdir():
        to_disk(file)


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
