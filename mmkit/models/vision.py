"""Sight alone: a ViT without words (Dosovitskiy et al. 2021, section 3.1), for heads that read pictures.

Its tower is that of the models with words, name by name, so that any of them starts it, and it any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch.nn.functional as F
from torch import Tensor

from mmkit.encoders.vit import SeesByViT
from mmkit.errors import UserError
from mmkit.nn.pool import pooled
from mmkit.protocol import ImageTower
from mmkit.types import ModelSpec, Tokens


class Vision(SeesByViT):
    """The model protocol over a ViT; whatever reads words is a UserError.

    Its embedding of a picture is the class token, or the mean of the patches where there is none.
    """

    def __init__(self, image: ImageTower) -> None:
        super().__init__()
        self.image = image
        self.spec = ModelSpec(
            image_width=image.width, text_width=0, fused_width=0, embed_dim=image.width, vocab_size=0, fuses=False,
            **image.sight,
        )  # fmt: skip

    def embed_image(self, image: Tokens) -> Tensor:
        """The pooled picture: (B, D) float32, L2-normalised."""
        return F.normalize(pooled(image, *self.spec.pool).float(), dim=-1)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """There are no words: always a UserError, as the next three."""
        _no_words()

    def embed_text(self, text: Tokens) -> Tensor:
        """A UserError."""
        _no_words()

    def image_context(self, image: Tokens) -> Any:
        """A UserError."""
        _no_words()

    def fuse(self, text: Tokens, contexts: Sequence[Any], keep_BM: Tensor | None = None) -> NoReturn:
        """A UserError."""
        _no_words()


def _no_words() -> NoReturn:
    raise UserError("this model reads pictures alone, and no words")
