"""The named sizes of the one-stream model, from what the data decide (vocabulary, resolution, length)."""

from __future__ import annotations

from mmkit.data.images.size import height_width
from mmkit.encoders.joint import JointViT
from mmkit.encoders.text import TextEmbeddings
from mmkit.models.vilt import ViLT
from mmkit.nn.init import initialise


def vilt(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 32, depth: int = 12,
    width: int = 768, heads: int = 12, mlp_width: int | None = None, dropout: float = 0.1, drop_path: float = 0.0,
    text_types: int = 2, max_patches: int | None = None, eps: float = 1e-6, checkpointing: bool = False,
) -> ViLT:  # fmt: skip
    """A one-stream model of any size. ``image_size`` in pixels, of the grid whose positions are learned.

    The defaults are the paper's ViT-B/32. ``max_patches``: see ``JointViT``. ``eps`` of the ViT's norms: 1e-6, but
    1e-12 in transformers' copy of the weights. Raises UserError when the patch does not divide the image size.
    """
    image = JointViT(
        height_width(image_size), (patch, patch), depth=depth, width=width, heads=heads, mlp_width=mlp_width,
        dropout=dropout, drop_path=drop_path, eps=eps, max_patches=max_patches, checkpointing=checkpointing,
    )  # fmt: skip
    text = TextEmbeddings(vocab_size, max_tokens, width, types=text_types, dropout=dropout)
    initialise(text, width)
    return ViLT(image, text)


def vilt_base(
    vocab_size: int = 30_522, *, image_size: int | tuple[int, int] = 384, max_tokens: int = 40,
    max_patches: int | None = 200, checkpointing: bool = False,
) -> ViLT:  # fmt: skip
    """The paper's size: ViT-B/32 with 12 x 12 positions, 40 tokens, at most 200 patches in pre-training."""
    return vilt(
        vocab_size, image_size=image_size, max_tokens=max_tokens, max_patches=max_patches, checkpointing=checkpointing
    )


def vilt_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, patch: int = 12,
    dropout: float = 0.0,
) -> ViLT:  # fmt: skip
    """What two CPU cores pre-train in minutes: 6 layers of 128; the quickstart's size."""
    return vilt(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, depth=6, width=128, heads=4,
        dropout=dropout,
    )  # fmt: skip
