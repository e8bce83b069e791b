"""The towers that masked image modelling trains: mmkit's ViT of pictures alone, as MAE begins it."""

from __future__ import annotations

import torch
from torch import nn

from mmkit.models.sizes.vision import vision
from mmkit.models.vision import Vision
from projects.mim.mae import xavier


def sight(
    *, image_size: int | tuple[int, int] = 224, patch: int = 16, depth: int = 12, width: int = 768, heads: int = 12,
    drop_path: float = 0.0, fixed_positions: bool = True, checkpointing: bool = False,
) -> Vision:  # fmt: skip
    """A ViT with fixed sin-cos positions (unless they are to be learned), begun as MAE's: Glorot's, [CLS] 0.02 wide."""
    model = vision(
        image_size=image_size, patch=patch, depth=depth, width=width, heads=heads, drop_path=drop_path,
        fixed_positions=fixed_positions, checkpointing=checkpointing,
    )  # fmt: skip
    xavier(model)
    with torch.no_grad():
        nn.init.normal_(model.image.get_parameter("cls"), std=0.02)
    return model


def sight_mini(*, image_size: int | tuple[int, int] = 96, patch: int = 12, fixed_positions: bool = True) -> Vision:
    """What two CPU cores train in minutes: 4 x 128, the image tower of ``albef_mini``."""
    return sight(
        image_size=image_size, patch=patch, depth=4, width=128, heads=4, fixed_positions=fixed_positions
    )  # fmt: skip


def sight_base(
    *, image_size: int | tuple[int, int] = 224, drop_path: float = 0.0, checkpointing: bool = False
) -> Vision:
    """ViT-B/16."""
    return sight(image_size=image_size, drop_path=drop_path, checkpointing=checkpointing)


def sight_large(
    *, image_size: int | tuple[int, int] = 224, drop_path: float = 0.0, checkpointing: bool = False
) -> Vision:
    """ViT-L/16."""
    return sight(
        image_size=image_size, depth=24, width=1024, heads=16, drop_path=drop_path, checkpointing=checkpointing
    )  # fmt: skip


def sight_huge(
    *, image_size: int | tuple[int, int] = 224, drop_path: float = 0.0, checkpointing: bool = False
) -> Vision:
    """ViT-H/14."""
    return sight(
        image_size=image_size, patch=14, depth=32, width=1280, heads=16, drop_path=drop_path,
        checkpointing=checkpointing,
    )  # fmt: skip
