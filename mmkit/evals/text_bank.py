"""The embeddings of all classes, kept in a file: of 1,000 names in 80 templates they take longer than the pictures.

A file's name is a digest of all that decides its content: the weights, what the model makes of them (activation,
heads, ...), the precision, how the prompts are cut into tokens. So a changed model or prompt never meets an old bank,
and nothing has to be declared stale. In the commands' own folder the last used fifty stay.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.evals.common import encode_texts
from mmkit.files import write_tensors
from mmkit.predictor import Predictor
from mmkit.ranks import gather, rank

log = logging.getLogger(__name__)

KEPT = 50
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


def cache_folder() -> Path:
    """Where the commands keep banks: ``mmkit/text-banks`` in XDG_CACHE_HOME, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmkit" / "text-banks"


def class_bank(
    predictor: Predictor, names: Sequence[str], templates: Sequence[str], batch_size: int = 256,
    folder: str | Path | None = None,
) -> Tensor:  # fmt: skip
    """One embedding for each class (C, E) float32, L2-normalised: the normalised mean over the templates.

    folder: where it is kept between processes; None = nowhere. A folder that cannot be written is only a warning.
    """
    if folder is None:
        return _made(predictor, names, templates, batch_size)
    path = Path(folder) / f"{fingerprint(predictor, names, templates)}.safetensors" if rank() == 0 else None
    found = None if path is None else _read(path, (len(names), predictor.model.spec.embed_dim))
    here = torch.tensor([found is not None], device=predictor.device)
    if bool(gather(here)[0]):  # the first process has it: all take it from there
        blank = torch.zeros(len(names), predictor.model.spec.embed_dim)
        return gather((blank if found is None else found).to(predictor.device))[: len(names)].cpu()
    bank = _made(predictor, names, templates, batch_size)
    if path is not None:
        _write(path, bank)
    return bank


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
    for name in names[:100]:
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


def fill(template: str, name: str) -> str:
    """The template with the name in the place of {}."""
    return template.replace("{}", name)


def _made(predictor: Predictor, names: Sequence[str], templates: Sequence[str], batch_size: int) -> Tensor:
    texts = [fill(template, name) for name in names for template in templates]
    embeddings = encode_texts(predictor, texts, batch_size, "prompts").view(len(names), len(templates), -1)
    return F.normalize(F.normalize(embeddings, dim=-1).mean(1), dim=-1)


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        bank = load_file(path)["bank"]
    except (SafetensorError, OSError, KeyError) as error:
        log.warning("%s: damaged (%s); made anew", path, error)
        return None
    if tuple(bank.shape) != shape:
        log.warning("%s: of another shape; made anew", path)
        return None
    with suppress(OSError):
        os.utime(path)  # the last used stay
    log.info("text bank of %d classes read from %s", len(bank), path)
    return bank


def _write(path: Path, bank: Tensor) -> None:
    try:
        write_tensors(path, {"bank": bank.contiguous()})
        if path.parent == cache_folder():
            _trim(path.parent)
    except (OSError, UserError) as error:
        log.warning("%s: the text bank cannot be kept (%s)", path, error)


def _trim(folder: Path) -> None:
    """Remove all but the last used ``KEPT`` banks of the commands' own folder; files of other names stay."""
    banks = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    for path in sorted(banks, key=lambda path: path.stat().st_mtime_ns)[:-KEPT]:
        path.unlink(missing_ok=True)
