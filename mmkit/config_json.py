"""An experiment as JSON-able values and back.

Forms: a partial is ``{"target": "module:name", "args": {...}}``, a dataclass ``{"dataclass": ..., "args": ...}``, a
class or function as a value ``{"reference": ...}``, a tuple ``{"tuple": [...]}``, a path ``{"path": ...}``, an infinite
or undefined float ``{"float": ...}``, a mapping with one of these keys ``{"mapping": ...}``. ``dump`` writes the
defaults of every part out, so that a later version with other defaults rebuilds the same thing.

Rebuilding a file that somebody else wrote must not run what they choose: only names under the allowed prefixes are
imported, the object must be defined there too (not merely imported there), and of torch only modules and functions of
``torch.nn`` are taken.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmkit.config_load import make_projects_importable
from mmkit.config_values import arguments_of
from mmkit.errors import UserError

# the parts of mmkit that a config is made of; not those that read files, run code or talk to the network by argument
ALLOWED = (
    *(f"mmkit.{p}" for p in ("config", "models", "heads", "encoders", "nn", "data", "evals")),
    *(f"mmkit.{p}" for p in ("losses", "report", "types")),
    "projects",
    "torch.nn",
)
_FORMS = frozenset({"target", "dataclass", "reference", "tuple", "path", "float", "mapping"})


def name_of(part: Any) -> str:
    """``module:qualname`` of a class or function; UserError for what cannot be found again by name."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if module is None or name is None or "<" in name:
        raise UserError(f"{part!r} cannot be written to a config: use a class or function of a module")
    return f"{module}:{name}"


def dump(value: Any) -> Any:
    """JSON-able form of a value; UserError for one that has none."""
    if isinstance(value, partial):
        return {"target": name_of(value.func), "args": _arguments(value)}
    if isinstance(value, type) or inspect.isroutine(value):
        return {"reference": name_of(value)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: dump(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"dataclass": name_of(type(value)), "args": fields}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return {"path": value.as_posix()}
    if type(value) is tuple:
        return {"tuple": [dump(v) for v in value]}
    if type(value) is list:
        return [dump(v) for v in value]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        plain = {k: dump(v) for k, v in value.items()}
        return {"mapping": plain} if _FORMS & plain.keys() else plain
    raise UserError(f"{value!r} ({type(value).__name__}) cannot be written to a config")


def _arguments(part: partial[Any]) -> dict[str, Any]:
    given = arguments_of(part, defaults=False)
    found = {}
    for name, value in arguments_of(part).items():
        try:
            found[name] = dump(value)
        except UserError:
            if name in given:
                raise
    return found


def rebuild(data: Any, allow: tuple[str, ...] = ()) -> Any:
    """The way back; UserError for a name that is not allowed or does not exist, and for arguments that do not fit."""
    if isinstance(data, list):
        return [rebuild(v, allow) for v in data]
    if not isinstance(data, Mapping):
        return data
    form = next((k for k in data if k in _FORMS), None)
    if form is None:
        return {k: rebuild(v, allow) for k, v in data.items()}
    if form == "mapping":
        return {k: rebuild(v, allow) for k, v in data[form].items()}
    if form == "tuple":
        return tuple(rebuild(v, allow) for v in data[form])
    if form == "path":
        return Path(data[form])
    if form == "float":
        return float(data[form])
    target = find(data[form], allow)
    if form == "reference":
        return target
    return _call(form, target, data, allow)


def _call(form: str, target: Any, data: Mapping[str, Any], allow: tuple[str, ...]) -> Any:
    arguments = {k: rebuild(v, allow) for k, v in data["args"].items()}
    if form == "target":
        return partial(target, **arguments)
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        raise UserError(f"config: {data[form]!r} is not a dataclass")
    try:
        return target(**arguments)
    except TypeError as error:
        raise UserError(f"config: {data[form]}: {error}; was it written by another version of mmkit?") from error


def find(name: Any, allow: tuple[str, ...] = ()) -> Any:
    """The class or function that ``module:qualname`` names, if it may be used."""
    module_name, _, qualname = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not qualname or not _allowed(module_name, allow):
        raise UserError(f"config: {name!r} may not be rebuilt; only parts under mmkit., projects. and torch.nn are")
    if module_name.startswith("projects."):
        make_projects_importable(Path.cwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        hint = "; go to the folder that holds projects/" if module_name.startswith("projects.") else ""
        raise UserError(f"config: cannot import {module_name!r} ({error}){hint}") from error
    for step in qualname.split("."):
        if step.startswith("__") or not hasattr(found, step):
            raise UserError(f"config: {module_name!r} has no {qualname!r}; was it written by another version?")
        found = getattr(found, step)
    if not (isinstance(found, type) or inspect.isfunction(found)) or not _allowed(found.__module__, allow):
        raise UserError(f"config: {name!r} may not be rebuilt: it is not a class or function defined there")
    if found.__module__ == "mmkit.config" and not dataclasses.is_dataclass(found):
        raise UserError(f"config: {name!r} may not be rebuilt: it is not a section of a config")
    return found


def _allowed(module: str, allow: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in (*ALLOWED, *(a.rstrip(".") for a in allow)))
