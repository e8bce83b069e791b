"""Dotted paths into an experiment, and values read from text and checked against annotations.

A path goes through dataclass fields, mapping keys and the parameters of partials: ``heads.itc.queue_size``. Works on
any dataclass; knows nothing of what the fields mean.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from mmkit.errors import UserError
from mmkit.seeds import check_seed

_MISSING = object()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar known name for the end of a message, or nothing when none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


@lru_cache(maxsize=512)
def annotations_of(part: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function's or constructor's parameters; without those that cannot be evaluated."""
    target = part.__init__ if inspect.isclass(part) and not dataclasses.is_dataclass(part) else part
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}


def parameters_of(part: partial[Any]) -> dict[str, inspect.Parameter]:
    """The parameters that a partial can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n: p for n, p in inspect.signature(part.func).parameters.items() if p.kind in kinds}


def arguments_of(part: partial[Any], defaults: bool = True) -> dict[str, Any]:
    """What a partial will be called with so far, by name, with the defaults of the rest where it has them."""
    names = list(parameters_of(part))
    found = dict(zip(names, part.args, strict=False)) | dict(part.keywords)
    if not defaults:
        return found
    rest = {n: p.default for n, p in parameters_of(part).items() if n not in found and p.default is not p.empty}
    return {n: (found | rest)[n] for n in (*names, *found) if n in found or n in rest}


def check_partials(root: Any, path: str = "") -> None:
    """UserError for a partial with an argument that its target does not take, or of a wrong type; for a bad seed."""
    if isinstance(root, partial):
        _check_partial(root, path)
    for name, value in _children(root, defaults=False):
        if name == "seed" and type(value) is int:
            check_seed(value, f"{path}.seed".lstrip("."))
        check_partials(value, f"{path}.{name}".lstrip("."))


def _check_partial(part: partial[Any], path: str) -> None:
    known = parameters_of(part)
    label = getattr(part.func, "__name__", repr(part.func))
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(part.func).parameters.values())
    if len(part.args) > len(known):
        raise UserError(f"{path}: {label} takes at most {len(known)} arguments, got {len(part.args)}")
    hints = annotations_of(part.func)
    for name, value in arguments_of(part, defaults=False).items():
        if name not in known and not takes_any:
            raise UserError(f"{path}.{name}: {label} has no such argument{nearest(name, known)}")
        if name in hints:
            check_value(value, hints[name], f"{path}.{name}")


def check_dataclass(kind: type, arguments: Mapping[str, Any], path: str) -> None:
    """UserError for an argument of a dataclass that is of a wrong type; names that it lacks are its own to refuse."""
    hints = annotations_of(kind)
    for name, value in arguments.items():
        if name in hints:
            check_value(value, hints[name], f"{path}.{name}")


def override(root: Any, change: str) -> Any:
    """A copy of ``root`` with one ``path=value`` applied."""
    path, sign, text = change.partition("=")
    path = path.strip()
    if not sign or not path:
        raise UserError(f"--set {change!r}: expected path=value, for example run.steps=100")
    return _set(root, path.split("."), text.strip(), path, root)


def paths(root: Any, prefix: str = "") -> Iterator[str]:
    """Every path that ``override`` can reach."""
    for name, value in _children(root):
        yield f"{prefix}{name}"
        yield from paths(value, f"{prefix}{name}.")


def _children(value: Any, defaults: bool = True) -> Iterator[tuple[str, Any]]:
    if isinstance(value, partial):
        arguments = arguments_of(value, defaults)
        yield from arguments.items()
        if defaults:
            yield from ((n, None) for n in parameters_of(value) if n not in arguments)
    elif isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, (tuple, list)):
        yield from ((str(i), v) for i, v in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)


def _unknown(value: Any, names: Sequence[str], path: str, root: Any) -> UserError:
    if value is None:
        whole = path.removesuffix("." + ".".join(names))
        return UserError(f"{path}: {whole} is None in this config, so nothing in it can be set; give it there")
    return UserError(f"{path}: there is no such setting{nearest(path, paths(root))}")


def _set(value: Any, names: Sequence[str], text: str, path: str, root: Any, annotation: Any = Any) -> Any:
    if not names:
        return parse_text(text, annotation, path)
    name, rest = names[0], names[1:]
    children, wanted = dict(_children(value)), _annotation_in(value, name, annotation)
    new_item = isinstance(value, Mapping) and not rest and _is_leaf(wanted)
    if name not in children and not new_item:
        raise _unknown(value, names, path, root)
    if isinstance(value, Mapping) and not rest and text in ("None", "none", "null") and not _accepts_none(wanted):
        return {k: v for k, v in value.items() if k != name}
    return _with(value, name, _set(children.get(name), rest, text, path, root, wanted))


def _with(value: Any, name: str, child: Any) -> Any:
    """A copy with another child of this name."""
    if isinstance(value, partial):
        return partial(value.func, **(arguments_of(value, defaults=False) | {name: child}))
    if isinstance(value, Mapping):
        return dict(value) | {name: child}
    if isinstance(value, (tuple, list)):
        return type(value)(child if str(i) == name else item for i, item in enumerate(value))
    return dataclasses.replace(value, **{name: child})


def _annotation_in(value: Any, name: str, annotation: Any) -> Any:
    """That of a child, or the type of what stands there; of a mapping, that of any item."""
    children, arguments = dict(_children(value)), get_args(annotation)
    if isinstance(value, Mapping):
        return arguments[1] if len(arguments) == 2 else _guess(next(iter(children.values()), None))
    kind: Any = value.func if isinstance(value, partial) else type(value)
    hints = annotations_of(kind)
    return hints[name] if name in hints else _guess(children.get(name))


def _guess(value: Any) -> Any:
    return Any if value is None else type(value)


def _is_leaf(annotation: Any) -> bool:
    return any(option in (int, float, bool, str, Any) for option in _options(annotation))


def _options(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(o for a in get_args(annotation) for o in _options(a))
    return (annotation,)


def _accepts_none(annotation: Any) -> bool:
    return any(o in (None, type(None), Any) for o in _options(annotation))


def parse_text(text: str, annotation: Any, path: str) -> Any:
    """The value that ``text`` stands for under an annotation; UserError names the path and the type wanted."""
    options = _options(annotation)
    lowered = {"true": True, "false": False, "none": None, "null": None}
    candidates: list[Any] = [lowered[text.lower()]] if text.lower() in lowered else []
    try:
        candidates.append(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if text.lower() in ("inf", "-inf"):
            candidates.append(float(text))
    candidates.append(text)
    candidates.append([part.strip() for part in text.strip("[]()").split(",") if part.strip()])  # names without quotes
    if all(option is str for option in options):
        candidates = [c for c in candidates if isinstance(c, str)][:1]
    for candidate in candidates:
        fitted = fit(candidate, annotation)
        if fitted is not _MISSING:
            return fitted
    raise UserError(f"{path} = {text}: must be {describe(annotation)}")


def check_value(value: Any, annotation: Any, path: str) -> Any:
    """The value as the annotation wants it (an int where a float is fine becomes one); else UserError."""
    fitted = fit(value, annotation)
    if fitted is _MISSING:
        raise UserError(f"{path} = {value!r}: must be {describe(annotation)}, is {type(value).__name__}")
    return fitted


def fit(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation`` wants it, or the marker for "does not fit". Unknown annotations take anything."""
    options = _options(annotation)
    exact = [o for o in options if isinstance(o, type) and type(value) is o]
    for option in (*exact, *options):
        fitted = _fit_one(value, option)
        if fitted is not _MISSING:
            return fitted
    return _MISSING


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    int: lambda v: v if isinstance(v, int) and not isinstance(v, bool) else _MISSING,
    float: lambda v: float(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else _MISSING,
    Path: lambda v: Path(v) if isinstance(v, (str, Path)) else _MISSING,
}


