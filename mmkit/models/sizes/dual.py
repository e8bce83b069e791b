"""The named sizes of the two-tower models: CLIP's, SigLIP's and LiT's, from what the data decide."""

from __future__ import annotations

import math

from torch import nn

from mmkit.data.images.size import height_width
from mmkit.encoders.backbone.by_name import backbone as by_name
from mmkit.encoders.prenorm_text import PreNormText
from mmkit.encoders.text import TextEncoder
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.models.dual import Dual
from mmkit.nn.pool import AttentionPool, FirstToken, LastToken, MeanToken
from mmkit.nn.temperature import LogScale
from mmkit.protocol import ImageTower


def clip(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, image_mlp_width: int | None = None, text_depth: int = 12,
    text_width: int = 512, text_heads: int = 8, text_mlp_width: int | None = None, embed_dim: int = 512,
    activation: str = "gelu", text_activation: str | None = None, patch_dropout: float = 0.0,
    checkpointing: bool = False, backbone: str | None = None,
) -> Dual:  # fmt: skip
    """A CLIP of any size; ``image_size`` in pixels, one side or (height, width). The defaults are ViT-B/16.

    backbone: "timm:NAME" or "torchvision:NAME", the image tower in place of the ViT, of whose numbers
    ``checkpointing`` then counts alone.

    activation: "quick_gelu" in OpenAI's weights and those trained like them, "gelu" in most others; ``text_activation``
    only where the text tower's is another. Raises UserError when the patch does not divide the image size.
    """
    image: ImageTower = (
        ViT(
            height_width(image_size), (patch, patch), depth=image_depth, width=image_width, heads=image_heads,
            mlp_width=image_mlp_width, activation=activation, eps=1e-5, first_norm=True, patch_bias=False,
            patch_dropout=patch_dropout, checkpointing=checkpointing,
        ) if backbone is None else _foreign(backbone, image_size, checkpointing, patch_dropout)
    )  # fmt: skip
    return clip_over(
        image, vocab_size, max_tokens, text_depth=text_depth, text_width=text_width, text_heads=text_heads,
        text_mlp_width=text_mlp_width, embed_dim=embed_dim, activation=text_activation or activation,
        checkpointing=checkpointing,
    )  # fmt: skip


def clip_over(
    image: ImageTower, vocab_size: int, max_tokens: int, *, text_depth: int, text_width: int, text_heads: int,
    embed_dim: int, text_mlp_width: int | None = None, activation: str = "gelu", checkpointing: bool = False,
    kind: type[Dual] = Dual,
) -> Dual:  # fmt: skip
    """A CLIP with this image tower: the causal text tower, projections and temperature. kind: a class of ``Dual``."""
    text = PreNormText(
        vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, mlp_width=text_mlp_width,
        activation=activation, checkpointing=checkpointing,
    )  # fmt: skip
    return kind(
        image, text, image_pool=_first_or_mean(image), text_pool=LastToken(),
        image_proj=_projection(image.width, embed_dim), text_proj=_projection(text_width, embed_dim),
        embed_dim=embed_dim, temperature=LogScale(),
    )  # fmt: skip


def siglip(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, image_mlp_width: int | None = None, text_depth: int = 12,
    text_width: int = 768, text_heads: int = 12, text_mlp_width: int | None = None, activation: str = "gelu",
    text_activation: str | None = None, eps: float = 1e-6, fill_id: int | None = None, patch_dropout: float = 0.0,
    checkpointing: bool = False,
) -> Dual:  # fmt: skip
    """A SigLIP of any size: no class token, attention pooling, a bidirectional text tower. The defaults are ViT-B/16.

    The joint space is as wide as the image tower. activation: "gelu_tanh" in transformers' copy of the weights.
    fill_id: see ``PreNormText``; texts are masked where it is None.
    """
    image = ViT(
        height_width(image_size), (patch, patch), depth=image_depth, width=image_width, heads=image_heads,
        mlp_width=image_mlp_width, activation=activation, eps=eps, class_token=False, patch_dropout=patch_dropout,
        checkpointing=checkpointing,
    )  # fmt: skip
    text = PreNormText(
        vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, mlp_width=text_mlp_width,
        causal=False, activation=text_activation or activation, eps=eps, fill_id=fill_id, checkpointing=checkpointing,
    )  # fmt: skip
    pool = AttentionPool(image_width, image_heads, image_mlp_width, activation=activation, eps=eps)
    return Dual(
        image, text, image_pool=pool, text_pool=LastToken(), image_proj=nn.Identity(),
        text_proj=_projection(text_width, image_width, bias=True), embed_dim=image_width, temperature=LogScale(10.0),
    )  # fmt: skip


