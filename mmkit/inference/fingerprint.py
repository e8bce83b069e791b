"""A digest of all that decides what a model makes of pictures and texts, for what is kept of it in files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.inference.predictor import Predictor


def fingerprint(predictor: Predictor, names: Sequence[str], templates: Sequence[str]) -> str:
    """A digest of all that decides what the model makes of these prompts, and of pictures.

    That is the weights and the precision; the names, the templates and the tokens of a few prompts; how pictures are
    prepared; and every module's class and settings (heads, epsilons, activation functions, ...), because equal
    weights give other numbers in a model that was built otherwise. Settings are read, not tried out: a prompt that is
    embedded as a test would give other digits on another machine or with more threads.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((predictor.precision, predictor.max_tokens, list(names), list(templates))).encode())
    digest.update(_plain(predictor.transform).encode())
    for row in settings(predictor.model):
        digest.update(row.encode())
    for name in names[:100] if predictor.reads_words else ():
        ids = predictor.tokenizer.encode(templates[0].replace("{}", name), predictor.max_tokens)
        digest.update(repr(ids).encode())
    for name, value in predictor.model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settings(model: nn.Module) -> Iterator[str]:
    """A line for each module: its place, class, and attributes that are plain values, functions or dataclasses."""
    for place, module in model.named_modules():
        found = {name: _plain(value) for name, value in sorted(vars(module).items()) if not name.startswith("_")}
        found.pop("training", None)
        yield f"{place} {type(module).__module__}.{type(module).__qualname__} {found}\n"


def _plain(value: Any) -> str:
    """A value as text that is the same in every process: no addresses, and of other objects no more than the class."""
    if isinstance(value, partial):
        return f"partial {_plain(value.func)} {_plain(value.args)} {_plain(value.keywords)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, str | int | float | None | Enum | torch.dtype) or is_dataclass(value):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    if callable(value):
        name = getattr(value, "__qualname__", None)
        return f"{value.__module__}.{name}" if name else re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return type(value).__qualname__
