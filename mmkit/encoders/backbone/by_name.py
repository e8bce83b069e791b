"""The image tower that a name means, for factories of models: "timm:NAME" or "torchvision:NAME"."""

from __future__ import annotations

from typing import Any

from mmkit.encoders.backbone.tower import Backbone, Side2
from mmkit.errors import UserError


def backbone(
    spec: str, image_size: Side2, *, drop_path: float = 0.0, checkpointing: bool = False, classifier: bool = False
) -> Backbone:
    """The tower with random weights, for pictures of (height, width) pixels; its library is imported here.

    drop_path, checkpointing, classifier: see ``Timm``. UserError for another kind of name, and what the library has
    not.
    """
    library, _, name = spec.partition(":")
    more: dict[str, Any] = {"drop_path": drop_path, "classifier": classifier}
    if library == "timm":
        from mmkit.encoders.backbone.timm import Timm

        return Timm(name, image_size, checkpointing=checkpointing, **more)
    if library == "torchvision":
        from mmkit.encoders.backbone.torchvision import Torchvision

        if checkpointing:
            raise UserError(f"{spec}: torchvision has no gradient checkpointing; set checkpointing=False, or use timm")
        return Torchvision(name, image_size, **more)
    raise UserError(f"{spec!r}: an image tower of others is written timm:NAME or torchvision:NAME")
