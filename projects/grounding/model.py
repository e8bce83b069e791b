"""A ViT and a BERT-style text encoder side by side, for heads in which the two meet.

Starts from any model of mmkit with such towers: the quickstart's ALBEF, whose fusion layers are left behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor

from mmkit.data.images.size import height_width
from mmkit.encoders.backbone.by_name import backbone as by_name
from mmkit.encoders.text import TextEncoder
from mmkit.encoders.vit import SeesByViT, ViT
from mmkit.errors import UserError
from mmkit.prompt import Prompt
from mmkit.protocol import ImageTower
from mmkit.types import ModelSpec, Tokens


class Towers(SeesByViT):
    """The model protocol over two towers, without a joint space or fusion; and ``encode_prompt``."""

    def __init__(self, image: ImageTower, text: TextEncoder) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.spec = ModelSpec(
            image_width=image.width, text_width=text.width, fused_width=0, embed_dim=0,
            vocab_size=text.embeddings.words.num_embeddings, fuses=False, **image.sight,
        )  # fmt: skip

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.text.word_embeddings

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """(B, L) int64 and bool -> (B, L, D), from the words alone."""
        return self.text(ids_BL, mask_BL)

    def encode_prompt(self, prompt: Prompt) -> Tokens:
        """The words (B, L, D) of phrases that do not know of each other."""
        return self.text(prompt.ids, prompt.mask, reads_BLL=prompt.reads, positions_BL=prompt.positions)

    def embed_image(self, image: Tokens) -> Tensor:
        """There is no joint space: always a UserError, as the next three."""
        _apart()

    def embed_text(self, text: Tokens) -> Tensor:
        """A UserError."""
        _apart()

    def image_context(self, image: Tokens) -> Any:
        """A UserError."""
        _apart()

    def fuse(self, text: Tokens, contexts: Sequence[Any], keep_BM: Tensor | None = None) -> NoReturn:
        """A UserError."""
        _apart()

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its parameters from the state of a model with these towers. UserError where a tower has another depth."""
        found = {name: state[f"model.{name}"] for name, _ in self.named_parameters() if f"model.{name}" in state}
        for tower in ("image", "text"):
            own = {name for name, _ in self.named_parameters() if name.startswith(f"{tower}.blocks.")}
            theirs = {name.removeprefix("model.") for name in state if name.startswith(f"model.{tower}.blocks.")}
            if own != theirs & set(dict(self.named_parameters())) or theirs - own:
                raise UserError(
                    f"the {tower} tower of this model has other layers than the one that it starts from: give the same "
                    f"numbers of layers ({tower}_depth)"
                )
        return found


def _apart() -> NoReturn:
    raise UserError("this model's picture and words meet in its head alone: it has no joint space and no fusion")


def towers(
    vocab_size: int, *, image_size: int | tuple[int, int], max_tokens: int, patch: int = 16, image_depth: int = 12,
    image_width: int = 768, image_heads: int = 12, text_depth: int = 12, text_width: int = 768, text_heads: int = 12,
    text_mlp: int | None = None, dropout: float = 0.0, drop_path: float = 0.0, backbone: str | None = None,
) -> Towers:  # fmt: skip
    """Of any size; the defaults are ViT-B/16 and BERT-base.

    backbone: "timm:NAME" or "torchvision:NAME", in place of the ViT, of whose numbers ``drop_path`` counts alone.
    """
    size = height_width(image_size)
    image = (
        by_name(backbone, size, drop_path=drop_path) if backbone is not None
        else ViT(size, (patch, patch), depth=image_depth, width=image_width, heads=image_heads, drop_path=drop_path)
    )  # fmt: skip
    text = TextEncoder(
        vocab_size, max_tokens, depth=text_depth, width=text_width, heads=text_heads, mlp_width=text_mlp,
        dropout=dropout,
    )  # fmt: skip
    return Towers(image, text)


def towers_mini(
    vocab_size: int, *, image_size: int | tuple[int, int] = 96, max_tokens: int = 32, dropout: float = 0.0
) -> Towers:
    """The towers of ``albef_mini``, the quickstart's model."""
    return towers(
        vocab_size, image_size=image_size, max_tokens=max_tokens, patch=12, image_depth=4, image_width=128,
        image_heads=4, text_depth=2, text_width=128, text_heads=4, dropout=dropout,
    )  # fmt: skip
