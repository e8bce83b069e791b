"""The named sizes. Each is a function from what the data decide (vocabulary, resolution, length) to a built model."""

from __future__ import annotations

from mmkit.data.images.size import height_width
from mmkit.encoders.backbone.by_name import backbone as by_name
from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.encoders.vit import ViT
from mmkit.models.albef import ALBEF
from mmkit.protocol import ImageTower


def albef(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 6, fusion_depth: int = 6, text_width: int = 768,
    text_heads: int = 12, text_mlp_width: int | None = None, embed_dim: int = 256, dropout: float = 0.1,
    drop_path: float = 0.0, checkpointing: bool = False, backbone: str | None = None,
) -> ALBEF:  # fmt: skip
    """An ALBEF of any size. ``image_size`` in pixels, one side or (height, width); ``max_tokens`` positions of text.

    The defaults are the paper's: ViT-B/16 with a BERT-base cut into 6 + 6 layers. ``checkpointing`` recomputes every
    block in the backward pass. backbone: "timm:NAME" or "torchvision:NAME", the image tower in place of the ViT, whose
    ``patch`` and ``image_*`` then say nothing. Raises UserError when the patch does not divide the image size.
    """
    image: ImageTower = (
        ViT(
            height_width(image_size), (patch, patch), depth=image_depth, width=image_width, heads=image_heads,
            drop_path=drop_path, checkpointing=checkpointing,
        ) if backbone is None
        else by_name(backbone, height_width(image_size), drop_path=drop_path, checkpointing=checkpointing)
    )  # fmt: skip
    text = TextEncoder(
        vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, mlp_width=text_mlp_width,
        dropout=dropout, checkpointing=checkpointing,
    )  # fmt: skip
    fusion = FusionEncoder(
        depth=fusion_depth, width=text_width, heads=text_heads, image_width=image.width, mlp_width=text_mlp_width,
        dropout=dropout, checkpointing=checkpointing,
    )  # fmt: skip
    return ALBEF(image, text, fusion, embed_dim)


def albef_base(
    vocab_size: int = 30_522, *, image_size: int | tuple[int, int] = 256, max_tokens: int = 512,
    drop_path: float = 0.0, checkpointing: bool = False, backbone: str | None = None,
) -> ALBEF:  # fmt: skip
    """The paper's size: ViT-B/16 and 6 + 6 layers of BERT-base width; 209.9 M parameters with the three heads."""
    return albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, drop_path=drop_path, checkpointing=checkpointing,
        backbone=backbone,
    )  # fmt: skip


def albef_small(
    vocab_size: int = 30_522, *, image_size: int | tuple[int, int] = 224, max_tokens: int = 512,
    drop_path: float = 0.0, checkpointing: bool = False, backbone: str | None = None,
) -> ALBEF:  # fmt: skip
    """ViT-S/16 (12 x 384) and 6 + 6 layers of 384."""
    return albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, image_width=384, image_heads=6, text_width=384,
        text_heads=6, drop_path=drop_path, checkpointing=checkpointing, backbone=backbone,
    )  # fmt: skip


def albef_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, patch: int = 12,
    dropout: float = 0.0, backbone: str | None = None,
) -> ALBEF:  # fmt: skip
    """What two CPU cores pre-train in minutes: ViT 4 x 128 and 2 + 2 layers of 128; the quickstart's size."""
    return albef(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, image_depth=4, image_width=128,
        image_heads=4, text_depth=2, fusion_depth=2, text_width=128, text_heads=4, embed_dim=128, dropout=dropout,
        backbone=backbone,
    )  # fmt: skip
