"""mmkit: vision-language pre-training with one shared ViT, pluggable heads and a momentum teacher.

``mmkit.load(folder)`` gives a trained model ready for use, ``mmkit.explain`` shows what in a picture it looked at;
everything else lives in the modules. Importing this package imports no other, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from mmkit.explanation.explained import Explanation
    from mmkit.explanation.goals import Target
    from mmkit.inference.predictor import Picture, Predictor

__all__ = ["explain", "load"]


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
    image_size: int | tuple[int, int] | None = None,
    allow: str | Sequence[str] = (),
) -> Predictor:
    """A trained model from the folder of its run: see ``mmkit.hub.folder.load``."""
    from mmkit.hub import folder as hub

    return hub.load(path, device=device, precision=precision, image_size=image_size, allow=allow)


def explain(
    model: Predictor | str | Path, image: Picture, text: str, *, answer: str | None = None,
    target: Target | None = None, layer: int | None = None, head: int | None = None, words: bool = True,
    allow: str | Sequence[str] = (),
) -> Explanation:  # fmt: skip
    """Heat maps of a picture and a text, for a loaded model or the folder of one: see ``mmkit.explanation.explain``.

    allow: see ``load``.

    Many pairs at once: ``mmkit.explanation.explain.explain_pairs``.
    """
    from mmkit.explanation import explain as explanation
    from mmkit.inference.predictor import Predictor

    predictor = model if isinstance(model, Predictor) else load(model, allow=allow)
    return explanation.explain(
        predictor, image, text, answer=answer, target=target, layer=layer, head=head, words=words
    )
