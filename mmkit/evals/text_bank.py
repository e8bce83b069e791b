"""The embeddings of all classes, kept in a file: of 1,000 names in 80 templates they take longer than the pictures.

A file's name is a digest of all that decides its content: the weights, the precision, how the prompts are cut into
tokens. So a changed model or prompt never meets an old bank, and nothing has to be declared stale.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmkit.evals.common import encode_texts
from mmkit.nn.gather import gather, rank
from mmkit.predictor import Predictor

log = logging.getLogger(__name__)


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
    """A digest of the weights, the precision, the names, the templates, and the tokens of a few prompts."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((predictor.precision, predictor.max_tokens, list(names), list(templates))).encode())
    for name in names[:100]:
        ids = predictor.tokenizer.encode(templates[0].replace("{}", name), predictor.max_tokens)
        digest.update(repr(ids).encode())
    for name, value in predictor.model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    log.info("text bank of %d classes read from %s", len(bank), path)
    return bank


def _write(path: Path, bank: Tensor) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"bank": bank.contiguous()}, part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        log.warning("%s: the text bank cannot be kept (%s)", path, error)
