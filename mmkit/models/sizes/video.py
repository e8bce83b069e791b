"""The named sizes of models that read clips: ViViT's four for classes, ALBEF and dual encoders over them.

``image_size`` is that of the frames, ``frames`` how many a clip has, ``tubelet`` how many a patch covers. how: which of
ViViT's models: "spacetime" (1), "factorised_encoder" (2), "factorised_attention" (3), "factorised_product" (4).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from mmkit.data.images.size import height_width
from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.encoders.vit import ViT
from mmkit.encoders.vivit import FactorisedAttention, FactorisedDotProduct, FactorisedEncoder, SpaceTimeViT
from mmkit.errors import UserError
from mmkit.models.albef import ALBEF
from mmkit.models.dual import Dual
from mmkit.models.frames import FrameDual
from mmkit.models.sizes.dual import clip_over
from mmkit.models.vision import Vision
from mmkit.nn.patch import Inflation

How = Literal["spacetime", "factorised_encoder", "factorised_attention", "factorised_product"]
TOWERS: dict[str, Any] = {
    "spacetime": SpaceTimeViT, "factorised_encoder": FactorisedEncoder, "factorised_attention": FactorisedAttention,
    "factorised_product": FactorisedDotProduct,
}  # fmt: skip


def tower(
    how: How, *, image_size: int | tuple[int, int], frames: int, patch: int, tubelet: int,
    time_depth: int = 4, **rest: Any,
) -> ViT | FactorisedEncoder:  # fmt: skip
    """The image tower of one of these. UserError for frames that no whole tubelets cover."""
    if how not in get_args(How):
        raise UserError(f"how={how!r}: there are {', '.join(get_args(How))}")
    if frames < 1 or tubelet < 1 or frames % tubelet:
        raise UserError(f"frames={frames} are no whole tubelets of {tubelet}; choose a number that it divides")
    own = {"time_depth": time_depth} if how == "factorised_encoder" else {}
    made: ViT | FactorisedEncoder = TOWERS[how](
        (frames, *height_width(image_size)), (tubelet, patch, patch), **own, **rest
    )  # fmt: skip
    return made


def video(
    *, image_size: int | tuple[int, int], frames: int = 16, patch: int = 16, tubelet: int = 2, how: How = "spacetime",
    depth: int = 12, width: int = 768, heads: int = 12, mlp_width: int | None = None, time_depth: int = 4,
    dropout: float = 0.0, drop_path: float = 0.0, activation: str = "gelu", eps: float = 1e-6,
    inflation: Inflation = "central", checkpointing: bool = False,
) -> Vision:  # fmt: skip
    """A ViViT of any size without words, for heads that read clips. The defaults are ViViT-B/16x2.

    activation: "gelu_tanh" in the released weights. time_depth: of the factorised encoder alone. inflation: how its
    patches begin where it starts from a model of pictures.
    """
    return Vision(tower(
        how, image_size=image_size, frames=frames, patch=patch, tubelet=tubelet, time_depth=time_depth, depth=depth,
        width=width, heads=heads, mlp_width=mlp_width, dropout=dropout, drop_path=drop_path, activation=activation,
        eps=eps, inflation=inflation, checkpointing=checkpointing,
    ))  # fmt: skip


def video_mini(
    *, image_size: int | tuple[int, int] = 64, frames: int = 4, patch: int = 16, tubelet: int = 1,
    how: How = "spacetime", time_depth: int = 4, inflation: Inflation = "filling",
) -> Vision:  # fmt: skip
    """What two CPU cores train in minutes: 4 x 128."""
    return video(
        image_size=image_size, frames=frames, patch=patch, tubelet=tubelet, how=how, depth=4, width=128, heads=4,
        time_depth=time_depth, inflation=inflation,
    )  # fmt: skip


def albef_video(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, frames: int = 8, patch: int = 16,
    tubelet: int = 1, how: How = "spacetime", time_depth: int = 4, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 6, fusion_depth: int = 6, text_width: int = 768,
    text_heads: int = 12, embed_dim: int = 256, dropout: float = 0.1, drop_path: float = 0.0,
    inflation: Inflation = "filling", checkpointing: bool = False,
) -> ALBEF:  # fmt: skip
    """An ALBEF that reads clips, of any size; the defaults are the paper's size over eight frames."""
    image = tower(
        how, image_size=image_size, frames=frames, patch=patch, tubelet=tubelet, time_depth=time_depth,
        depth=image_depth, width=image_width, heads=image_heads, drop_path=drop_path, inflation=inflation,
        checkpointing=checkpointing,
    )  # fmt: skip
    text = TextEncoder(
        vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, dropout=dropout,
        checkpointing=checkpointing,
    )  # fmt: skip
    fusion = FusionEncoder(
        depth=fusion_depth, width=text_width, heads=text_heads, image_width=image_width, dropout=dropout,
        checkpointing=checkpointing,
    )  # fmt: skip
    return ALBEF(image, text, fusion, embed_dim)


