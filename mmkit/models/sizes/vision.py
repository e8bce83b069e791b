"""The named sizes of the model that reads pictures alone; and the tower of another model, as one of these."""

from __future__ import annotations

from mmkit.data.images.size import height_width
from mmkit.encoders.backbone.by_name import backbone as by_name
from mmkit.encoders.vit import ViT
from mmkit.models.vision import Vision


def vision(
    *, image_size: int | tuple[int, int], patch: int | tuple[int, int] = 16, depth: int = 12, width: int = 768,
    heads: int = 12, mlp_width: int | None = None, dropout: float = 0.0, drop_path: float = 0.0,
    activation: str = "gelu", eps: float = 1e-6, class_token: bool = True, first_norm: bool = False,
    patch_bias: bool = True, fixed_positions: bool = False, checkpointing: bool = False, backbone: str | None = None,
) -> Vision:  # fmt: skip
    """A ViT of any size; ``image_size`` in pixels, one side or (height, width). See ``ViT`` for the rest.

    backbone: "timm:NAME" or "torchvision:NAME", in place of the ViT, of whose numbers ``drop_path`` and
    ``checkpointing`` then count alone. The defaults are ViT-B/16, as DeiT, MAE and timm have it. Raises UserError when
    the patch does not divide the size.
    """
    if backbone is not None:
        return Vision(by_name(backbone, height_width(image_size), drop_path=drop_path, checkpointing=checkpointing))
    return Vision(ViT(
        height_width(image_size), height_width(patch), depth=depth, width=width, heads=heads, mlp_width=mlp_width,
        dropout=dropout, drop_path=drop_path, activation=activation, eps=eps, class_token=class_token,
        first_norm=first_norm, patch_bias=patch_bias, fixed_positions=fixed_positions, checkpointing=checkpointing,
    ))  # fmt: skip


def vision_base(
    *, image_size: int | tuple[int, int] = 224, drop_path: float = 0.1, checkpointing: bool = False
) -> Vision:
    """ViT-B/16, 85.8 M parameters."""
    return vision(image_size=image_size, drop_path=drop_path, checkpointing=checkpointing)


def vision_small(
    *, image_size: int | tuple[int, int] = 224, drop_path: float = 0.1, checkpointing: bool = False
) -> Vision:
    """ViT-S/16 (12 x 384), 21.7 M parameters."""
    return vision(image_size=image_size, width=384, heads=6, drop_path=drop_path, checkpointing=checkpointing)


def vision_mini(
    *, image_size: int | tuple[int, int] = 96, patch: int = 12, dropout: float = 0.0, drop_path: float = 0.0,
    backbone: str | None = None,
) -> Vision:  # fmt: skip
    """What two CPU cores train in minutes: 4 x 128, the image tower of ``albef_mini``."""
    return vision(
        image_size=image_size, patch=patch, depth=4, width=128, heads=4, dropout=dropout, drop_path=drop_path,
        backbone=backbone,
    )  # fmt: skip
