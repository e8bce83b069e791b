"""The files of a model's folder: their names, and how those in JSON are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmkit.errors import UserError

CONFIG, WEIGHTS, PREPROCESSING, TOKENIZER = "config.json", "model.safetensors", "preprocessing.json", "tokenizer"
CONVERSION, TRAINING_STATE = "conversion.json", "training_state.safetensors"
"""What ``mmkit convert`` writes beside a model: what it came from, and what only training needs, for the way back."""


def is_ours(folder: Path) -> bool:
    """Whether mmkit saved a model there. UserError for a damaged config.json."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return {"format", "experiment", "model"} <= config.keys()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UserError where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or missing ({error}); copy it again, or save the model again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; copy it again, or save the model again")
    return value
