"""Values of a config as people read them, for the facts of ``mmkit info``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

EMPTY: dict[str, Any] = {"dataclass": "", "target": "", "args": {}}


def preprocessing(image: Any, max_tokens: int) -> dict[str, Any]:
    """A dumped picture transform and the text length as facts."""
    form = EMPTY | dict(image) if isinstance(image, Mapping) else EMPTY
    found: dict[str, Any] = {"max_tokens": max_tokens} if max_tokens else {}
    found["preprocessing"] = form["dataclass"] or form["target"] or str(image)
    for name, value in form["args"].items():
        found["image_size" if name == "size" else f"preprocessing.{name}"] = plain(value)
    return found


def plain(value: Any) -> str:
    """A dumped value as people write it."""
    if isinstance(value, Mapping):
        if "args" in value:
            inner = ", ".join(f"{key}={plain(v)}" for key, v in value["args"].items())
            return f"{value.get('dataclass') or value.get('target')}({inner})"
        return plain(value["tuple"]) if "tuple" in value else json.dumps(value)
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


@contextmanager
def quiet(name: str = "") -> Iterator[None]:
    """Only errors of a logger and those below it; "" = of all."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
