"""The folder ``projects/`` beside the mmkit that runs, and no other of that name, wherever Python would look."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mmkit.errors import UserError

REPOSITORY = "https://github.com/mmkit/mmkit"
WITHOUT_PROJECTS = f"this mmkit is installed without them: get {REPOSITORY} and run mmkit from there (pip install -e .)"
ROOT = Path(__file__).resolve().parents[2]
"""Where the running mmkit is installed, or its clone."""


def clone() -> Path | None:
    """The repository that the running mmkit is part of; None where the package is installed alone."""
    there = all((ROOT / name).is_file() for name in ("pyproject.toml", "projects/__init__.py"))
    return ROOT if there else None


def module_at(file: Path, name: str, **options: Any) -> ModuleType:
    """A file as the module of this name, whose code this runs. options: of ``spec_from_file_location``."""
    spec = importlib.util.spec_from_file_location(name, file, **options)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project_module(module_name: str) -> ModuleType:
    """A module of the projects beside the running mmkit, and of no others, wherever Python would look."""
    root = clone()
    if root is None:
        raise UserError(
            f"config: {module_name!r} is of mmkit's projects, and {WITHOUT_PROJECTS}. Is it code of yours: --allow "
            f"{module_name}"
        )
    place = root / "projects"
    if "projects" not in sys.modules:
        module_at(place / "__init__.py", "projects", submodule_search_locations=[str(place)])
    steps = module_name.split(".")
    for end in range(1, len(steps) + 1):
        part = ".".join(steps[:end])
        try:
            module = importlib.import_module(part)
        except ImportError as error:
            raise UserError(f"config: cannot import {part!r} from {place} ({error})") from error
        paths = list(getattr(module, "__path__", [])) or [str(module.__file__)]
        if not all(Path(path).resolve().is_relative_to(place) for path in paths):
            raise UserError(
                f"config: {module_name!r} is of mmkit's projects, and Python has another {part!r} ({paths[0]}) in its "
                "place: refused. Rename that one, or take it off the import path"
            )
    return module
