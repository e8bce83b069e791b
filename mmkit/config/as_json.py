"""An experiment as JSON-able values and back.

Forms: a partial is ``{"target": "module:name", "args": {...}}``, a dataclass ``{"dataclass": ..., "args": ...}``, a
class or function as a value ``{"reference": ...}``, a tuple ``{"tuple": [...]}``, a path ``{"path": ...}``, an infinite
or undefined float ``{"float": ...}``, a mapping with one of these keys ``{"mapping": ...}``. ``dump`` writes the
defaults of every part out, so that a later version with other defaults rebuilds the same thing.

Rebuilding a file that somebody else wrote must not run what they choose: the names in it are looked up on closed lists
by kind of part, see ``mmkit/config/allowed.py``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmkit.config.allowed import VALUES, Kind, checked, find, is_own
from mmkit.config.moved import with_present_names
from mmkit.config.override import arguments_of, check_dataclass, check_partials
from mmkit.errors import UserError

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


def rebuild(data: Any, kind: Kind, allow: str | Sequence[str] = ()) -> Any:
    """The way back, for a part of a kind; partials are not called, dataclasses are built.

    allow: modules of the user's own whose classes may stand there too. UserError for a name that is not on the kind's
    list or does not exist, for arguments that do not fit, and for numbers that no such part has.
    """
    form = next((k for k in data if k in _FORMS), None) if isinstance(data, Mapping) else None
    if kind.form is not None and form != kind.form:
        expected = f"{{{kind.form!r}: MODULE:NAME, 'args': ...}}"
        raise UserError(f"config: {str(data)[:80]!r} is no {kind.name}: expected {expected}")
    try:
        return _Reader(kind, checked(allow)).read(with_present_names(data), inner=False)
    except RecursionError as error:
        raise UserError("config: nested too deeply; it is damaged") from error


class _Reader:
    """Reads the values of one part. free: they stand in a part of the user's own, which judges its numbers."""

    def __init__(self, kind: Kind, allow: tuple[str, ...]) -> None:
        self.kind = kind
        self.allow = allow

    def read(self, data: Any, inner: bool = True, free: bool = False) -> Any:
        free = free or self.kind.largest is None
        if isinstance(data, list):
            return [self.read(v, free=free) for v in data]
        if not isinstance(data, Mapping):
            return data if free else self._bounded(data)
        form = next((k for k in data if k in _FORMS), None)
        if form is None:
            return {k: self.read(v, free=free) for k, v in data.items()}
        if form in ("mapping", "tuple", "path", "float"):
            return self._value(form, data[form], free)
        target = find(data[form], self.kind, self.allow, inner)
        return target if form == "reference" else self._part(form, target, data, free)

    def _value(self, form: str, value: Any, free: bool) -> Any:
        if form == "mapping" and isinstance(value, Mapping):
            return {k: self.read(v, free=free) for k, v in value.items()}
        if form == "tuple" and isinstance(value, list):
            return tuple(self.read(v, free=free) for v in value)
        if form == "path" and isinstance(value, str) and free:
            return Path(value)
        if form == "float" and value in ("inf", "-inf", "nan"):
            return self.read(float(value), free=free)
        raise UserError(f"config: {str(value)[:80]!r} may not stand as a {form} in a {self.kind.name}")

    def _bounded(self, value: Any) -> Any:
        largest = self.kind.largest
        if largest is None or not isinstance(value, int | float):
            return value
        if value != value:
            raise UserError(f"config: nan among the numbers of a {self.kind.name}; the file is damaged")
        if abs(value) > largest:
            raise UserError(f"config: {str(value)[:80]} is beyond what a {self.kind.name} may hold, {largest:,}")
        return value

    def _part(self, form: str, target: Any, data: Mapping[str, Any], free: bool) -> Any:
        name, own = data[form], is_own(data[form], self.allow)
        if not isinstance(data.get("args"), Mapping):
            raise UserError(f"config: {name} lacks its args; the file is damaged")
        arguments = {k: self.read(v, free=free or own) for k, v in data["args"].items()}
        if form == "target":
            part = partial(target, **arguments)
            if not own:
                check_partials(part, name)
            return part
        if not (isinstance(target, type) and dataclasses.is_dataclass(target)) or not (own or name in VALUES):
            raise UserError(f"config: {name!r} is not a dataclass that stands as a value")
        if not own:
            check_dataclass(target, arguments, name)
        try:
            return target(**arguments)
        except TypeError as error:
            raise UserError(f"config: {name}: {error}; was it written by another version of mmkit?") from error
