"""Finds and calls the function that ``FILE.py[:function[(name=value, ...)]]`` names. It runs that file's code."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from mmkit.config.moved import where_now
from mmkit.config.override import annotations_of, check_value, nearest
from mmkit.config.projects import WITHOUT_PROJECTS, clone, module_at, project_module
from mmkit.errors import UserError

OF_FILES = "mmkit_config_file_"
"""What the name of a module begins with that a config file, or one that is allowed by its path, becomes."""


def load_function(spec: str, returns: str) -> Callable[[], Any]:
    """The named function with its arguments bound; ``returns``: the annotation by which a config function is known."""
    match = re.fullmatch(r"(?P<file>.*\.py)(?::(?P<call>.+))?", spec.strip(), flags=re.DOTALL)
    if match is None:
        raise UserError(f"{spec!r}: expected FILE.py or FILE.py:function(name=value)")
    path = config_file(match["file"])
    name, arguments = _parse_call(spec, match["call"]) if match["call"] else ("", {})
    text = path.read_text(encoding="utf-8", errors="replace")
    if name and not re.search(rf"\b{name}\b", text):  # nor does what it imports, in seconds, define it here
        raise _no_function(path, name, re.findall(r"^def ([^\W_]\w*)", text, re.M))
    module = import_file(path)
    functions = _config_functions(module, returns)
    if name not in functions and callable(getattr(module, name, None)):
        raise UserError(f"{path}: {name} does not say what it returns: write def {name}(...) -> {returns}")
    if not functions:
        raise UserError(f"{path}: holds no function annotated '-> {returns}'")
    if not name:
        return functions[_only_function(path, functions)]
    if name not in functions:
        raise _no_function(path, name, functions)
    return _bind(f"{path}:{name}", functions[name], arguments)


def _no_function(path: Path, name: str, known: Iterable[str]) -> UserError:
    return UserError(f"{path}: no function {name!r}{nearest(name, known)}; it has {', '.join(sorted(known)) or 'none'}")


def config_file(name: str) -> Path:
    """The file of this name; where there is none, mmkit's own below ``configs`` or ``projects``. UserError."""
    path = Path(name)
    if path.is_file():
        return path
    top, root = path.parts[:1], clone()
    own = own_config(*path.parts[1:]) if top == ("configs",) else None
    if top == ("projects",) and root is not None and (root / path).is_file():
        own = root / path
    if own is None:
        without = (
            f", which may be of mmkit's projects, and {WITHOUT_PROJECTS}"
            if top == ("projects",) and root is None
            else ""
        )
        raise UserError(f"{path}: no such file{without}")
    return own


def own_config(*parts: str) -> Path | None:
    """A file below mmkit's own ``configs``: of a clone, or the copy that an installed package carries."""
    package = Path(__file__).parents[1]
    places = (package.parent / "configs", package / "_configs")
    return next((file for place in places if (file := place.joinpath(*parts)).is_file()), None)


def import_file(path: Path, kind: str = "config") -> ModuleType:
    """The module in a file, whose code this runs; UserError where it cannot be. kind: for the module's name."""
    root = clone()
    if root is not None and path.resolve().is_relative_to(root):
        project_module("projects")
    _make_importable(path)
    try:
        return module_at(path, f"{OF_FILES.replace('config', kind)}{path.stem}")
    except SyntaxError as error:
        raise UserError(f"{error.filename or path}, line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise UserError(f"{path}: cannot be imported ({error}){where_now(error.name)}") from error


def _make_importable(file: Path) -> None:
    """Put a file's folder, the nearest above it that holds ``projects/``, and the current one on the path, last."""
    folder = file.resolve().parent
    above = next((place for place in (folder, *folder.parents) if (place / "projects").is_dir()), folder)
    places = dict.fromkeys(map(str, (folder, above, Path.cwd())))
    sys.path += [place for place in places if place not in sys.path]


def _config_functions(module: ModuleType, returns: str) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
            annotation = value.__annotations__.get("return")
            label = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
            if label.split(".")[-1] == returns:
                found[name] = value
    return found


def _only_function(path: Path, functions: dict[str, Callable[..., Any]]) -> str:
    if len(functions) == 1:
        return next(iter(functions))
    if path.stem in functions:
        return path.stem
    raise UserError(f"{path}: has several functions, name one: " + ", ".join(f"{path}:{n}" for n in sorted(functions)))


def _parse_call(spec: str, text: str) -> tuple[str, dict[str, Any]]:
    wanted = f"{spec!r}: cannot read {text!r}; expected function(name=value), values as Python literals"
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError) as error:
        raise UserError(wanted) from error
    raise UserError(wanted)


def _bind(label: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    parameters = inspect.signature(function).parameters
    hints = annotations_of(function)
    for name, value in arguments.items():
        if name not in parameters:
            known = ", ".join(str(p) for p in parameters.values()) or "none"
            raise UserError(f"{label}: no argument {name!r}{nearest(name, parameters)}; it takes {known}")
        if name in hints:
            arguments[name] = check_value(value, hints[name], f"{label}({name}=)")
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise UserError(f"{label}: needs {', '.join(missing)}")
    return partial(function, **arguments)
