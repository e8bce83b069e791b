"""The files of a model's folder: their names, and how those in JSON are read. No link in it may lead out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmkit import files
from mmkit.config.moved import with_present_names
from mmkit.errors import UserError
from mmkit.files import inside

CONFIG, WEIGHTS, PREPROCESSING, TOKENIZER = "config.json", "model.safetensors", "preprocessing.json", "tokenizer"
CONVERSION, TRAINING_STATE = "conversion.json", "training_state.safetensors"
"""What ``mmkit convert`` writes beside a model: what it came from, and what only training needs, for the way back."""
OPEN_CLIP = "open_clip:"
"""How the names of open_clip's models begin, where a folder could stand."""


def is_ours(folder: Path) -> bool:
    """Whether mmkit saved a model there. UserError for a damaged config.json."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return {"format", "experiment", "model"} <= config.keys()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder, its parts by their present names.

    UserError where it is missing, damaged, or a link out of the folder.
    """
    found = files.read_json(inside(path.parent, path.name), "copy it again, or save the model again", strict=True)
    return {key: with_present_names(value) for key, value in found.items()}


def needed(folder: Path, name: str) -> Path:
    """A file or folder of a model; UserError where it is missing, or it or what is below it leads out of the folder."""
    path = inside(folder, name)
    if not (path.is_dir() if name == TOKENIZER else path.is_file()):
        raise UserError(f"{path}: missing; copy the whole folder of the model, or save it again")
    for place, folders, names in os.walk(path):
        for below in (*folders, *names):
            inside(folder, (Path(place) / below).relative_to(folder))
    return path


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file; UserError where it is missing or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in iter(file.keys())}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); copy or save it again") from error


def has_words(saved: Mapping[str, Any]) -> bool:
    """Whether the model of a saved config reads texts, and so has a tokenizer."""
    resolved = saved.get("resolved")
    return not isinstance(resolved, Mapping) or "vocab_size" in resolved
