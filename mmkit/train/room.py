"""Whether there is room on the disk for what a run will keep, asked before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmkit.config import Run
from mmkit.errors import UserError

BESIDE = 1024
"""Bytes of names and places that a file keeps beside each tensor, at most."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of one checkpoint, and of the model for use (0 where none is written)."""

    checkpoint: int
    model: int


def sizes_of(task: Any, groups: Iterable[Mapping[str, Any]], exports: bool = True) -> Sizes:
    """Of a ``Task``, on any device or none (``meta``). groups: the optimizer's, which keeps one or two averages."""
    kept = _bytes(task.state_dict(keep_vars=True).values())
    moments = sum((1 if "muon" in group else 2) * _bytes(group["params"], files=2) for group in groups)
    model = _bytes([*task.model.state_dict(keep_vars=True).values(), *task.heads.parameters()]) if exports else 0
    return Sizes(checkpoint=kept + moments, model=model)


def _bytes(values: Iterable[Any], files: int = 1) -> int:
    """Of the tensors among them, each once, whole where it is sharded."""
    own = {id(value): value for value in values if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() + files * BESIDE for tensor in own.values())


def check_room(out: Path, run: Run, sizes: Sizes) -> None:
    """UserError where the disk has less room than the run will need at most, beside what it keeps there already.

    That is a checkpoint more than it keeps, and the model twice, as nothing goes before its successor is whole. A disk
    that does not tell its size is taken as large enough.
    """
    models = 0 if not sizes.model else 2 if run.best is None else 4
    most = (run.keep_checkpoints + 1) * sizes.checkpoint + models * sizes.model
    needed = max(most - _there(out), sizes.checkpoint + models // 2 * sizes.model)
    disk = shutil.disk_usage(out)
    if disk.total and disk.free < needed:
        parts = f"{run.keep_checkpoints + 1} checkpoints of {shown(sizes.checkpoint)}" + (
            f" and {models} times the model, {shown(sizes.model)}" if models else ""
        )
        raise UserError(
            f"{out}: its disk has {shown(disk.free)} left, and this run needs {shown(needed)} more there: at most "
            f"{parts}, as nothing goes before what follows it is whole. Make room, give an --out on another disk, or "
            f"keep fewer than run.keep_checkpoints = {run.keep_checkpoints}"
        )


def _there(out: Path) -> int:
    """Bytes of what the run has written already, and will replace."""
    places = (out / "checkpoints", out / "best")
    files = [out / "model.safetensors", *(file for place in places for file in place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def shown(number: int) -> str:
    """Bytes for people: 3.3 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"
