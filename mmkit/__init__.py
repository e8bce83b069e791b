"""mmkit: vision-language pre-training with one shared ViT, pluggable heads and a momentum teacher.

``mmkit.load(folder)`` gives a trained model ready for use; everything else lives in the modules. Importing this package
imports no other, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from mmkit.predictor import Predictor

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
    image_size: int | tuple[int, int] | None = None,
    allow: Sequence[str] = (),
) -> Predictor:
    """A trained model from the folder of its run: see ``mmkit.hub.load``."""
    from mmkit import hub

    return hub.load(path, device=device, precision=precision, image_size=image_size, allow=allow)