def lit(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 12, text_width: int = 768, text_heads: int = 12,
    embed_dim: int = 512, dropout: float = 0.1, frozen_image: bool = True, backbone: str | None = None,
) -> Dual:  # fmt: skip
    """A plain ViT that stays as it was loaded, and a BERT that learns to describe it; both projected from [CLS].

    Give the run an ``init`` for the image tower: what is frozen must have come from somewhere. With
    ``frozen_image=False`` it is a dual encoder that starts from a ViT and a BERT. backbone: as for ``clip``.
    """
    image: ImageTower = (
        ViT(height_width(image_size), (patch, patch), depth=image_depth, width=image_width, heads=image_heads)
        if backbone is None else _foreign(backbone, image_size)
    )  # fmt: skip
    text = TextEncoder(vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, dropout=dropout)
    return Dual(
        image, text, image_pool=_first_or_mean(image), text_pool=FirstToken(),
        image_proj=_projection(image.width, embed_dim), text_proj=_projection(text_width, embed_dim),
        embed_dim=embed_dim, temperature=LogScale(), frozen_image=frozen_image,
    )  # fmt: skip


def clip_base(
    vocab_size: int = 49_408, *, image_size: int | tuple[int, int] = 224, max_tokens: int = 77,
    patch_dropout: float = 0.0, checkpointing: bool = False, backbone: str | None = None,
) -> Dual:  # fmt: skip
    """ViT-B/16 with the 12 x 512 causal text tower of CLIP: 149.6 M parameters."""
    return clip(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch_dropout=patch_dropout,
        checkpointing=checkpointing, backbone=backbone,
    )  # fmt: skip


def siglip_base(
    vocab_size: int = 32_000, *, image_size: int | tuple[int, int] = 224, max_tokens: int = 64,
    patch_dropout: float = 0.0, checkpointing: bool = False,
) -> Dual:  # fmt: skip
    """ViT-B/16 and 12 x 768 text layers: 203 M parameters."""
    return siglip(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch_dropout=patch_dropout,
        checkpointing=checkpointing,
    )  # fmt: skip


def lit_base(
    vocab_size: int = 30_522, *, image_size: int | tuple[int, int] = 224, max_tokens: int = 32,
    backbone: str | None = None,
) -> Dual:  # fmt: skip
    """A frozen ViT-B/16 with BERT-base."""
    return lit(vocab_size, image_size=image_size, max_tokens=max_tokens, backbone=backbone)


def dual_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, patch: int = 12,
    patch_dropout: float = 0.0, backbone: str | None = None,
) -> Dual:  # fmt: skip
    """What two CPU cores pre-train in minutes, as CLIP: 4 + 4 layers of 128; the quickstart's size."""
    return clip(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, image_depth=4, image_width=128,
        image_heads=4, text_depth=4, text_width=128, text_heads=4, embed_dim=128, patch_dropout=patch_dropout,
        backbone=backbone,
    )  # fmt: skip


def siglip_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, patch: int = 12,
    patch_dropout: float = 0.0,
) -> Dual:  # fmt: skip
    """The same size, as SigLIP."""
    return siglip(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, image_depth=4, image_width=128,
        image_heads=4, text_depth=4, text_width=128, text_heads=4, patch_dropout=patch_dropout,
    )  # fmt: skip


def _foreign(
    spec: str, image_size: int | tuple[int, int], checkpointing: bool = False, patch_dropout: float = 0.0
) -> ImageTower:
    if patch_dropout:
        raise UserError(f"patch_dropout={patch_dropout}: {spec} leaves out no patches; set it to 0")
    return by_name(spec, height_width(image_size), checkpointing=checkpointing)


def _first_or_mean(image: ImageTower) -> nn.Module:
    """How the tower's tokens stand for a picture."""
    sight = {"pooling": "first", **image.sight}
    if sight["class_tokens"] and sight["pooling"] == "first":
        return FirstToken()
    return MeanToken(sight["class_tokens"])


def _projection(width: int, embed_dim: int, bias: bool = False) -> nn.Linear:
    proj = nn.Linear(width, embed_dim, bias=bias)
    nn.init.normal_(proj.weight, std=1 / math.sqrt(width))
    if bias:
        nn.init.zeros_(proj.bias)
    return proj
