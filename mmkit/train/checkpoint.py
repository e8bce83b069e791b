"""The training state on disk: written whole or not at all, read back bit for bit.

``checkpoints/step-00000100/`` holds ``task.safetensors`` (weights, teacher, queues; a tensor shared by several names is
stored once), ``state.pt`` (optimizer, scaler, random state of every process; loads with ``weights_only=True``) and
``meta.json``. A folder appears under its name only after everything in it reached the disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.train.ranks import gather_objects, on_first
from mmkit.train.rng import random_state

FREE_TO_CHANGE = (
    "name", "evals", "report", "data.workers", "data.max_bad_fraction", "run.eval_every_steps", "run.save_every_steps",
    "run.log_every_steps", "run.keep_checkpoints", "run.best", "run.tensorboard", "run.timeout_minutes",
    "run.eval_precision", "run.stop_after_steps",
)  # fmt: skip
"""Settings that do not enter the numbers of a run, and may differ when it resumes."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a checkpoint says about itself. product: the float32 backend. records: how many the source had."""

    step: int
    world: int
    product: str
    precision: str
    threads: int
    records: int
    experiment: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


def save(
    root: Path, meta: Meta, task: nn.Module, optimizer: dict[str, Any], scaler: dict[str, Any] | None = None
) -> Path:
    """Write ``root/step-*`` on the first process; to be called by all of them, for their random states."""
    states = gather_objects(random_state())
    target = root / f"step-{meta.step:08d}"

    def write() -> None:
        part = root / f".part-{meta.step:08d}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors, aliases, rest = split_state(task.state_dict())
        save_file(tensors, part / "task.safetensors", metadata={"aliases": json.dumps(aliases)})
        torch.save({"optimizer": optimizer, "scaler": scaler, "random": states, "rest": rest}, part / "state.pt")
        (part / "meta.json").write_text(json.dumps(asdict(meta), indent=1, ensure_ascii=False), encoding="utf-8")
        for file in part.iterdir():
            _to_disk(file)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
        _to_disk(root)

    on_first(write)
    return target


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def load_task(folder: Path, task: nn.Module) -> None:
    """The weights, teacher and queues; every name must be used and present."""
    state = read_state(folder, torch.load(folder / "state.pt", map_location="cpu", weights_only=True)["rest"])
    try:
        task.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: does not fit this experiment: {error}") from error


def read_state(folder: Path, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that ``save`` was given."""
    with safe_open(folder / "task.safetensors", framework="pt") as file:
        state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        aliases = json.loads(file.metadata()["aliases"])
    return state | {name: state[same] for name, same in aliases.items()} | dict(rest)


def load_state(folder: Path) -> dict[str, Any]:
    """``optimizer``, ``scaler`` and ``random`` (a list, one of each rank)."""
    return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)


def load_meta(folder: Path) -> Meta:
    """The checkpoint's ``meta.json``."""
    try:
        return Meta(**json.loads((folder / "meta.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / 'meta.json'}: not a checkpoint of this version of mmkit ({error})") from error


def checkpoints(root: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(p for p in root.glob("step-*") if (p / "meta.json").is_file())


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = checkpoints(root)
    return found[-1] if found else None


def rotate(root: Path, keep: int, best: int | None) -> None:
    """Remove all but the ``keep`` newest and the best step's, and what a killed process left half-written."""
    for path in root.glob(".part-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints(root)[:-keep]:
        if best is None or path.name != f"step-{best:08d}":
            shutil.rmtree(path)


def check_same(folder: Path, meta: Meta, experiment: Mapping[str, Any], records: int) -> None:
    """UserError, with old and new values, where a resumed run would not be the run that was begun."""
    old, new = flatten(meta.experiment), flatten(experiment)
    changed = [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in sorted(old.keys() | new.keys())
        if not _free(path) and old.get(path, _ABSENT) != new.get(path, _ABSENT)
    ]
    if meta.records != records:
        changed.append(f"records of the source: {meta.records} -> {records}")
    if changed:
        raise UserError(
            f"{folder}: cannot resume, the experiment changed: {'; '.join(changed[:10])}. "
            "Restore these, or start a new run in another folder"
        )


_ABSENT = object()


def _free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE_TO_CHANGE)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """A dumped experiment as dotted path -> value, named as ``--set`` names them."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            silent = key in ("args", "mapping", "tuple")
            found |= flatten(inner, path if silent else f"{path}.{key}".lstrip("."))
        return found
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in flatten(inner, f"{path}.{i}".lstrip(".")).items()}
    return {path: value}
