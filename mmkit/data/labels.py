"""Labels of pictures: which are numbers, in what order they stand, and which are one name."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from mmkit.data.text_files import one_text
from mmkit.errors import UserError

Label = int | str

_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


def label_in(value: Any, where: str, key: str = "label") -> Label:
    """A label as a whole number or a text. A whole float is a number, as tables make them: 2.0 is 2.

    UserError, which begins with ``where``, for what is missing (None, NaN, "") and for anything else.
    """
    if isinstance(value, str) and value.strip():
        try:
            return one_text(value, key)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return int(float(value))
    if value is None or value == "" or (isinstance(value, Real) and math.isnan(value)):
        raise UserError(f'{where}: no "{key}" ({json.dumps(value, default=str)}); each picture needs its class')
    raise UserError(f'{where}: "{key}" must be a class name or a whole number, not {json.dumps(value, default=str)}')


def whole(label: Label) -> int | None:
    """The number that a label is, as "3" and "3.0" are; None where it is none."""
    if isinstance(label, int):
        return label
    return int(label.partition(".")[0]) if _NUMBER.fullmatch(label) else None


def is_numeric(label: Label) -> bool:
    """Whether a label is a number of any kind, whole or not."""
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def natural(label: Label) -> tuple[Any, ...]:
    """A key to sort labels by: numbers first, then texts, in which "class_2" stands before "class_10"."""
    if isinstance(label, int):
        return 0, label, ""
    parts = re.split(r"(\d+)", label)
    return 1, tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), label


def own_names(source: object) -> list[Label] | None:
    """What a source itself says that its labels are called, in their order; None where it does not."""
    names = getattr(source, "class_names", None)
    names = names() if callable(names) else names
    return None if names is None else list(names)


def tidy(text: str) -> str:
    """The form in which names are compared: case, ``_``, white space and the spelling of accents set aside."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.replace("_", " ").split())


def read_as(label: str) -> str:
    """A label as the name of a class: ``_`` is a space, and accents are one letter with theirs."""
    return " ".join(unicodedata.normalize("NFC", label).replace("_", " ").split())


def same_names(names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more names that are one when compared."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[tidy(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def some(names: Sequence[Any], most: int = 5) -> str:
    """The first few, for a message."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")