def _fit_one(value: Any, option: Any) -> Any:
    option = type(None) if option is None else option
    origin = get_origin(option)
    if isinstance(option, type) and option in _PLAIN:
        return _PLAIN[option](value)
    if origin is Literal:
        same = [choice for choice in get_args(option) if choice == value and type(choice) is type(value)]
        return same[0] if same else _MISSING
    if origin is tuple or option is tuple:
        return _fit_tuple(value, get_args(option))
    if origin in (list, Sequence):
        fitted = _fit_tuple(value, (get_args(option)[0], ...))
        return _MISSING if fitted is _MISSING else type(value)(fitted)
    kind = origin if origin is not None else option
    if isinstance(kind, type) and kind is not Any and not getattr(kind, "_is_protocol", False):
        return value if isinstance(value, kind) else _MISSING
    return value


def _fit_tuple(value: Any, kinds: tuple[Any, ...]) -> Any:
    if not isinstance(value, (tuple, list)):
        return _MISSING
    if not kinds:
        return tuple(value)
    wanted = [kinds[0]] * len(value) if len(kinds) == 2 and kinds[1] is Ellipsis else list(kinds)
    if len(wanted) != len(value):
        return _MISSING
    items = tuple(fit(v, k) for v, k in zip(value, wanted, strict=True))
    return _MISSING if any(i is _MISSING for i in items) else items


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(c) for c in get_args(annotation))
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (...,):
        return f"{describe(get_args(annotation)[0])}, or several separated by commas"
    options = _options(annotation)
    if len(options) > 1:
        return " or ".join(describe(o) for o in options)
    if annotation in (None, type(None)):
        return "None"
    if get_origin(annotation) is partial or annotation is partial:
        return "a partial (it can only be set in the config file; its arguments can be set here)"
    if get_origin(annotation) is not None or not isinstance(annotation, type):
        return str(annotation).replace("typing.", "")
    return annotation.__name__
