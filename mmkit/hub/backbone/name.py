"""How a picture model of timm or torchvision is named; told without PyTorch.

    timm:ARCH.TAG              published weights, fetched once from the Hugging Face hub; without a tag those of timm
    timm:ARCH.TAG@FILE         the same, its weights from a local file; the tag says how pictures are read
    torchvision:ARCH           its default weights, fetched once; torchvision:ARCH/WEIGHTS takes others of it
    torchvision:ARCH@FILE      weights from a local file

Left out: repositories of the hub by their own names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmkit.errors import UserError

PREFIXES = ("timm:", "torchvision:")
FORMS = "timm:ARCH.TAG, timm:ARCH@FILE, torchvision:ARCH, torchvision:ARCH@FILE"


@dataclass(frozen=True, kw_only=True)
class Name:
    """A parsed name. model: as its library has it. weights: of torchvision, "" = the default. file: or None."""

    spec: str
    library: str
    model: str
    weights: str = ""
    file: Path | None = None

    @property
    def tower(self) -> str:
        """The name that ``encoders/backbone`` knows."""
        return f"{self.library}:{self.model}"


def is_one(spec: str) -> bool:
    """Whether a text names such a model."""
    return spec.startswith(PREFIXES)


def parse(spec: str) -> Name:
    """UserError for another form, and a file that is not there."""
    library, _, rest = spec.partition(":")
    model, _, file = rest.partition("@")
    model, _, weights = model.partition("/")
    if library not in ("timm", "torchvision") or not re.fullmatch(r"[\w.-]+", model) or (library == "timm" and weights):
        raise UserError(f"{spec}: write {FORMS}")
    path = Path(file).expanduser() if file else None
    if path is not None and not path.is_file():
        raise UserError(f"{spec}: no such file, {path}")
    if "@" in rest and path is None:
        raise UserError(f"{spec}: names no file after @; write {FORMS}")
    return Name(spec=spec, library=library, model=model, weights=weights, file=path)
