"""The embeddings of all classes, kept in a file: of 1,000 names in 80 templates they take longer than the pictures.

A file's name is a digest of all that decides its content: the weights, what the model makes of them (activation,
heads, ...), the precision, how the prompts are cut into tokens. So a changed model or prompt never meets an old bank,
and nothing has to be declared stale. In the commands' own folder the last used fifty stay.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmkit.errors import UserError
from mmkit.evals.evaluator import encode_texts
from mmkit.files import write_tensors
from mmkit.inference.fingerprint import fingerprint
from mmkit.inference.predictor import Predictor
from mmkit.ranks import on_first

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
    path = on_first(lambda: Path(folder) / f"{fingerprint(predictor, names, templates)}.safetensors")
    bank = on_first(lambda: _read(path, (len(names), predictor.model.spec.embed_dim)))
    if bank is None:
        made = bank = _made(predictor, names, templates, batch_size)
        on_first(lambda: _write(path, made))
    return bank


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