def albef_video_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 64, max_tokens: int = 24, frames: int = 4, patch: int = 16,
    tubelet: int = 1, how: How = "spacetime", dropout: float = 0.0, inflation: Inflation = "filling",
) -> ALBEF:  # fmt: skip
    """What two CPU cores train in minutes: 4 x 128, and 2 + 2 layers of 128."""
    return albef_video(
        vocab_size, image_size=image_size, max_tokens=max_tokens, frames=frames, patch=patch, tubelet=tubelet, how=how,
        image_depth=4, image_width=128, image_heads=4, text_depth=2, fusion_depth=2, text_width=128, text_heads=4,
        embed_dim=128, dropout=dropout, inflation=inflation,
    )  # fmt: skip


def clip_video(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, frames: int = 8, patch: int = 16,
    tubelet: int = 1, how: How = "spacetime", time_depth: int = 4, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 12, text_width: int = 512, text_heads: int = 8,
    embed_dim: int = 512, inflation: Inflation = "filling", checkpointing: bool = False,
) -> Dual:  # fmt: skip
    """A dual encoder of clips: one of ViViT's models, and the causal text tower of CLIP. The defaults are ViT-B/16."""
    image = tower(
        how, image_size=image_size, frames=frames, patch=patch, tubelet=tubelet, time_depth=time_depth,
        depth=image_depth, width=image_width, heads=image_heads, inflation=inflation, checkpointing=checkpointing,
    )  # fmt: skip
    return clip_over(
        image, vocab_size, max_tokens, text_depth=text_depth, text_width=text_width, text_heads=text_heads,
        embed_dim=embed_dim, checkpointing=checkpointing,
    )  # fmt: skip


def clip_frames(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 12, text_width: int = 512, text_heads: int = 8,
    embed_dim: int = 512, activation: str = "gelu", checkpointing: bool = False,
) -> FrameDual:  # fmt: skip
    """CLIP read frame by frame, and the mean of these: the parameters of ``clip``, from which it starts."""
    image = ViT(
        height_width(image_size), (patch, patch), depth=image_depth, width=image_width, heads=image_heads,
        activation=activation, eps=1e-5, first_norm=True, patch_bias=False, checkpointing=checkpointing,
    )  # fmt: skip
    made = clip_over(
        image, vocab_size, max_tokens, text_depth=text_depth, text_width=text_width, text_heads=text_heads,
        embed_dim=embed_dim, activation=activation, checkpointing=checkpointing, kind=FrameDual,
    )  # fmt: skip
    assert isinstance(made, FrameDual)
    return made


_MINI: dict[str, Any] = {
    "image_depth": 4, "image_width": 128, "image_heads": 4, "text_depth": 4, "text_width": 128, "text_heads": 4,
    "embed_dim": 128,
}  # fmt: skip


def dual_video_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 64, max_tokens: int = 24, frames: int = 4, patch: int = 16,
    tubelet: int = 1, how: How = "spacetime",
) -> Dual:  # fmt: skip
    """What two CPU cores train in minutes: 4 + 4 layers of 128."""
    return clip_video(
        vocab_size, image_size=image_size, max_tokens=max_tokens, frames=frames, patch=patch, tubelet=tubelet, how=how,
        **_MINI,
    )  # fmt: skip


def dual_frames_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 64, max_tokens: int = 24, patch: int = 16
) -> FrameDual:
    """The same size, frame by frame; its parameters are those of ``dual_mini``."""
    return clip_frames(vocab_size, image_size=image_size, max_tokens=max_tokens, patch=patch, **_MINI)
